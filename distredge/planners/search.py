"""Search: annealing over cuts, partition scheme and order of the providers together.

First every candidate (a scheme of LC-PSS or a plain one, under an order of the providers) is annealed shortly; the
better third is annealed four times longer, and so on; to the last of them comes what the agent for any cluster
proposes. Then the best are varied for as long as there is budget, round by round: children with another partition
location or order of the providers are annealed very shortly, and the best few of them again for longer. Annealing runs
in several threads; how many makes no difference to what is found.
"""

from __future__ import annotations

import itertools
import math
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np
from numba import config

from distredge.agents.general.policy import propose
from distredge.planners.base import Planner, Strategy, Task, simulator_for
from distredge.planners.candidates import candidate_schemes, starting_plans
from distredge.planners.moves import Locations, Order, map_cuts, move_location, move_order, settled, twins
from distredge.plans.scheme import PartitionScheme
from distredge.simulate.anneal import START_TEMPERATURE, anneal
from distredge.simulate.goals import BROKEN, GOALS, Goals
from distredge.simulate.kernel import IntArray
from distredge.simulate.simulator import Simulator
from distredge.simulate.starts import capability

SCREEN_STEPS = 1500
"""Evaluations of a candidate in the first round of the screen."""

POOL = 12
"""Strategies that are kept and varied."""

ROUNDS = 120
"""Rounds of variation when no budget is given: five million evaluations."""

CHILDREN = 24
"""Variations tried in a round."""

TRIAL_STEPS = 500
"""Evaluations of each of them."""

CHOSEN = 4
"""The best children, which are annealed for longer."""

ROUND_STEPS = 8000
"""Evaluations of each of these."""

WARM = 0.005
"""Temperature at which annealing begins from the plan of the agent for any cluster; a higher one would lose it."""

TOGETHER = 8
"""Candidates that are annealed between two looks at the clock."""

SIMULATORS = 64
"""Schemes whose tables are kept."""


class Start(NamedTuple):
    """What is to be annealed: a strategy, for how many evaluations, from what temperature (a share of its score)."""

    locations: Locations
    order: Order
    cuts: IntArray
    steps: int
    warmth: float = START_TEMPERATURE


@dataclass(frozen=True, eq=False)
class Candidate:
    """A strategy under way: partition locations, order of the providers (places in the scenario), cuts.

    `score` is the simulator's: the latency in ms where that alone decides.
    """

    locations: Locations
    order: Order
    cuts: IntArray
    score: float

    @property
    def key(self) -> tuple[object, ...]:
        """Two candidates with the same key are the same strategy."""
        return (self.locations, self.order, self.cuts.tobytes())

    def again(self, steps: int, warmth: float = START_TEMPERATURE) -> Start:
        """It, to be annealed once more."""
        return Start(self.locations, self.order, self.cuts, steps, warmth)


