"""Search under conditions other than the scenario's: for one set of them, or a library for all that may come.

A library's plans are for the roles of providers (`distredge.agents.moving.policy.Roles`), so all conditions are sorted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np

from distredge.agents.moving.header import Header, devices
from distredge.agents.moving.library import Simulators, cast_conditions, cover, expected_log_latency, sample_conditions
from distredge.agents.moving.policy import MovingAgent, Roles, WholePlan
from distredge.agents.moving.settings import MovingSettings, Noise
from distredge.errors import InputError, PlanError, needing
from distredge.planners.base import Strategy, Task, draft
from distredge.planners.candidates import candidate_schemes
from distredge.planners.moves import Locations, Order, map_cuts, move_location
from distredge.planners.search import Candidate, JointSearch, candidate_orders
from distredge.plans.plan import ModelRef
from distredge.plans.scheme import PartitionScheme
from distredge.simulate.anneal import START_TEMPERATURE, anneal
from distredge.simulate.conditions import Conditions
from distredge.simulate.memory import check_memory
from distredge.simulate.simulator import Simulator

THREADS = 2
"""Annealing runs at the same time; the result does not depend on it."""

PARENTS = 8
"""A plan is varied that is among so many best for the conditions."""

MATES = 32
"""It may take its scheme or its order from one of so many."""

VARIANTS = 8
"""Of a condition's best plans, that are annealed shortly; the best of them for long."""

AS_TOLD = Noise(estimate_sigma=0.0, compute_sigma=0.0, risk=None)
"""The world is as told."""

LIBRARY_SHARE, CRITIC_SHARE = 0.7, 0.95
"""Of the progress, and of a time budget, when the library is done, and the critic with it."""


Log = Callable[[str, float, int], None]
"""Called with a figure's name, its value and the gradient step."""


class SearchUnder(JointSearch):
    """The joint search of scheme, order and cuts for the least latency under conditions (one, not a batch)."""

    def __init__(self, task: Task, simulators: Simulators, conditions: Conditions) -> None:
        super().__init__(task)
        self._simulators = simulators
        self._conditions = conditions

    def _make_simulator(self, locations: Locations, order: Order) -> Simulator:
        return self._simulators.under(locations, order, self._conditions)

    def found(self) -> list[WholePlan]:
        """The plans of the pool, best first."""
        return [WholePlan(c.locations, c.order, c.cuts) for c in self.pool]

    def know(self, plans: Sequence[WholePlan]) -> None:
        """Take plans into the pool."""
        self.adopt([Candidate(p.locations, p.order, p.cuts, 0.0) for p in plans])


