"""`distredge sweep`: files and output, killed and run again, and a real Ray of two nodes."""

from __future__ import annotations

import csv
import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from distredge.cli.main import run
from distredge.experiments.engines import ONE_THREAD

pytestmark = pytest.mark.timeout(600)  # a search takes seconds, several times as many where others work

DOCS = Path(__file__).parents[2] / "docs" / "sweep.md"

TINY = """\
name: tiny
models: [vgg16]
scenarios: [db-50, na-nano]
methods: [offload, search, aofl, exact]
seeds: 2
"""
SMALL = TINY.replace("db-50, ", "")

SWEEP = (sys.executable, "-m", "distredge", "sweep")


def written(folder: Path, text: str) -> str:
    path = folder / "sweep.yaml"
    path.write_text(text)
    return str(path)


def test_rows_summary_and_files(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    spec = written(tmp_path, TINY.replace("search", "equal"))
    plot = str(tmp_path / "bars.png")
    arguments = ["sweep", spec, "--out", str(tmp_path / "out"), "--processes", "1", "--plot", plot]
    assert run([*arguments, "--json"]) == 0
    said = capsys.readouterr()
    data = json.loads(said.out)
    assert "left" in said.err
    cases = [(place, method) for place in ("db-50", "na-nano") for method in ("offload", "equal", "aofl", "exact")]
    assert [(line["scenario"], line["method"]) for line in data["summary"]] == cases
    for scenario in ("db-50", "na-nano"):
        lines = [line for line in data["summary"] if line["scenario"] == scenario]
        best = min(line["median_ms"] for line in lines if line["seeds"])
        assert all(line["over_best"] == pytest.approx(line["median_ms"] / best) for line in lines if line["seeds"])
        assert [line["method"] for line in lines if "cannot prove" in line["why"]] == ["exact"]
    rows = list(csv.DictReader((tmp_path / "out" / "results.csv").read_text().splitlines()))
    assert [float(row["latency_ms"] or 0) for row in rows] == [row["latency_ms"] or 0 for row in data["rows"]]
    assert all(row["seconds"] >= 0 for row in data["rows"])
    assert {"out": data["out"], **json.loads((tmp_path / "out" / "results.json").read_text())} == data
    assert (tmp_path / "bars.png").read_bytes()[:4] == b"\x89PNG"
    assert run(arguments) == 0
    assert "over best" in capsys.readouterr().out


def test_the_sweep_of_the_documentation(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    found = re.search(r"```yaml\n(.*?)```", DOCS.read_text(), re.DOTALL)
    assert found
    spec = written(
        tmp_path, found[1].replace("osds, ", "").replace(", osds: 10", "").replace("search: 5", "search: 0.2")
    )
    assert run(["sweep", spec, "--out", str(tmp_path / "out"), "--processes", "1", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert len(rows) == 2 * 2 * (3 + 1) and all(row["latency_ms"] > 0 for row in rows)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--address", "auto"], "--engine ray"),
        (["--engine", "rai"], "--engine"),
        (["--processes", "0"], "--processes"),
        (["--seed", "-1"], "--seed"),
        (["--plot", "."], "is a folder"),
    ],
)
def test_bad_input_is_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, arguments: list[str], says: str
) -> None:
    out = tmp_path / "out"
    assert run(["sweep", written(tmp_path, TINY), "--out", str(out), *arguments]) == 2
    said = capsys.readouterr().err
    assert says in said and said.count("\n") == 1 and not out.exists()


def test_another_seed_is_refused_and_a_failure_ends_with_1(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*rest: Any) -> None:
        raise OSError("no space")

    arguments = ["sweep", written(tmp_path, TINY), "--out", str(tmp_path), "--processes", "1"]
    with monkeypatch.context() as patched:
        patched.setattr("distredge.experiments.sweep.plan", broken)
        assert run(arguments) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert "10 of 10 cases failed" in said and "vgg16 on db-50 by offload: OSError: no space" in said
    assert run([*arguments, "--seed", "1"]) == 2
    assert "made otherwise (seed 0)" in capsys.readouterr().err


def until(done: Callable[[], object]) -> None:
    """Wait for something; fails if it does not come."""
    end = time.monotonic() + 120.0
    while not done():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)


