"""Random plans: valid, the same for the same seed, and of many kinds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from distredge.api import make_task
from distredge.errors import InputError
from distredge.model.graph import LayerGraph
from distredge.model.load import load_model
from distredge.planners.random_plans import MOST_VOLUMES, random_plans
from distredge.plans.plan import Plan
from distredge.scenario import Provider, Scenario
from distredge.simulate.timeline import trace
from distredge.testing.providers import toy_scenario
from distredge.testing.toy_models import chain, save_model


@pytest.fixture
def graph(tmp_path: Path) -> LayerGraph:
    return load_model(save_model(chain(np.random.default_rng(0), height=48, width=32), tmp_path))


def drawn(graph: LayerGraph, scenario: Scenario, seed: int) -> list[Plan]:
    return random_plans(make_task(graph, scenario, seed, None, None), 24, seed)


def test_they_can_be_run_and_say_what_the_simulator_does(graph: LayerGraph) -> None:
    scenario = toy_scenario(["a", "b", "c"])
    plans = drawn(graph, scenario, 0)
    assert len(plans) == 24
    for plan in plans:
        assert plan.predicted and plan.predicted.latency_ms == trace(plan.bind(graph), scenario).latency_ms
    assert {plan.method for plan in plans} == {"random"}
    assert len({len(plan.volumes) for plan in plans}) > 2
    assert max(len(plan.volumes) for plan in plans) <= MOST_VOLUMES
    assert len({plan.volumes for plan in plans}) > 20
    assert {tuple(v.layers for v in plan.volumes) for plan in plans[::2]} == {tuple(v.layers for v in plans[0].volumes)}


def test_a_seed_decides_them(graph: LayerGraph) -> None:
    scenario = toy_scenario(["a", "b"])
    assert drawn(graph, scenario, 1) == drawn(graph, scenario, 1) != drawn(graph, scenario, 2)


def test_providers_without_memory_are_an_error_with_numbers(graph: LayerGraph) -> None:
    nodes = tuple(Provider(name=n, profile="jetson-nano", bandwidth_mbps=50, memory_mb=1e-6) for n in ("a", "b"))
    with pytest.raises(InputError, match="hardly any random plan fits: .*MB"):
        drawn(graph, Scenario(name="small", providers=nodes), 0)
