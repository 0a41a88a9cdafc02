"""From a model's name to a verified run on real processes, for every method."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from distredge.cli.main import run
from distredge.planners import METHODS

BUDGET_S = {"search": 2.0, "osds": 5.0, "osds-paper": 10.0}


def call_json(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict:
    capsys.readouterr()
    code = run([*(str(a) for a in arguments), "--json"])
    out, err = capsys.readouterr()
    assert code == 0, err
    return json.loads(out)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("model", ["vgg16", "resnet50"])
@pytest.mark.parametrize("method", [m for m in METHODS if m != "exact"])  # which serves two providers
def test_every_methods_plan_gives_the_undivided_models_result(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, model: str, method: str
) -> None:
    plan = tmp_path / "plan.json"
    budget = ["--budget-s", BUDGET_S[method]] if method in BUDGET_S else []
    made = call_json(capsys, "plan", model, "--scenario", "na-nano", "--method", method, "--out", plan, *budget)
    assert made["method"] == method
    data = call_json(capsys, "up", plan, "--verify", "--images", 2)
    assert data["images"] == 2
    assert data["max_abs_diff"] <= 1e-4
    assert data["wire"] == "float32"
    assert set(data["latency_ms"]) == {"p50", "p90", "p99"}
    assert set(data["per_provider"]) == set(made["providers"])


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("model", ["yolov2", "ssd_resnet50", "inception_v3"])
def test_passthroughs_detectors_and_branches_over_real_sockets(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, model: str
) -> None:
    plan = tmp_path / "plan.json"
    made = call_json(capsys, "plan", model, "--scenario", "na-nano", "--method", "equal", "--out", plan)
    assert len(made["volumes"]) > 1
    data = call_json(capsys, "up", plan, "--verify", "--images", 2)
    assert data["max_abs_diff"] <= 1e-4
    coarse = call_json(capsys, "up", plan, "--verify", "--images", 1, "--wire", "float16")
    assert data["max_abs_diff"] < coarse["max_abs_diff"] < 0.02


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_an_emulated_run_is_not_faster_than_its_links_and_boards_allow(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    plan = tmp_path / "plan.json"
    call_json(capsys, "plan", "vgg16", "--scenario", "da-50", "--method", "equal", "--out", plan)
    data = call_json(capsys, "up", plan, "--emulate", "--verify", "--images", 5)
    assert data["emulated"]
    assert data["max_abs_diff"] <= 1e-4
    assert data["latency_ms"]["p50"] >= 0.97 * data["predicted_ms"]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_measured_profile_plans_this_machine(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    call_json(capsys, "profile", "resnet50", "--out", tmp_path, "--name", "here", "--budget-s", 5)
    scenario = tmp_path / "two.yaml"
    scenario.write_text(
        "name: two\nproviders:\n"
        "  - {name: a, profile: here.json, bandwidth_mbps: 1000}\n"
        "  - {name: b, profile: here.json, bandwidth_mbps: 1000}\n"
    )
    plan = tmp_path / "plan.json"
    made = call_json(
        capsys, "plan", "resnet50", "--scenario", scenario, "--method", "search", "--budget-s", 2, "--out", plan
    )
    alone = call_json(capsys, "plan", "resnet50", "--scenario", scenario, "--method", "offload")
    assert made["predicted"]["latency_ms"] < 0.9 * alone["predicted"]["latency_ms"]
    data = call_json(capsys, "up", plan, "--scenario", scenario, "--verify", "--images", 2)
    assert data["max_abs_diff"] <= 1e-4