class JointSearch:
    """The state of one search: tables made so far and the pool of the best candidates."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.pool: list[Candidate] = []
        self._simulator = lru_cache(SIMULATORS)(self._make_simulator)
        self._deadline = None if task.budget_s is None else time.perf_counter() + task.budget_s

    def simulator(self, locations: Locations, order: Order) -> Simulator:
        """The simulator of a scheme under an order."""
        return self._simulator(locations, order)

    def _make_simulator(self, locations: Locations, order: Order) -> Simulator:
        return simulator_for(
            self.task, PartitionScheme(self.task.graph, locations), self.task.scenario.reordered(order)
        )

    @cached_property
    def kinds(self) -> tuple[int, ...]:
        """See `twins`: of the task's providers."""
        return twins(self.simulator((0,), tuple(range(len(self.task.scenario.providers)))))

    def spent(self) -> float:
        """Share of the time budget that is used up; 0 without a budget."""
        if self._deadline is None or not self.task.budget_s:
            return 0.0
        return min(1.0, 1.0 - (self._deadline - time.perf_counter()) / self.task.budget_s)

    def screen(self, schemes: list[Locations], orders: list[Order]) -> None:
        """Fill the pool: all schemes under all orders, halved round by round."""
        begin = []
        for locations, order in itertools.product(schemes, orders):
            simulator = self.simulator(locations, order)
            choices = starting_plans(simulator)
            best = choices[np.argsort(simulator.score(choices), kind="stable")[:2]]
            begin += [Start(locations, order, cuts, SCREEN_STEPS) for cuts in best]
        tried = sorted(self._anneal(begin, until=0.3), key=_score, reverse=True)
        found = list({(c.locations, c.order): c for c in tried}.values())  # the better of each two
        steps = SCREEN_STEPS
        while len(found) > POOL:
            steps *= 4
            found = sorted(found, key=_score)[: max(POOL, len(found) // 3)]
            found = self._anneal([c.again(steps) for c in found], until=0.5)
        self.pool = sorted(found, key=_score)[:POOL]
        for candidate in self._anneal([self._warm(c) for c in self.pool], until=0.55):
            self.keep(candidate)

    def _warm(self, candidate: Candidate) -> Start:
        """What the agent for any cluster proposes under a candidate's scheme and order."""
        plan = propose(self.simulator(candidate.locations, candidate.order), 1)[0]
        return Start(candidate.locations, candidate.order, plan, ROUND_STEPS, WARM)

    def adopt(self, candidates: list[Candidate]) -> None:
        """Take what another search with the task's scenario found into the pool."""
        for c in candidates:
            simulator = self.simulator(c.locations, c.order)
            self.keep(replace(c, score=float(simulator.score(c.cuts[None])[0])))

    def mend(self, schemes: list[Locations], orders: list[Order], rounds: int) -> None:
        """If no plan in the pool keeps to the goals' limits, look for one without regard to what is to be minimised.

        That is a search like this one with `rounds` rounds of variation, or for half of the time that is left.
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
        for n in itertools.count():
            share = self.spent() if self._deadline is not None else begin + (end - begin) * (n / rounds)
            self.task.progress(min(share, 1.0), self.strategy(self.pool[0]).latency_ms)
            if share >= end:
                return
            self._round(end)

    def best(self) -> Strategy:
        """The best strategy so far."""
        return self.strategy(self.pool[0])

    def strategy(self, candidate: Candidate) -> Strategy:
        """A candidate with its latency."""
        simulator = self.simulator(candidate.locations, candidate.order)
        latency = candidate.score if simulator.aim is None else float(simulator.evaluate(candidate.cuts[None])[0])
        return Strategy(simulator.scheme, simulator.scenario, candidate.cuts, latency)

    def _round(self, until: float) -> None:
        rng = self.task.rng
        parents = (self.pool[int(len(self.pool) * rng.random() ** 2)] for _ in range(CHILDREN))
        tried = sorted(self._anneal([self._child(parent) for parent in parents], until), key=_score)
        chosen = [c.again(ROUND_STEPS, START_TEMPERATURE * (0.07 + 0.63 * rng.random())) for c in tried[:CHOSEN]]
        for candidate in [*self._anneal(chosen, until), *tried[CHOSEN:]]:
            self.keep(candidate)

    def _child(self, parent: Candidate) -> Start:
        """A variation: other partition locations, another order, both or, in a quarter of the cases, neither."""
        graph, rng = self.task.graph, self.task.rng
        locations, order, cuts = parent.locations, parent.order, parent.cuts
        kind = rng.random()
        if kind < 0.45:
            for _ in range(1 if rng.random() < 0.7 else 2):
                locations = move_location(graph, locations, rng)
            cuts = map_cuts(graph, parent.locations, cuts, locations)
        if 0.35 <= kind < 0.75 and len(order) > 1:
            order, cuts = move_order(order, cuts, self.kinds, rng)
        return Start(locations, settled(order, self.kinds), cuts, TRIAL_STEPS, 0.3 * START_TEMPERATURE * rng.random())

    def _anneal(self, begin: list[Start], until: float) -> list[Candidate]:
        """What comes of each start, in their order; only of the first ones if the budget is spent to share `until`."""
        found: list[Candidate] = []
        with ThreadPoolExecutor(config.NUMBA_NUM_THREADS) as threads:  # type: ignore[attr-defined]
            for at in range(0, len(begin), TOGETHER):
                if at > 0 and self.spent() >= until:
                    break
                some = begin[at : at + TOGETHER]
                found += threads.map(self._annealed, some, self.task.rng.spawn(len(some)))
        return found

    def _annealed(self, start: Start, rng: np.random.Generator) -> Candidate:
        simulator = self.simulator(start.locations, start.order)
        cuts, score = anneal(simulator, start.cuts, start.steps, rng, start.warmth)
        return Candidate(start.locations, start.order, cuts, score)

    def keep(self, candidate: Candidate) -> None:
        """Take a candidate into the pool, which stays wide: of one scheme and order only the two best stay.

        Of one score the latest stays: mostly it is the same plan, written with other locations or another order.
        """
        equal = [c for c in self.pool if math.isclose(c.score, candidate.score, rel_tol=1e-9)]
        same = [c for c in self.pool if (c.locations, c.order) == (candidate.locations, candidate.order)]
        leaving = equal[:1] or sorted(same, key=_score)[1:]
        if leaving and not equal and leaving[0].score <= candidate.score:
            return
        self.pool = sorted([*(c for c in self.pool if c not in leaving), candidate], key=_score)[:POOL]


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


def candidate_orders(search: JointSearch) -> list[Order]:
    """The scenario's order, strongest first, strongest in the middle; every order of up to four providers.

    Mirror images count as one. Inner parts have two halos, so it matters who stands inside.
    """
    count = len(search.task.scenario.providers)
    plain = tuple(range(count))
    if count <= 4:
        orders = [order for order in itertools.permutations(plain) if order <= order[::-1]]
    else:
        ranking = np.argsort(-capability(search.simulator((0,), plain).unbarred()), kind="stable").tolist()
        orders = [plain, tuple(ranking), tuple(ranking[1::2][::-1] + ranking[::2])]
    return list(dict.fromkeys(settled(order, search.kinds) for order in orders))


def _score(candidate: Candidate) -> float:
    return candidate.score
