"""`distredge plan` with goals and limits, and `distredge pareto`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from distredge.cli.main import run
from distredge.testing.toy_models import chain, save_model

SCENARIO = """
schema_version: 1
name: lab
providers:
  - name: a
    profile: jetson-nano
    bandwidth_mbps: 100
    power: {active_w: 9, idle_w: 2, radio_w: 1}
    price_per_hour: 0.5
    failure_probability: 0.02
  - {name: b, profile: jetson-agx-xavier, bandwidth_mbps: 50, price_per_hour: 2, failure_probability: 0.01}
  - {name: c, profile: jetson-tx2, bandwidth_mbps: 80, memory_mb: 900, link_failure_probability: 0.5}
"""


@pytest.fixture(autouse=True)
def _little_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distredge.planners.search.ROUNDS", 3)
    monkeypatch.setattr("distredge.planners.front.FRONT_ROUNDS", 2)


@pytest.fixture
def lab(tmp_path: Path) -> tuple[Path, Path]:
    scenario = tmp_path / "lab.yaml"
    scenario.write_text(SCENARIO)
    return save_model(chain(np.random.default_rng(0), 56, 30), tmp_path), scenario


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    capsys.readouterr()
    code = run([str(a) for a in arguments])
    out, err = capsys.readouterr()
    return code, out, err


def test_plan_prints_what_a_frame_costs_and_a_lower_bound(
    capsys: pytest.CaptureFixture[str], lab: tuple[Path, Path], tmp_path: Path
) -> None:
    model, scenario = lab
    arguments = ("plan", model, "-s", scenario, "-m", "offload", "--out", tmp_path / "plan.json")
    code, out, err = call(capsys, *arguments, "--json")
    assert code == 0, err
    data = json.loads(out)
    assert set(data["quality"]) == {
        "latency_ms", "energy_j", "idle_j", "cost", "reliability", "redundant_share", "memory_mb",
    }  # fmt: skip
    assert data["quality"]["latency_ms"] == pytest.approx(data["predicted"]["latency_ms"])
    assert 0 < data["lower_bound_ms"] <= data["predicted"]["latency_ms"]
    assert "quality" not in json.loads((tmp_path / "plan.json").read_text())
    code, out, err = call(capsys, *arguments)
    assert code == 0 and err == ""
    assert "no split decisions for these volumes can beat" in out
    assert "a frame: energy J" in out and "memory MB" in out


def test_goals_and_limits_reach_the_plan(capsys: pytest.CaptureFixture[str], lab: tuple[Path, Path]) -> None:
    model, scenario = lab
    code, out, err = call(
        capsys, "plan", model, "-s", scenario, "-m", "search", "--minimise", "latency=1, cost=1e3,failures",
        "--exclude", "c", "--pin", "a,conv3=b", "--raw-to", "a,b", "--max-redundant", "0.5", "--deadline-ms", 1000,
        "--max-energy-j", 50, "--max-cost", 1, "--min-reliability", "0.97", "--json",
    )  # fmt: skip
    assert code == 0, err
    data = json.loads(out)
    assert sorted(data["providers"]) == ["a", "b"]
    assert data["quality"]["reliability"] == pytest.approx(0.98 * 0.99)
    (volume,) = [v for v in data["volumes"] if "conv3" in v["layers"]]
    a = data["providers"].index("a")
    assert volume["cuts"][a] == volume["cuts"][a + 1]
    assert data["quality"]["redundant_share"] <= 0.5


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (("--minimise", "speed"), "error: unknown goal 'speed'"),
        (("--minimise", "latency=fast"), "error: the weight of 'latency' must be a number, got 'fast'"),
        (
            ("--minimise", "latency=nan"),
            "error: the weight of 'latency' must be a number that is not negative, got nan",
        ),
        (("--exclude", "d"), "error: unknown provider 'd'"),
        (("--exclude", "a,b,c"), "error: no provider is left: exclude fewer"),
        (("--pin", "conv8=a"), "error: unknown layer 'conv8': did you mean 'conv"),
        (("--raw-to", ""), "error: nobody may have the image"),
        (("--min-reliability", "0.9"), "error: failures cannot be told of provider 'c': give it `failure_probability"),
        (("--exclude", "c", "--min-reliability", "0.995"), "error: min_reliability 0.995 cannot be met: at most 0.99"),
        (("--deadline-ms", "0.01"), "error: 'offload' found no plan that keeps to max_latency_ms 0.01 ms: the best"),
        (("--pin", "a,b"), "error: 'offload' found no plan that keeps to pin "),
    ],
)
def test_what_cannot_be_is_one_line_and_exit_code_2(
    capsys: pytest.CaptureFixture[str], lab: tuple[Path, Path], options: tuple[str, ...], line: str
) -> None:
    code, out, err = call(capsys, "plan", lab[0], "-s", lab[1], "-m", "offload", *options)
    assert (code, out) == (2, "")
    assert err.startswith(line), err
    assert err.count("\n") == 1


def test_a_method_that_does_not_look_for_goals_says_so(
    capsys: pytest.CaptureFixture[str], lab: tuple[Path, Path]
) -> None:
    code, _, err = call(capsys, "plan", lab[0], "-s", lab[1], "-m", "modnn", "--max-redundant", 9)
    assert (code, err) == (0, "note: 'modnn' does not look for these goals; its plan keeps to them\n")


def test_a_front_as_json_file_and_picture(
    capsys: pytest.CaptureFixture[str], lab: tuple[Path, Path], tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    model, scenario = lab
    out_file, picture = tmp_path / "front.json", tmp_path / "front.png"
    code, out, err = call(
        capsys, "pareto", model, "-s", scenario, "--exclude", "c", "--against", "cost", "--points", 4,
        "--out", out_file, "--plot", picture, "--json",
    )  # fmt: skip
    assert code == 0, err
    data = json.loads(out)
    assert json.loads(out_file.read_text()) == data
    points = data["points"]
    assert 1 <= len(points) <= 4
    latencies, costs = ([p[key] for p in points] for key in ("latency_ms", "cost"))
    assert latencies == sorted(latencies) and costs == sorted(costs, reverse=True)
    assert points[0]["plan"]["providers"]
    assert picture.read_bytes().startswith(b"\x89PNG")
    code, out, _ = call(capsys, "pareto", model, "-s", scenario, "--points", 2)
    assert code == 0 and "latency against energy" in out
    code, _, err = call(capsys, "pareto", model, "-s", scenario, "--against", "latency")
    assert code == 2 and err.startswith("error: unknown goal 'latency'")


def test_figures_of_providers_are_checked(capsys: pytest.CaptureFixture[str], lab: tuple[Path, Path]) -> None:
    model, scenario = lab
    for wrong, words in (
        ("idle_w: 2", "idel_w"),
        ("price_per_hour: 0.5", "price_per_hour: -1"),
        ("failure_probability: 0.02", "failure_probability: 2"),
    ):
        scenario.write_text(SCENARIO.replace(wrong, words if ":" in words else f"{words}: 2", 1))
        code, _, err = call(capsys, "plan", model, "-s", scenario, "-m", "offload")
        assert code == 2 and words.partition(":")[0] in err and err.count("\n") == 1
