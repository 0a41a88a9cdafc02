"""Search: annealing over cuts, partition scheme and order of the providers together.

First every candidate (a scheme of LC-PSS or a plain one, under an order of the providers) is annealed shortly; the
better third is annealed four times longer, and so on; then the best are varied for as long as there is budget: one
partition location added, removed or shifted, two providers exchanged, or the cuts alone annealed again.
"""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass, replace

import numpy as np

from distredge.model.graph import LayerGraph
from distredge.partitioning.lcpss import SAMPLES, lcpss
from distredge.planners.base import Planner, Strategy, Task, simulator_for
from distredge.plans.scheme import PartitionScheme
from distredge.simulate.anneal import START_TEMPERATURE, anneal
from distredge.simulate.costs import BARRED_MS
from distredge.simulate.goals import BROKEN, GOALS, Goals
from distredge.simulate.kernel import IntArray
from distredge.simulate.simulator import Simulator
from distredge.simulate.starts import capability, proportional_cuts, starts

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
    """A strategy under way: partition locations, order of the providers (places in the scenario), cuts.

    `score` is the simulator's: the latency in ms where that alone decides.
    """

    locations: tuple[int, ...]
    order: tuple[int, ...]
    cuts: IntArray
    score: float

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
            choices = starts(simulator) if latency_only(simulator) else starts_for_goals(simulator)
            best = choices[np.argsort(simulator.score(choices), kind="stable")[:2]]
            found.append(min((self._anneal(locations, order, c, SCREEN_STEPS) for c in best), key=_score))
            if self.spent() > 0.3:
                break
        steps = SCREEN_STEPS
        while len(found) > POOL:
            steps *= 4
            found = sorted(found, key=_score)[: max(POOL, len(found) // 3)]
            found = [self._again(c, steps) for c in found if self.spent() < 0.5] or found
        self.pool = sorted(found, key=_score)[:POOL]

    def adopt(self, candidates: list[Candidate]) -> None:
        """Take what another search with the task's scenario found into the pool."""
        for c in candidates:
            simulator = self.simulator(c.locations, c.order)
            self.keep(replace(c, score=float(simulator.score(c.cuts[None])[0])))

    def mend(self, schemes: list[tuple[int, ...]], orders: list[tuple[int, ...]], rounds: int) -> None:
        """If no plan in the pool keeps to the goals' limits, look for one without regard to what is to be minimised.

        That is a search like this one with `rounds` variations, or for half of the time that is left.
        """
        goals = self.task.goals
        weights = {name: 1.0 / max(x, 1e-9) for name, x in zip(GOALS, goals.limits, strict=True) if x is not None}
        if not weights or self.pool[0].score < BROKEN / 2 * self.task.scale:
            return
        budget_s = None if self.task.budget_s is None else max(0.1, self.task.budget_s * (1.0 - self.spent()) / 2)
        free = Goals(weights, exclude=goals.exclude, pin=goals.pin, layers_on=goals.layers_on, raw_to=goals.raw_to)
        other = JointSearch(replace(self.task, goals=free, budget_s=budget_s, progress=lambda share, latency_ms: None))
        other.screen(schemes, orders)
        other.adopt(self.pool)
        other.vary(rounds)
        self.adopt(other.pool)

    def vary(self, rounds: int, begin: float = 0.0, end: float = 1.0) -> None:
        """Vary the pool: `rounds` times, or until a share `end` of the budget is spent.

        That is the work from share `begin` to share `end` of the whole.
        """
        rng = self.task.rng
        for n in itertools.count():
            share = self.spent() if self._deadline is not None else begin + (end - begin) * (n / rounds)
            self.task.progress(min(share, 1.0), self.strategy(self.pool[0]).latency_ms)
            if share >= end:
                return
            parent = self.pool[int(len(self.pool) * rng.random() ** 2)]
            self.keep(self._variation(parent))

    def best(self) -> Strategy:
        """The best strategy so far."""
        return self.strategy(self.pool[0])

    def strategy(self, candidate: Candidate) -> Strategy:
        """A candidate with its latency."""
        simulator = self.simulator(candidate.locations, candidate.order)
        latency = candidate.score if simulator.aim is None else float(simulator.evaluate(candidate.cuts[None])[0])
        return Strategy(simulator.scheme, simulator.scenario, candidate.cuts, latency)

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
        found, score = anneal(self.simulator(locations, order), cuts, steps, self.task.rng, warmth)
        return Candidate(locations, order, found, score)

    def keep(self, candidate: Candidate) -> None:
        """Take a candidate into the pool, which stays wide: of one scheme and order only the two best stay."""
        same = [c for c in self.pool if (c.locations, c.order) == (candidate.locations, candidate.order)]
        if any(c.key == candidate.key for c in same):
            return
        if len(same) >= 2:
            worst = max(same, key=_score)
            if worst.score <= candidate.score:
                return
            self.pool = [c for c in self.pool if c is not worst]
        self.pool = sorted([*self.pool, candidate], key=_score)[:POOL]


class Search(Planner):
    """The best that annealing finds over scheme, order and cuts: what the agent is compared with."""

    name = "search"
    weighs = True

    def plan(self, task: Task) -> Strategy:
        """With a budget, searches until it is spent; without one, a fixed number of evaluations."""
        search = JointSearch(task)
        schemes, orders = candidate_schemes(task), candidate_orders(search)
        search.screen(schemes, orders)
        if any(limit is not None for limit in task.goals.limits):
            search.vary(ROUNDS // 2, end=0.6)
            search.mend(schemes, orders, ROUNDS // 2)
            search.vary(ROUNDS // 2, begin=0.6)
        else:
            search.vary(ROUNDS)
        return search.best()


@dataclass(frozen=True)
class FrontPoint:
    """A plan on a front: `value` is its other goal."""

    strategy: Strategy
    latency_ms: float
    value: float


FRONT_ROUNDS = 12
"""Variations tried for each point of a front when no budget is given."""


class Front:
    """Latency against another goal (of `GOALS`, by its place): the search for the plans of which none beats another.

    Both goals are minimised alone, then latency under limits between the two values of the other. Each search begins
    with all that the ones before found. The task's limits hold at every point; what it minimises does not count.
    """

    def __init__(self, task: Task, against: int, points: int) -> None:
        self.task, self.against, self.points = task, against, max(points, 2)
        self._known: dict[tuple[object, ...], Candidate] = {}
        self._schemes: list[tuple[int, ...]] = []
        self._orders: list[tuple[int, ...]] = []
        self._done = 0
        self._judges = [
            JointSearch(replace(task, goals=goals))
            for goals in (replace(task.goals, minimise={GOALS[against]: 1.0}), Goals({GOALS[against]: 1.0}))
        ]

    def search(self) -> list[FrontPoint]:
        """The front, fastest first; empty if the task's limits cannot be kept."""
        fastest = self._point(self._solve({"latency": 1.0}, None))
        little = 1e-3 * fastest.value / fastest.latency_ms  # of two that are alike in the other goal, the faster
        least = self._point(self._solve({GOALS[self.against]: 1.0, "latency": little}, None))
        for n in range(1, self.points - 1):
            limit = least.value + (fastest.value - least.value) * (1.0 - n / (self.points - 1))
            self._solve({"latency": 1.0}, limit)
        found = [self._point(c) for c in self._known.values() if self._keeps(c)]
        front: list[FrontPoint] = []
        for point in sorted(found, key=lambda p: (p.latency_ms, p.value)):
            if not front or point.value < front[-1].value:
                front.append(point)
        return _spread(front, self.points)

    def _solve(self, minimise: dict[str, float], limit: float | None) -> Candidate:
        goals = replace(self.task.goals, minimise=minimise)
        goals = goals if limit is None else goals.limited(self.against, limit)
        done = self._done

        def progress(share: float, latency_ms: float) -> None:
            self.task.progress((done + share) / self.points, latency_ms)

        budget_s = None if self.task.budget_s is None else self.task.budget_s / self.points
        search = JointSearch(replace(self.task, goals=goals, budget_s=budget_s, progress=progress))
        if not self._schemes:
            self._schemes, self._orders = candidate_schemes(search.task), candidate_orders(search)
        search.screen(self._schemes, self._orders)
        self._schemes, self._orders = self._schemes[:1], self._orders[:1]
        search.adopt(list(self._known.values()))
        search.mend(self._schemes, self._orders, FRONT_ROUNDS // 2)
        search.vary(FRONT_ROUNDS)
        self._known.update((c.key, c) for c in search.pool)
        self._done += 1
        return search.pool[0]

    def _point(self, candidate: Candidate) -> FrontPoint:
        strategy = self._judges[1].strategy(candidate)
        return FrontPoint(strategy, strategy.latency_ms, self._scores(candidate)[1])

    def _keeps(self, candidate: Candidate) -> bool:
        """Whether a plan keeps to the task's limits, which its score shows, and bars."""
        limited, free = self._scores(candidate)
        return limited <= free and self._point(candidate).latency_ms < BARRED_MS

    def _scores(self, candidate: Candidate) -> list[float]:
        """The other goal, with penalties for the task's limits, and by itself."""
        simulators = [judge.simulator(candidate.locations, candidate.order) for judge in self._judges]
        return [float(simulator.score(candidate.cuts[None])[0]) for simulator in simulators]


def _spread(front: list[FrontPoint], most: int) -> list[FrontPoint]:
    """At most so many points: both ends, and those nearest to even steps of the other goal."""
    if len(front) <= most:
        return front
    values = np.array([point.value for point in front])
    wanted = np.linspace(values[0], values[-1], most)
    chosen = sorted({0, len(front) - 1, *(int(np.argmin(np.abs(values - value))) for value in wanted)})
    return [front[i] for i in chosen]


def candidate_schemes(task: Task) -> list[tuple[int, ...]]:
    """LC-PSS at several alpha, and the whole model as one volume; distinct, in a fixed order.

    All are cut around the layers that not everybody may compute, lest that extend to their neighbours.
    """
    fences, providers = _fences(task), len(task.scenario.providers)
    found = [tuple(sorted({0, *fences}))]
    for alpha in ALPHAS:
        locations = lcpss(task.graph, providers, alpha, SAMPLES, task.rng).locations
        locations = tuple(sorted({*locations, *fences}))
        if locations not in found:
            found.append(locations)
    return found


def _fences(task: Task) -> set[int]:
    """Cut points next to where providers are barred."""
    points = (*task.graph.cut_points, len(task.graph.layers))
    barred = {i for name in task.scenario.provider_names for i in task.goals.barred_layers(task.graph, name)}
    before = {max(p for p in points if p <= max(i, 0)) for i in barred}
    after = {min(p for p in points if p > max(i, 0)) for i in barred}
    return (before | after) - {len(task.graph.layers)}


def latency_only(simulator: Simulator) -> bool:
    """Whether latency alone decides, and everybody may compute everything."""
    return simulator.aim is None and simulator.barred is None


def starts_for_goals(simulator: Simulator) -> IntArray:
    """(n, volumes, providers + 1): `starts`, and the best k providers by what each is worth alone, and by reliability.

    Who is barred from a volume leaves its rows to the others.
    """
    free, heights = simulator.unbarred(), simulator.heights
    rates = capability(free)
    worths = [free.score(free.single_device_cuts())]
    if simulator.aim is not None:
        worths.append(-simulator.aim.works)
    found = [starts(free)]
    for ranking in (np.argsort(worth, kind="stable") for worth in worths):
        for k in range(1, simulator.providers + 1):
            shares = np.zeros_like(rates)
            shares[ranking[:k]] = rates[ranking[:k]]
            found.append(proportional_cuts(heights, shares)[None])
    return simulator.permitted(np.concatenate(found))


def candidate_orders(search: JointSearch) -> list[tuple[int, ...]]:
    """The scenario's order, strongest first, strongest in the middle; every order of up to four providers.

    Mirror images count as one. Inner parts have two halos, so it matters who stands inside.
    """
    count = len(search.task.scenario.providers)
    plain = tuple(range(count))
    if count <= 4:
        return [order for order in itertools.permutations(plain) if order <= order[::-1]]
    ranking = np.argsort(-capability(search.simulator((0,), plain).unbarred()), kind="stable").tolist()
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


def _score(candidate: Candidate) -> float:
    return candidate.score
