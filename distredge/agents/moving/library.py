"""A library of whole plans, and what each is worth under many conditions (by the simulator)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from distredge.agents.moving.policy import Roles, WholePlan
from distredge.agents.moving.settings import Noise, Ranges
from distredge.model.graph import LayerGraph
from distredge.plans.scheme import PartitionScheme
from distredge.scenario import Scenario
from distredge.simulate import kernel
from distredge.simulate.conditions import Conditions, node_times
from distredge.simulate.costs import VolumeCosts
from distredge.simulate.kernel import FloatArray, IntArray
from distredge.simulate.simulator import Simulator

DRAWS = 12
"""Worlds that told conditions may stand for, of which the mean or a quantile is taken."""

KEPT_BYTES = 1e9
"""Of tables of partition schemes, about, that are kept."""


class Simulators:
    """The simulators of one model on one scenario, by scheme and order of the providers.

    The tables of a scheme are made once and serve all orders; those used last are kept.
    """

    def __init__(self, graph: LayerGraph, scenario: Scenario) -> None:
        self.graph = graph
        self.scenario = scenario
        self._costs = VolumeCosts(graph, scenario.profiles)
        most = sum((layer.height + 1) ** 2 for layer in graph.layers) * len(self._costs.kinds) * 8
        self._scheme = lru_cache(max(16, int(KEPT_BYTES / most)))(self._make)

    def _make(self, locations: tuple[int, ...]) -> Simulator:
        return Simulator(self.graph, self.scenario, PartitionScheme(self.graph, locations), self._costs)

    def under(self, locations: tuple[int, ...], order: tuple[int, ...], conditions: Conditions) -> Simulator:
        """The simulator of a scheme under an order and conditions (one, in the scenario's order).

        It is good for evaluating and annealing; its `scenario` stays as it was.
        """
        return self._reordered(locations, order, node_times(self.scenario, conditions[None])[0], conditions.slowdown)

    def evaluate(self, conditions: Conditions, plans: Sequence[WholePlan]) -> FloatArray:
        """Latency in ms, (n, plans), of each plan under each of n conditions (in the scenario's order)."""
        groups: dict[tuple[tuple[int, ...], tuple[int, ...]], list[int]] = {}
        for n in sorted(range(len(plans)), key=lambda n: plans[n].locations):
            groups.setdefault((plans[n].locations, plans[n].order), []).append(n)
        times, found = node_times(self.scenario, conditions), np.empty((len(conditions), len(plans)))
        for (locations, order), members in groups.items():
            at = [*order, len(order)]
            simulator = self._reordered(locations, order, times[0], conditions.slowdown[0])
            cuts = simulator.check(np.stack([plans[n].cuts for n in members]))
            out = np.empty((len(times), len(members)))
            moved = np.ascontiguousarray(times[:, :, at]), np.ascontiguousarray(conditions.slowdown[:, order])
            kernel.evaluate_under(
                simulator.problem, *moved, cuts, out
            )  # overwrites the problem's own, which are copies
            found[:, members] = out
        return found

    def _reordered(
        self, locations: tuple[int, ...], order: tuple[int, ...], times: FloatArray, slowdown: FloatArray
    ) -> Simulator:
        """With node times (6, P + 1) and slowdowns (P,), both in the scenario's order."""
        base, at = self._scheme(locations), list(order)
        problem = base.problem._replace(
            compute_at=np.ascontiguousarray(base.problem.compute_at[:, at]),
            head_ms=base.problem.head_ms[at],
            slowdown=slowdown[at],
            node_ms=np.ascontiguousarray(times[:, [*at, len(at)]]),
        )
        return base.with_problem(problem)

    def roles(self) -> Roles:
        """Who can stand for whom: providers alike in profile, I/O, memory and slowdown."""
        providers = self.scenario.providers
        numbers: dict[tuple[object, ...], int] = {}
        alike = [numbers.setdefault((p.profile, p.io, p.memory_mb, p.slowdown), len(numbers)) for p in providers]
        order, ones = tuple(range(len(providers))), np.ones(len(providers))
        alone = self._scheme((0,)).single_device_cuts()
        base, linked, slowed = (
            self.under((0,), order, Conditions(mbps * ones, slowdown * ones, 0.0 * ones)).evaluate(alone)
            for mbps, slowdown in ((1e12, 1.0), (1.0, 1.0), (1e12, 2.0))
        )
        return Roles(np.array(alike), np.stack([linked - base, slowed - base], axis=1))


def cast_conditions(roles: Roles, conditions: Conditions, sorted_by: Conditions | None = None) -> Conditions:
    """A batch in the order of the roles, that `sorted_by` (by default itself) decides."""
    by = sorted_by or conditions
    cast = roles.cast(by.mbps, by.slowdown, by.io_ms)
    moved = (np.take_along_axis(a, cast, -1) for a in (conditions.mbps, conditions.slowdown, conditions.io_ms))
    return Conditions(*moved)


def sample_conditions(ranges: Ranges, providers: int, count: int, rng: np.random.Generator) -> Conditions:
    """A batch of `count` conditions, as `Ranges` says."""
    shape = (count, providers)
    mbps = np.exp(rng.uniform(np.log(ranges.mbps[0]), np.log(ranges.mbps[1]), shape))
    slowdown = np.exp(rng.uniform(np.log(ranges.slowdown[0]), np.log(ranges.slowdown[1]), shape))
    io_ms = rng.uniform(*ranges.io_ms, shape)
    slowdown = np.where(rng.random(shape) < 0.5, slowdown, ranges.slowdown[0])
    still = rng.random((count, 1)) < ranges.links_only
    return Conditions(mbps, np.where(still, 1.0, slowdown), np.where(still, 0.0, io_ms))


def disturbed(conditions: Conditions, noise: Noise, rng: np.random.Generator) -> Conditions:
    """What the world may be where one is told `conditions` (a batch)."""
    shape = conditions.mbps.shape
    return Conditions(
        conditions.mbps * np.exp(noise.estimate_sigma * rng.standard_normal(shape)),
        conditions.slowdown * np.exp(noise.compute_sigma * rng.standard_normal(shape)),
        conditions.io_ms,
    )


def expected_log_latency(
    simulators: Simulators, told: Conditions, plans: Sequence[WholePlan], noise: Noise, rng: np.random.Generator
) -> FloatArray:
    """(n, plans): the logarithm of the latency in ms where n conditions are told, as `Noise.risk` says, over worlds."""
    if not noise.any:
        return np.log(simulators.evaluate(told, plans))
    worlds = (disturbed(told, noise, rng) for _ in range(DRAWS))
    drawn = np.stack([np.log(simulators.evaluate(world, plans)).astype(np.float32) for world in worlds])
    expected: FloatArray = drawn.mean(axis=0) if noise.risk is None else np.quantile(drawn, noise.risk, axis=0)
    return expected


LEAST_GAIN = 1e-6
"""By which a plan must lower the mean logarithm of the latency to be worth its place."""


def cover(log_latency: FloatArray, keep: int) -> IntArray:
    """Numbers of at most `keep` plans that together serve the conditions best, most useful first.

    `log_latency` (conditions, plans). Greedy: each next plan is the one that lowers the mean of the best most.
    """
    worth = np.ascontiguousarray(log_latency.T, dtype=np.float32)
    best, chosen = worth.max(axis=0), list[int]()
    while len(chosen) < keep:
        gains = np.maximum(best - worth, 0.0).mean(axis=1)
        at = int(np.argmax(gains))
        if gains[at] < LEAST_GAIN:
            break
        chosen.append(at)
        best = np.minimum(best, worth[at])
    return np.array(chosen or [int(np.argmin(worth.mean(axis=1)))], dtype=np.int64)
