"""Looks for better plans in the background, in a process of its own: LC-PSS again, search, fine-tuning of the policy.

A job takes less than five seconds of this process: half of them go to the joint search (which begins with LC-PSS's
schemes and knows the plan in force and what the policy would decide), then the quick methods of the literature have a
turn, for comparison, and what is left, a second at most, goes to the policy. The model is loaded before, once. The same
job gives the same plan only as far as the time allows the same work.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from threading import Lock

import numpy as np

from distredge.agents.moving.file import pack, unpack
from distredge.agents.moving.library import Simulators
from distredge.agents.moving.policy import MovingAgent, WholePlan
from distredge.controller.jobs import Job, Outcome
from distredge.controller.measured import Measured
from distredge.controller.models import Models, corrected, workers
from distredge.errors import DistrEdgeError, InputError
from distredge.planners import planner
from distredge.planners.base import Strategy, Task, make_plan
from distredge.planners.candidates import candidate_schemes
from distredge.planners.refining import BUDGET_S, Refined, refine
from distredge.planners.search import Candidate, JointSearch, candidate_orders
from distredge.plans.plan import Plan
from distredge.runtime.background import begin_background
from distredge.scenario import Scenario
from distredge.simulate.conditions import Conditions
from distredge.simulate.costs import VolumeCosts
from distredge.simulate.timeline import trace

SEARCH_S = 2.5

JOB_S = 4.5
"""Of a job, after which the policy is not fine-tuned any further."""

COMPARED = ("offload", "coedge", "modnn", "mednn", "deepthings", "deeperthings", "aofl")
"""Methods of the literature that are quick, the quickest first."""

COMPARED_S = 0.8
"""Those whose turn comes later are left out."""

ALIKE = 0.05
"""Plans whose providers' shares of all volumes differ by less are alike: reality tells them apart as little."""

PROPOSED = 1.02
"""The policy is shown the plans that take no longer than so many times the best one."""

Done = Callable[[Outcome | str], None]

log = logging.getLogger(__name__)


class BackgroundReplanner:
    """A `jobs.Replanner`. The process is started with it, so that it is warm when the first job comes.

    `models` is a folder of .onnx files. One job is done at a time; of a stream's jobs that wait only the newest stays.
    """

    def __init__(self, models: Path | None = None) -> None:
        self._models = models
        self._lock = Lock()
        self._closed, self._busy = False, False
        self._waiting: dict[str, tuple[Job, Done]] = {}
        self._pool: ProcessPoolExecutor | None = None
        self._open().submit(_warm_up)

    def start(self, job: Job, done: Done) -> None:
        """See `jobs.Replanner`."""
        with self._lock:
            before = self._waiting.pop(job.stream, None)
            self._waiting[job.stream] = job, done
        self._go_on()
        if before is not None:
            before[1]("a newer one took its place before it began")

    def close(self) -> None:
        """End the process, whatever it is doing."""
        with self._lock:
            pool, self._pool, self._closed = self._pool, None, True
        if pool is not None:
            for process in [*pool._processes.values()]:  # until Python 3.14, whose `kill_workers` does this
                process.kill()
            pool.shutdown(cancel_futures=True)

    def _go_on(self) -> None:
        """Begin with the job that has waited longest, unless one is under way."""
        with self._lock:
            if self._closed or self._busy or not self._waiting:
                return
            job, done = self._waiting.pop(next(iter(self._waiting)))
            self._busy, future = True, self._submit(job)
        future.add_done_callback(partial(self._answer, done))

    def _submit(self, job: Job) -> Future[Outcome | str]:
        try:
            return self._open().submit(_work, job)
        except BrokenProcessPool:  # it ended while nobody looked
            self._pool = None
            return self._open().submit(_work, job)

    def _open(self) -> ProcessPoolExecutor:
        if self._pool is None:
            self._pool = ProcessPoolExecutor(1, get_context("spawn"), initializer=_begin, initargs=(self._models,))
        return self._pool

    def _answer(self, done: Done, future: Future[Outcome | str]) -> None:
        """Called by a thread of the pool."""
        problem = None if future.cancelled() else future.exception()
        with self._lock:
            self._busy = False
            if self._closed or future.cancelled():
                return
            if isinstance(problem, BrokenProcessPool):
                self._pool = None
        self._go_on()
        if problem is None:
            done(future.result())
        elif isinstance(problem, BrokenProcessPool):
            done("the process that looks for plans has ended")
        else:
            log.error("a re-plan failed", exc_info=problem)
            done(f"{type(problem).__name__}: {problem}".splitlines()[0])


