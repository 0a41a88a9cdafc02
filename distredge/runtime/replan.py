"""New plans while a stream runs: at once for those that are left, and a better one when it has been found."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from threading import Lock

import numpy as np

from distredge.errors import PlanError
from distredge.plans.plan import BoundPlan, Plan, VolumePlan
from distredge.plans.scheme import PartitionScheme
from distredge.runtime.background import begin_background
from distredge.runtime.conductor import BETTER, workers
from distredge.runtime.watch import Situation
from distredge.scenario import Scenario
from distredge.simulate.costs import VolumeCosts
from distredge.simulate.memory import check_memory
from distredge.simulate.timeline import trace

STEPS = 60_000
"""Evaluations of the annealing that looks for a better plan: a tenth of a second."""

GAIN = 0.03
"""A plan must be better by so much to be worth a change."""

log = logging.getLogger(__name__)


def redistributed(first: BoundPlan, situation: Situation) -> BoundPlan:
    """The rows of those that are gone, given to those that are there; volumes and order stay as in the `first` plan.

    In each volume a provider that is there gets rows in proportion to those that it had, divided by how slow it has
    become; where none of them had any, to those that it had in all volumes, and without such, equal ones. Providers
    that the plan does not know are put behind the others, without rows unless there is nobody else.
    """
    plan = first.plan
    order = [name for name in plan.providers if name in situation.present]
    order += [name for name in situation.present if name not in plan.providers]
    pace = np.array([1.0 / situation.slowdown.get(name, 1.0) for name in order])
    rows = np.array([[_rows(item, plan, name) for name in order] for item in plan.volumes], dtype=float)
    total = rows.sum(axis=0)
    volumes = []
    for item, had in zip(plan.volumes, rows, strict=True):
        shares = next(shares for shares in (had, total, np.ones(len(order))) if shares.sum() > 0.0) * pace
        cuts = np.rint(np.cumsum(shares) / shares.sum() * item.cuts[-1]).astype(int)
        volumes.append(VolumePlan(layers=item.layers, cuts=(0, *(int(c) for c in cuts))))
    return _bound(first, order, volumes)


def _rows(item: VolumePlan, plan: Plan, name: str) -> int:
    if name not in plan.providers:
        return 0
    at = plan.providers.index(name)
    return item.cuts[at + 1] - item.cuts[at]


def _bound(first: BoundPlan, order: Sequence[str], volumes: Sequence[VolumePlan]) -> BoundPlan:
    """A plan for the same model; its head is where it was or, without that provider, where most last rows are."""
    last = np.diff(volumes[-1].cuts)
    head = order[int(np.argmax(last))]
    update = {"providers": tuple(order), "volumes": tuple(volumes), "head_provider": head, "predicted": None}
    return first.plan.model_copy(update=update).bind(first.graph)


@dataclass(frozen=True)
class Better:
    """A plan for a situation, what it is predicted to take, and what each stage should (by provider and boundary).

    `current_ms` is predicted of the plan in force; infinite if it cannot go on.
    """

    situation: Situation
    bound: BoundPlan
    latency_ms: float
    expected_ms: Mapping[tuple[str, int], float]
    current_ms: float = math.inf

    @property
    def reason(self) -> str:
        """In a line."""
        if math.isinf(self.current_ms):
            return f"{BETTER}: {self.latency_ms:.1f} ms are predicted"
        return f"{BETTER}: {self.latency_ms:.1f} ms are predicted, {self.current_ms:.1f} ms with the one in force"


class Improver:
    """Finds plans for situations with the simulator, under a scenario that names all providers.

    The volumes stay those of the `first` plan, whose engines providers have.
    """

    def __init__(self, first: BoundPlan, scenario: Scenario) -> None:
        self.graph, self.names = first.graph, scenario.provider_names
        self._first, self._scenario = first, scenario

    def expected(self, bound: BoundPlan) -> Mapping[tuple[str, int], float]:
        """What each stage of a plan should take (ms), by provider and boundary, if all is as the scenario says."""
        return {(work.provider, work.volume): work.compute_ms for work in trace(bound, self._scenario).work}

    def better(
        self, situation: Situation, current: BoundPlan | None = None, proposed: BoundPlan | None = None
    ) -> Better:
        """The best plan found, or the `current` one if it is hardly worse; a `proposed` one is tried as well."""
        slowed = self._under(situation)
        costs = VolumeCosts(self._first.graph, slowed.profiles)
        there = [plan for plan in (current, proposed) if plan and workers(plan) <= {*situation.present}]
        begun = [*there, redistributed(self._first, situation)]
        plans = [*begun, *(self._annealed(plan, slowed, costs) for plan in begun)]
        latencies = [self._latency_ms(bound, slowed, costs) for bound in plans]
        best, current_ms = int(np.argmin(latencies)), math.inf
        if current is not None and plans[0] is current:
            current_ms = latencies[0]
            best = 0 if current_ms <= (1.0 + GAIN) * latencies[best] else best
        return Better(situation, plans[best], latencies[best], self.expected(plans[best]), current_ms)

    def _under(self, situation: Situation) -> Scenario:
        """The scenario with its providers and their links as slow as they are."""
        from distredge.simulate.conditions import Conditions

        names, usual = self._scenario.provider_names, Conditions.of(self._scenario)
        slowdown = np.array([situation.slowdown.get(name, 1.0) for name in names])
        mbps = np.array([situation.mbps.get(name, rate) for name, rate in zip(names, usual.mbps, strict=True)])
        return replace(usual, slowdown=slowdown, mbps=mbps).applied(self._scenario)

    def _annealed(self, simple: BoundPlan, slowed: Scenario, costs: VolumeCosts) -> BoundPlan:
        """A plan for the same providers in the same order, with better cuts."""
        from distredge.simulate.anneal import anneal
        from distredge.simulate.simulator import Simulator

        order = tuple(slowed.provider_names.index(name) for name in simple.plan.providers)
        scheme = PartitionScheme(simple.graph, tuple(volume.start for volume in simple.volumes))
        simulator = Simulator(simple.graph, slowed.reordered(order), scheme, costs)
        start = np.array([item.cuts for item in simple.plan.volumes])
        cuts, _ = anneal(simulator, start, STEPS, np.random.default_rng(0))
        volumes = [
            VolumePlan(layers=item.layers, cuts=tuple(int(c) for c in row))
            for item, row in zip(simple.plan.volumes, cuts, strict=True)
        ]
        return _bound(simple, simple.plan.providers, volumes)

    def _latency_ms(self, bound: BoundPlan, slowed: Scenario, costs: VolumeCosts) -> float:
        """What the simulator says of a plan; infinite if a provider's memory is too small for it."""
        try:
            check_memory(bound, self._scenario)
        except PlanError:
            return math.inf
        return trace(bound, slowed, costs).latency_ms


