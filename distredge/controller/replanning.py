"""Looks for better plans in the background, in a process of its own: LC-PSS again, search, fine-tuning of the policy.

A job takes less than five seconds: half of them go to the joint search (which begins with LC-PSS's schemes, the plan in
force and what the policy would decide), a second at most to the other methods, for comparison, and one to the policy.
The same job gives the same plan only as far as the search's time allows the same work.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from functools import lru_cache, partial
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock

import numpy as np

from distredge.agents.moving.file import load_agent, pack
from distredge.agents.moving.library import Simulators
from distredge.agents.moving.policy import MovingAgent, WholePlan
from distredge.controller.jobs import Job, Outcome
from distredge.controller.measured import Measured
from distredge.controller.models import Models, corrected, workers
from distredge.errors import DistrEdgeError, InputError
from distredge.model.graph import LayerGraph
from distredge.planners import planner
from distredge.planners.base import Strategy, Task, make_plan
from distredge.planners.candidates import candidate_schemes
from distredge.planners.refining import refine
from distredge.planners.search import Candidate, JointSearch, candidate_orders
from distredge.plans.plan import Plan
from distredge.scenario import Scenario
from distredge.simulate.conditions import Conditions
from distredge.simulate.costs import VolumeCosts
from distredge.simulate.timeline import trace

SEARCH_S = 2.5

COMPARED = ("offload", "coedge", "modnn", "mednn", "deepthings", "deeperthings", "aofl")
"""Methods of the literature that are quick."""

COMPARED_S = 1.0
"""Those whose turn comes later are left out."""

log = logging.getLogger(__name__)


class BackgroundReplanner:
    """A `jobs.Replanner`. The process is started with it, so that it is warm when the first job comes.

    `models` is a folder of .onnx files. Of a stream's jobs that wait, only the newest is done.
    """

    def __init__(self, models: Path | None = None) -> None:
        self._models = models
        self._lock = Lock()
        self._closed = False
        self._pool: ProcessPoolExecutor | None = None
        self._open().submit(_warm_up)

    def start(self, job: Job, done: Callable[[Outcome | str], None]) -> None:
        """See `jobs.Replanner`."""
        with self._lock:
            if self._closed:
                return
            try:
                future = self._open().submit(_work, job)
            except BrokenProcessPool:  # it ended while nobody looked
                self._pool = None
                future = self._open().submit(_work, job)
        future.add_done_callback(partial(self._answer, done))

    def close(self) -> None:
        """End the process, whatever it is doing."""
        with self._lock:
            pool, self._pool, self._closed = self._pool, None, True
        if pool is not None:
            for process in [*pool._processes.values()]:  # until Python 3.14, whose `kill_workers` does this
                process.kill()
            pool.shutdown(cancel_futures=True)

    def _open(self) -> ProcessPoolExecutor:
        if self._pool is None:
            self._pool = ProcessPoolExecutor(1, get_context("spawn"), initializer=_begin, initargs=(self._models,))
        return self._pool

    def _answer(self, done: Callable[[Outcome | str], None], future: Future[Outcome]) -> None:
        """Called by a thread of the pool."""
        if self._closed or future.cancelled():
            return
        problem = future.exception()
        if isinstance(problem, BrokenProcessPool):
            with self._lock:
                self._pool = None
            done("the process that looks for plans has ended")
        elif problem is not None:
            if not isinstance(problem, DistrEdgeError):
                log.error("a re-plan failed", exc_info=problem)
            done(str(problem) or type(problem).__name__)
        else:
            done(future.result())


_known: Models | None = None
"""Of the process that looks for plans."""


def _begin(models: Path | None) -> None:
    global _known
    os.nice(10)
    _known = Models(models)


def _warm_up() -> None:
    """Have everything loaded and compiled: a job in small."""
    from distredge.model.load import load_model
    from distredge.scenario import load_scenario

    assert _known is not None
    graph, scenario = load_model("squeezenet1_1"), load_scenario("na-nano")
    task = Task(graph, scenario, np.random.default_rng(0), VolumeCosts(graph, scenario.profiles), 0.2)
    plan = make_plan(task, planner("search").plan(task), "search", 0)
    replanned(Job("", scenario, plan, None, scenario.provider_names), _known, search_s=0.2)


def _work(job: Job) -> Outcome:
    assert _known is not None
    return replanned(job, _known)


def replanned(job: Job, models: Models, search_s: float = SEARCH_S) -> Outcome:
    """The best plan found for a job, the methods beside it and the fine-tuned policy.

    Raises `InputError` if the model is not known or no plan can be carried out.
    """
    began = time.perf_counter()
    graph = models.graph(job.plan.model)
    scenario = _as_measured(job)
    task = Task(graph, scenario, np.random.default_rng(job.seed), VolumeCosts(graph, scenario.profiles), search_s)
    agent = _agent(job, graph)
    search = _searched(task, job, agent)
    plan, kept = _best(task, search, job)
    current_ms = math.inf
    if workers(job.plan) <= {*job.present}:
        current_ms = trace(job.plan.bind(graph), scenario, task.costs).latency_ms
    policy, curve = _refined(job, agent, graph, kept)
    latency_ms = plan.predicted.latency_ms if plan.predicted else math.inf
    return Outcome(
        plan=plan,
        latency_ms=latency_ms,
        current_ms=current_ms,
        policy=policy,
        methods={**_methods(task), "search": latency_ms},
        training=curve,
        seconds=time.perf_counter() - began,
        how="LC-PSS and search" + (", the policy fine-tuned" if policy else ""),
    )


def _as_measured(job: Job) -> Scenario:
    """The job's scenario as it is now, with those providers only that are there."""
    measured = Measured(present=job.present, mbps=job.mbps, slowdown=job.slowdown)
    order = tuple(i for i, name in enumerate(job.scenario.provider_names) if name in job.present)
    if not order:
        raise InputError("no provider of the scenario is there")
    return corrected(job.scenario, measured).reordered(order)


