"""Re-planning in the background: near the best, nothing that was refused or is not there, and a real process."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from queue import Queue
from typing import Any

import numpy as np
import pytest

from distredge.agents.moving.file import pack, unpack
from distredge.agents.moving.library import Simulators
from distredge.agents.moving.policy import MovingAgent
from distredge.api import make_task
from distredge.controller import replanning
from distredge.controller.jobs import Job, Outcome
from distredge.controller.measured import Measured
from distredge.controller.models import Models, corrected, workers
from distredge.controller.replanning import BackgroundReplanner, replanned
from distredge.errors import InputError, ModelError
from distredge.model.graph import LayerGraph
from distredge.model.load import load_model
from distredge.planners import planner
from distredge.planners.base import make_plan
from distredge.planners.moving import pretrain
from distredge.planners.refining import decided_ms
from distredge.plans.plan import Plan
from distredge.scenario import Scenario, load_scenario
from distredge.simulate.conditions import Conditions
from distredge.simulate.timeline import trace
from distredge.testing.moving_agents import little_settings
from distredge.testing.toy_devices import ToyProfile, toy_scenario
from distredge.testing.toy_models import residual, save_model

ANSWER_S = 120.0
"""More than a job takes on a busy machine."""

SHORT_S = 0.2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def graph(folder: Path) -> LayerGraph:
    return load_model(save_model(residual(np.random.default_rng(0), height=32), folder))


@pytest.fixture(scope="module")
def models(folder: Path, graph: LayerGraph) -> Models:
    return Models(folder)


@pytest.fixture(scope="module")
def scenario() -> Scenario:
    fast, slow = ToyProfile("fast", 0.05, 0.2), ToyProfile("slow", 0.1, 0.5)
    return toy_scenario([fast, fast, slow], [50.0, 50.0, 50.0])


@pytest.fixture(scope="module")
def plan(graph: LayerGraph, scenario: Scenario) -> Plan:
    task = make_task(graph, scenario, 0, 0.5, None)
    return make_plan(task, planner("search").plan(task), "search", 0)


@pytest.fixture(scope="module")
def job(scenario: Scenario, plan: Plan) -> Job:
    """The first provider's link is a quarter of what it was."""
    return Job("camera-1", scenario, plan, None, scenario.provider_names, {"d0": 12.5})


@pytest.fixture(scope="module")
def agent(graph: LayerGraph, scenario: Scenario) -> MovingAgent:
    return pretrain(make_task(graph, scenario, 0, None, None), little_settings())


def now(job: Job) -> Scenario:
    return corrected(job.scenario, Measured(present=job.present, mbps=job.mbps, slowdown=job.slowdown))


def rows(plan: Plan, name: str) -> int:
    at = plan.providers.index(name)
    return sum(v.cuts[at + 1] - v.cuts[at] for v in plan.volumes)


def test_all_figures_are_of_the_simulator_as_things_are(job: Job, models: Models, graph: LayerGraph) -> None:
    slowed = replace(job, slowdown={"d1": 3.0})
    outcome = replanned(slowed, models, SHORT_S)
    assert trace(outcome.plan.bind(graph), now(slowed)).latency_ms == pytest.approx(outcome.latency_ms)
    assert trace(job.plan.bind(graph), now(slowed)).latency_ms == pytest.approx(outcome.current_ms)
    assert outcome.latency_ms < 0.97 * outcome.current_ms
    assert {"offload", "coedge", "aofl", "search"} <= {*outcome.methods}
    assert outcome.latency_ms == pytest.approx(min(outcome.methods.values()))
    assert (outcome.policy, outcome.training) == (None, ())


def test_the_requester_s_link_counts_as_measured(job: Job, models: Models, graph: LayerGraph) -> None:
    shaped = toy_scenario([p for p in job.scenario.profiles if isinstance(p, ToyProfile)], [50.0] * 3, 80.0)
    quick, slow = (replanned(replace(job, scenario=shaped, mbps=m), models, SHORT_S) for m in ({}, {"requester": 1.0}))
    assert slow.current_ms > 1.5 * quick.current_ms


def test_what_was_refused_is_not_proposed_again(job: Job, models: Models) -> None:
    banned: list[Plan] = []
    for _ in range(3):
        outcome = replanned(replace(job, banned=tuple(banned)), models, SHORT_S)
        for refused in banned:
            assert not replanning._alike(replanning._shares(outcome.plan), replanning._shares(refused))
        banned.append(outcome.plan)
    best = [plan.predicted.latency_ms for plan in banned if plan.predicted]
    assert best[0] <= 1.001 * min(best)  # what is left is worse


