"""What `exact` searches: the groups of partial strategies, all ways to cut, all orders of the providers.

Also what their dominance rests on: how nearly the simulator is monotone.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from distredge.geometry.split import Volume
from distredge.model.graph import IMAGE, LayerGraph
from distredge.plans.scheme import PartitionScheme
from distredge.scenario import Provider, Scenario
from distredge.simulate.costs import VolumeCosts
from distredge.simulate.kernel import DOWN_BYTE, FloatArray, IntArray, Problem


@dataclass(frozen=True)
class Chain(PartitionScheme):
    """Some volumes, one after the other, that need not be the whole model: what a step of a label has to know."""

    spans: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        """Nothing to check: the spans come from cut points."""

    @property
    def parts(self) -> tuple[Volume, ...]:
        """The volumes with their geometry."""
        return tuple(Volume(self.graph, a, b) for a, b in self.spans)


class LastOnly(VolumeCosts):
    """The costs of a chain's last volume only: the others are computed already."""

    def __init__(self, costs: VolumeCosts, last: tuple[int, int]) -> None:
        self.costs, self.last = costs, last
        self.kinds, self.kind_of, self.head_ms = costs.kinds, costs.kind_of, costs.head_ms

    def table(self, volume: Volume) -> FloatArray:
        """As of all costs for the last volume; nothing for another."""
        if (volume.start, volume.stop) == self.last:
            return self.costs.table(volume)
        return np.zeros((len(self.kinds), 0, 0))


@dataclass(frozen=True)
class Group:
    """Labels at one location with the same volumes that still matter, each from its first layer that does."""

    location: int
    spans: tuple[tuple[int, int], ...]

    def after(self, graph: LayerGraph, stop: int) -> tuple[Group, list[int]]:
        """The group behind the volume up to `stop`, and which of this group's volumes (and the new one) it keeps."""
        cross, out = set(graph.crossing(stop)), graph.to_head | graph.to_requester
        spans, keep = [], []
        for k, (a, b) in enumerate(self.spans):
            if read := [i for i in range(a, b) if i in cross]:
                spans.append((read[0], b))
                keep.append(k)
        own = next(i for i in range(self.location, stop) if i in cross or i in out or i == stop - 1)
        return Group(stop, (*spans, (own, stop))), [*keep, len(self.spans)]


class CutNumbers:
    """Every way to cut each location's last volume, numbered."""

    def __init__(self, graph: LayerGraph, points: tuple[int, ...], providers: int) -> None:
        self.base, self.count, rows, at = {}, {}, [], 0
        for stop in points:
            rows.append(all_cuts(graph.layers[stop - 1].height, providers))
            self.base[stop], self.count[stop] = at, len(rows[-1])
            at += len(rows[-1])
        self.table = np.concatenate(rows)


def margins_ms(graph: LayerGraph, scenario: Scenario, problem: Problem) -> dict[int, float]:
    """By location: what the errors of monotony of all queues from there on add up to."""
    unit, quantum, senders = float(scenario.element_bytes), problem.quantum_bytes, len(scenario.providers) - 1
    slowest, requester = float(problem.node_ms[DOWN_BYTE, :-1].max()), float(problem.node_ms[DOWN_BYTE, -1])

    def error(others: int, layers: Iterable[int], down_ms: float) -> float:
        size = sum(graph.row_elements(i) * graph.shape(i)[1] for i in layers) * unit
        return others * quantum * down_ms if size > quantum else 0.0

    leaving = graph.to_head | graph.to_requester
    out = error(senders - 1, graph.to_head, slowest) + error(senders, graph.to_requester, requester)
    points, total = stops(graph), out
    found = {points[-1]: out}
    for point in (*points[-2::-1], 0):
        cross = graph.crossing(point)
        total += error(senders - 1 + (IMAGE in cross), cross, slowest) if point else 0.0
        total += out if any(i < point for i in leaving) else 0.0
        found[point] = total
    return found


def stops(graph: LayerGraph) -> tuple[int, ...]:
    """Where a volume may end."""
    return (*graph.cut_points[1:], len(graph.layers))


def all_groups(graph: LayerGraph, most: int) -> list[Group]:
    """Every group that labels may come to, by location, the one before the first volume first; at most about `most`."""
    points = stops(graph)
    at: dict[int, set[Group]] = {location: set() for location in points}
    found = [Group(0, ())]
    for location in (0, *points):
        here = found if location == 0 else sorted(at[location], key=lambda group: group.spans)
        found = found if location == 0 else [*found, *here]
        for group in here if len(found) <= most else ():
            for stop in (p for p in points if p > location):
                at[stop].add(group.after(graph, stop)[0])
    return found


def _needs_rows(volume: Volume) -> bool:
    """Whether every row of a volume needs some that earlier volumes made."""
    starts, stops = (table[: len(volume.entering)] for table in volume.tables)
    made = np.array(volume.entering) != IMAGE
    return bool(np.all(np.any(stops[made, 1:] > starts[made, :-1], axis=0)))


def distinct_orders(providers: tuple[Provider, ...]) -> list[tuple[int, ...]]:
    """Orders of the providers along the height, equal devices on equal links exchanged but once."""
    kinds = [p.model_copy(update={"name": "", "address": None}) for p in providers]
    alike = [kinds.index(kind) for kind in kinds]
    found: dict[tuple[int, ...], tuple[int, ...]] = {}
    for order in itertools.permutations(range(len(providers))):
        found.setdefault(tuple(alike[i] for i in order), order)
    return list(found.values())


def all_cuts(height: int, providers: int) -> IntArray:
    """(ways, providers + 1) every way to cut a height."""
    inner = list(itertools.combinations_with_replacement(range(height + 1), providers - 1))
    cuts = np.zeros((len(inner), providers + 1), dtype=np.int64)
    cuts[:, -1] = height
    cuts[:, 1:-1] = np.array(inner, dtype=np.int64).reshape(len(inner), providers - 1)
    return cuts


def settled(graph: LayerGraph) -> dict[int, bool]:
    """By location: whether from there on every row of a volume needs some that earlier volumes made."""
    points, so_far = stops(graph), True
    found = {points[-1]: True}
    for start in points[-2::-1]:
        so_far = so_far and all(_needs_rows(Volume(graph, start, stop)) for stop in points if stop > start)
        found[start] = so_far
    return found
