"""Decisions served from memory: those that the policies make themselves, and one line for what cannot be decided."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distredge.agents.actor_file import Actor, Card, TrainedAgent
from distredge.agents.moving.file import pack
from distredge.agents.moving.policy import MovingAgent
from distredge.api import make_task
from distredge.control.schema import Decision, DecisionRequest
from distredge.controller import decisions
from distredge.controller.decisions import Decider
from distredge.controller.library import NotKnown
from distredge.controller.models import Models
from distredge.envs.encode import FORMULATIONS
from distredge.errors import InputError, ModelError
from distredge.model.graph import LayerGraph
from distredge.model.load import load_model
from distredge.planners.moving import pretrain
from distredge.plans.scheme import PartitionScheme
from distredge.scenario import Scenario
from distredge.simulate.conditions import Conditions, under
from distredge.simulate.kernel import advance, make_scratch, make_state
from distredge.simulate.simulator import Simulator
from distredge.testing.moving_agents import little_settings
from distredge.testing.toy_devices import ToyProfile, toy_scenario
from distredge.testing.toy_models import residual, save_model

NAMES = ("d0", "d1", "d2")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def graph(folder: Path) -> LayerGraph:
    return load_model(save_model(residual(np.random.default_rng(0), height=32), folder))


@pytest.fixture(scope="module")
def scenario() -> Scenario:
    fast, slow = ToyProfile("fast", 0.05, 0.2), ToyProfile("slow", 0.1, 0.5)
    return toy_scenario([fast, fast, slow], [50.0, 70.0, 90.0])


@pytest.fixture(scope="module")
def moving(graph: LayerGraph, scenario: Scenario) -> MovingAgent:
    return pretrain(make_task(graph, scenario, 0, None, None), little_settings())


Shown = Literal["default", "even", "paper"]


def case_agent(graph: LayerGraph, scenario: Scenario, formulation: Shown, seed: int = 0) -> TrainedAgent:
    """An agent of the paper's kind with any weights, for the providers in another order."""
    simulator = Simulator(graph, scenario.reordered((2, 0, 1)), PartitionScheme(graph, (0, *graph.cut_points[1:3])))
    shown = FORMULATIONS[formulation](simulator)
    rng, sizes = np.random.default_rng(seed), (shown.observation_size, 16, shown.action_size)
    layers = tuple(
        (rng.normal(0, 0.5, (b, a)).astype(np.float32), rng.normal(0, 0.2, b).astype(np.float32))
        for a, b in zip(sizes, sizes[1:], strict=False)
    )
    card = Card(
        model=graph.name,
        model_sha256=graph.sha256,
        scenario=scenario.name,
        providers=simulator.scenario.provider_names,
        locations=simulator.scheme.locations,
        formulation=formulation,
        latency_ms=1.0,
        seed=seed,
        command="none",
    )
    return TrainedAgent(card, Actor(layers, shown.constants))


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> Callable[[TrainedAgent], bytes]:
    def of(agent: TrainedAgent) -> bytes:
        path = tmp_path_factory.mktemp("agents") / "policy.safetensors"
        agent.save(path)
        return path.read_bytes()

    return of


@pytest.fixture
def decider(folder: Path) -> Decider:
    return Decider(Models(folder).graph)


def request(graph: LayerGraph, **values: object) -> DecisionRequest:
    return DecisionRequest.model_validate({"model": graph.name, "scenario": "toy", **values})


def refused(work: Callable[[], object], kind: type[InputError] = InputError) -> str:
    with pytest.raises(kind) as caught:
        work()
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


numbers = st.lists(st.floats(0.0, 1.0), min_size=9, max_size=9).map(np.array)