def test_written_in_another_way_a_refused_plan_is_the_same(graph: LayerGraph, scenario: Scenario) -> None:
    task = make_task(graph, scenario, 0, None, None)
    alone = make_plan(task, planner("offload").plan(task), "offload", 0)
    name, height = alone.head_provider, alone.volumes[-1].cuts[-1]
    layers = [layer for v in alone.volumes for layer in v.layers]
    names = (name, *(n for n in alone.providers if n != name))
    update: dict[str, Any] = {
        "providers": names,
        "volumes": tuple(
            alone.volumes[0].model_copy(update={"layers": part, "cuts": (0, *[tall] * len(names))})
            for part, tall in ((tuple(layers[:1]), 32), (tuple(layers[1:]), height))
        ),
    }
    split = alone.model_copy(update=update)
    assert replanning._shares(split) == replanning._shares(alone)
    equal = make_plan(task, planner("modnn").plan(task), "modnn", 0)
    assert not replanning._alike(replanning._shares(equal), replanning._shares(alone))


@pytest.mark.parametrize("gone", ["d0", "d1", "d2"])
def test_who_is_not_there_has_no_rows(job: Job, models: Models, graph: LayerGraph, gone: str) -> None:
    left = tuple(name for name in job.present if name != gone)
    outcome = replanned(replace(job, present=left), models, SHORT_S)
    assert workers(outcome.plan) <= {*left}
    outcome.plan.bind(graph)
    assert np.isinf(outcome.current_ms) == (gone in workers(job.plan))
    again = replanned(replace(job, plan=outcome.plan, present=(left[0],)), models, SHORT_S)
    assert workers(again.plan) == {left[0]}


def test_who_idles_and_is_gone_is_not_missed(job: Job, models: Models, graph: LayerGraph) -> None:
    task = make_task(graph, job.scenario.reordered((1, 2)), 0, None, None)
    found = make_plan(task, planner("coedge").plan(task), "coedge", 0)
    update = {
        "providers": ("d0", *found.providers),
        "volumes": tuple(v.model_copy(update={"cuts": (0, *v.cuts)}) for v in found.volumes),
    }
    idle = found.model_copy(update=update)
    outcome = replanned(replace(job, plan=idle, present=("d1", "d2")), models, SHORT_S)
    assert found.predicted is not None
    assert outcome.current_ms == pytest.approx(found.predicted.latency_ms)


def test_a_plan_that_providers_cannot_hold_is_not_proposed(job: Job, models: Models) -> None:
    def with_memory(*numbers: int) -> Scenario:
        providers = tuple(
            p.model_copy(update={"memory_mb": 1e-6}) if i in numbers else p
            for i, p in enumerate(job.scenario.providers)
        )
        other = job.scenario.model_copy(update={"providers": providers})
        other.__dict__["profiles"] = job.scenario.profiles
        return other

    free = replanned(job, models, SHORT_S)
    small = {i for i in (1, 2) if rows(free.plan, f"d{i}")} or {1}
    outcome = replanned(replace(job, scenario=with_memory(*small)), models, SHORT_S)
    assert all(rows(outcome.plan, f"d{i}") == 0 for i in small)
    with pytest.raises(InputError, match="has 0 MB"):
        replanned(replace(job, scenario=with_memory(0, 1, 2)), models, SHORT_S)


def test_the_policy_learns_what_was_found(
    job: Job, models: Models, graph: LayerGraph, scenario: Scenario, agent: MovingAgent
) -> None:
    far = replace(job, policy=pack(agent), mbps={"d0": 3.0, "d1": 200.0}, slowdown={"d1": 4.0})
    there = Conditions(np.array([3.0, 200.0, 50.0]), np.array([1.0, 4.0, 1.0]), np.zeros(3))
    simulators = Simulators(graph, scenario)
    before = decided_ms(agent, simulators, there)
    outcome = replanned(far, models, SHORT_S)
    assert outcome.latency_ms <= before * (1 + 1e-9)  # the search knows what the policy would do
    assert outcome.policy is not None
    after = decided_ms(unpack(outcome.policy, "it"), simulators, there)
    assert [outcome.training[n][1] for n in (0, -1)] == pytest.approx([before, after])
    assert after < 0.99 * before
    assert "fine-tuned" in outcome.how


def test_a_policy_that_is_for_something_else_or_for_all_devices_stays_as_it_is(
    job: Job, models: Models, agent: MovingAgent
) -> None:
    fewer = replanned(replace(job, policy=pack(agent), present=("d0", "d1")), models, SHORT_S)
    other = agent.header.model_copy(update={"model": agent.header.model.model_copy(update={"sha256": "0" * 64})})
    strange = replanned(replace(job, policy=pack(replace(agent, header=other))), models, SHORT_S)
    damaged = replanned(replace(job, policy=b"nothing"), models, SHORT_S)
    for outcome in (fewer, strange, damaged):
        assert (outcome.policy, outcome.training) == (None, ())
        assert np.isfinite(outcome.latency_ms)


def test_a_model_that_is_nowhere_is_said(job: Job) -> None:
    with pytest.raises(ModelError, match="--models"):
        replanned(job, Models(), SHORT_S)


# Against a longer search.


