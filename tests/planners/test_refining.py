"""Fine-tuning an agent for a moving network: better where it is, no worse elsewhere, and still a file's content."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from distredge.agents.moving.file import pack, unpack
from distredge.agents.moving.library import Simulators, sample_conditions
from distredge.agents.moving.policy import MovingAgent, WholePlan
from distredge.api import make_task
from distredge.model.graph import LayerGraph
from distredge.model.load import load_model
from distredge.planners import refining
from distredge.planners.moving import SearchUnder, pretrain
from distredge.planners.refining import Refined, decided_ms, refine
from distredge.scenario import Scenario
from distredge.simulate.conditions import Conditions
from distredge.testing.moving_agents import little_settings
from distredge.testing.toy_devices import ToyProfile, toy_scenario
from distredge.testing.toy_models import residual, save_model

LONG_S = 60.0
"""A budget that is never spent: the work is the same on every machine."""


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> LayerGraph:
    return load_model(save_model(residual(np.random.default_rng(0), height=32), tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def scenario() -> Scenario:
    """Three providers, the first two alike."""
    fast, slow = ToyProfile("fast", 0.05, 0.2), ToyProfile("slow", 0.1, 0.5)
    return toy_scenario([fast, fast, slow], [50.0, 50.0, 50.0])


@pytest.fixture(scope="module")
def simulators(graph: LayerGraph, scenario: Scenario) -> Simulators:
    return Simulators(graph, scenario)


@pytest.fixture(scope="module")
def agent(graph: LayerGraph, scenario: Scenario) -> MovingAgent:
    """One that has seen little, so that there is something to learn."""
    settings = little_settings()
    few = {"library": {"rounds": 1, "conditions": 4, "steps": 300, "keep": 12}, "actor": {"candidates": 4}}
    changed = {name: getattr(settings, name).model_copy(update=update) for name, update in few.items()}
    return pretrain(make_task(graph, scenario, 0, None, None), settings.model_copy(update=changed))


def somewhere(count: int, seed: int = 0) -> Conditions:
    return sample_conditions(little_settings().ranges, 3, count, np.random.default_rng(seed))


OUTSIDE = Conditions(np.array([4.0, 90.0, 2.0]), np.array([1.0, 4.0, 1.0]), np.zeros(3))
"""Worse than all that the agent was made for."""


def found(graph: LayerGraph, scenario: Scenario, simulators: Simulators, now: Conditions) -> list[WholePlan]:
    search = SearchUnder(make_task(graph, scenario, 1, None, None), simulators, now)
    search.screen([(0,), graph.cut_points], list(itertools.permutations(range(3))))
    return search.found()[:3]


@pytest.fixture(scope="module")
def cases(
    graph: LayerGraph, scenario: Scenario, simulators: Simulators, agent: MovingAgent
) -> list[tuple[Conditions, list[WholePlan], Refined]]:
    """What the agent became, under some conditions, with plans that were found for them."""
    there = [*(somewhere(6)[n] for n in range(6)), OUTSIDE]
    plans = [found(graph, scenario, simulators, now) for now in there]
    return [
        (now, new, refine(agent, simulators, now, new, np.random.default_rng(0), LONG_S))
        for now, new in zip(there, plans, strict=True)
    ]


def test_it_decides_what_was_found_and_never_worse_than_before(
    agent: MovingAgent, simulators: Simulators, cases: list[tuple[Conditions, list[WholePlan], Refined]]
) -> None:
    before, after, best = [], [], []
    for now, plans, refined in cases:
        before.append(decided_ms(agent, simulators, now))
        after.append(decided_ms(refined.agent, simulators, now))
        best.append(min(before[-1], simulators.evaluate(now[None], plans).min()))
    assert all(a <= b for a, b in zip(after, before, strict=True))
    assert max(before) > 1.05 * min(best)  # else nothing was shown
    assert np.array(after) == pytest.approx(best, rel=0.01)
    assert np.sum(np.array(after) < 0.99 * np.array(before)) >= 2


def test_it_forgets_nothing(
    agent: MovingAgent, simulators: Simulators, cases: list[tuple[Conditions, list[WholePlan], Refined]]
) -> None:
    elsewhere = somewhere(60, seed=9)
    usual = np.array([decided_ms(agent, simulators, elsewhere[n]) for n in range(60)])
    for _, _, refined in cases:
        now = np.array([decided_ms(refined.agent, simulators, elsewhere[n]) for n in range(60)])
        assert np.median(now / usual) <= 1.0
        assert np.exp(np.log(now / usual).mean()) < 1.01


def test_it_is_better_round_about_as_well(
    agent: MovingAgent, simulators: Simulators, cases: list[tuple[Conditions, list[WholePlan], Refined]]
) -> None:
    gains = []
    for now, _, refined in cases:
        off = np.exp(0.1 * np.random.default_rng(3).standard_normal((20, 3)))
        ratios = [
            decided_ms(refined.agent, simulators, near) / decided_ms(agent, simulators, near)
            for near in (Conditions(now.mbps * factor, now.slowdown, now.io_ms) for factor in off)
        ]
        gains.append(np.exp(np.log(ratios).mean()))
    assert max(gains) < 1.005
    assert min(gains) < 0.99


def test_the_curve_is_of_what_it_decides(
    agent: MovingAgent, simulators: Simulators, cases: list[tuple[Conditions, list[WholePlan], Refined]]
) -> None:
    for now, _, refined in cases:
        seconds, latency_ms = zip(*refined.curve, strict=True)
        assert list(seconds) == sorted(seconds)
        assert latency_ms[0] == pytest.approx(decided_ms(agent, simulators, now), rel=1e-12)
        assert latency_ms[-1] == pytest.approx(decided_ms(refined.agent, simulators, now), rel=1e-12)
        assert list(latency_ms) == sorted(latency_ms, reverse=True)


def test_a_file_of_it_decides_the_same(cases: list[tuple[Conditions, list[WholePlan], Refined]]) -> None:
    told = somewhere(30, seed=4)
    for _, _, refined in cases:
        stored = unpack(pack(refined.agent), "it")
        for n in range(30):
            ours, theirs = (a.decide(told.mbps[n], told.slowdown[n], told.io_ms[n]) for a in (refined.agent, stored))
            assert (ours.plan, ours.latency_ms) == (theirs.plan, theirs.latency_ms)


def test_the_same_seed_gives_the_same(
    agent: MovingAgent, simulators: Simulators, cases: list[tuple[Conditions, list[WholePlan], Refined]]
) -> None:
    now, plans, refined = cases[-1]
    again = refine(agent, simulators, now, plans, np.random.default_rng(0), LONG_S)
    assert pack(again.agent) == pack(refined.agent)


def test_the_library_stays_small(
    agent: MovingAgent,
    simulators: Simulators,
    cases: list[tuple[Conditions, list[WholePlan], Refined]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now, plans, refined = cases[-1]
    assert len(refined.agent.library) > len(agent.library)
    monkeypatch.setattr(refining, "MOST", len(agent.library))
    bounded = refine(agent, simulators, now, plans, np.random.default_rng(0), LONG_S)
    assert len(bounded.agent.library) == len(agent.library)
    assert decided_ms(bounded.agent, simulators, now) == pytest.approx(refined.curve[-1][1], rel=0.01)


def test_without_time_or_plans_it_is_no_worse(agent: MovingAgent, simulators: Simulators) -> None:
    now = somewhere(1, seed=8)[0]
    hasty = refine(agent, simulators, now, [], np.random.default_rng(0), 0.0)
    assert decided_ms(hasty.agent, simulators, now) <= decided_ms(agent, simulators, now)
    assert len(hasty.curve) == 2  # before, and after one round