@given(numbers)
def test_a_whole_plan_is_what_the_agent_decides(
    folder: Path, graph: LayerGraph, scenario: Scenario, moving: MovingAgent, at: np.ndarray
) -> None:
    decider = Decider(Models(folder).graph)
    decider.add(pack(moving), scenario)
    mbps, slowdown, io_ms = 20.0 * 15.0 ** at[:3], 1.0 + 2.0 * at[3:6], 2.0 * at[6:]
    told = {"mbps": mbps, "slowdown": slowdown, "io_ms": io_ms}
    asked = request(graph, **{k: dict(zip(NAMES, v.tolist(), strict=True)) for k, v in told.items()})
    answer, decision = decider.decide(asked), moving.decide(mbps, slowdown, io_ms)
    plan = moving.plan(moving.whole_plan(decision))
    assert answer.providers == plan.providers
    assert [v.cuts for v in answer.volumes] == [v.cuts for v in plan.volumes]
    assert [v.layers for v in answer.volumes] == [(v.layers[0], v.layers[-1]) for v in plan.volumes]
    assert [v.volume for v in answer.volumes] == [*range(len(plan.volumes))]
    assert answer.expected_ms == decision.latency_ms
    for volume in answer.volumes:
        alone = decider.decide(asked.model_copy(update={"volume": volume.volume}))
        assert (alone.volumes, alone.providers) == ((volume,), answer.providers)


def test_what_is_not_named_is_as_the_scenario_says(
    decider: Decider, graph: LayerGraph, scenario: Scenario, moving: MovingAgent
) -> None:
    decider.add(pack(moving), scenario)
    usual, slow = {"d0": 50.0, "d1": 70.0, "d2": 90.0}, {"d1": 10.0}
    assert decider.decide(request(graph)) == decider.decide(request(graph, mbps=usual))
    assert decider.decide(request(graph, mbps=slow)) == decider.decide(request(graph, mbps={**usual, **slow}))


def test_without_the_scenario_all_rates_must_be_named(decider: Decider, graph: LayerGraph, moving: MovingAgent) -> None:
    decider.add(pack(moving))
    assert decider.decide(request(graph, mbps={"d0": 50, "d1": 70, "d2": 90})).volumes
    assert "the links of d0, d2 " in refused(lambda: decider.decide(request(graph, mbps={"d1": 70.0})))


@pytest.mark.parametrize("formulation", ["default", "even", "paper"])
def test_volume_by_volume_it_decides_as_in_its_environment(
    decider: Decider, graph: LayerGraph, scenario: Scenario, content: Callable[..., bytes], formulation: Shown
) -> None:
    for seed in range(5):
        agent = case_agent(graph, scenario, formulation, seed)
        entry = decider.add(content(agent))
        assert (entry.kind, entry.model, entry.scenario) == ("osds", graph.name, "toy")
        simulator = agent.simulator(graph, scenario)
        names, heights = agent.card.providers, simulator.heights
        state, scratch = make_state(len(names)), make_scratch(len(names))
        cuts = np.zeros((len(heights), len(names) + 1), np.int64)
        for v in range(len(heights)):
            before = {"cuts_before": tuple(cuts[v - 1].tolist())} if v else {}
            done = dict(zip(names, state[0, :-1].tolist(), strict=True))
            answer = decider.decide(request(graph, volume=v, accumulated_ms=done, **before))
            part = simulator.scheme.parts[v]
            assert answer.volumes[0].layers == (graph.layers[part.start].name, graph.layers[part.stop - 1].name)
            assert (answer.providers, answer.expected_ms) == (names, None)
            cuts[v] = answer.volumes[0].cuts
            advance(simulator.problem, v, cuts, -1, state, scratch)
        assert np.array_equal(cuts, agent.actor.rollout(simulator)[0])


def test_with_the_scenario_it_goes_through_the_simulator(
    decider: Decider, graph: LayerGraph, scenario: Scenario, content: Callable[..., bytes]
) -> None:
    agent = case_agent(graph, scenario, "default")
    decider.add(content(agent), scenario)
    answer = decider.decide(request(graph, mbps={"d2": 9.0}, slowdown={"d0": 2.0}, io_ms={"d1": 0.5}))
    now = Conditions(np.array([9.0, 50.0, 70.0]), np.array([1.0, 2.0, 1.0]), np.array([0.0, 0.0, 0.5]))
    cuts, latency_ms = agent.actor.rollout(under(agent.simulator(graph, scenario), now))
    assert [list(v.cuts) for v in answer.volumes] == cuts.tolist()
    assert (answer.expected_ms, answer.providers) == (latency_ms, ("d2", "d0", "d1"))


