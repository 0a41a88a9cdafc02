"""How a joint search varies a strategy: its partition locations and the order of its providers, the cuts carried over.

Orders that differ only in providers which cannot be told apart are one order.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from distredge.model.graph import LayerGraph
from distredge.simulate.kernel import IntArray
from distredge.simulate.simulator import Simulator

Locations = tuple[int, ...]
Order = tuple[int, ...]


def map_cuts(graph: LayerGraph, old: Locations, cuts: IntArray, new: Locations) -> IntArray:
    """`cuts` of the scheme `old` carried over to `new`: each volume is cut as the old one that held its last layer."""
    if old == new:
        return cuts
    ends = [*new[1:], len(graph.layers)]
    heights = np.array([graph.layers[end - 1].height for end in ends])
    source = np.searchsorted(np.array(old), np.array(ends) - 1, side="right") - 1
    fractions = cuts[source] / cuts[source, -1:]
    mapped: IntArray = np.rint(fractions * heights[:, None]).astype(np.int64)
    return mapped


def move_location(graph: LayerGraph, locations: Locations, rng: np.random.Generator) -> Locations:
    """One partition location added, removed, or shifted to a neighbouring partition point."""
    points = list(graph.cut_points)
    inner, free = list(locations[1:]), [p for p in points if p not in locations]
    kind = rng.random()
    if inner and (kind < 0.4 or not free):
        inner.remove(inner[int(rng.random() * len(inner))])
    elif free and (kind < 0.7 or not inner):
        inner.append(free[int(rng.random() * len(free))])
    elif inner:
        at = int(rng.random() * len(inner))
        place = points.index(inner[at]) + (1 if rng.random() < 0.5 else -1)
        if 0 < place < len(points) and points[place] not in inner:
            inner[at] = points[place]
    return (0, *sorted(inner))


def move_order(
    order: Order, cuts: IntArray, kinds: tuple[int, ...], rng: np.random.Generator
) -> tuple[Order, IntArray]:
    """Two providers exchanged, one moved elsewhere, or a run reversed; one of them has rows, and they are no twins.

    `cuts` (volumes, providers + 1) either stay, so that the providers take over each other's rows, or follow them.
    """
    at = list(range(len(order)))
    shares = np.diff(cuts, axis=1)
    a = int(rng.choice(np.flatnonzero(shares.any(axis=0))))
    others = [i for i in at if kinds[order[i]] != kinds[order[a]]]
    if not others:
        return order, cuts
    b = others[int(rng.random() * len(others))]
    kind = rng.random()
    if kind < 0.4:
        at[a], at[b] = at[b], at[a]
    elif kind < 0.75:
        at.insert(b, at.pop(a))
    else:
        low, high = min(a, b), max(a, b) + 1
        at[low:high] = at[low:high][::-1]
    if rng.random() < 0.5:
        cuts = cuts.copy()
        cuts[:, 1:] = np.cumsum(shares[:, at], axis=1)
    return tuple(order[i] for i in at), cuts


def twins(simulator: Simulator) -> tuple[int, ...]:
    """A number for each of the simulator's providers, the same for those that it cannot tell apart."""
    problem, aim = simulator.problem, simulator.aim
    columns = [problem.compute_at, problem.head_ms[None], problem.slowdown[None], problem.node_ms[:, :-1]]
    if aim is not None:
        columns += [aim.pinned[None], aim.works[None], aim.rates, aim.byte_rates[:, :-1], aim.memory_mb[None]]
    return tuple(np.unique(np.concatenate(columns), axis=1, return_inverse=True)[1].tolist())


def settled(order: Sequence[int], kinds: Sequence[int]) -> Order:
    """The order with twins (providers of the same of `kinds`) in the scenario's order among themselves."""
    places: dict[int, list[int]] = {}
    for i in sorted(order, reverse=True):
        places.setdefault(kinds[i], []).append(i)
    return tuple(places[kinds[i]].pop() for i in order)