def rows_in(folder: Path) -> int:
    path = folder / "results.csv"
    return len(path.read_text().splitlines()) - 1 if path.is_file() else 0


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The rows of the small sweep, done in one go."""
    folder = tmp_path_factory.mktemp("undisturbed")
    subprocess.run([*SWEEP, written(folder, SMALL), "--out", str(folder)], check=True, capture_output=True)
    return (folder / "results.csv").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_stopped_in_the_middle_it_goes_on_and_nothing_is_left_running(
    tmp_path: Path, undisturbed: bytes, number: signal.Signals
) -> None:
    arguments = [*SWEEP, written(tmp_path, SMALL), "--out", str(tmp_path), "--processes", "2"]
    with subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        until(lambda: rows_in(tmp_path) >= 2)
        os.kill(process.pid, number)
        _, said = process.communicate(timeout=120)
    code = {signal.SIGINT: 130, signal.SIGKILL: -9}[number]
    assert process.returncode == code and "Traceback" not in said
    until(lambda: not in_session(process.pid))
    assert 2 <= rows_in(tmp_path) < 5
    subprocess.run(arguments, check=True, capture_output=True)
    assert (tmp_path / "results.csv").read_bytes() == undisturbed


@pytest.mark.slow
def test_a_worker_that_is_killed_ends_the_run_with_one_line(tmp_path: Path, undisturbed: bytes) -> None:
    arguments = [*SWEEP, written(tmp_path, SMALL), "--out", str(tmp_path), "--processes", "2"]
    with subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        until(lambda: rows_in(tmp_path) >= 2)
        os.kill(max(in_session(process.pid)), signal.SIGKILL)
        _, said = process.communicate(timeout=120)
    assert process.returncode == 1 and "a worker process was killed" in said.splitlines()[-1]
    subprocess.run(arguments, check=True, capture_output=True)
    assert (tmp_path / "results.csv").read_bytes() == undisturbed


def in_session(leader: int) -> list[int]:
    """The processes of a session that are at work."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            state, _, _, session = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
        except (OSError, ValueError):
            continue
        if entry.name.isdecimal() and int(session) == leader and state != "Z":
            found.append(int(entry.name))
    return found


def answers(host: str, port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((host, port)) == 0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Cluster:
    """Nodes of one CPU each on this machine; `variables` are of their environment and of whoever asks them."""

    folder: Path
    host: str
    mode: str
    variables: dict[str, str]
    port: int = field(default_factory=free_port)
    nodes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, **self.variables, "RAY_AUTH_TOKEN_PATH": str(self.folder / "token"), **ONE_THREAD}

    def start(self, *arguments: str) -> None:
        """Start a node in a session of its own."""
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--num-cpus=1"]
        command += ["--object-store-memory=80000000", "--disable-usage-stats", *arguments]
        environment = self.environment | {"RAY_AUTH_MODE": self.mode}
        with (self.folder / f"node{len(self.nodes)}.log").open("wb") as log:
            node = subprocess.Popen(
                command, stdout=log, stderr=log, env=environment, cwd=self.folder, start_new_session=True
            )
        self.nodes.append(node)

    def stop(self) -> None:
        """End what was started, by its ids."""
        for node in reversed(self.nodes):
            node.terminate()
            node.wait(40)
        until(lambda: not [pid for node in self.nodes for pid in in_session(node.pid)])

    def asked(self, *command: str, token: str = "token") -> subprocess.CompletedProcess[str]:
        environment = self.environment | {"RAY_AUTH_TOKEN_PATH": str(self.folder / token)}
        return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=400, check=False)


@contextmanager
def head(host: str, mode: str, variables: dict[str, str]) -> Iterator[Cluster]:
    """The first node of a cluster, and files with two tokens, of which it knows the first."""
    pytest.importorskip("ray")
    with tempfile.TemporaryDirectory(prefix="dr", dir="/tmp") as folder:  # a socket's path has 107 bytes at most
        made = Cluster(Path(folder), host, mode, variables)
        for name in ("token", "other"):
            (made.folder / name).touch(0o600)
            (made.folder / name).write_text(secrets.token_hex(32))
        ports = (f"--port={made.port}", f"--ray-client-server-port={free_port()}")
        made.start("--head", f"--node-ip-address={host}", f"--temp-dir={folder}/r", "--include-dashboard=false", *ports)
        try:
            until(lambda: answers(host, made.port))
            yield made
        finally:
            made.stop()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Two nodes, at two addresses of the loopback network."""
    with head("127.0.0.2", "token", {}) as made:
        made.start(f"--address={made.address}", "--node-ip-address=127.0.0.3")
        yield made


NODES = """\
import sys, time
from pathlib import Path
from distredge.experiments.base import FULL, Experiment, Shown
from distredge.experiments.ray_engine import ray_engine
from distredge.experiments.runner import run

