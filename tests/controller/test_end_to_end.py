"""Real processes: a controller, providers that register, a stream that tells and obeys. No image is lost, whatever."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from distredge.control.client import Api, RefusedError, UnreachableError
from distredge.control.schema import plan_sha256
from distredge.model.load import load_model
from distredge.plans.plan import Plan
from distredge.scenario import Provider, Scenario
from distredge.testing.providers import equal_plan
from distredge.testing.toy_models import residual, save_model

PATIENCE_S = 60.0
NAMES = ("a", "b", "c")


@contextmanager
def running(command: Sequence[str], log: Path) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """A `distredge` process and the JSON line with which it begins; killed at the end, if it is still there."""
    with log.open("ab") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "distredge", *command], stdout=subprocess.PIPE, stderr=file, text=True
        )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line, log.read_text()
        yield process, json.loads(line)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def until(what: Callable[[], Any], said: str) -> Any:
    """What is true at last."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        try:
            if found := what():
                return found
        except (UnreachableError, RefusedError):
            pass
        time.sleep(0.05)
    raise AssertionError(f"in {PATIENCE_S:.0f} s: {said}")


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    """Three providers on a small model; the scenario's file is beside it."""
    import numpy as np
    import yaml

    graph = load_model(save_model(residual(np.random.default_rng(0), height=48), tmp_path))
    made = equal_plan(graph, NAMES).plan.model_copy(update={"scenario": str(tmp_path / "lab.yaml")})
    made.save(tmp_path / "plan.json")
    scenario = Scenario(
        name="lab",
        providers=tuple(Provider(name=name, profile="jetson-nano", bandwidth_mbps=200) for name in NAMES),
    )
    (tmp_path / "lab.yaml").write_text(yaml.safe_dump(scenario.model_dump(mode="json")))
    return made


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_stream_obeys_outlives_its_controller_and_tells_what_happened_meanwhile(tmp_path: Path, plan: Plan) -> None:
    state, log = tmp_path / "state.sqlite", tmp_path / "log"
    serve = ["controller", "--json", "--state", str(state), "--models", str(tmp_path)]
    model = next(tmp_path.glob("*.onnx"))
    frames = tmp_path / "frames.jsonl"
    images = 1500
    with ExitStack() as stack, running([*serve, "--listen", "127.0.0.1:0"], log) as (first, said):
        url = said["url"]
        api = stack.enter_context(closing(Api(url)))
        with (
            running(["provider", "--json", "--name", "a", "--listen", "127.0.0.1:0", "--controller", url], log) as (
                _,
                a,
            ),
            running(["provider", "--json", "--name", "b", "--listen", "127.0.0.1:0", "--controller", url], log) as (
                _,
                b,
            ),
            running(["provider", "--json", "--name", "c", "--listen", "127.0.0.1:0", "--controller", url], log) as (
                _,
                c,
            ),
        ):
            at = [f"--at={item['name']}={item['address']}" for item in (a, b, c)]
            until(lambda: len(json.loads(api.call("GET", "/v1/devices"))) == 3, "three devices registered")
            devices = {d["name"]: d for d in json.loads(api.call("GET", "/v1/devices"))}
            assert devices["b"]["registration"]["address"] == b["address"]
            assert {d["health"] for d in devices.values()} == {"up"}
            command = [sys.executable, "-m", "distredge", "run", str(tmp_path / "plan.json"), "--json", "--verify"]
            command += ["--images", str(images), "--model", str(model), "--frames", str(frames), *at]
            command += ["--controller", url, "--name", "camera", "--deadline-ms", "10000"]
            with log.open("ab") as file:
                stream = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=file, text=True)
            try:
                known = until(lambda: json.loads(api.call("GET", "/v1/streams")), "the stream is known")[0]
                where = f"/v1/streams/{known['stream']}"
                summary = lambda: json.loads(api.call("GET", where))["summary"]  # noqa: E731
                until(lambda: summary()["epoch"] >= 1 and summary()["latency"], "it has told of frames")
                until(
                    lambda: all(d["serving"] for d in json.loads(api.call("GET", "/v1/devices"))),
                    "devices say they serve",
                )
                orders = json.loads(api.call("POST", f"{where}/pin", b'{"reason": "to see"}'))
                assert (orders["version"], orders["pinned"], orders["reason"]) == (1, True, "to see")

                first.send_signal(signal.SIGKILL)
                first.wait()
                before = len(frames.read_text().splitlines())
                until(lambda: len(frames.read_text().splitlines()) > before + 50, "frames go on without a controller")
                with running([*serve, "--listen", url.removeprefix("http://")], log) as (_, _):
                    until(lambda: summary()["heard_s"] > known["heard_s"] and summary()["live"], "it is heard of again")
                    assert summary()["orders"]["version"] == 1
                    until(
                        lambda: {d["health"] for d in json.loads(api.call("GET", "/v1/devices"))} == {"up"},
                        "devices are heard of again",
                    )
                    api.call("POST", f"{where}/unpin", b"{}")
                    out, _ = stream.communicate(timeout=250)
                    events = json.loads(api.call("GET", f"/v1/events?limit=500&stream={known['stream']}"))
            finally:
                stream.kill()
                stream.wait()
    report = json.loads(out)
    assert report["images"] == images
    assert report["max_abs_diff"] <= 1e-4
    assert [json.loads(line)["index"] for line in frames.read_text().splitlines()] == list(range(images))
    kinds = [event["kind"] for event in events]
    assert kinds[0] == "stream_opened"
    assert kinds[-1] == "stream_closed"
    assert {"plan_in_force", "pinned", "unpinned"} <= {*kinds}
    assert all(event["reason"] for event in events)
    assert events[0]["data"]["plan_sha256"] == plan_sha256(plan)