# The process.


_known: Models | None = None
"""Of the process that looks for plans."""


def _begin(models: Path | None) -> None:
    global _known
    begin_background()
    _known = Models(models)


def _warm_up() -> None:
    """Have everything loaded and compiled: a job in small."""
    from distredge.model.load import load_model
    from distredge.scenario import load_scenario

    assert _known is not None
    graph, scenario = load_model("squeezenet1_1"), load_scenario("na-nano")
    task = Task(graph, scenario, np.random.default_rng(0), VolumeCosts(graph, scenario.profiles), 0.1)
    plan = make_plan(task, planner("offload").plan(task), "offload", 0)
    replanned(Job("", scenario, plan, None, scenario.provider_names), _known, search_s=0.1)


def _work(job: Job) -> Outcome | str:
    assert _known is not None
    try:
        return replanned(job, _known)
    except DistrEdgeError as exc:
        return str(exc)


# A job.


def replanned(job: Job, models: Models, search_s: float = SEARCH_S) -> Outcome:
    """The best plan found for a job, the methods beside it and the fine-tuned policy.

    Raises `InputError` if the model is not known or no plan can be carried out.
    """
    graph = models.graph(job.plan.model)
    began = time.perf_counter()
    now = corrected(job.scenario, Measured(present=job.present, mbps=job.mbps, slowdown=job.slowdown))
    there = _present(now, job)
    task = Task(graph, there, np.random.default_rng(job.seed), VolumeCosts(graph, now.profiles), search_s)
    agent = _agent(job)
    search = _searched(task, job, agent)
    others = dict(_compared(task))
    plans = _accepted(task, [*(("search", search.strategy(c)) for c in search.pool), *others.items()], job)
    refined = None
    if agent is not None and there.provider_names == now.provider_names:
        usual = job.scenario.model_copy(update={"requester": now.requester})
        left_s = JOB_S - (time.perf_counter() - began)
        refined = _refined(task, job, agent, Simulators(graph, usual), plans, min(BUDGET_S, left_s))
    changed = refined is not None and refined.agent is not agent
    return Outcome(
        plan=plans[0],
        latency_ms=_latency_ms(plans[0]),
        current_ms=_current_ms(task, now, job),
        policy=pack(refined.agent) if refined and changed else None,
        methods={**{name: strategy.latency_ms for name, strategy in others.items()}, "search": search.pool[0].score},
        training=refined.curve if refined else (),
        seconds=time.perf_counter() - began,
        how=("LC-PSS and search" if plans[0].method == "search" else plans[0].method)
        + (", the policy fine-tuned" if changed else ""),
    )


def _present(now: Scenario, job: Job) -> Scenario:
    """With those providers only that are there."""
    order = tuple(i for i, name in enumerate(now.provider_names) if name in job.present)
    if not order:
        raise InputError("no provider of the scenario is there")
    return now.reordered(order)


def _current_ms(task: Task, now: Scenario, job: Job) -> float:
    """What the plan in force takes now; it may name providers that are not there, as long as they do nothing."""
    if not workers(job.plan) <= {*job.present}:
        return math.inf
    return trace(job.plan.bind(task.graph), now, task.costs).latency_ms


def _searched(task: Task, job: Job, agent: MovingAgent | None) -> JointSearch:
    """The joint search, which knows the plan in force and the policy's idea."""
    search = JointSearch(task)
    search.screen(candidate_schemes(task), candidate_orders(search))
    search.adopt([found for found in (_candidate(job.plan, task), _idea(agent, job, task)) if found is not None])
    search.vary(0)
    return search


def _candidate(plan: Plan, task: Task) -> Candidate | None:
    """A plan as a search has it; None if it needs a provider that is not there."""
    names = task.scenario.provider_names
    if not workers(plan) <= {*names}:
        return None
    order = [name for name in plan.providers if name in names] + [name for name in names if name not in plan.providers]
    rows = [dict(zip(plan.providers, np.diff(v.cuts), strict=True)) for v in plan.volumes]
    cuts = np.array([np.cumsum([0, *(row.get(name, 0) for name in order)]) for row in rows])
    starts = np.cumsum([0, *(len(v.layers) for v in plan.volumes[:-1])])
    return Candidate(tuple(starts.tolist()), tuple(names.index(name) for name in order), cuts, 0.0)


