"""Training the general agent: it learns, repeats itself, and loses nothing when it is killed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from distredge.agents.general.checkpoint import checkpoint_path
from distredge.agents.general.clusters import MOST_VOLUMES, Grounds, draw_scheme
from distredge.agents.general.judging import Judge, cases
from distredge.agents.general.policy import load_policy
from distredge.agents.general.settings import Network, Settings, Teacher, load_settings
from distredge.agents.general.training import Training, train_general
from distredge.cli.main import run
from distredge.errors import InputError, UnknownNameError
from distredge.model.load import load_model
from distredge.simulate.starts import starts

TINY = load_settings("default").model_copy(
    update={
        "network": Network(width=16, heads=2, hidden=24, blocks=1),
        "models": ("vgg16", "resnet18"),
        "held_out": ("squeezenet1_1",),
        "schemes": 2,
        "steps": 6,
        "groups": 2,
        "clusters": 2,
        "rounds": 2,
        "teacher": Teacher(first_steps=5, first_warmth=0.03, more_steps=3, more_warmth=0.02),
        "judge_every": 4,
        "judge_cases": 2,
    }
)


def trained(out: Path, seed: int = 0, **changes: Any) -> bytes:
    train_general(TINY.model_copy(update=changes), seed, out)
    return out.read_bytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return trained(tmp_path_factory.mktemp("whole") / "policy.safetensors")


def test_the_same_seed_gives_the_same_file(whole: bytes, tmp_path: Path) -> None:
    before = torch.random.get_rng_state()
    assert trained(tmp_path / "again.safetensors") == whole
    assert torch.equal(before, torch.random.get_rng_state())
    assert trained(tmp_path / "other.safetensors", seed=1) != whole


def test_a_killed_training_loses_nothing(whole: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distredge.agents.general.training.CHECKPOINT_EVERY_S", 0.0)
    out = tmp_path / "policy.safetensors"

    def kill(share: float, over_gold: float) -> None:
        if share > 0.5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_general(TINY, 0, out, progress=kill)
    assert not out.exists()
    train_general(TINY, 0, out, resume=True)
    assert out.read_bytes() == whole


def test_what_does_not_fit_is_not_resumed(tmp_path: Path) -> None:
    out = tmp_path / "policy.safetensors"
    with pytest.raises(InputError, match="nothing to resume"):
        train_general(TINY, 0, out, resume=True)
    trained(out, steps=1)
    for settings, seed in ((TINY, 1), (TINY.model_copy(update={"clusters": 3}), 0)):
        with pytest.raises(InputError, match="other settings or another seed"):
            train_general(settings, seed, out, resume=True)
    train_general(TINY.model_copy(update={"steps": 2}), 0, out, resume=True)  # longer is no other training
    assert load_policy(out).about.steps == 2
    checkpoint = checkpoint_path(out)
    checkpoint.write_bytes(checkpoint.read_bytes()[:-100])
    with pytest.raises(InputError, match="damaged"):
        train_general(TINY, 0, out, resume=True)


def test_a_short_training_beats_the_proportional_plans_on_clusters_and_a_model_never_seen(tmp_path: Path) -> None:
    """A search of a second a case gains 0.42; untrained, the policy gains 0.016."""
    longer = TINY.model_copy(update={"steps": 100, "clusters": 6, "judge_every": 1000, "learning_rate": 3e-3})
    longer = longer.model_copy(update={"network": Network(width=32, heads=2, hidden=64, blocks=1)})
    policy, grounds = train_general(longer, 0, tmp_path / "policy.safetensors"), Grounds()
    gains = []
    for case in cases(("squeezenet1_1",), (2, 8), 28, first=700):
        simulator = case.simulator(grounds)
        proportional = simulator.evaluate(starts(simulator)).min()
        gains.append(np.log(proportional / simulator.evaluate(policy.improve(simulator)).min()))
    assert np.mean(gains) > 0.14


def test_the_judge_is_fair(tmp_path: Path) -> None:
    """Nothing on the way from the best proportional plans is ever worse than they are, whatever the network."""
    figures = Judge(TINY, Grounds()).figures(Training(TINY, 0, tmp_path / "none").policy())
    assert figures["few median"] >= 0.98  # a short gold may be beaten, a little
    assert set(figures) == {"median", "few median", "few p90", "many median", "many p90"}


def test_schemes_are_of_all_sizes() -> None:
    graph, rng = load_model("mobilenet_v1"), np.random.default_rng(0)
    sizes = [len(draw_scheme(graph, rng).locations) for _ in range(30)]
    assert min(sizes) == 1
    assert 8 <= max(sizes) <= MOST_VOLUMES


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"held_out": ["vgg16"]}, "vgg16 cannot be trained on and held out"),
        ({"network": {"width": 30, "heads": 4, "hidden": 8, "blocks": 1}}, "heads must divide width"),
        ({"stepz": 3}, "did you mean 'steps'"),
        ({"steps": 0}, "steps"),
    ],
)
def test_settings_that_cannot_be_are_refused(change: dict[str, Any], reason: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({**TINY.model_dump(mode="json"), **change}))
    with pytest.raises(InputError, match=reason):
        load_settings(path)
    with pytest.raises(UnknownNameError):
        load_settings("nonsense")


def test_the_command_trains_and_logs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine, out = tmp_path / "mine.yaml", tmp_path / "policy.safetensors"
    mine.write_text(yaml.safe_dump(TINY.model_dump(mode="json")))
    assert Settings.model_validate(yaml.safe_load(mine.read_text())) == TINY
    arguments = ["train-general", "--settings", str(mine), "--out", str(out), "--json"]
    assert run([*arguments, "--logs", str(tmp_path / "logs")]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["steps"] == TINY.steps
    assert data["few median"] == load_policy(out).about.figures["few median"]
    assert list((tmp_path / "logs").glob("events.out.*"))
    assert run([*arguments, "--resume", "--seed", "1"]) == 2
    assert "another seed" in capsys.readouterr().err
