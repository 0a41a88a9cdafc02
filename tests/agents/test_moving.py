"""The agent for a moving network: valid, repeatable, near the best, in numpy as in torch, and alone with numpy."""

from __future__ import annotations

import itertools
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load, save

from distredge.agents.moving.file import load_agent, pack, save_agent
from distredge.agents.moving.library import Simulators, cast_conditions, cover, expected_log_latency, sample_conditions
from distredge.agents.moving.policy import MovingAgent, Roles, WholePlan, actor_inputs, features
from distredge.agents.moving.searching import guesses, search_for, search_from
from distredge.agents.moving.settings import Noise, load_moving_settings
from distredge.agents.moving.training import Actor, embed, judge
from distredge.api import make_task
from distredge.errors import InputError, UnknownNameError
from distredge.model.graph import LayerGraph
from distredge.model.load import load_model
from distredge.planners.moving import SearchUnder, pretrain
from distredge.plans.scheme import PartitionScheme
from distredge.scenario import Scenario
from distredge.simulate.conditions import Conditions
from distredge.simulate.simulator import Simulator
from distredge.testing.moving_agents import little_settings
from distredge.testing.toy_devices import ToyProfile, random_cuts, random_scenario, toy_scenario
from distredge.testing.toy_models import residual, save_model


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> LayerGraph:
    return load_model(save_model(residual(np.random.default_rng(0), height=32), tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def scenario() -> Scenario:
    """Three providers, the first two alike."""
    fast, slow = ToyProfile("fast", 0.05, 0.2), ToyProfile("slow", 0.1, 0.5)
    return toy_scenario([fast, fast, slow], [50.0, 50.0, 50.0])


@pytest.fixture(scope="module")
def agent(graph: LayerGraph, scenario: Scenario) -> MovingAgent:
    return pretrain(make_task(graph, scenario, 0, None, None), little_settings())


def conditions(count: int, seed: int = 0, providers: int = 3) -> Conditions:
    return sample_conditions(little_settings().ranges, providers, count, np.random.default_rng(seed))


numbers = st.lists(st.floats(0.0, 1.0), min_size=9, max_size=9).map(np.array)


@given(numbers)
def test_any_conditions_in_range_give_a_valid_plan_and_always_the_same(
    agent: MovingAgent, graph: LayerGraph, at: np.ndarray
) -> None:
    mbps, slowdown, io_ms = 20.0 * 15.0 ** at[:3], 1.0 + 2.0 * at[3:6], 2.0 * at[6:]
    decision = agent.decide(mbps, slowdown, io_ms)
    plan = agent.plan(agent.whole_plan(decision))
    plan.bind(graph)
    assert sorted(plan.providers) == sorted(agent.header.names)
    again = agent.decide(mbps, slowdown, io_ms)
    assert (again.plan, again.latency_ms, again.cast.tolist()) == (
        decision.plan, decision.latency_ms, decision.cast.tolist(),
    )  # fmt: skip


def test_decisions_are_near_the_best_of_the_library_and_of_a_search(
    agent: MovingAgent, graph: LayerGraph, scenario: Scenario
) -> None:
    simulators, over_library, over_search = Simulators(graph, scenario), [], []
    now = conditions(24, seed=5)
    for n in range(24):
        decision = agent.decide(now.mbps[n], now.slowdown[n], now.io_ms[n])
        plans = [plan.played_by(decision.cast) for plan in agent.library]
        latency = simulators.evaluate(now[np.array([n])], plans)[0]
        over_library.append(latency[decision.plan] / latency.min())
        search = SearchUnder(make_task(graph, scenario, n, None, None), simulators, now[n])
        search.screen([(0,), graph.cut_points], list(itertools.permutations(range(3))))
        over_search.append(latency[decision.plan] / search.pool[0].score)
    assert np.median(over_library) < 1.02
    assert np.median(over_search) < 1.1


def test_the_critic_tells_latencies_that_it_has_not_seen(
    agent: MovingAgent, graph: LayerGraph, scenario: Scenario
) -> None:
    now = cast_conditions(agent.roles, conditions(50, seed=9))
    said = judge(agent.networks.critic, features(now.mbps, now.slowdown, now.io_ms))
    errors = np.abs(np.log(said / Simulators(graph, scenario).evaluate(now, agent.library)))
    assert np.median(errors) < 0.03


def test_numpy_answers_as_torch_does(agent: MovingAgent) -> None:
    now = cast_conditions(agent.roles, conditions(64, seed=2))
    z = features(now.mbps, now.slowdown, now.io_ms)
    with torch.no_grad():
        forms = torch.from_numpy(agent.networks.critic)
        said = torch.einsum("pjf,nf->npj", forms, torch.from_numpy(z)).amax(dim=2).numpy()
        inputs = torch.from_numpy(actor_inputs(z))
        actor = Actor(inputs, (16, 8), 3)
        proposed = actor(inputs).numpy()
    networks = replace(agent.networks, actor=actor.weights())
    for n in range(len(z)):
        assert networks.latency_ms(z[n]) == pytest.approx(said[n], rel=1e-5)
        assert networks.propose(actor_inputs(z[n])) == pytest.approx(proposed[n], abs=1e-4)


def test_twins_may_change_places(agent: MovingAgent) -> None:
    now = conditions(20, seed=3)
    swapped = now.reordered((1, 0, 2))
    for n in range(20):
        decision = agent.decide(now.mbps[n], now.slowdown[n], now.io_ms[n])
        other = agent.decide(swapped.mbps[n], swapped.slowdown[n], swapped.io_ms[n])
        assert (decision.plan, decision.latency_ms) == (other.plan, other.latency_ms)
        assert [(1, 0, 2)[i] for i in decision.cast] == other.cast.tolist()


def test_who_cannot_be_told_apart_is_sorted_by_what_he_takes_alone() -> None:
    roles = Roles(np.array([0, 1, 0]), np.array([[100.0, 10.0], [100.0, 5.0], [100.0, 10.0]]))
    ones = np.ones(3)
    assert roles.cast(np.array([50.0, 50.0, 100.0]), ones, 0 * ones).tolist() == [2, 1, 0]
    assert roles.cast(100 * ones, np.array([1.0, 9.0, 2.0]), 0 * ones).tolist() == [0, 1, 2]
    assert roles.cast(100 * ones, ones, np.array([3.0, 0.0, 1.0])).tolist() == [2, 1, 0]


def test_same_seed_same_bytes_and_a_file_keeps_everything(
    agent: MovingAgent, graph: LayerGraph, scenario: Scenario, tmp_path: Path
) -> None:
    again = pretrain(make_task(graph, scenario, 0, None, None), little_settings())
    assert pack(agent) == pack(again)
    path = tmp_path / "agent.safetensors"
    save_agent(agent, path)
    stored = load_agent(path)
    assert pack(stored) == pack(agent)
    now = conditions(10)
    for n in range(10):
        ours, theirs = (a.decide(now.mbps[n], now.slowdown[n], now.io_ms[n]) for a in (agent, stored))
        assert (ours.plan, ours.latency_ms) == (theirs.plan, theirs.latency_ms)


def test_a_file_that_cannot_be_used_is_refused_in_one_line(agent: MovingAgent, tmp_path: Path) -> None:
    content = pack(agent)
    header = int.from_bytes(content[:8], "little")
    arrays, text = load(content), agent.header.model_dump_json()
    infinite = arrays["critic"].copy()
    infinite[0, 0, 0] = np.inf
    cases = {
        "nothing": b"",
        "half": content[: len(content) // 2],
        "noise": content[:8] + bytes(header) + content[8 + header :],
        "no header": save(arrays),
        "fewer plans": save({**arrays, "critic": arrays["critic"][1:]}, {"distredge": text}),
        "no actor": save({k: a for k, a in arrays.items() if not k.startswith("actor")}, {"distredge": text}),
        "infinite": save({**arrays, "critic": infinite}, {"distredge": text}),
        "another version": save(arrays, {"distredge": text.replace('"schema_version":1', '"schema_version":2')}),
        "another kind": save(arrays, {"distredge": text.replace('"moving"', '"other"')}),
    }
    for name, bad in cases.items():
        path = tmp_path / "bad.safetensors"
        path.write_bytes(bad)
        with pytest.raises(InputError) as caught:
            load_agent(path)
        assert len(str(caught.value).splitlines()) == 1, name
        assert "bad.safetensors" in str(caught.value), name
    with pytest.raises(InputError, match="no such file"):
        load_agent(tmp_path / "none.safetensors")


def test_an_agent_is_for_one_model_and_its_devices(agent: MovingAgent, scenario: Scenario) -> None:
    agent.header.check_scenario(scenario)
    rate = scenario.providers[0].model_copy(update={"bandwidth_mbps": 7.0})
    agent.header.check_scenario(scenario.model_copy(update={"providers": (rate, *scenario.providers[1:])}))
    slower = scenario.providers[0].model_copy(update={"slowdown": 2.0})
    for other in (scenario.providers[1:], (slower, *scenario.providers[1:])):
        with pytest.raises(InputError, match="pre-train one for it"):
            agent.header.check_scenario(scenario.model_copy(update={"providers": other}))
    with pytest.raises(InputError, match="pre-train one for it"):
        agent.header.check_model(agent.header.model.model_copy(update={"sha256": "0" * 64}))


def test_search_goes_on_from_the_agents_guesses(agent: MovingAgent, graph: LayerGraph, scenario: Scenario) -> None:
    simulators, now = Simulators(graph, scenario), conditions(8, seed=4)
    for n in range(8):
        begin = guesses(agent, now[n])
        decision = agent.decide(now.mbps[n], now.slowdown[n], now.io_ms[n])
        assert begin[0].key == agent.whole_plan(decision).key
        before = simulators.evaluate(now[np.array([n])], begin)[0]
        for found, latency in (
            search_from(simulators, now[n], begin, 400, np.random.default_rng(n)),
            search_for(simulators, now[n], begin, 0.005, np.random.default_rng(n)),
        ):
            assert latency <= before.min() + 1e-9
            assert simulators.evaluate(now[np.array([n])], [found])[0, 0] == pytest.approx(latency)


def test_a_cover_serves_every_condition(agent: MovingAgent) -> None:
    rng = np.random.default_rng(0)
    worth = rng.random((50, 30))
    best = worth.min(axis=1)
    assert worth[:, cover(worth, 30)].min(axis=1) == pytest.approx(best, abs=1e-4)
    first = cover(worth, 1)
    assert len(first) == 1
    assert worth[:, first[0]].mean() == pytest.approx(worth.mean(axis=0).min())


def test_plans_good_under_the_same_conditions_stand_close() -> None:
    rng = np.random.default_rng(1)
    base = rng.random((100, 2))
    points = embed(np.concatenate([base, base + 0.01 * rng.random((100, 2))], axis=1), 2, 1.5)
    assert np.linalg.norm(points[0] - points[2]) < 0.2 * np.linalg.norm(points[0] - points[1])


def test_deciding_and_adapting_need_numpy_alone(agent: MovingAgent, tmp_path: Path) -> None:
    save_agent(agent, tmp_path / "agent.safetensors")
    program = f"""
import sys
for name in ("torch", "numba", "gymnasium", "stable_baselines3", "scipy", "onnx"):
    sys.modules[name] = None
from pathlib import Path
import numpy as np
from distredge.agents.moving.adapting import Adapter
from distredge.agents.moving.file import load_agent
adapter = Adapter(load_agent(Path({str(tmp_path / "agent.safetensors")!r})))
now = (np.full(3, 50.0), np.ones(3), np.zeros(3))
decision = adapter.decide(*now, curiosity=1.0)
adapter.learn(*now, decision, 2.0 * decision.latency_ms)
print(adapter.agent.plan(adapter.agent.whole_plan(adapter.decide(*now))).method)
print(any(name.startswith("distredge.simulate") for name in sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.stdout.split() == ["moving", "False"]


def test_what_cannot_be_pretrained_is_one_line(graph: LayerGraph) -> None:
    alone = random_scenario(np.random.default_rng(0), 1)
    with pytest.raises(InputError, match="use --method offload"):
        pretrain(make_task(graph, alone, 0, None, None), little_settings())
    with pytest.raises(UnknownNameError, match="default"):
        load_moving_settings("defualt")


@pytest.mark.parametrize(("preset", "noisy"), [("default", False), ("robust", True)])
def test_shipped_presets(preset: str, noisy: bool) -> None:
    assert load_moving_settings(preset).noise.any == noisy


def test_trained_for_wrong_estimates_it_expects_more_than_if_told_the_truth(
    agent: MovingAgent, graph: LayerGraph, scenario: Scenario
) -> None:
    told = cast_conditions(agent.roles, conditions(40))
    simulators, plans, rng = Simulators(graph, scenario), list(agent.library), np.random.default_rng(0)
    exact, mean, bad = (
        expected_log_latency(simulators, told, plans, Noise(estimate_sigma=sigma, compute_sigma=0.0, risk=risk), rng)
        for sigma, risk in ((0.0, None), (0.5, None), (0.5, 0.9))
    )
    assert exact == pytest.approx(np.log(simulators.evaluate(told, plans)))
    assert mean.mean() > exact.mean()
    assert bad.mean() > mean.mean()
    robust = little_settings().model_copy(update={"noise": load_moving_settings("robust").noise})
    careful = pretrain(make_task(graph, scenario, 0, None, None), robust)
    said, usual = (judge(a.networks.critic, features(told.mbps, told.slowdown, told.io_ms)) for a in (careful, agent))
    assert said.min(axis=1).mean() > 1.1 * usual.min(axis=1).mean()


def test_with_a_budget_it_ends_early_with_a_whole_agent(graph: LayerGraph, scenario: Scenario) -> None:
    told: list[float] = []
    settings = little_settings()
    endless = settings.model_copy(update={"library": settings.library.model_copy(update={"rounds": 100_000})})
    task = make_task(graph, scenario, 0, 1.0, lambda share, latency_ms: told.append(share))
    agent = pretrain(task, endless)
    assert told == sorted(told)
    assert told[-1] == 1.0
    now = conditions(1)[0]
    assert agent.decide(now.mbps, now.slowdown, now.io_ms).latency_ms > 0


def test_a_plan_that_providers_cannot_hold_is_not_in_the_library(graph: LayerGraph, scenario: Scenario) -> None:
    tiny = tuple(p.model_copy(update={"memory_mb": 1e-6}) for p in scenario.providers)
    with pytest.raises(InputError, match="memory"):
        pretrain(make_task(graph, scenario.model_copy(update={"providers": tiny}), 0, None, None), little_settings())


def test_a_plan_with_another_cast() -> None:
    plan = WholePlan((0,), (2, 0, 1), np.array([[0, 1, 2, 3]]))
    assert plan.played_by(np.array([1, 2, 0])).order == (0, 1, 2)


def test_simulators_of_all_schemes_and_orders_say_what_the_simulator_says(
    graph: LayerGraph, scenario: Scenario
) -> None:
    simulators, now, rng = Simulators(graph, scenario), conditions(3, seed=8), np.random.default_rng(0)
    for locations, order in (((0,), (0, 1, 2)), (graph.cut_points, (2, 0, 1))):
        for n in range(3):
            there = now[n].applied(scenario).reordered(order)
            simulator = Simulator(graph, there, PartitionScheme(graph, locations))
            cuts = random_cuts(rng, simulator.heights, 3, 5)
            expected = simulator.evaluate(cuts)
            assert simulators.under(locations, order, now[n]).evaluate(cuts) == pytest.approx(expected)
            plans = [WholePlan(locations, order, c) for c in cuts]
            assert simulators.evaluate(now, plans)[n] == pytest.approx(expected)