def work(case, effort):
    import ray
    time.sleep(1.0)
    return [{**case, "node": ray.get_runtime_context().get_node_id()}]

nodes = Experiment(
    name="results", title="", paper="", here="", key=("case",), columns={"case": int, "node": str},
    cases=lambda effort: [{"case": k} for k in range(8)], run=work, cost_s=lambda case, effort: 1.0,
    draw=lambda rows, path: None, table=lambda rows: Shown((), ()),
)
with ray_engine(sys.argv[1], 1) as engine:
    while sum(node["Alive"] for node in engine.ray.nodes()) < 2:
        time.sleep(0.2)
    rows = run([nodes], Path(sys.argv[2]), FULL, engine)["results"]
print(*(row["node"] for row in rows))
"""


@pytest.mark.slow
def test_two_nodes_do_the_rows_of_one_process(tmp_path: Path, undisturbed: bytes, cluster: Cluster) -> None:
    spec = written(tmp_path, SMALL)
    done = cluster.asked(
        *SWEEP, spec, "--out", str(tmp_path), "--engine", "ray", "--address", cluster.address, "--json"
    )
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["rows"]) == 5
    assert (tmp_path / "results.csv").read_bytes() == undisturbed
    token = (cluster.folder / "token").read_text()
    said = done.stdout + done.stderr + "".join(path.read_text() for path in tmp_path.iterdir())
    assert token not in said
    script = tmp_path / "nodes.py"
    script.write_text(NODES)
    done = cluster.asked(sys.executable, str(script), cluster.address, str(tmp_path / "nodes"))
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split()) == 8 and len(set(done.stdout.split())) == 2


@pytest.mark.slow
def test_a_wrong_token_is_refused(tmp_path: Path, cluster: Cluster) -> None:
    arguments = (*SWEEP, written(tmp_path, SMALL), "--out", str(tmp_path), "--engine", "ray")
    done = cluster.asked(*arguments, "--address", cluster.address, token="other")
    assert done.returncode == 1 and "refuses the token" in done.stderr.splitlines()[-1]
    assert rows_in(tmp_path) == 0


@pytest.mark.slow
def test_a_ray_that_asks_for_no_token_is_refused(tmp_path: Path) -> None:
    loopback = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}  # such a node must not be reached from elsewhere
    with head("127.0.0.1", "disabled", loopback) as open_ray:
        arguments = (*SWEEP, written(tmp_path, SMALL), "--out", str(tmp_path), "--engine", "ray")
        done = open_ray.asked(*arguments, "--address", open_ray.address)
    assert done.returncode == 1 and "asks for no token" in done.stderr.splitlines()[-1]
    assert rows_in(tmp_path) == 0


@pytest.mark.slow
def test_cases_of_a_lost_node_are_done_by_others(tmp_path: Path, cluster: Cluster) -> None:
    script = tmp_path / "nodes.py"
    script.write_text(NODES)
    command = [sys.executable, str(script), cluster.address, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=cluster.environment, text=True) as process:
        until(lambda: rows_in(tmp_path) >= 2)
        for pid in in_session(cluster.nodes[1].pid):
            os.kill(pid, signal.SIGKILL)
        said, _ = process.communicate(timeout=400)
    assert process.returncode == 0 and len(said.split()) == 8


@pytest.mark.slow
def test_a_ray_of_its_own_does_the_same_rows_and_is_gone_after_it(tmp_path: Path, undisturbed: bytes) -> None:
    pytest.importorskip("ray")
    places = tempfile.mkdtemp(prefix="dr", dir="/tmp")
    arguments = [*SWEEP, written(tmp_path, SMALL), "--out", str(tmp_path), "--engine", "ray", "--processes", "2"]
    environment = {**os.environ, "TMPDIR": places}
    with subprocess.Popen(arguments, stdout=subprocess.DEVNULL, env=environment, start_new_session=True) as process:
        assert process.wait(400) == 0
    assert (tmp_path / "results.csv").read_bytes() == undisturbed
    until(lambda: not in_session(process.pid))
    os.rmdir(places)
