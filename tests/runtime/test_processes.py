"""Plans on provider processes: real ones, started, killed and left alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from distredge.engine.base import FloatRows
from distredge.errors import ProviderLostError, RunError
from distredge.model.graph import IMAGE, LayerGraph
from distredge.model.load import load_model
from distredge.profiles.network import occupancy_ms
from distredge.runtime import conductor
from distredge.runtime.keys import Keys, create_keys
from distredge.runtime.launch import Launcher
from distredge.runtime.requester import Requester
from distredge.runtime.run import RunOptions, difference, emulations, run_here
from distredge.scenario import REQUESTER
from distredge.simulate.timeline import trace
from distredge.testing.providers import equal_plan, random_images, toy_scenario
from distredge.testing.toy_models import chain, save_model

NAMES = ["a", "b"]


@pytest.fixture
def graph(tmp_path: Path) -> LayerGraph:
    return load_model(save_model(chain(np.random.default_rng(0), height=48, width=32), tmp_path))


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    create_keys(tmp_path / "keys", [REQUESTER, *NAMES])
    return tmp_path / "keys"


def children() -> set[int]:
    """Processes that this one has started and that are still there."""
    return {int(pid) for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()}


@pytest.fixture
def earlier() -> set[int]:
    """Children of other tests' making: multiprocessing keeps a tracker for as long as Python lives."""
    return children()


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def endless(image: FloatRows) -> Iterator[FloatRows]:
    while True:
        yield image


def test_a_run_on_this_machine_is_exact_and_leaves_nothing_behind(graph: LayerGraph, earlier: set[int]) -> None:
    report = run_here(
        equal_plan(graph, NAMES), toy_scenario(NAMES), random_images(graph, 3), RunOptions(verify=True, inflight=2)
    )
    assert report.max_abs_diff is not None and report.max_abs_diff <= 1e-5
    assert report.images == 3
    assert children() <= earlier


def test_an_emulated_run_is_no_faster_than_its_boards_and_links(graph: LayerGraph) -> None:
    bound = equal_plan(graph, NAMES)
    scenario = toy_scenario(NAMES, bandwidth_mbps=5.0)
    report = run_here(bound, scenario, random_images(graph, 3), RunOptions(emulate=True))
    assert report.max_abs_diff is None
    # Provider b: its image rows come down its link, it computes its stages one after the other, its rows go up.
    image_rows = bound.needs(0, 1)[IMAGE].size * graph.input_shape[1] * graph.input_shape[3] * 2
    own_rows = bound.owned(1, 1).size * graph.layers[-1].row_elements * 2
    fastest = sum(emulations(bound, scenario)["b"].hold_ms) + occupancy_ms(image_rows + own_rows, 5.0)
    assert fastest < trace(bound, scenario).latency_ms
    assert report.latency_ms.p50 >= fastest
    assert report.per_provider["b"].compute_ms >= sum(emulations(bound, scenario)["b"].hold_ms)


def test_a_stream_outlives_a_provider_that_is_killed(graph: LayerGraph, keys: Path, earlier: set[int]) -> None:
    bound, images = equal_plan(graph, NAMES), random_images(graph, 40)
    with Launcher(NAMES, keys) as launcher:
        with Requester(bound, launcher.addresses, keys=Keys.load(keys, REQUESTER)) as requester:
            results = []
            for result in requester.stream(images, inflight=2):
                results.append(result)
                if result.index == 3:
                    os.kill(launcher.process_ids()["b"], signal.SIGKILL)
        assert [result.index for result in results] == list(range(40))
        assert difference(bound, images, results) <= 1e-5
        assert [begun.reason for begun in requester.history] == ["the first plan", "b is lost"]
        with pytest.raises(ProviderLostError, match="'b' .* has ended .signal 9"):
            launcher.check()
    assert children() <= earlier


