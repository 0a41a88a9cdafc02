"""The general agent: valid plans for any cluster and model, the same with numpy and torch, a file that is checked."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from distredge.agents.general import features
from distredge.agents.general.clusters import Grounds, preferred_order
from distredge.agents.general.judging import FEW, MANY, cases, gold
from distredge.agents.general.network import GeneralNetwork
from distredge.agents.general.policy import (
    About,
    GeneralPolicy,
    load_policy,
    propose,
    save_policy,
    shapes,
    shipped_policy,
)
from distredge.agents.general.settings import Network, load_settings
from distredge.errors import InputError
from distredge.model.graph import LayerGraph
from distredge.model.load import load_model
from distredge.plans.scheme import PartitionScheme
from distredge.simulate.costs import Barred
from distredge.simulate.simulator import Simulator
from distredge.simulate.starts import capability, starts
from distredge.testing.branchy_models import branchy_model
from distredge.testing.random_models import random_model
from distredge.testing.toy_devices import ToyProfile, random_scenario, toy_scenario
from distredge.testing.toy_models import chain, save_model

SMALL = Network(width=16, heads=2, hidden=24, blocks=2)


def about(network: Network = SMALL) -> About:
    return About(
        features=features.VERSION, network=network, command="", seed=0, steps=0, models=("vgg16",), held_out=("yolov2",)
    )


def random_policy(seed: int, size: float = 0.3) -> GeneralPolicy:
    """A policy that answers anything at all."""
    rng = np.random.default_rng(seed)
    weights = {name: (size * rng.standard_normal(s)).astype(np.float32) for name, s in shapes(SMALL).items()}
    return GeneralPolicy(weights, about())


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> list[LayerGraph]:
    rng = np.random.default_rng(0)
    made = [chain(rng), *(branchy_model(rng) for _ in range(4)), *(random_model(rng) for _ in range(4))]
    return [load_model(save_model(model, tmp_path_factory.mktemp("model"))) for model in made]


def random_simulator(graphs: list[LayerGraph], seed: int, providers: int) -> Simulator:
    rng = np.random.default_rng(seed)
    graph = graphs[int(rng.integers(len(graphs)))]
    inner = [p for p in graph.cut_points if p > 0]
    locations = (0, *sorted(rng.choice(inner, int(rng.integers(len(inner) + 1)), replace=False).tolist()))
    return Simulator(graph, random_scenario(rng, providers), PartitionScheme(graph, locations))


@given(seed=st.integers(0, 10_000), providers=st.integers(1, 34), count=st.integers(1, 60))
def test_whatever_the_network_answers_the_plans_are_valid(
    graphs: list[LayerGraph], seed: int, providers: int, count: int
) -> None:
    simulator = random_simulator(graphs, seed, providers)
    plans = propose(simulator, count, random_policy(seed))
    latency_ms = simulator.evaluate(plans)  # raises if one is not valid
    assert 1 <= len(plans) <= count
    assert len(np.unique(plans, axis=0)) == len(plans)
    assert np.all(np.diff(latency_ms) >= 0)
    assert latency_ms[0] <= simulator.evaluate(starts(simulator)).min()


def test_where_the_agent_does_not_serve_the_plans_are_proportional(graphs: list[LayerGraph]) -> None:
    for providers in (1, 33):
        simulator = random_simulator(graphs, 5, providers)
        known = {cuts.tobytes() for cuts in starts(simulator)}
        assert all(cuts.tobytes() in known for cuts in propose(simulator, 50, random_policy(0)))


@given(seed=st.integers(0, 10_000), providers=st.integers(2, 16))
def test_numpy_answers_as_torch(graphs: list[LayerGraph], seed: int, providers: int) -> None:
    simulator = random_simulator(graphs, seed, providers)
    policy = random_policy(seed, size=0.1)
    network = GeneralNetwork(SMALL)
    network.load_state_dict({name: torch.from_numpy(w) for name, w in policy.weights.items()})
    tokens, _ = features.observe(features.setting_of(simulator), starts(simulator))
    with torch.no_grad():
        wanted = network(torch.from_numpy(tokens)).numpy()
    assert np.isfinite(wanted).all()
    assert np.abs(policy.answers(tokens) - wanted).max() < 1e-4


def test_a_batch_is_answered_as_each_alone(graphs: list[LayerGraph]) -> None:
    policy, simulator = random_policy(1), random_simulator(graphs, 1, 6)
    tokens, latency_ms = features.observe(features.setting_of(simulator), starts(simulator))
    assert latency_ms == pytest.approx(simulator.evaluate(starts(simulator)))
    alone = np.concatenate([policy.answers(token[None]) for token in tokens])
    assert np.abs(policy.answers(tokens) - alone).max() < 1e-4


def test_equal_devices_may_change_places(graphs: list[LayerGraph]) -> None:
    kinds = [ToyProfile("slow", 0.2, 0.1), ToyProfile("fast", 0.1, 0.02)]
    scenario = toy_scenario([kinds[0], kinds[1], kinds[1], kinds[0]], [50.0, 100.0, 100.0, 20.0])
    scheme = PartitionScheme(graphs[0], (0, 2))
    plans = [
        propose(Simulator(graphs[0], scenario.reordered(order), scheme), 20, random_policy(2))
        for order in ((0, 1, 2, 3), (0, 2, 1, 3))
    ]
    assert np.array_equal(*plans)


def test_a_world_twice_as_slow_is_shared_alike(graphs: list[LayerGraph]) -> None:
    simulator = random_simulator(graphs, 3, 5)
    problem = simulator.problem
    slower = simulator.with_problem(problem._replace(node_ms=2.0 * problem.node_ms, slowdown=2.0 * problem.slowdown))
    assert slower.evaluate(starts(slower)) == pytest.approx(2.0 * simulator.evaluate(starts(simulator)))
    assert np.array_equal(propose(simulator, 20, random_policy(3)), propose(slower, 20, random_policy(3)))


def test_who_is_barred_gets_nothing(graphs: list[LayerGraph]) -> None:
    scenario = toy_scenario([ToyProfile(f"d{i}", 0.1, 0.02 * (i + 1)) for i in range(4)], [100.0] * 4)
    profiles = scenario.profiles
    scenario.__dict__["profiles"] = (Barred(profiles[0], frozenset({0})), *profiles[1:])
    simulator = Simulator(graphs[0], scenario, PartitionScheme(graphs[0], (0, 2)))
    plans = propose(simulator, 20, random_policy(4))
    assert np.all(plans[:, 0, 1] == 0)
    assert np.any(plans[:, 1, 1] > 0)


def test_the_strongest_stand_in_the_middle(graphs: list[LayerGraph]) -> None:
    simulator = random_simulator(graphs, 7, 9)
    strength = capability(simulator)[preferred_order(simulator)]
    top = int(np.argmax(strength))
    assert top in (4, 5)
    assert np.all(np.diff(strength[: top + 1]) >= 0)
    assert np.all(np.diff(strength[top:]) <= 0)


def test_a_file_holds_the_policy(graphs: list[LayerGraph], tmp_path: Path) -> None:
    path, policy = tmp_path / "policy.safetensors", random_policy(5)
    save_policy(path, policy)
    loaded, simulator = load_policy(path), random_simulator(graphs, 5, 6)
    assert loaded.about == policy.about
    assert np.array_equal(propose(simulator, 20, loaded), propose(simulator, 20, policy))


@pytest.mark.parametrize("harm", ["cut", "noise", "shape", "nan", "features", "bare", "absent"])
def test_a_damaged_file_is_refused_in_one_line(harm: str, tmp_path: Path) -> None:
    path = tmp_path / "policy.safetensors"
    save_policy(path, random_policy(6))
    content, weights = path.read_bytes(), load_file(path)
    said = about()
    if harm == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif harm == "noise":
        path.write_bytes(b"\x00" * 100 + content[100:])
    elif harm == "absent":
        path.unlink()
    else:
        if harm == "shape":
            weights["leave.bias"] = np.zeros(3, np.float32)
        elif harm == "nan":
            weights["leave.bias"][0] = np.nan
        elif harm == "features":
            said = said.model_copy(update={"features": features.VERSION + 1})
        save_file(weights, path, {} if harm == "bare" else {"distredge": said.model_dump_json()})
    with pytest.raises(InputError) as refused:
        load_policy(path)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_deciding_needs_neither_torch_nor_stable_baselines() -> None:
    code = (
        "import sys, json; from distredge.agents.general.policy import shipped_policy; shipped_policy();"
        "print(json.dumps([m for m in ('torch', 'stable_baselines3', 'gymnasium') if m in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []


def test_the_shipped_policy_is_near_a_search_on_clusters_and_models_never_seen() -> None:
    policy, grounds = shipped_policy(), Grounds()
    assert set(policy.about.held_out) == set(load_settings("default").held_out)
    ratios: dict[tuple[int, int], list[float]] = {FEW: [], MANY: []}
    proportional = []
    for between in ratios:
        for case in cases(policy.about.held_out, between, 20, first=500 + 50 * between[0]):
            simulator = case.simulator(grounds)
            gold_ms = gold(simulator, 4, 20_000, np.random.default_rng(case.number))[1]
            ratios[between].append(float(simulator.evaluate(propose(simulator, 1)).min()) / gold_ms)
            proportional.append(float(simulator.evaluate(starts(simulator)).min()) / gold_ms)
    assert np.median(ratios[FEW]) < 1.02
    assert np.quantile(ratios[FEW], 0.9) < 1.10
    assert np.median(ratios[MANY]) < 1.04
    assert np.quantile(ratios[MANY], 0.9) < 1.18
    assert np.mean(np.log(ratios[FEW] + ratios[MANY])) < 0.5 * np.mean(np.log(proportional))