@pytest.mark.slow
@pytest.mark.parametrize(("name", "who"), [("db-50", 0), ("db-50", 3), ("na-nano", 0)])
def test_a_quartered_link_is_answered_nearly_as_well_as_by_a_longer_search(name: str, who: int) -> None:
    graph, scenario = load_model("vgg16"), load_scenario(name)
    task = make_task(graph, scenario, 0, 2.5, None)
    plan = make_plan(task, planner("search").plan(task), "search", 0)
    slow = {scenario.provider_names[who]: scenario.providers[who].bandwidth_mbps / 4}
    job = Job("s", scenario, plan, None, scenario.provider_names, slow)
    outcome = replanned(job, Models())
    longer = planner("search").plan(make_task(graph, now(job), 1, 10.0, None))
    assert outcome.latency_ms <= 1.03 * longer.latency_ms
    assert outcome.latency_ms < 0.9 * outcome.current_ms


# The process.


Answers = Queue[Outcome | str]


@pytest.fixture
def replanner(folder: Path) -> Iterator[BackgroundReplanner]:
    made = BackgroundReplanner(folder)
    yield made
    made.close()


def pid_of(replanner: BackgroundReplanner) -> int:
    assert replanner._pool is not None
    return next(iter(replanner._pool._processes))


def has_ended(process: int) -> bool:
    """Waits for the end of a process, given a descriptor of it."""
    ended, _, _ = select.select([process], [], [], ANSWER_S)
    os.close(process)
    return bool(ended)


def put(answers: Answers) -> Callable[[Outcome | str], None]:
    return answers.put


@pytest.mark.slow
def test_a_process_answers_and_another_takes_its_place_if_it_is_killed(
    job: Job, agent: MovingAgent, replanner: BackgroundReplanner, graph: LayerGraph
) -> None:
    answers: Answers = Queue()
    replanner.start(replace(job, policy=pack(agent)), put(answers))
    outcome = answers.get(timeout=ANSWER_S)
    assert isinstance(outcome, Outcome)
    assert trace(outcome.plan.bind(graph), now(job)).latency_ms == pytest.approx(outcome.latency_ms)
    assert outcome.training
    killed = pid_of(replanner)
    ours = os.getpriority(os.PRIO_PROCESS, 0)
    assert os.getpriority(os.PRIO_PROCESS, killed) == min(ours + 10, 19)
    replanner.start(job, put(answers))
    os.kill(killed, signal.SIGKILL)
    assert answers.get(timeout=ANSWER_S) == "the process that looks for plans has ended"
    replanner.start(replace(job, plan=job.plan.model_copy(update={"model": unknown(job)})), put(answers))
    said = answers.get(timeout=ANSWER_S)
    assert isinstance(said, str)
    assert "nowhere" in said
    assert len(said.splitlines()) == 1
    replanner.start(job, put(answers))
    assert isinstance(answers.get(timeout=ANSWER_S), Outcome)
    assert pid_of(replanner) != killed


def unknown(job: Job) -> Any:
    return job.plan.model.model_copy(update={"name": "nowhere", "sha256": "0" * 64})


@pytest.mark.slow
def test_of_a_stream_s_jobs_that_wait_the_newest_is_done(job: Job, replanner: BackgroundReplanner) -> None:
    answers = [Queue[Outcome | str]() for _ in range(4)]
    for n, stream in enumerate(("a", "b", "b", "c")):
        replanner.start(replace(job, stream=stream, seed=n), put(answers[n]))
    assert answers[1].get(timeout=1.0) == "a newer one took its place before it began"
    found = [answers[n].get(timeout=ANSWER_S) for n in (0, 2, 3)]
    assert [outcome.plan.seed for outcome in found if isinstance(outcome, Outcome)] == [0, 2, 3]
    assert all(a.empty() for a in answers)


@pytest.mark.slow
def test_after_closing_there_is_no_process_and_no_answer(job: Job, folder: Path) -> None:
    answers: Answers = Queue()
    replanner = BackgroundReplanner(folder)
    process = os.pidfd_open(pid_of(replanner))
    replanner.start(job, put(answers))
    replanner.close()
    assert has_ended(process)
    replanner.start(job, put(answers))
    replanner.close()
    assert replanner._pool is None
    assert answers.empty()


@pytest.mark.slow
def test_if_its_owner_is_killed_the_process_ends(tmp_path: Path) -> None:
    program = tmp_path / "owner.py"
    program.write_text(
        """
import time
from distredge.controller.replanning import BackgroundReplanner
if __name__ == "__main__":
    replanner = BackgroundReplanner()
    print(*replanner._pool._processes, flush=True)
    time.sleep(600)
"""
    )
    owner = subprocess.Popen([sys.executable, str(program)], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    pid = int(owner.stdout.readline())
    process = os.pidfd_open(pid)
    owner.kill()
    owner.wait()
    owner.stdout.close()
    ended = has_ended(process)
    if not ended:
        os.kill(pid, signal.SIGKILL)
    assert ended