def test_a_stream_ends_with_a_reason_when_nobody_is_left(
    graph: LayerGraph, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conductor, "STRANDED_S", 0.5)
    bound = equal_plan(graph, NAMES)
    with (
        Launcher(NAMES, keys) as launcher,
        pytest.raises(RunError, match="has stopped answering; no provider is left"),
        Requester(bound, launcher.addresses, keys=Keys.load(keys, REQUESTER)) as requester,
    ):
        for result in requester.stream(endless(random_images(graph, 1)[0]), inflight=2):
            if result.index == 3:
                for pid in launcher.process_ids().values():
                    os.kill(pid, signal.SIGKILL)


def test_providers_end_when_the_process_that_started_them_is_killed(keys: Path, tmp_path: Path) -> None:
    code = f"""
import sys, time
from pathlib import Path
from distredge.runtime.launch import Launcher
with Launcher({NAMES!r}, Path({str(keys)!r})) as launcher:
    print(*launcher.process_ids().values(), flush=True)
    time.sleep(60)
"""
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment) as parent:
        assert parent.stdout is not None
        providers = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(providers) == 2 and all(is_running(pid) for pid in providers)
        parent.kill()
    deadline = time.monotonic() + 10
    while any(is_running(pid) for pid in providers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(is_running(pid) for pid in providers)


def test_providers_are_free_again_when_their_requester_is_killed(graph: LayerGraph, keys: Path) -> None:
    code = f"""
import sys
from pathlib import Path
from distredge.model.load import load_model
from distredge.runtime.keys import Keys
from distredge.runtime.requester import Requester
from distredge.testing.providers import equal_plan, random_images
graph = load_model({str(graph.path)!r})
addresses = dict(zip({NAMES!r}, sys.argv[1:]))
with Requester(equal_plan(graph, {NAMES!r}), addresses, keys=Keys.load(Path({str(keys)!r}), "requester")) as requester:
    for result in requester.stream(random_images(graph, 1) * 100_000):
        print(result.index, flush=True)
"""
    bound = equal_plan(graph, NAMES)
    with Launcher(NAMES, keys) as launcher:
        command = [sys.executable, "-c", code, *(launcher.addresses[name] for name in NAMES)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as first:
            assert first.stdout is not None
            assert first.stdout.readline() == "0\n"
            first.kill()
        # They refuse it for as long as they believe in the first one, and it gives up after ten seconds.
        with Requester(bound, launcher.addresses, keys=Keys.load(keys, REQUESTER)) as second:
            assert len([*second.stream(random_images(graph, 2))]) == 2


def test_a_provider_that_cannot_start_says_why_in_one_line(keys: Path, earlier: set[int]) -> None:
    with pytest.raises(RunError, match="provider 'stranger' did not start: .*cannot read the key") as failure:
        Launcher(["a", "stranger"], keys).__enter__()
    assert "\n" not in str(failure.value)
    assert children() <= earlier


@pytest.mark.parametrize("options", [[], ["--until-stdin-closes"]])
def test_a_terminated_provider_ends_without_a_word(options: list[str]) -> None:
    command = [sys.executable, "-m", "distredge", "provider", "--name", "a", "--listen", "127.0.0.1:0", "--json"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([*command, *options], **pipes) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.terminate()
        _, complaint = process.communicate(timeout=20)
    assert (process.returncode, complaint) == (0, b"")


def test_who_looks_for_plans_ends_with_a_requester_that_is_killed(tmp_path: Path) -> None:
    program = tmp_path / "looking.py"
    program.write_text(
        "import time\n"
        "from distredge import api\n"
        "from distredge.model.load import load_model\n"
        "from distredge.runtime.replan import Improvement, Improver\n"
        "from distredge.scenario import load_scenario\n"
        "if __name__ == '__main__':\n"
        "    graph, scenario = load_model('squeezenet1_1'), load_scenario('na-nano')\n"
        "    bound = api.plan(graph, scenario, method='equal').bind(graph)\n"
        "    improvement = Improvement(Improver(bound, scenario), print)\n"
        "    improvement.warm_up()\n"
        "    print(*improvement._pool._processes, flush=True)\n"
        "    time.sleep(60)\n"
    )
    process = subprocess.Popen(
        [sys.executable, str(program)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    try:
        looking = int(process.stdout.readline())
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    deadline = time.monotonic() + 30.0
    while is_running(looking) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_running(looking)