def _searched(task: Task, job: Job, agent: MovingAgent | None) -> JointSearch:
    """The joint search, which knows the plan in force and the policy's idea."""
    search = JointSearch(task)
    known = [found for found in (_candidate(job.plan, task), _idea(agent, job, task)) if found is not None]
    search.screen(candidate_schemes(task), candidate_orders(search))
    search.adopt(known)
    search.vary(0)
    return search


def _candidate(plan: Plan, task: Task) -> Candidate | None:
    """A plan as a search has it; None if it needs a provider that is not there."""
    names = task.scenario.provider_names
    if not workers(plan) <= {*names}:
        return None
    rows = [dict(zip(plan.providers, np.diff(v.cuts), strict=True)) for v in plan.volumes]
    order = [name for name in plan.providers if name in names] + [name for name in names if name not in plan.providers]
    cuts = np.array([np.concatenate([[0], np.cumsum([row.get(name, 0) for name in order])]) for row in rows])
    starts = np.concatenate([[0], np.cumsum([len(v.layers) for v in plan.volumes])[:-1]])
    return Candidate(tuple(int(s) for s in starts), tuple(names.index(name) for name in order), cuts, 0.0)


def _idea(agent: MovingAgent | None, job: Job, task: Task) -> Candidate | None:
    if agent is None or {*agent.header.names} != {*task.scenario.provider_names}:
        return None
    now = Conditions.of(task.scenario)
    slowdown = np.array([job.slowdown.get(name, 1.0) for name in agent.header.names])
    whole = agent.whole_plan(agent.decide(now.mbps, slowdown, now.io_ms))
    return Candidate(whole.locations, whole.order, whole.cuts, 0.0)


def _best(task: Task, search: JointSearch, job: Job) -> tuple[Plan, list[Candidate]]:
    """The best plan that fits the providers' memory and was not refused; and the best candidates."""
    refused = {_decisions(plan) for plan in job.banned}
    problem: InputError | None = None
    for candidate in search.pool:
        try:
            plan = make_plan(task, search.strategy(candidate), "search", job.seed)
        except InputError as exc:
            problem = problem or exc
            continue
        if _decisions(plan) not in refused:
            return plan, search.pool[:3]
    raise problem or InputError("every plan that was found was rolled back under such conditions")


def _decisions(plan: Plan) -> object:
    """Two plans with the same have the same done by the same."""
    return plan.providers, plan.volumes


def _methods(task: Task) -> dict[str, float]:
    """Latency of the quick methods' plans, in ms."""
    found: dict[str, float] = {}
    until = time.perf_counter() + COMPARED_S
    for name in COMPARED:
        if time.perf_counter() > until:
            break
        try:
            strategy: Strategy = planner(name).plan(replace(task, rng=np.random.default_rng(0)))
            found[name] = strategy.latency_ms
        except InputError:
            continue  # it cannot serve this model or these devices
    return found


# The policy.


def _agent(job: Job, graph: LayerGraph) -> MovingAgent | None:
    """The policy, if it is an agent for a moving network of this model and these devices."""
    if job.policy is None:
        return None
    with TemporaryDirectory() as folder:
        path = Path(folder) / "policy.safetensors"
        path.write_bytes(job.policy)
        try:
            agent = load_agent(path)
            agent.header.check_model(job.plan.model)
            agent.header.check_scenario(job.scenario)
        except InputError as exc:
            log.warning("the policy is not fine-tuned: %s", exc)
            return None
    return agent


def _refined(
    job: Job, agent: MovingAgent | None, graph: LayerGraph, found: list[Candidate]
) -> tuple[bytes | None, tuple[tuple[float, float], ...]]:
    """The policy with what was found, and how it learnt; nothing while some of its devices are not there."""
    if agent is None or {*job.present} != {*job.scenario.provider_names}:
        return None, ()
    usual = Conditions.of(job.scenario)
    now = Conditions(
        np.array([job.mbps.get(p.name, p.bandwidth_mbps) for p in job.scenario.providers]),
        np.array([job.slowdown.get(p.name, 1.0) for p in job.scenario.providers]),
        usual.io_ms,
    )
    plans = [WholePlan(c.locations, c.order, c.cuts) for c in found]
    refined = refine(agent, _simulators(_Of(graph, job.scenario)), now, plans, np.random.default_rng(job.seed))
    if refined.agent is agent:
        return None, refined.curve
    return pack(refined.agent), refined.curve


class _Of:
    """A key: simulators are kept for a model on a scenario."""

    def __init__(self, graph: LayerGraph, scenario: Scenario) -> None:
        self.graph, self.scenario = graph, scenario
        self._key = graph.sha256, scenario.model_dump_json()

    def __hash__(self) -> int:
        return hash(self._key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Of) and self._key == other._key


@lru_cache(4)
def _simulators(of: _Of) -> Simulators:
    return Simulators(of.graph, of.scenario)