def _compared(task: Task) -> Iterable[tuple[str, Strategy]]:
    """What the quick methods find."""
    until = time.perf_counter() + COMPARED_S
    for name in COMPARED:
        if time.perf_counter() > until:
            return
        try:
            yield name, planner(name).plan(replace(task, rng=np.random.default_rng(0)))
        except InputError:
            continue  # it cannot serve this model or these devices


def _accepted(task: Task, found: list[tuple[str, Strategy]], job: Job) -> list[Plan]:
    """The best plan that fits the providers' memory and is not like one that was refused, and those nearly as good."""
    refused, problem, plans = [_shares(plan) for plan in job.banned], None, list[Plan]()
    for method, strategy in sorted(found, key=lambda named: named[1].latency_ms):
        if plans and strategy.latency_ms > PROPOSED * _latency_ms(plans[0]):
            break
        try:
            plan = make_plan(task, strategy, method, job.seed)
        except InputError as exc:
            problem = problem or exc
            continue
        if not any(_alike(_shares(plan), shares) for shares in refused):
            plans.append(plan)
    if not plans:
        raise problem or InputError("every plan that was found is like one that was rolled back under such conditions")
    return plans


def _latency_ms(plan: Plan) -> float:
    return plan.predicted.latency_ms if plan.predicted else math.inf


Shares = dict[tuple[str, str], dict[str, float]]


def _shares(plan: Plan) -> Shares:
    """The provider's shares of each volume, by its first and last layer; volumes that one computes alone are one."""
    found: list[tuple[tuple[str, str], dict[str, float]]] = []
    for v in plan.volumes:
        rows = zip(plan.providers, np.diff(v.cuts).tolist(), strict=True)
        shares, first = {name: count / v.cuts[-1] for name, count in rows if count}, v.layers[0]
        if found and len(shares) == 1 and found[-1][1] == shares:
            first = found.pop()[0][0]
        found.append(((first, v.layers[-1]), shares))
    return dict(found)


def _alike(some: Shares, other: Shares) -> bool:
    return some.keys() == other.keys() and all(
        abs(shares.get(name, 0.0) - other[at].get(name, 0.0)) < ALIKE
        for at, shares in some.items()
        for name in {*shares, *other[at]}
    )


# The policy.


def _agent(job: Job) -> MovingAgent | None:
    """The policy, if it is an agent for a moving network of this model and these devices."""
    if job.policy is None:
        return None
    try:
        agent = unpack(job.policy, "the policy")
        agent.header.check_model(job.plan.model)
        agent.header.check_scenario(job.scenario)
    except InputError as exc:
        log.warning("the policy is not fine-tuned: %s", exc)
        return None
    return agent


def _conditions(job: Job) -> Conditions:
    """As measured, in the scenario's order."""
    usual, names = Conditions.of(job.scenario), job.scenario.provider_names
    return Conditions(
        np.array([job.mbps.get(name, rate) for name, rate in zip(names, usual.mbps, strict=True)]),
        np.array([job.slowdown.get(name, 1.0) for name in names]),
        usual.io_ms,
    )


def _idea(agent: MovingAgent | None, job: Job, task: Task) -> Candidate | None:
    """What the policy would decide; None while some of its devices are not there."""
    if agent is None or agent.header.names != task.scenario.provider_names:
        return None
    now = _conditions(job)
    whole = agent.whole_plan(agent.decide(now.mbps, now.slowdown, now.io_ms))
    return Candidate(whole.locations, whole.order, whole.cuts, 0.0)


def _refined(
    task: Task, job: Job, agent: MovingAgent, simulators: Simulators, plans: list[Plan], budget_s: float
) -> Refined:
    """The policy with the plans that were found."""
    found = [candidate for plan in plans if (candidate := _candidate(plan, task))]
    whole = [WholePlan(c.locations, c.order, c.cuts) for c in found]
    return refine(agent, simulators, _conditions(job), whole, np.random.default_rng(job.seed), budget_s)
