"""Goals in compiled form: the score of split decisions, a weighted sum and a penalty for limits that are broken."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit

from distredge.model.graph import IMAGE, LayerGraph
from distredge.plans.scheme import PartitionScheme
from distredge.profiles.network import ms_per_byte
from distredge.scenario import Scenario
from distredge.simulate import kernel
from distredge.simulate.costs import BARRED_MS, VolumeCosts
from distredge.simulate.goals import (
    BROKEN,
    COST,
    ENERGY,
    FAILURES,
    LATENCY,
    PENALTY,
    REDUNDANT,
    TOLERANCE,
    Goals,
    loosened,
    survival,
)
from distredge.simulate.kernel import HEAD, FloatArray, IntArray
from distredge.simulate.memory import COMPUTE_BYTES
from distredge.simulate.quality import HOUR_MS, power


class Aim(NamedTuple):
    """Goals of one scheme and order of the providers as flat arrays; those of volumes and rows as `Problem.compute_ms`.

    weights, limits  (5,) by `GOALS`; limits may be infinite
    units            (5,) what an excess is divided by: the limit, or 1
    pinned           (P,) whether a provider must have rows
    works            (P,) probability that a provider and its link work
    rates            (2, P) J and money of a provider's ms of computation
    byte_rates       (2, P + 1) of a byte over a node's link; the requester's are 0
    table_at         (V,) `macs` and `peak_mb` at `table_at[v] + a * (heights[v] + 1) + b` are of the rows [a, b)
    macs             multiply-accumulates; empty if not asked for
    alone_macs       of one provider that computes everything
    peak_mb          most memory for feature maps at once, of a volume's own
    memory_mb        (P,) what a provider has; infinite: unlimited
    weights_mb       (V,) of a volume's weights
    head_mb          of the head's weights
    kept_at          (V + 1,) the tensors `kept_at[v]` to `kept_at[v + 1]` are kept while volume v is computed
    kept_from        (K,) the volume that makes them
    kept_mb          (K,) of a row
    kept_cuts        (K, max height + 1) where they are cut when that volume is cut at a row
    scale            about the least weighted sum of one provider alone: makes penalties comparable
    """

    weights: FloatArray
    limits: FloatArray
    units: FloatArray
    pinned: IntArray
    works: FloatArray
    rates: FloatArray
    byte_rates: FloatArray
    table_at: IntArray
    macs: FloatArray
    alone_macs: float
    peak_mb: FloatArray
    memory_mb: FloatArray
    weights_mb: FloatArray
    head_mb: float
    kept_at: IntArray
    kept_from: IntArray
    kept_mb: FloatArray
    kept_cuts: IntArray
    scale: float


def make_aim(goals: Goals, scenario: Scenario, scheme: PartitionScheme, costs: VolumeCosts, scale: float) -> Aim | None:
    """The aim of a scheme and an order of the providers; None if latency alone decides."""
    graph, parts, providers = scheme.graph, scheme.parts, scenario.providers
    binding = memory_may_bind(graph, scenario)
    if goals.latency_only and not binding:
        return None
    draws = [power(p, q) for p, q in zip(providers, scenario.profiles, strict=True)]
    byte_ms = [ms_per_byte(p.bandwidth_mbps) for p in providers]
    sizes = [(part.height + 1) ** 2 for part in parts]
    kept = [
        (v, u, i)
        for v, part in enumerate(parts if binding else ())
        for u, earlier in enumerate(parts[:v])
        for i in earlier.leaving
        if graph.last_reader.get(i, IMAGE) >= part.stop
    ]
    cuts = np.zeros((len(kept), max(part.height for part in parts) + 1), dtype=np.int64)
    for row, (_, u, i) in zip(cuts, kept, strict=True):
        row[: parts[u].height + 1] = parts[u].cut_rows(i)
    macs = [costs.macs(part) for part in parts] if goals.uses(REDUNDANT) else []
    limits = np.array([math.inf if limit is None else loosened(limit, TOLERANCE / 10) for limit in goals.limits])
    return Aim(
        weights=np.array(goals.weights),
        limits=limits,
        units=np.array([limit or 1.0 for limit in goals.limits]),
        pinned=np.array([p.name in goals.pin for p in providers], dtype=np.int64),
        works=np.array(survival(scenario)),
        rates=np.array(
            [
                [w.active_w / 1000 if w else 0.0 for w in draws],
                [(p.price_per_hour or 0.0) / HOUR_MS for p in providers],
            ]
        ),
        byte_rates=np.array(
            [
                [*(w.radio_w / 1000 * ms if w else 0.0 for w, ms in zip(draws, byte_ms, strict=True)), 0.0],
                [*(p.link_price_per_hour / HOUR_MS * ms for p, ms in zip(providers, byte_ms, strict=True)), 0.0],
            ]
        ),
        table_at=np.concatenate([[0], np.cumsum(sizes)[:-1]]),
        macs=np.concatenate([table.ravel() for table in macs]) if macs else np.zeros(0),
        alone_macs=float(sum(table[0, -1] for table in macs)),
        peak_mb=np.concatenate([costs.peak_elements(part).ravel() for part in parts]) * MB_EACH
        if binding
        else np.zeros(0),
        memory_mb=np.array([mb * (1.0 + 1e-12) if mb and binding else math.inf for mb in scenario.memory_mb]),
        weights_mb=np.array([sum(layer.params for layer in part.layers) * MB_EACH for part in parts]),
        head_mb=graph.head.params * MB_EACH,
        kept_at=np.searchsorted([v for v, _, _ in kept], np.arange(len(parts) + 1)),
        kept_from=np.array([u for _, u, _ in kept], dtype=np.int64),
        kept_mb=np.array([graph.row_elements(i) * MB_EACH for _, _, i in kept], dtype=np.float64),
        kept_cuts=cuts,
        scale=scale,
    )


MB_EACH = COMPUTE_BYTES / 1e6
"""10^6 bytes of a weight or an element."""


def memory_may_bind(graph: LayerGraph, scenario: Scenario) -> bool:
    """Whether a provider has less memory than all weights and any layer with all that it could hold besides."""
    layers = graph.layers
    maps = [layer.row_elements * layer.height for layer in layers]
    channels, height, width = graph.image
    reads = max(
        sum(graph.row_elements(j) * graph.shape(j)[1] for j in {graph.index[s.source] for s in x.inputs})
        for x in layers
    )
    crossing = max(sum(maps[i] for i in graph.crossing(p) if i != IMAGE) for p in range(1, len(layers) + 1))
    most_mb = (graph.params + channels * height * width + max(maps) + reads + crossing) * MB_EACH
    return any(has_mb is not None and has_mb < most_mb for has_mb in scenario.memory_mb)


@njit(cache=True)
def spend(problem, aim, v, cuts, head, sizes, spent):  # type: ignore[no-untyped-def]
    """J, money and multiply-accumulates of volume `v`, and of what it is left by for good, into `spent` (3,)."""
    providers = cuts.shape[1] - 1
    spent[:] = 0.0
    for i in range(providers if v == 0 else 0, providers + 1):
        if kernel.incoming(problem, v, cuts, i, sizes):
            for j in range(providers):
                for k in range(2):
                    spent[k] += sizes[j] * (aim.byte_rates[k, i] + aim.byte_rates[k, j])
                sizes[j] = 0.0
    for j in range(providers):
        a, b = cuts[v, j], cuts[v, j + 1]
        if a == b:
            continue
        at = a * (problem.heights[v] + 1) + b
        for k in range(2):
            spent[k] += problem.compute_ms[problem.compute_at[v, j] + at] * problem.slowdown[j] * aim.rates[k, j]
        if aim.macs.shape[0] > 0:
            spent[2] += aim.macs[aim.table_at[v] + at]
        for to in range(2):
            if not (to == HEAD and j == head):
                size, node = kernel.exit_bytes(problem, v, cuts, j, to), head if to == HEAD else providers
                for k in range(2):
                    spent[k] += size * (aim.byte_rates[k, j] + aim.byte_rates[k, node])


@njit(cache=True)
def judge(problem, aim, cuts, head, latency_ms, spent):  # type: ignore[no-untyped-def]
    """The weighted sum of the goals, and by how much limits are broken, each in units of its size.

    `spent` (V, 3) is what `spend` says of each volume.
    """
    volumes, providers = cuts.shape[0], cuts.shape[1] - 1
    excess, works = 0.0, 1.0
    for i in range(providers):
        mb = aim.head_mb if i == head else 0.0
        peak, takes_part = 0.0, False
        for v in range(volumes):
            a, b = cuts[v, i], cuts[v, i + 1]
            if a < b:
                takes_part = True
                if aim.memory_mb[i] < np.inf:
                    mb += aim.weights_mb[v]
                    held = aim.peak_mb[aim.table_at[v] + a * (problem.heights[v] + 1) + b]
                    for k in range(aim.kept_at[v], aim.kept_at[v + 1]):
                        u = aim.kept_from[k]
                        held += (aim.kept_cuts[k, cuts[u, i + 1]] - aim.kept_cuts[k, cuts[u, i]]) * aim.kept_mb[k]
                    peak = max(peak, held)
        if takes_part:
            works *= aim.works[i]
            if aim.memory_mb[i] < np.inf:
                excess += max(0.0, (mb + peak) / aim.memory_mb[i] - 1.0)
        elif aim.pinned[i]:
            excess += 1.0
    energy, cost, macs = 0.0, 0.0, 0.0
    for v in range(volumes):
        energy += spent[v, 0]
        cost += spent[v, 1]
        macs += spent[v, 2]
    head_ms = problem.head_ms[head] * problem.slowdown[head]
    back = max(0.0, problem.result_bytes)
    energy += head_ms * aim.rates[0, head] + back * aim.byte_rates[0, head]
    cost += head_ms * aim.rates[1, head] + back * aim.byte_rates[1, head]
    redundant = max(0.0, macs / aim.alone_macs - 1.0) if aim.alone_macs > 0.0 else 0.0
    worth = 0.0
    for goal, value in ((LATENCY, latency_ms), (ENERGY, energy), (COST, cost), (REDUNDANT, redundant)):
        worth += aim.weights[goal] * value
        excess += max(0.0, value - aim.limits[goal]) / aim.units[goal]
    worth += aim.weights[FAILURES] * (1.0 - works)
    excess += max(0.0, 1.0 - works - aim.limits[FAILURES]) / aim.units[FAILURES]
    return worth, excess + latency_ms // BARRED_MS


@njit(cache=True, inline="always")
def total(aim, worth, excess):  # type: ignore[no-untyped-def]
    """The score: no plan that breaks a limit has less than one that keeps all."""
    return worth + (aim.scale * (BROKEN + PENALTY * excess) if excess > 0.0 else 0.0)


@njit(cache=True, nogil=True)
def score(problem, aim, cuts, latency_ms, out):  # type: ignore[no-untyped-def]
    """The weighted sum and the penalties of each of `cuts` (batch, V, P + 1), `latency_ms` known, into `out`."""
    sizes, spent = np.zeros(cuts.shape[2] - 1), np.empty((cuts.shape[1], 3))
    for n in range(cuts.shape[0]):
        head = kernel.largest_share(cuts[n, cuts.shape[1] - 1])
        for v in range(cuts.shape[1]):
            spend(problem, aim, v, cuts[n], head, sizes, spent[v])
        worth, excess = judge(problem, aim, cuts[n], head, latency_ms[n], spent)
        out[n] = total(aim, worth, excess)
