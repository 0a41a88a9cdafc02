"""The command line: what it prints, writes and returns, for good input and bad."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from distredge.cli.main import app, run
from distredge.cli.running import check_difference
from distredge.errors import VerificationError
from distredge.testing.toy_models import chain, save_model

COMMANDS = [command.name for command in app.registered_commands]


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    capsys.readouterr()
    code = run([str(a) for a in arguments])
    out, err = capsys.readouterr()
    return code, out, err


def call_json(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict:
    code, out, err = call(capsys, *arguments, "--json")
    assert code == 0, err
    return json.loads(out)


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    return save_model(chain(np.random.default_rng(0)), tmp_path)


@pytest.fixture
def toy_plan(capsys: pytest.CaptureFixture[str], toy: Path, tmp_path: Path) -> Path:
    path = tmp_path / "plan.json"
    assert call(capsys, "plan", toy, "--scenario", "db-50", "--method", "equal", "--out", path)[0] == 0
    return path


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_json_seed_help_and_an_example(capsys: pytest.CaptureFixture[str], command: str) -> None:
    code, out, _ = call(capsys, command, "--help")
    assert code == 0
    for part in ("--json", "--seed", f"Example: distredge {command}"):
        assert part in " ".join(out.split())


def test_inspect(capsys: pytest.CaptureFixture[str], toy: Path) -> None:
    data = call_json(capsys, "inspect", toy)
    first = data["layers"][0]
    assert set(first) == {"name", "op", "out_shape", "kernel", "stride", "macs", "params", "inputs", "whole"}
    assert first["inputs"] == ["input"]
    assert data["partition_points"][0] == first["name"]
    assert call(capsys, "inspect", toy)[0] == 0


def test_partition_of_vgg16(capsys: pytest.CaptureFixture[str]) -> None:
    data = call_json(capsys, "partition", "vgg16", "--scenario", "db-50")
    layers = [name for volume in data["volumes"] for name in volume["layers"]]
    assert layers[0] == "conv1_1"
    assert layers[-1] == "pool5"
    assert len(layers) == 18
    assert data["score"] > 0
    fine = call_json(capsys, "partition", "vgg16", "--scenario", "db-50", "--alpha", 0)
    assert len(fine["volumes"]) > len(data["volumes"])


def test_plan_simulate_and_draw(capsys: pytest.CaptureFixture[str], toy: Path, toy_plan: Path, tmp_path: Path) -> None:
    plan = json.loads(toy_plan.read_text())
    assert plan["schema_version"] == 1
    assert plan["providers"] == ["xavier-0", "xavier-1", "nano-0", "nano-1"]
    picture = tmp_path / "plan.png"
    data = call_json(capsys, "simulate", toy_plan, "--scenario", "db-50", "--model", toy, "--plot", picture)
    assert data["latency_ms"] == pytest.approx(plan["predicted"]["latency_ms"])
    assert data["ips"] == pytest.approx(1000 / data["latency_ms"])
    assert 0 < data["lower_bound_ms"] <= data["latency_ms"]
    part = data["volumes"][0]["providers"]["xavier-0"]
    assert {"receive_ms", "compute_ms", "wait_ms", "rows", "redundant_rows", "bytes_in"} <= set(part)
    height = plan["volumes"][0]["cuts"][-1]
    assert sum(p["rows"] for p in data["volumes"][0]["providers"].values()) == height
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert call(capsys, "simulate", toy_plan, "--scenario", "db-50", "--model", toy)[0] == 0


def test_plan_is_the_same_for_the_same_seed(capsys: pytest.CaptureFixture[str], toy: Path) -> None:
    first, second = (
        call_json(capsys, "plan", toy, "--scenario", "da-50", "--method", "equal", "--seed", 3) for _ in range(2)
    )
    assert {**first, "seconds": 0} == {**second, "seconds": 0}


def test_profiles(capsys: pytest.CaptureFixture[str]) -> None:
    listed = call_json(capsys, "profiles")
    names = {row["name"] for row in listed}
    assert {"jetson-nano", "jetson-tx2", "jetson-agx-xavier", "raspberry-pi-3b"} <= names
    assert call_json(capsys, "profile-show", "jetson-nano")["kind"] == "calibrated"
    code, out, _ = call(capsys, "profile-show", "jetson-nano")
    assert code == 0
    assert "calibrated" in out


# ---- bad input: one line, exit code 2, nothing written ---------------------------------------------------------------


def no_cnn(folder: Path) -> Path:
    node = helper.make_node("Gemm", ["x", "w"], ["y"], name="fc")
    weight = helper.make_tensor("w", TensorProto.FLOAT, [4, 2], np.zeros(8, np.float32))
    graph = helper.make_graph(
        [node], "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2])], [weight],
    )  # fmt: skip
    path = folder / "mlp.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), path)
    return path


def batch_of_two(folder: Path) -> Path:
    model = chain(np.random.default_rng(0))
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
    path = folder / "two.onnx"
    onnx.save(model, path)
    return path


def broken(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_bad_input_is_one_line_and_exit_code_2(
    capsys: pytest.CaptureFixture[str], toy: Path, toy_plan: Path, tmp_path: Path
) -> None:
    wrong_cuts = json.loads(toy_plan.read_text())
    wrong_cuts["volumes"][0]["cuts"][2] = 10_000
    wrong_hash = json.loads(toy_plan.read_text())
    wrong_hash["model"]["sha256"] = "0" * 64
    out = tmp_path / "never.json"
    cases: list[tuple[list[object], str]] = [
        (["plan", "vgg-16", "--scenario", "db-50"], "did you mean 'vgg16'"),
        (["plan", toy, "--scenario", "db50", "--method", "equal", "--out", out], "did you mean 'db-50'"),
        (["plan", toy, "--scenario", "db-50", "--method", "serch", "--out", out], "did you mean 'search'"),
        (["plan", toy, "--method", "equal"], "--scenario"),
        (["plan", toy, "--scenario", "db-50", "--budget-s", "-1"], "--budget-s"),
        (["profile-show", "jetson-nani"], "did you mean 'jetson-nano'"),
        (["partition", toy, "--scenario", "db-50", "--alpha", "2"], "alpha"),
        (["partition", toy, "--scenario", "db-50", "--samples", "0"], "samples"),
        (["inspect", no_cnn(tmp_path)], "CNN"),
        (["inspect", tmp_path / "absent.onnx"], "absent.onnx"),
        (["inspect", broken(tmp_path, "noise.onnx", "no model")], "noise.onnx"),
        (["plan", toy, "-s", broken(tmp_path, "a.yaml", "name: [")], "not valid YAML"),
        (["plan", toy, "-s", broken(tmp_path, "b.yaml", "name: x\nprovider: []\n")], "did you mean 'providers'"),
        (
            [
                "plan",
                toy,
                "-s",
                broken(
                    tmp_path, "c.yaml", "name: x\nproviders: [{name: a, profile: jetson-nono, bandwidth_mbps: 5}]\n"
                ),
            ],
            "jetson-nano",
        ),
        (["simulate", broken(tmp_path, "p.json", "{"), "-s", "db-50"], "not valid JSON"),
        (["simulate", tmp_path / "absent.json", "-s", "db-50"], "absent.json"),
        (["simulate", broken(tmp_path, "cuts.json", json.dumps(wrong_cuts)), "-s", "db-50", "--model", toy], "cuts"),
        (
            ["simulate", broken(tmp_path, "hash.json", json.dumps(wrong_hash)), "-s", "db-50", "--model", toy],
            "was made for",
        ),
        (["simulate", toy_plan, "-s", "da-50", "--model", toy], "not in scenario 'da-50'"),
        (["up", toy_plan, "--model", toy, "--images", tmp_path / "absent"], "absent"),
        (["run", toy_plan, "--model", toy, "--images", "1"], "address"),
        (["run", toy_plan, "--model", toy, "--images", "1", "--at", "nobody=127.0.0.1:1"], "--at"),
        (["frobnicate"], "frobnicate"),
        (["plan", toy, "-s", "db-50", "--method", "equal", "--out", tmp_path], "is a folder"),
        (["plan", toy, "-s", "db-50", "--method", "equal", "--out", ""], "is a folder"),
        (["plan", toy, "-s", "db-50", "--method", "equal", "--out", toy / "plan.json"], "cannot write"),
        (["simulate", toy_plan, "-s", "db-50", "--model", toy, "--plot", toy / "plan.png"], "cannot write"),
        (["partition", toy, "-s", "db-50", "--samples", "999999999999"], "samples"),
        (["up", toy_plan, "--model", toy, "--threads", "100000"], "--threads"),
        (["up", toy_plan, "--model", toy, "--inflight", "100000"], "--inflight"),
        (["keys", tmp_path / "keys", ".."], "cannot name a provider"),
        (["plan", batch_of_two(tmp_path), "-s", "db-50"], "2 images at a time"),
    ]
    before = sorted(p.name for p in tmp_path.iterdir())
    for arguments, words in cases:
        code, printed, error = call(capsys, *arguments)
        shown = f"{arguments}: {code} {error}"
        assert code == 2, shown
        assert error.count("\n") == 1, shown
        assert error.startswith("error: "), shown
        assert words in error, shown
        assert printed == "", shown
    assert sorted(p.name for p in tmp_path.iterdir()) == before


@pytest.mark.parametrize("method", ["search", "osds"])
@pytest.mark.parametrize("seconds", [1.0, 8.0])
def test_ctrl_c_ends_in_one_line(tmp_path: Path, method: str, seconds: float) -> None:
    """While modules are loaded, and in the middle of compiled code, which turns it into another error."""
    out = tmp_path / "plan.json"
    command = [sys.executable, "-m", "distredge", "plan", "vgg16", "--scenario", "lb", "--method", method]
    command += ["--out", str(out), "--budget-s", "60"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        time.sleep(seconds)
        process.send_signal(signal.SIGINT)
        try:
            printed, error = process.communicate(timeout=30)
        finally:
            process.kill()
    assert (printed, error) == ("", "error: interrupted\n")
    # Python ends itself by the signal if that fell into code made from a string, as dataclasses are: 130 to a shell.
    assert process.returncode in (130, -signal.SIGINT)
    assert not out.exists()


def test_ctrl_c_in_a_compilers_callback_ends_in_one_line(tmp_path: Path) -> None:
    """LLVM's callbacks into Python swallow the exception, and then miss what they should have been told."""
    program = """
import os, signal, sys
from llvmlite.binding import executionengine
from distredge.__main__ import main

read = executionengine.string_at  # what the callback begins with

def press(*arguments):
    os.kill(os.getpid(), signal.SIGINT)
    return read(*arguments)

executionengine.string_at = press
sys.argv = ["distredge", "plan", "vgg16", "--scenario", "lb", "--method", "search"]
main()
"""
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}  # where nothing has been compiled yet
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, env=environment, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "error: interrupted\n")


@pytest.mark.parametrize(
    ("wire", "difference", "refused"),
    [("float32", 1e-5, False), ("float32", 2e-4, True), ("float32", math.inf, True), ("float16", 2e-4, False)]
    + [("float16", math.inf, True), ("float32", None, False)],
)
def test_a_result_that_is_not_the_undivided_models_is_refused(
    wire: str, difference: float | None, refused: bool
) -> None:
    with pytest.raises(VerificationError) if refused else nullcontext():
        check_difference({"wire": wire, "max_abs_diff": difference})


def test_no_traceback_from_the_real_program(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "distredge", "plan", "nothing-like-it", "--scenario", "db-50"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: unknown model 'nothing-like-it'")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("module", ["torch", "gymnasium", "stable_baselines3", "matplotlib", "onnxruntime", "numba"])
def test_help_is_light(module: str) -> None:
    code = f"import sys; from distredge.cli.main import run; run(['--help']); sys.exit('{module}' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0
