"""`distredge run` on provider processes: what it writes and says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from distredge.cli.main import run
from distredge.model.load import load_model
from distredge.runtime.keys import create_keys
from distredge.runtime.launch import Launcher
from distredge.scenario import REQUESTER
from distredge.testing.providers import equal_plan
from distredge.testing.toy_models import chain, save_model

NAMES = ["a", "b"]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The command that runs a plan on two providers that are there; a third one of the scenario is not."""
    monkeypatch.setenv("DISTREDGE_CACHE", str(tmp_path / "cache"))
    graph = load_model(save_model(chain(np.random.default_rng(0), height=32, width=32), tmp_path))
    providers = "".join(f"  - {{name: {n}, profile: jetson-nano, bandwidth_mbps: 400}}\n" for n in [*NAMES, "spare"])
    (tmp_path / "lab.yaml").write_text(f"name: lab\nproviders:\n{providers}")
    equal_plan(graph, NAMES).plan.save(tmp_path / "plan.json")
    create_keys(tmp_path / "keys", [REQUESTER, *NAMES, "spare"])
    with Launcher(NAMES, tmp_path / "keys") as launcher:
        at = [f"--at={name}={launcher.addresses[name]}" for name in NAMES]
        yield [
            "run", str(tmp_path / "plan.json"), "--scenario", str(tmp_path / "lab.yaml"),
            "--keys", str(tmp_path / "keys"), "--model", str(graph.path),
            "--images", "5", "--json", *at, "--at=spare=127.0.0.1:9",
        ]  # fmt: skip


def test_each_result_is_noted_and_the_plan_in_force_told(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*command, "--verify", "--frames", str(tmp_path / "frames.jsonl")]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["max_abs_diff"] <= 1e-5
    assert report["epochs"] == [{"epoch": 1, "reason": "the first plan", "first_image": 0, "providers": NAMES}]
    lines = [json.loads(line) for line in (tmp_path / "frames.jsonl").read_text().splitlines()]
    assert [line["index"] for line in lines] == list(range(5))
    times = [line["t_s"] for line in lines]
    assert times == sorted(times)
    assert report["longest_pause_ms"] >= 1000.0 * max(np.diff(times)) - 1e-6


def test_held_times_are_compared_with_the_prediction(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*command, "--hold"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["emulated"] and report["latency_ms"]["p50"] > 0.9 * report["predicted_ms"]


def test_an_address_of_nobody_is_bad_input(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*command, "--at=nobody=127.0.0.1:1"]) == 2
    assert "give NAME=HOST:PORT, NAME one of a, b, spare" in capsys.readouterr().err
