"""The agent for any cluster as a planner: no training, no search, near to the best plans known."""

from __future__ import annotations

import pytest

from distredge.api import make_task
from distredge.experiments.gold import references
from distredge.experiments.methods import graph_of, scenario_of
from distredge.planners.base import make_plan
from distredge.planners.trained import GENERAL, trained
from distredge.scenario import load_scenario
from distredge.simulate.goals import Goals


@pytest.mark.parametrize(("model", "most"), [("resnet50", 1.08), ("inception_v3", 1.08), ("vgg16", 1.08)])
def test_its_plan_is_near_the_best_known(model: str, most: float) -> None:
    task = make_task(graph_of(model), scenario_of("na-nano"), 0, None, None)
    plan = make_plan(task, trained(GENERAL).plan(task), "osds", 0)
    assert plan.predicted is not None
    assert plan.predicted.latency_ms < most * references().of(model, "na-nano").latency_ms


def test_it_keeps_to_who_is_excluded_and_serves_one_provider() -> None:
    goals = Goals(exclude=("xavier-0",))
    task = make_task(graph_of("vgg16"), scenario_of("db-50"), 0, None, None, goals)
    assert "xavier-0" not in trained(GENERAL).plan(task).scenario.provider_names
    some = load_scenario("db-50")
    alone = some.model_copy(update={"providers": some.providers[:1]})
    task = make_task(graph_of("vgg16"), alone, 0, None, None)
    assert trained(GENERAL).plan(task).cuts.shape[1] == 2
