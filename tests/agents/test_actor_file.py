"""Trained agents as files: they make the same plan again, with numpy alone, and what does not fit is refused."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from distredge.agents.actor_file import Card, TrainedAgent, load_agent
from distredge.agents.manifest import Entry, load_manifest
from distredge.agents.osds import train
from distredge.agents.settings import load_settings
from distredge.errors import InputError
from distredge.model.graph import LayerGraph
from distredge.model.load import load_model
from distredge.plans.scheme import PartitionScheme
from distredge.resources import data_dir
from distredge.scenario import Scenario, load_scenario
from distredge.simulate.simulator import Simulator
from distredge.testing.toy_devices import random_scenario
from distredge.testing.toy_models import chain, save_model


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> LayerGraph:
    return load_model(save_model(chain(np.random.default_rng(0)), tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def scenario() -> Scenario:
    return random_scenario(np.random.default_rng(102), 3)


@pytest.fixture(scope="module", params=["default", "paper"])
def trained(request: pytest.FixtureRequest, graph: LayerGraph, scenario: Scenario) -> TrainedAgent:
    """An agent of the providers in another order."""
    simulator = Simulator(graph, scenario.reordered((2, 0, 1)), PartitionScheme(graph, (0, 1, 3)))
    settings = load_settings(request.param, ["episodes=40"])
    result = train(simulator, settings, np.random.default_rng(0))
    if request.param == "default":
        assert result.policy_latency_ms == result.best_latency_ms
    card = Card(
        model=graph.name,
        model_sha256=graph.sha256,
        scenario=scenario.name,
        providers=simulator.scenario.provider_names,
        locations=simulator.scheme.locations,
        formulation=settings.formulation,
        latency_ms=result.policy_latency_ms,
        seed=0,
        command="none",
    )
    return TrainedAgent(card, result.actor)


def test_read_again_it_makes_the_same_plan(
    trained: TrainedAgent, graph: LayerGraph, scenario: Scenario, tmp_path: Path
) -> None:
    trained.save(tmp_path / "a.safetensors")
    again = load_agent(tmp_path / "a.safetensors")
    assert again.card == trained.card
    cuts, latency_ms = again.actor.rollout(again.simulator(graph, scenario))
    assert latency_ms == trained.card.latency_ms
    assert again.simulator(graph, scenario).evaluate(cuts[None])[0] == latency_ms
    again.save(tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_what_is_damaged_or_of_something_else_is_one_line(
    trained: TrainedAgent, graph: LayerGraph, scenario: Scenario, tmp_path: Path
) -> None:
    path = tmp_path / "agent.safetensors"
    trained.save(path)
    whole = path.read_bytes()
    for size in np.linspace(0, len(whole) - 1, 12).astype(int):
        path.write_bytes(whole[:size])
        assert "train it again" in refused(lambda: load_agent(path))
    TrainedAgent(trained.card.model_copy(update={"locations": (0,)}), trained.actor).save(path)
    assert "train it again" in refused(lambda: load_agent(path))
    assert "no trained agent" in refused(lambda: load_agent(tmp_path / "none"))
    other = load_model(save_model(chain(np.random.default_rng(1)), tmp_path))
    assert "another model" in refused(lambda: trained.simulator(other, scenario))
    assert "the providers" in refused(lambda: trained.simulator(graph, random_scenario(np.random.default_rng(1), 2)))


def refused(work: object) -> str:
    assert callable(work)
    with pytest.raises(InputError) as caught:
        work()
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def test_it_needs_numpy_alone(trained: TrainedAgent, tmp_path: Path) -> None:
    trained.save(tmp_path / "agent.safetensors")
    program = f"""
import sys
for name in ("torch", "stable_baselines3", "gymnasium"):
    sys.modules[name] = None
from pathlib import Path
from distredge.agents.actor_file import load_agent
print(load_agent(Path({str(tmp_path / "agent.safetensors")!r})).card.latency_ms)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert float(done.stdout) == trained.card.latency_ms


SHIPPED = load_manifest().agents


@pytest.mark.parametrize("entry", SHIPPED, ids=[entry.file for entry in SHIPPED])
def test_shipped_agents_make_the_plans_that_the_manifest_says(entry: Entry) -> None:
    path = data_dir("agents") / entry.file
    assert hashlib.sha256(path.read_bytes()).hexdigest() == entry.sha256
    agent = load_agent(path)
    simulator = agent.simulator(load_model(entry.model), load_scenario(entry.scenario))
    cuts, latency_ms = agent.actor.rollout(simulator)
    assert latency_ms == pytest.approx(entry.latency_ms, rel=1e-9)
    assert simulator.evaluate(cuts[None])[0] == latency_ms
    assert latency_ms <= simulator.evaluate(simulator.single_device_cuts()).min() + 1e-9


def test_agents_are_shipped_for_all_scenarios_of_the_paper_s_tables() -> None:
    groups = [f"{group}-{mbps}" for group in ("da", "db", "dc") for mbps in (50, 300)]
    groups += [f"{group}-{board}" for group in ("na", "nb", "nc", "nd") for board in ("nano", "xavier")]
    assert {entry.scenario for entry in SHIPPED} == {*groups, "la", "lb", "lc", "ld"}
