"""The moving agent's tables: everything is at least gold, and adapting helps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from distredge.api import make_task
from distredge.experiments.agent_moving import Ground, MovingEffort, robust, summary, unseen, wrong_world
from distredge.model.load import load_model
from distredge.planners.moving import pretrain
from distredge.testing.moving_agents import little_settings
from distredge.testing.toy_devices import ToyProfile, toy_scenario
from distredge.testing.toy_models import residual, save_model

EFFORT = MovingEffort(conditions=2, gold_rounds=1, gold_screen=False, worlds=1, judged=3, after=(0, 15), draws=2)


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Ground:
    graph = load_model(save_model(residual(np.random.default_rng(0), height=32), tmp_path_factory.mktemp("model")))
    fast, slow = ToyProfile("fast", 0.05, 0.2), ToyProfile("slow", 0.1, 0.5)
    task = make_task(graph, toy_scenario([fast, fast, slow], [50.0, 50.0, 50.0]), 0, None, None)
    return Ground(task, pretrain(task, little_settings()), EFFORT)


def test_unseen_conditions(ground: Ground) -> None:
    rows = list(unseen(ground))
    assert len(rows) == 4
    for row in rows:
        ratios = [value for name, value in row.items() if name not in {"moves", "number", "gold_ms"}]
        assert min(ratios) >= 1.0 - 1e-9
        assert row["agent + 10 ms"] <= row["critic alone"] + 1e-9
    assert rows == list(unseen(ground))
    (one, other) = summary(rows, ["moves"], ["critic alone"])
    assert one["median"] <= one["p90"]
    assert one["cases"] == other["cases"] == 2


def test_adapting_helps_in_a_wrong_world(ground: Ground) -> None:
    rows = list(wrong_world(ground))
    assert len(rows) == 4 * 2 * 3
    mean = {
        (row["images"], row["method"]): row["mean"]
        for row in summary(rows, ["images"], ["unadapted", "end to end", "as told + 10 ms", "refitted + 10 ms"])
    }
    assert mean[0, "unadapted"] == mean[0, "end to end"]
    assert mean[15, "end to end"] < mean[15, "unadapted"]
    assert mean[15, "refitted + 10 ms"] < mean[15, "as told + 10 ms"]


def test_wrong_estimates(ground: Ground) -> None:
    other = replace(ground.agent, networks=ground.agent.networks)
    rows = list(robust(ground, 0.5, {"the same": other}))
    assert len(rows) == 4
    assert all(row["agent"] == row["the same"] for row in rows)
    assert len({row["gold_ms"] for row in rows}) == 4