class Improvement:
    """Looks for better plans in a process of its own, always for the latest situation; `found` is called with each.

    The process is started when a plan is wanted for the first time. It is nobody's hurry: a plan is in force meanwhile.
    """

    def __init__(self, improver: Improver, found: Callable[[Better], None]) -> None:
        self._improver, self._found = improver, found
        self._lock = Lock()
        self._pool: ProcessPoolExecutor | None = None
        self._running = False
        self._next: tuple[Situation, Plan | None, Plan | None] | None = None

    def look(self, situation: Situation, current: BoundPlan | None, proposed: BoundPlan | None = None) -> None:
        """Look for a plan that is better than the current one in a situation; a `proposed` one may be."""
        with self._lock:
            self._next = situation, current.plan if current else None, proposed.plan if proposed else None
            self._submit()

    def warm_up(self) -> None:
        """Start the process now: then the first plan is found as soon as the others."""
        with self._lock:
            self._open().submit(_look_at_all)

    def stop(self) -> None:
        """End the process, whatever it is doing."""
        with self._lock:
            pool, self._pool, self._running = self._pool, None, True
        if pool is not None:
            processes = [*pool._processes.values()]  # until Python 3.14, whose `kill_workers` does this
            for process in processes:
                process.kill()
            pool.shutdown(cancel_futures=True)

    def _submit(self) -> None:
        if self._running or self._next is None:
            return
        pool = self._open()
        self._running, (situation, *plans), self._next = True, self._next, None
        pool.submit(_look, situation, *plans).add_done_callback(partial(self._done, situation))

    def _open(self) -> ProcessPoolExecutor:
        if self._pool is None:
            context = get_context("spawn")
            self._pool = ProcessPoolExecutor(1, context, initializer=_begin, initargs=(self._improver,))
        return self._pool

    def _done(self, situation: Situation, future: Future[_Found]) -> None:
        """Called by a thread of the pool."""
        with self._lock:
            is_over = self._pool is None
        if not (is_over or future.cancelled()):
            if problem := future.exception():
                log.warning("no better plan can be looked for: %s", problem)
            else:
                plan, latency_ms, expected_ms, current_ms = future.result()
                bound = plan.bind(self._improver.graph)
                self._found(Better(situation, bound, latency_ms, expected_ms, current_ms))
        with self._lock:
            if self._pool is not None:
                self._running = False
                self._submit()


_Found = tuple[Plan, float, Mapping[tuple[str, int], float], float]

_improver: Improver | None = None
"""Of the process that looks for plans."""


def _begin(improver: Improver) -> None:
    global _improver
    begin_background()
    _improver = improver


def _look(situation: Situation, *plans: Plan | None) -> _Found:
    assert _improver is not None
    graph = _improver.graph
    found = _improver.better(situation, *(plan.bind(graph) if plan else None for plan in plans))
    return found.bound.plan, found.latency_ms, found.expected_ms, found.current_ms


def _look_at_all() -> None:
    """Have everything loaded and compiled that looking for a plan needs."""
    assert _improver is not None
    _improver.better(Situation(_improver.names, {}))
