"""Search: annealing over cuts, partition scheme and order of the providers together.

First every candidate (a scheme of LC-PSS or a plain one, under an order of the providers) is annealed shortly; the
better third is annealed four times longer, and so on; then the best are varied for as long as there is budget: one
partition location added, removed or shifted, two providers exchanged, or the cuts alone annealed again.
"""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass

import numpy as np

from distredge.model.graph import LayerGraph
from distredge.partitioning.lcpss import SAMPLES, lcpss
from distredge.planners.base import Planner, Strategy, Task, simulator_for
from distredge.plans.scheme import PartitionScheme
from distredge.scenario import Scenario
from distredge.simulate.anneal import START_TEMPERATURE, anneal
from distredge.simulate.kernel import IntArray
from distredge.simulate.simulator import Simulator
from distredge.simulate.starts import capability, starts

ALPHAS = (0.25, 0.5, 0.75, 0.9, 0.97, 1.0)
"""Weights of transmission at which LC-PSS proposes schemes."""

SCREEN_STEPS = 1500
"""Evaluations of a candidate in the first round."""

POOL = 8
"""Strategies that are kept and varied."""

ROUNDS = 120
"""Variations tried when no budget is given."""

ROUND_STEPS = 40_000
"""Evaluations of a variation."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """A strategy under way: partition locations, order of the providers (places in the scenario), cuts."""

    locations: tuple[int, ...]
    order: tuple[int, ...]
    cuts: IntArray
    latency_ms: float

    @property
    def key(self) -> tuple[object, ...]:
        """Two candidates with the same key are the same strategy."""
        return (self.locations, self.order, self.cuts.tobytes())


class JointSearch:
    """The state of one search: simulators made so far and the pool of the best candidates."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.pool: list[Candidate] = []
        self._simulators: dict[tuple[tuple[int, ...], tuple[int, ...]], Simulator] = {}
        self._deadline = None if task.budget_s is None else time.perf_counter() + task.budget_s

    def simulator(self, locations: tuple[int, ...], order: tuple[int, ...]) -> Simulator:
        """The simulator of a scheme under an order."""
        key = (locations, order)
        if key not in self._simulators:
            scheme = PartitionScheme(self.task.graph, locations)
            self._simulators[key] = simulator_for(self.task, scheme, self.task.scenario.reordered(order))
        return self._simulators[key]

    def spent(self) -> float:
        """Share of the time budget that is used up; 0 without a budget."""
        if self._deadline is None or not self.task.budget_s:
            return 0.0
        return min(1.0, 1.0 - (self._deadline - time.perf_counter()) / self.task.budget_s)

    def screen(self, schemes: list[tuple[int, ...]], orders: list[tuple[int, ...]]) -> None:
        """Fill the pool: all schemes under all orders, halved round by round."""
        found = []
        for locations, order in itertools.product(schemes, orders):
            simulator = self.simulator(locations, order)
            choices = starts(simulator)
            best = choices[np.argsort(simulator.evaluate(choices), kind="stable")[:2]]
            found.append(min((self._anneal(locations, order, c, SCREEN_STEPS) for c in best), key=_latency))
            if self.spent() > 0.3:
                break
        steps = SCREEN_STEPS
        while len(found) > POOL:
            steps *= 4
            found = sorted(found, key=_latency)[: max(POOL, len(found) // 3)]
            found = [self._again(c, steps) for c in found if self.spent() < 0.5] or found
        self.pool = sorted(found, key=_latency)[:POOL]

    def vary(self, rounds: int) -> None:
        """Vary the pool: `rounds` times, or until the budget is spent."""
        rng = self.task.rng
        for n in itertools.count():
            share = self.spent() if self._deadline is not None else n / rounds
            self.task.progress(min(share, 1.0), self.pool[0].latency_ms)
            if share >= 1.0:
                return
            parent = self.pool[int(len(self.pool) * rng.random() ** 2)]
            self._keep(self._variation(parent))

    def best(self) -> Strategy:
        """The best strategy so far."""
        best = self.pool[0]
        scheme = PartitionScheme(self.task.graph, best.locations)
        return Strategy(scheme, self.task.scenario.reordered(best.order), best.cuts, best.latency_ms)

    def _variation(self, parent: Candidate) -> Candidate:
        kind = self.task.rng.random()
        locations, order = parent.locations, parent.order
        if kind < 0.4:
            locations = _move_location(self.task.graph, locations, self.task.rng)
        elif kind < 0.6 and len(order) > 1:
            a, b = self.task.rng.choice(len(order), 2, replace=False)
            swapped = list(order)
            swapped[a], swapped[b] = swapped[b], swapped[a]
            order = tuple(swapped)
        cuts = map_cuts(self.task.graph, parent.locations, parent.cuts, locations)
        warmth = START_TEMPERATURE * (0.2 + 0.8 * self.task.rng.random())
        return self._anneal(locations, order, cuts, ROUND_STEPS, warmth)

    def _again(self, candidate: Candidate, steps: int) -> Candidate:
        return self._anneal(candidate.locations, candidate.order, candidate.cuts, steps)

    def _anneal(
        self,
        locations: tuple[int, ...],
        order: tuple[int, ...],
        cuts: IntArray,
        steps: int,
        warmth: float = START_TEMPERATURE,
    ) -> Candidate:
        found, latency = anneal(self.simulator(locations, order), cuts, steps, self.task.rng, warmth)
        return Candidate(locations, order, found, latency)

    def _keep(self, candidate: Candidate) -> None:
        """Take a candidate into the pool, which stays wide: of one scheme and order only the two best stay."""
        same = [c for c in self.pool if (c.locations, c.order) == (candidate.locations, candidate.order)]
        if any(c.key == candidate.key for c in same):
            return
        if len(same) >= 2:
            worst = max(same, key=_latency)
            if worst.latency_ms <= candidate.latency_ms:
                return
            self.pool = [c for c in self.pool if c is not worst]
        self.pool = sorted([*self.pool, candidate], key=_latency)[:POOL]


class Search(Planner):
    """The best that annealing finds over scheme, order and cuts: what the agent is compared with."""

    name = "search"

    def plan(self, task: Task) -> Strategy:
        """With a budget, searches until it is spent; without one, a fixed number of evaluations."""
        search = JointSearch(task)
        search.screen(candidate_schemes(task.graph, task.scenario, task.rng), candidate_orders(search))
        search.vary(ROUNDS)
        return search.best()


def candidate_schemes(graph: LayerGraph, scenario: Scenario, rng: np.random.Generator) -> list[tuple[int, ...]]:
    """LC-PSS at several alpha, and the whole model as one volume; distinct, in a fixed order."""
    found: list[tuple[int, ...]] = [(0,)]
    for alpha in ALPHAS:
        locations = lcpss(graph, len(scenario.providers), alpha, SAMPLES, rng).locations
        if locations not in found:
            found.append(locations)
    return found


def candidate_orders(search: JointSearch) -> list[tuple[int, ...]]:
    """The scenario's order, strongest first, strongest in the middle; every order of up to four providers.

    Mirror images count as one. Inner parts have two halos, so it matters who stands inside.
    """
    count = len(search.task.scenario.providers)
    plain = tuple(range(count))
    if count <= 4:
        return [order for order in itertools.permutations(plain) if order <= order[::-1]]
    ranking = np.argsort(-capability(search.simulator((0,), plain)), kind="stable").tolist()
    middle = tuple(ranking[1::2][::-1] + ranking[::2])
    return list(dict.fromkeys([plain, tuple(ranking), middle]))


def map_cuts(graph: LayerGraph, old: tuple[int, ...], cuts: IntArray, new: tuple[int, ...]) -> IntArray:
    """`cuts` of the scheme `old` carried over to `new`: each volume is cut as the old one that held its last layer."""
    if old == new:
        return cuts
    ends = [*new[1:], len(graph.layers)]
    heights = np.array([graph.layers[end - 1].height for end in ends])
    source = np.searchsorted(np.array(old), np.array(ends) - 1, side="right") - 1
    fractions = cuts[source] / cuts[source, -1:]
    mapped: IntArray = np.rint(fractions * heights[:, None]).astype(np.int64)
    return mapped


def _move_location(graph: LayerGraph, locations: tuple[int, ...], rng: np.random.Generator) -> tuple[int, ...]:
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


def _latency(candidate: Candidate) -> float:
    return candidate.latency_ms
