"""The planners `osds` and `osds-paper`: valid, repeatable, in time, resumable, and clear about what they lack."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from distredge.agents.settings import load_settings
from distredge.api import make_task, plan
from distredge.errors import InputError
from distredge.experiments.gold import references
from distredge.model.graph import LayerGraph
from distredge.model.load import load_model
from distredge.planners import planner
from distredge.planners.base import Task, make_plan, simulator_for
from distredge.planners.distredge import train_planner
from distredge.scenario import Scenario, load_scenario
from distredge.testing.toy_devices import random_scenario
from distredge.testing.toy_models import residual, save_model


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> LayerGraph:
    return load_model(save_model(residual(np.random.default_rng(0), height=32), tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def scenario() -> Scenario:
    return random_scenario(np.random.default_rng(6), 3)


@pytest.fixture
def preset(tmp_path: Path) -> Path:
    """The default preset with little to do."""
    return preset_file(tmp_path, episodes=64)


def preset_file(folder: Path, **changes: object) -> Path:
    data = load_settings("default").model_dump(mode="json") | changes
    data["screen"]["rounds"] = 2
    path = folder / "short.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


@pytest.mark.parametrize("method", ["osds", "osds-paper"])
def test_plans_are_valid_and_progress_only_grows(graph: LayerGraph, scenario: Scenario, method: str) -> None:
    told: list[float] = []
    task = make_task(graph, scenario, 0, 2.0, lambda share, latency_ms: told.append(share))
    strategy = planner(method).plan(task)
    made = make_plan(task, strategy, method, 0)
    assert simulator_for(task, strategy.scheme, strategy.scenario).evaluate(strategy.cuts[None])[0] == pytest.approx(
        strategy.latency_ms
    )
    assert made.predicted is not None
    assert made.predicted.latency_ms == pytest.approx(strategy.latency_ms)
    assert told == sorted(told)
    assert told[-1] == 1.0


def test_same_seed_same_plan(graph: LayerGraph, scenario: Scenario, preset: Path) -> None:
    first, again = (train_planner(make_task(graph, scenario, 3, None, None), preset) for _ in range(2))
    assert first[0].scheme.locations == again[0].scheme.locations
    assert first[0].scenario.provider_names == again[0].scenario.provider_names
    assert first[0].cuts.tolist() == again[0].cuts.tolist()
    assert first[1].policy_latency_ms == again[1].policy_latency_ms


def test_it_is_at_least_as_good_as_one_provider_alone(graph: LayerGraph, preset: Path) -> None:
    for seed in range(4):
        scenario = random_scenario(np.random.default_rng(seed), 2 + seed % 3)
        strategy, result = train_planner(make_task(graph, scenario, 0, None, None), preset)
        alone = planner("offload").plan(make_task(graph, scenario, 0, None, None))
        assert strategy.latency_ms <= alone.latency_ms + 1e-9
        assert result.best_latency_ms == strategy.latency_ms


def test_a_resumed_training_keeps_scheme_and_order(
    graph: LayerGraph, scenario: Scenario, preset: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    first, before = train_planner(make_task(graph, scenario, 0, None, None), preset, out)
    longer = preset_file(tmp_path, episodes=128)
    second, after = train_planner(make_task(graph, scenario, 1, None, None), longer, out, resume=True)
    assert (before.episodes, after.episodes) == (64, 128)
    assert second.scheme.locations == first.scheme.locations
    assert second.scenario.provider_names == first.scenario.provider_names
    assert second.latency_ms <= first.latency_ms


def test_what_cannot_be_resumed_is_one_line(
    graph: LayerGraph, scenario: Scenario, preset: Path, tmp_path: Path
) -> None:
    task = make_task(graph, scenario, 0, None, None)
    assert "nothing to resume" in refused(task, preset, tmp_path / "none")
    assert "--out" in refused(task, preset, None)
    out = tmp_path / "run"
    train_planner(task, preset, out)
    other = random_scenario(np.random.default_rng(6), 2)
    assert "other providers" in refused(replace(task, scenario=other), preset, out)
    (out / "best.json").write_text("{")
    assert "best.json" in refused(task, preset, out)


def refused(task: Task, preset: Path, out: Path | None) -> str:
    with pytest.raises(InputError) as caught:
        train_planner(task, preset, out, resume=True)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def test_one_provider_has_nothing_to_split(graph: LayerGraph) -> None:
    with pytest.raises(InputError, match="use --method offload"):
        plan(graph, random_scenario(np.random.default_rng(0), 1), "osds")


def test_without_torch_the_planners_load_and_say_what_is_missing() -> None:
    program = """
import sys
sys.modules["torch"] = None
from distredge.errors import DependencyError
from distredge.planners import planner
agent = planner("osds")
try:
    agent.plan(None)
except DependencyError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.stdout == "training an agent needs torch: pip install 'distredge[train]'\n"


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("model", "scenario", "most"),
    [
        ("vgg16", "db-50", 1.02),
        ("vgg16", "na-nano", 1.02),
        ("vgg16", "da-300", 1.02),
        ("resnet50", "na-nano", 1.02),
        ("vgg16", "lb", 1.03),
        ("vgg16", "la", 1.03),
    ],
)
def test_osds_is_near_gold_and_its_policy_makes_the_plan(model: str, scenario: str, most: float) -> None:
    gold_ms = references().of(model, scenario).latency_ms
    task = make_task(load_model(model), load_scenario(scenario), 0, None, None)
    strategy, result = train_planner(task)
    assert strategy.latency_ms <= most * gold_ms
    assert result.policy_latency_ms == result.best_latency_ms == strategy.latency_ms
