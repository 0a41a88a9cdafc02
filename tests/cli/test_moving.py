"""`distredge pretrain` and `distredge decide`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from distredge.cli.main import run
from distredge.plans.plan import Plan
from distredge.testing.moving_agents import little_settings
from distredge.testing.toy_models import chain, save_model

SCENARIO = """
schema_version: 1
name: lab
providers:
  - {name: a, profile: jetson-nano, bandwidth_mbps: 100}
  - {name: b, profile: jetson-nano, bandwidth_mbps: 50}
  - {name: c, profile: jetson-tx2, bandwidth_mbps: 80}
"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, a scenario, settings with little to do, and an agent."""
    folder = tmp_path_factory.mktemp("lab")
    save_model(chain(np.random.default_rng(0), 56, 30), folder)
    (folder / "lab.yaml").write_text(SCENARIO)
    (folder / "little.yaml").write_text(yaml.safe_dump(little_settings().model_dump(mode="json")))
    assert run([str(a) for a in pretraining(folder, folder / "agent.safetensors")]) == 0
    return folder


def pretraining(folder: Path, out: Path) -> tuple[object, ...]:
    (model,) = folder.glob("*.onnx")
    return ("pretrain", model, "-s", folder / "lab.yaml", "--settings", folder / "little.yaml", "--out", out)


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    capsys.readouterr()
    code = run([str(a) for a in arguments])
    out, err = capsys.readouterr()
    return code, out, err


def test_pretrain_writes_an_agent_and_logs(capsys: pytest.CaptureFixture[str], lab: Path, tmp_path: Path) -> None:
    out = tmp_path / "mine.safetensors"
    code, text, err = call(
        capsys, *pretraining(lab, out), "--mbps", "10:100", "--logs", tmp_path / "logs", "--json"
    )  # fmt: skip
    assert code == 0, err
    data = json.loads(text)
    assert data["agent"] == str(out)
    assert data["bytes"] == out.stat().st_size > 0
    assert data["plans"] >= 1
    assert list((tmp_path / "logs").glob("events.out.*"))


def test_decide_answers_a_plan_for_what_is_observed(
    capsys: pytest.CaptureFixture[str], lab: Path, tmp_path: Path
) -> None:
    arguments = ("decide", lab / "agent.safetensors", "-s", lab / "lab.yaml", "--json")
    code, text, err = call(capsys, *arguments, "--out", tmp_path / "plan.json")
    assert code == 0, err
    usual = json.loads(text)
    assert Plan.load(tmp_path / "plan.json").method == "moving"
    assert 0 < usual["decision_ms"] < 1000
    code, text, err = call(
        capsys, *arguments, "--mbps", "a=20,b=20, c=20", "--slowdown", "a=3,b=3,c=3", "--io-ms", "c=2"
    )
    assert code == 0, err
    assert json.loads(text)["expected_ms"] > usual["expected_ms"]
    code, text, err = call(capsys, *arguments, "--mbps", "a=1")
    assert code == 0
    assert "trained for link rates from 20 to 300" in err


def test_decide_searches_on_from_there(capsys: pytest.CaptureFixture[str], lab: Path) -> None:
    (model,) = lab.glob("*.onnx")
    arguments = ("decide", lab / "agent.safetensors", "-s", lab / "lab.yaml", "--search-ms", 5, "--model", model)
    code, text, err = call(capsys, *arguments, "--json")
    assert code == 0, err
    assert json.loads(text)["expected_ms"] > 0
    code, text, _ = call(capsys, *arguments)
    assert code == 0
    assert "decided in" in text


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--mbps", "x=3"), "unknown provider 'x'"),
        (("--mbps", "a"), "NAME=NUMBER"),
        (("--mbps", "a=0"), "--mbps a=0"),
        (("--slowdown", "a=nan"), "--slowdown a=nan"),
        (("--io-ms", "a=-1"), "--io-ms a=-1"),
        (("--scenario", "db-50"), "pre-train one for it"),
    ],
)
def test_what_cannot_be_decided_is_one_line(
    capsys: pytest.CaptureFixture[str], lab: Path, more: tuple[str, str], said: str
) -> None:
    code, _, err = call(capsys, "decide", lab / "agent.safetensors", "-s", lab / "lab.yaml", *more)
    assert code == 2
    assert len(err.splitlines()) == 1
    assert said in err


@pytest.mark.parametrize("mbps", ["20", "300:20", "0:5", "a:b"])
def test_a_range_that_is_none_is_one_line(
    capsys: pytest.CaptureFixture[str], lab: Path, tmp_path: Path, mbps: str
) -> None:
    code, _, err = call(capsys, *pretraining(lab, tmp_path / "x.safetensors"), "--mbps", mbps)
    assert code == 2
    assert len(err.splitlines()) == 1
    assert "LOW:HIGH" in err


def test_a_damaged_agent_is_one_line(capsys: pytest.CaptureFixture[str], lab: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.safetensors").write_bytes(b"no agent")
    code, _, err = call(capsys, "decide", tmp_path / "bad.safetensors", "-s", lab / "lab.yaml")
    assert code == 2
    assert len(err.splitlines()) == 1
