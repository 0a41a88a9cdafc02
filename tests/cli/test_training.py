"""`distredge train`: the same bytes for the same seed, whatever happens on the way; settings, seeds, tuning, logs."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from distredge.agents.actor_file import POLICY, load_agent
from distredge.agents.checkpoint import AGENT, BEST, CHECKPOINT
from distredge.cli.main import run
from distredge.testing.toy_models import chain, save_model

SHORT = ("--set", "screen.rounds=1", "--set", "episodes=64")
RESULTS = ("plan.json", POLICY, BEST)


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(chain(np.random.default_rng(0)), tmp_path_factory.mktemp("model"))


def train(toy: Path, out: Path, *more: str) -> int:
    return run(["train", str(toy), "--scenario", "db-50", "--out", str(out), *more])


def contents(out: Path, names: tuple[str, ...] = RESULTS) -> dict[str, bytes]:
    return {name: (out / name).read_bytes() for name in names}


def test_same_seed_same_bytes(toy: Path, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        assert train(toy, tmp_path / folder, *SHORT, "--seed", "3") == 0
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_a_trained_agent_plans_again_what_it_was_trained_for(
    toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(toy, tmp_path, *SHORT) == 0
    plan = ["plan", str(toy), "--agent", str(tmp_path / POLICY)]
    assert run([*plan, "--scenario", "db-50", "--out", str(tmp_path / "again.json")]) == 0
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "plan.json").read_bytes()
    capsys.readouterr()
    assert run([*plan, "--scenario", "lb"]) == 2
    assert "was trained for the providers" in capsys.readouterr().err


SAVING_OFTEN = """
import distredge.agents.training
from distredge.cli.main import main
distredge.agents.training.CHECKPOINT_EVERY_S = 0.1
main()
"""


@pytest.mark.timeout(300)
@pytest.mark.parametrize("preset", ["default", "paper"])
def test_killed_and_resumed_it_ends_as_if_nothing_had_happened(toy: Path, tmp_path: Path, preset: str) -> None:
    length = {"default": "2048", "paper": "300"}[preset]
    more = ("--preset", preset, "--set", f"episodes={length}") + (SHORT[:2] if preset == "default" else ())
    assert train(toy, tmp_path / "whole", *more) == 0
    killed = tmp_path / "killed"
    command = ["train", str(toy), "--scenario", "db-50", "--out", str(killed), *more]
    with subprocess.Popen([sys.executable, "-c", SAVING_OFTEN, *command], stderr=subprocess.DEVNULL) as process:
        saved = set()
        while len(saved) < 3:  # kept anew at least twice: in the middle
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.01)
            saved |= {path.stat().st_mtime_ns for path in killed.glob(CHECKPOINT)}
        process.send_signal(signal.SIGKILL)
    assert not (killed / AGENT).exists()
    assert train(toy, killed, *more, "--resume") == 0
    assert contents(killed) == contents(tmp_path / "whole")


@pytest.mark.timeout(300)
def test_several_seeds_are_those_of_single_trainings_and_the_best_is_kept(
    toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    many, single = tmp_path / "many", tmp_path / "single"
    paper = ("--preset", "paper", "--set", "episodes=10")
    capsys.readouterr()
    assert train(toy, many, *paper, "--seeds", "2", "--seed", "4", "--json") == 0
    data = json.loads(capsys.readouterr().out)
    assert [row["seed"] for row in data["seeds"]] == [4, 5]
    best = min(data["seeds"], key=lambda row: row["best_latency_ms"])
    assert data["best_latency_ms"] == best["best_latency_ms"]
    assert contents(many, RESULTS[:2]) == contents(many / f"seed-{best['seed']}", RESULTS[:2])
    assert train(toy, single, *paper, "--seed", "5") == 0
    assert contents(many / "seed-5") == contents(single)


def test_settings_are_changed_on_the_command_line(toy: Path, tmp_path: Path) -> None:
    changes = ("--set", "actor.layers=[8, 8]", "--set", "polish=null", "--set", "actor.learning_rate=3e-4")
    assert train(toy, tmp_path, *SHORT, *changes) == 0
    assert [len(bias) for _, bias in load_agent(tmp_path / POLICY).actor.layers[:-1]] == [8, 8]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("actor.learning_rate=3", "'actor.learning_rate': Input should be less than 1 (allowed: more than 0, less"),
        ("batch=0", "(allowed: at least 1, at most 65536)"),
        ("noise.largest=big", "largest': Input should be a valid number"),
        ("gama=1", "unknown key 'gama', did you mean 'gamma'"),
        ("elites.kep=3", "did you mean 'keep'"),
        ("tau", "not of the form KEY=VALUE"),
        ("tau={", "not valid YAML"),
    ],
)
def test_a_wrong_setting_is_one_line(
    toy: Path, tmp_path: Path, change: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert train(toy, tmp_path, "--set", change) == 2
    err = capsys.readouterr().err
    assert said in err
    assert len(err.splitlines()) == 1


def test_tuning_goes_on_where_it_was_and_writes_a_preset(
    toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = []
    for out, counts in ((tmp_path / "once", (5,)), (tmp_path / "twice", (3, 5))):
        for count in counts:
            capsys.readouterr()
            assert train(toy, out, *SHORT, "--tune", str(count), "--json") == 0
        data = json.loads(capsys.readouterr().out)
        assert data["best_ms"] <= data["first_ms"]
        assert data.pop("preset") == str(out / "tuned.yaml")
        found.append((data, (out / "tuned.yaml").read_text()))
    assert found[0] == found[1]
    assert train(toy, tmp_path / "tuned", "--preset", str(tmp_path / "once" / "tuned.yaml")) == 0
    assert train(toy, tmp_path / "tuned", "--tune", "2", "--seeds", "2") == 2


def test_logs_show_what_users_look_for(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert run(["train", "vgg16", "--scenario", "db-50", "--out", str(tmp_path), *SHORT]) == 0
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    tags = events.Tags()
    wanted = {"train/return", "train/critic_loss", "latency_ms/best", "latency_ms/greedy"}
    wanted |= {"over_gold/best", "over_gold/greedy"}
    assert wanted <= set(tags["scalars"])
    assert events.Scalars("over_gold/best")[-1].value >= 0.999
    assert tags["images"] == ["plan/best"]
    started = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    assert b"actor.learning_rate" in started
    assert (tmp_path / "plan.png").is_file()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_ctrl_c_ends_all_seeds_with_what_they_have(toy: Path, tmp_path: Path) -> None:
    more = ["--set", "episodes=1000000", "--seeds", "2"]
    command = ["-m", "distredge", "train", str(toy), "--scenario", "db-50", "--out", str(tmp_path), *more]
    with subprocess.Popen([sys.executable, *command], stderr=subprocess.PIPE, text=True) as process:
        while len(list(tmp_path.glob(f"seed-*/{CHECKPOINT}"))) < 2:
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "interrupted: kept what was found" in err
    assert {path.parent.name for path in tmp_path.glob("*/plan.json")} == {"seed-0", "seed-1"}