def test_what_a_policy_of_a_case_is_not_told_is_asked_for(
    decider: Decider, graph: LayerGraph, scenario: Scenario, content: Callable[..., bytes]
) -> None:
    decider.add(content(case_agent(graph, scenario, "default")))
    assert "give `volume` and `accumulated_ms`" in refused(lambda: decider.decide(request(graph)))
    assert "0 to 2" in refused(lambda: decider.decide(request(graph, volume=3)))
    wrong: list[tuple[int, ...] | None] = [None, (0, 1), (0, 8, 4, 32), (0, 0, 0, 33), (1, 2, 3, 32)]
    for cuts in wrong:
        said = refused(lambda cuts=cuts: decider.decide(request(graph, volume=1, cuts_before=cuts)))  # type: ignore[misc]
        assert "`cuts_before`" in said
        assert "4 numbers" in said


def test_the_newest_is_asked_unless_another_is_named(
    decider: Decider, graph: LayerGraph, scenario: Scenario, moving: MovingAgent, content: Callable[..., bytes]
) -> None:
    first = decider.add(pack(moving), scenario)
    second = decider.add(content(case_agent(graph, scenario, "default")), scenario)

    def by(sha256: str | None = None) -> Decision:
        return decider.decide(request(graph, policy_sha256=sha256))

    assert by().policy_sha256 == second.sha256
    assert (by(first.sha256).policy_sha256, by(first.sha256).kind) == (first.sha256, "moving")
    decider.add(pack(moving), scenario)
    assert by().policy_sha256 == first.sha256
    said = refused(lambda: decider.decide(request(graph, policy_sha256=first.sha256, scenario="other")))
    assert f"for '{graph.name}' on 'toy'" in said


def test_what_is_unknown_is_said_in_a_line(
    decider: Decider, graph: LayerGraph, scenario: Scenario, moving: MovingAgent, content: Callable[..., bytes]
) -> None:
    assert "known: none" in refused(lambda: decider.decide(request(graph)), NotKnown)
    decider.add(pack(moving), scenario)
    assert f"'{graph.name}' on 'toy'" in refused(lambda: decider.decide(request(graph, model="vgg16")), NotKnown)
    assert "ffffffffffff" in refused(lambda: decider.decide(request(graph, policy_sha256="f" * 64)), NotKnown)
    for field in ("mbps", "slowdown", "io_ms", "accumulated_ms"):
        said = refused(lambda field=field: decider.decide(request(graph, **{field: {"d7": 2.0}})))  # type: ignore[misc]
        assert "'d7'" in said
        assert "d0, d1, d2" in said
    assert "no volume 999" in refused(lambda: decider.decide(request(graph, volume=999)))
    for blob in (b"", b"\x00" * 100, pack(moving)[:5000]):
        assert "no policy" in refused(lambda blob=blob: decider.add(blob))  # type: ignore[misc]
    other = scenario.model_copy(update={"providers": scenario.providers[:2]})
    assert "pre-train" in refused(lambda: decider.add(pack(moving), other))
    alone = Decider(Models().graph)
    assert "--models" in refused(lambda: alone.add(content(case_agent(graph, scenario, "even"))), ModelError)


def test_the_oldest_policies_are_forgotten(
    decider: Decider,
    graph: LayerGraph,
    scenario: Scenario,
    moving: MovingAgent,
    content: Callable[..., bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(decisions, "MOST", 2)
    first = decider.add(pack(moving), scenario)
    for seed in (1, 2):
        decider.add(content(case_agent(graph, scenario, "default", seed)), scenario)
    refused(lambda: decider.decide(request(graph, policy_sha256=first.sha256)), NotKnown)
    assert decider.decide(request(graph)).kind == "osds"


def test_it_decides_without_torch(moving: MovingAgent, tmp_path: Path) -> None:
    (tmp_path / "policy").write_bytes(pack(moving))
    program = f"""
import sys
for name in ("torch", "stable_baselines3", "gymnasium"):
    sys.modules[name] = None
from pathlib import Path
from distredge.control.schema import DecisionRequest
from distredge.controller.decisions import Decider
decider = Decider(None)
entry = decider.add(Path({str(tmp_path / "policy")!r}).read_bytes())
asked = DecisionRequest(model=entry.model, scenario=entry.scenario, mbps={{"d0": 50, "d1": 60, "d2": 70}})
print(decider.decide(asked).model_dump_json())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    decision = moving.decide(np.array([50.0, 60.0, 70.0]), np.ones(3), np.zeros(3))
    assert Decision.model_validate_json(done.stdout).expected_ms == decision.latency_ms