class LibrarySearch:
    """A library under way."""

    def __init__(self, task: Task, simulators: Simulators, roles: Roles, settings: MovingSettings) -> None:
        self.task = task
        self.settings = settings
        self.simulators = simulators
        self.plans: list[WholePlan] = []
        self.typical_ms = 0.0
        """Median over the latest conditions of the best plan's latency."""
        self._roles = roles
        self._seeds = np.random.SeedSequence(int(task.rng.integers(2**63)))
        self._rng = np.random.default_rng(self._seeds.spawn(1)[0])
        self._known: set[tuple[object, ...]] = set()

    def search(self, pace: Callable[[float], float]) -> list[WholePlan]:
        """The library; `pace` is called with the share done and returns the share that counts: 1 ends the search."""
        library = self.settings.library
        with ThreadPoolExecutor(THREADS) as threads:
            self._screen(threads)
            for n in range(library.rounds):
                self._round(threads)
                if len(self.plans) > 2 * library.keep:
                    self._prune(library.keep, AS_TOLD)
                if pace((n + 1) / library.rounds) >= 1.0:
                    break
        self._prune(library.keep, self.settings.noise)
        return self.plans

    def _sample(self, count: int) -> Conditions:
        providers = len(self.task.scenario.providers)
        return cast_conditions(self._roles, sample_conditions(self.settings.ranges, providers, count, self._rng))

    def _screen(self, threads: ThreadPoolExecutor) -> None:
        """Begin: all candidates of scheme and order, for a few conditions."""
        conditions = self._sample(self.settings.library.screens)
        schemes = candidate_schemes(self.task)
        rngs = self._generators(len(conditions))
        searches = [
            SearchUnder(replace(self.task, rng=rng), self.simulators, conditions[n]) for n, rng in enumerate(rngs)
        ]
        list(threads.map(lambda search: search.screen(schemes, candidate_orders(search)), searches))
        for search in searches:
            self._take(search.found())
        if not self.plans:
            raise InputError("no plan fits the providers' memory")

    def _round(self, threads: ThreadPoolExecutor) -> None:
        """For each of fresh conditions, vary some of its best plans and anneal them."""
        conditions = self._sample(self.settings.library.conditions)
        rngs = self._generators(len(conditions))
        latency = self.simulators.evaluate(conditions, self.plans)
        ranked = np.argsort(latency, axis=1, kind="stable")[:, :MATES]
        variants = [
            [self._vary([self.plans[i] for i in ranked[n]], rng) for _ in range(VARIANTS)] for n, rng in enumerate(rngs)
        ]
        polished = list(threads.map(self._polish, variants, (conditions[n] for n in range(len(rngs))), rngs))
        best = latency.min(axis=1)
        self._take([plan for n, (plan, latency_ms) in enumerate(polished) if latency_ms < 1.01 * best[n]])
        self.typical_ms = float(np.median(best))

    def _polish(self, variants: list[WholePlan], now: Conditions, rng: np.random.Generator) -> tuple[WholePlan, float]:
        """The best of variants after a short annealing of each, and a long one of that; and its latency in ms."""
        steps = self.settings.library.steps // 2

        def annealed(plan: WholePlan, steps: int, warmth: float) -> tuple[WholePlan, float]:
            simulator = self.simulators.under(plan.locations, plan.order, now)
            cuts, latency_ms = anneal(simulator, plan.cuts, steps, rng, warmth * START_TEMPERATURE)
            return plan._replace(cuts=cuts), latency_ms

        tried = [annealed(plan, steps // VARIANTS, 0.25) for plan in variants]
        best = min(tried, key=lambda found: found[1])
        return min(annealed(best[0], steps, 0.05 + 0.5 * rng.random()), best, key=lambda found: found[1])

    def _generators(self, count: int) -> list[np.random.Generator]:
        return [np.random.default_rng(seed) for seed in self._seeds.spawn(count)]

    def _vary(self, ranked: list[WholePlan], rng: np.random.Generator) -> WholePlan:
        """One of the best, often under another scheme or order: another plan's, or its own with one change."""
        parent = ranked[int(min(PARENTS, len(ranked)) * rng.random() ** 2)]
        mate = ranked[int(len(ranked) * rng.random())]
        kind, locations, order = rng.random(), parent.locations, parent.order
        if kind < 0.25:
            locations = mate.locations
        elif kind < 0.45:
            locations = move_location(self.task.graph, locations, rng)
        elif kind < 0.6:
            order = mate.order
        elif kind < 0.7 and len(order) > 1:
            order = _swapped(order, rng)
        shares = np.diff(map_cuts(self.task.graph, parent.locations, parent.cuts, locations), axis=1)
        moved = shares[:, [parent.order.index(i) for i in order]]  # everybody keeps the rows that he has
        return WholePlan(locations, order, np.cumsum(np.pad(moved, ((0, 0), (1, 0))), axis=1))

    def _take(self, plans: list[WholePlan]) -> None:
        """Add those that are new and fit the providers' memory."""
        for plan in plans:
            if plan.key not in self._known and self._fits(plan):
                self._known.add(plan.key)
                self.plans.append(plan)

    def _fits(self, plan: WholePlan) -> bool:
        scheme, scenario = PartitionScheme(self.task.graph, plan.locations), self.task.scenario.reordered(plan.order)
        try:
            check_memory(
                draft(Strategy(scheme, scenario, plan.cuts, 0.0), scenario, "moving", 0).bind(self.task.graph), scenario
            )
        except PlanError:
            return False
        return True

    def _prune(self, keep: int, noise: Noise) -> None:
        """Drop what is dominated under fresh conditions, best first what stays."""
        told = self._sample(self.settings.library.try_on)
        log_latency = expected_log_latency(self.simulators, told, self.plans, noise, self._rng)
        self.plans = [self.plans[i] for i in cover(log_latency, keep)]
        self._known = {plan.key for plan in self.plans}


def _swapped(order: Order, rng: np.random.Generator) -> Order:
    """Two providers exchanged."""
    a, b = rng.choice(len(order), 2, replace=False)
    changed = list(order)
    changed[a], changed[b] = changed[b], changed[a]
    return tuple(changed)


def pretrain(task: Task, settings: MovingSettings, log: Log = lambda name, value, step: None) -> MovingAgent:
    """An agent for a moving network, from nothing, on the task's model and providers.

    The work is fixed, so that the same seed gives the same agent, unless the task has a budget and that is spent
    before. Raises `DependencyError` without torch, `InputError` for one provider alone or if no plan fits the
    providers' memory.
    """
    graph, scenario = task.graph, task.scenario
    if len(scenario.providers) < 2:
        raise InputError(f"'{scenario.name}' has one provider, there is nothing to split: use --method offload")
    with needing("pre-training an agent", "train"):
        from distredge.agents.moving.training import fit_networks
    simulators = Simulators(graph, scenario)
    roles, clock = simulators.roles(), _Clock(task)
    search = LibrarySearch(task, simulators, roles, settings)
    plans = search.search(clock.pace(0.0, LIBRARY_SHARE, lambda: search.typical_ms))
    rest = (clock.pace(LIBRARY_SHARE, CRITIC_SHARE), clock.pace(CRITIC_SHARE, 1.0))
    networks = fit_networks(simulators, roles, plans, settings, task.rng, rest, log)
    task.progress(1.0, search.typical_ms)
    header = Header(
        model=ModelRef(name=graph.name, sha256=graph.sha256, input_shape=graph.input_shape),
        layers=graph.names(0, len(graph.layers)),
        scenario=scenario.name,
        providers=devices(scenario),
        requester_mbps=scenario.requester.bandwidth_mbps,
        element_bytes=scenario.element_bytes,
        mbps=settings.ranges.mbps,
        slowdown=settings.ranges.slowdown,
        io_ms=settings.ranges.io_ms,
        candidates=settings.actor.candidates,
    )
    return MovingAgent(header, roles, tuple(plans), networks)


class _Clock:
    """Tells a task's progress, and whether the time for a phase of the pre-training is up."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._began = time.perf_counter()
        self._value = 0.0

    def pace(self, begin: float, end: float, value: Callable[[], float] | None = None) -> Callable[[float], float]:
        """Of a phase from share `begin` to share `end` of the whole; `value` is shown beside the progress."""

        def count(done: float) -> float:
            if self._task.budget_s is not None:
                spent = (time.perf_counter() - self._began) / self._task.budget_s
                done = max(done, min(1.0, (spent - begin) / (end - begin)))
            self._value = self._value if value is None else value()
            self._task.progress(begin + (end - begin) * done, self._value)
            return done

        return count
