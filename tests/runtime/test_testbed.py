"""A test-bed on this machine: real namespaces, shaped links, provider processes. Needs root."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from distredge.cli.main import run
from distredge.errors import DistrEdgeError, InputError, ProviderLostError, RunError
from distredge.model.graph import LayerGraph
from distredge.model.load import load_model
from distredge.runtime.testbed import bed as testbed
from distredge.runtime.testbed.guard import Guard
from distredge.runtime.testbed.namespaces import Namespace, check_host
from distredge.runtime.testbed.quota import find_controller
from distredge.runtime.testbed.scale import write_scenario
from distredge.runtime.testbed.star import Star
from distredge.scenario import Provider, Scenario, load_scenario
from distredge.testing.providers import equal_plan
from distredge.testing.toy_models import chain, save_model


def obstacle() -> str:
    """Why no network can be made here; empty if it can."""
    try:
        check_host()
        with Namespace():
            return ""
    except DistrEdgeError as exc:
        return str(exc)


def quota_obstacle() -> str:
    try:
        folder = find_controller().folder / f"distredge-test-{os.getpid()}"
        folder.mkdir()
        folder.rmdir()
        return ""
    except (InputError, OSError) as exc:
        return str(exc)


pytestmark = pytest.mark.skipif(bool(obstacle()), reason=obstacle())
needs_quota = pytest.mark.skipif(bool(quota_obstacle()), reason=quota_obstacle())

NAMES = ["a", "b"]

RECEIVE = """
import socket, sys, time
listener = socket.create_server((sys.argv[1], 5000))
print("listens", flush=True)
link, _ = listener.accept()
got, began = 0, None
while piece := link.recv(1 << 16):
    got += len(piece)
    if began is None and got > 300_000:
        began, first = time.monotonic(), got
print(8e-6 * (got - first) / (time.monotonic() - began), link.getsockopt(6, 13, 16).rstrip(b"\\0").decode())
"""

SEND = """
import socket, sys
link = socket.create_connection((sys.argv[1], 5000))
for _ in range(40):
    link.sendall(bytes(1 << 16))
link.close()
"""


def bulk(star: Star, sender: str, receiver: str) -> tuple[float, str]:
    """Payload throughput of a plain TCP connection in Mbit/s, and the congestion control of its receiving end."""
    command = [*star.prefix(receiver), sys.executable, "-c", RECEIVE, star.host(receiver)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "listens\n"
        subprocess.run([*star.prefix(sender), sys.executable, "-c", SEND, star.host(receiver)], check=True, timeout=60)
        mbps, control = process.stdout.read().split()
    return float(mbps), control


def own_links() -> str:
    """This machine's own links, addresses and routes; counters left out."""
    said = [
        subprocess.run(command, capture_output=True, text=True, check=True).stdout
        for command in (["ip", "-o", "link"], ["ip", "-o", "address"], ["ip", "route"], ["tc", "qdisc", "show"])
    ]
    return "\n".join(said)


def namespaces() -> set[str]:
    """The network namespaces that processes are in."""
    found = set()
    for process in Path("/proc").iterdir():
        try:
            found.add(os.readlink(process / "ns/net"))
        except OSError:
            continue
    return found


def cgroups() -> set[str]:
    try:
        return {path.name for path in find_controller().folder.glob("distredge-*")}
    except InputError:
        return set()


def leftovers(folder: Path) -> tuple[set[str], set[str], set[str]]:
    return namespaces(), cgroups(), {path.name for path in folder.iterdir()}


def eventually(holds: Callable[[], bool], patience_s: float = 15.0) -> bool:
    deadline = time.monotonic() + patience_s
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.05)
    return holds()


def state(pid: int) -> str:
    """A process's state, as in /proc; empty if it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


@pytest.fixture(autouse=True)
def nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What every test leaves behind, and what it must not touch."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    before, links = leftovers(folder), own_links()
    yield
    assert eventually(lambda: all(now <= was for now, was in zip(leftovers(folder), before, strict=True)))
    assert own_links() == links


@pytest.fixture
def graph(tmp_path: Path) -> LayerGraph:
    return load_model(save_model(chain(np.random.default_rng(0), height=48, width=32), tmp_path))


@pytest.fixture
def plan_file(graph: LayerGraph, tmp_path: Path) -> Path:
    equal_plan(graph, NAMES).plan.save(tmp_path / "plan.json")
    return tmp_path / "plan.json"


@pytest.fixture
def options(graph: LayerGraph) -> list[str]:
    return ["--model", str(graph.path), "--images", "3", "--verify"]


def scenario_of(bandwidth_mbps: float = 40.0, **values: object) -> Scenario:
    nodes = tuple(Provider(name=n, profile="jetson-nano", bandwidth_mbps=bandwidth_mbps, **values) for n in NAMES)  # type: ignore[arg-type]
    return Scenario(name="two", providers=nodes)


def fastest(star: Star, sender: str, receiver: str, mbps: float) -> tuple[float, str]:
    """The fastest of up to four transfers: a busy machine can only be slower than its shaper."""
    found = bulk(star, sender, receiver)
    for _ in range(3):
        if found[0] < 0.96 * mbps * 1448 / 1514:
            found = max(found, bulk(star, sender, receiver))
    return found


@pytest.mark.slow
def test_a_link_carries_its_rate_both_ways_until_it_is_changed_or_cut() -> None:
    with Star({"slow": 20.0, "fast": 60.0, "free": None}) as star:
        for sender, receiver, mbps in (("free", "slow", 20), ("slow", "free", 20), ("fast", "free", 60)):
            rate, control = fastest(star, sender, receiver, mbps)
            assert rate == pytest.approx(mbps * 1448 / 1514, rel=0.04)  # headers counted
            assert control == "cubic"
        star.set_rates({"slow": 40.0})
        assert fastest(star, "slow", "fast", 40)[0] == pytest.approx(40 * 1448 / 1514, rel=0.04)
        star.cut("slow")
        probe = [*star.prefix("free"), sys.executable, "-c", SEND, star.host("slow")]
        with pytest.raises(subprocess.TimeoutExpired):  # nothing comes back, not even a refusal
            subprocess.run(probe, timeout=1.5)
        star.mend("slow")
        assert fastest(star, "free", "slow", 40)[0] == pytest.approx(40 * 1448 / 1514, rel=0.04)


@pytest.mark.slow
def test_a_plans_result_is_right_over_shaped_links(plan_file: Path, options: list[str]) -> None:
    with testbed.Testbed(scenario_of()) as bed:
        assert {host.partition(":")[0] for host in bed.addresses.values()} == {"10.77.0.2", "10.77.1.2"}
        report = bed.run(plan_file, options)
        assert report["images"] == 3 and report["max_abs_diff"] <= 1e-5
        with pytest.raises(RunError, match="missing.json"):
            bed.run(Path("missing.json"))


@pytest.mark.slow
def test_faults_are_made_and_mended(plan_file: Path, options: list[str]) -> None:
    with testbed.Testbed(scenario_of()) as bed:
        bed.freeze("a")
        assert eventually(lambda: state(bed.pid("a")) == "T")
        bed.thaw("a")
        assert eventually(lambda: state(bed.pid("a")) in "SR")
        bed.check()
        pid, address = bed.pid("b"), bed.addresses["b"]
        bed.kill("b")
        with pytest.raises(ProviderLostError, match=f"'b' at {address} has ended .signal 9"):
            while True:  # its threads may take a moment to end
                bed.check()
        bed.restart("b")
        assert bed.pid("b") != pid and bed.addresses["b"] == address
        bed.cut("a")
        with pytest.raises(RunError, match="'a'"):
            bed.run(plan_file, options)
        bed.mend("a")
        assert bed.run(plan_file, options)["max_abs_diff"] <= 1e-5
        bed.freeze("b")  # and is left so


@pytest.mark.slow
@needs_quota
def test_a_slowed_process_gets_its_share_until_it_is_free_again() -> None:
    spin = "import time\nt = time.monotonic()\nwhile time.monotonic() < t + 1: pass\nprint(time.process_time())"
    controller = find_controller()
    with testbed.Testbed(scenario_of(), cpu={"a": 0.5}) as bed:

        def used() -> float:
            """Share of a core that a process which works without a pause gets beside provider a."""
            cgroup = next(
                folder
                for folder in controller.folder.glob(f"distredge-{os.getpid()}-*")
                if str(bed.pid("a")) in (folder / "cgroup.procs").read_text().split()
            )
            enter = f"echo $$ >{cgroup}/cgroup.procs; exec {sys.executable} -c '{spin}'"
            return float(subprocess.run(["sh", "-c", enter], capture_output=True, text=True, check=True).stdout)

        assert used() <= 0.65
        bed.slow("a", 0.1)
        slowed = used()
        assert slowed <= 0.25
        bed.unslow("a")
        assert slowed < used() <= 0.65
        bed.restart("a")
        assert used() <= 0.65


@pytest.mark.parametrize("frozen", [False, True])
@needs_quota
def test_nothing_is_left_of_a_test_bed_that_is_killed(frozen: bool, tmp_path: Path, plan_file: Path) -> None:
    code = f"""
import subprocess, sys, time
from distredge.runtime.testbed.bed import Testbed
from distredge.scenario import load_scenario
with Testbed(load_scenario({str(tmp_path / "two.yaml")!r}), cpu={{"a": 0.5}}) as bed:
    sleeper = subprocess.Popen(bed.requester_command(["provider", "--name", "c"]), stdout=subprocess.PIPE)
    sleeper.stdout.readline()
    if {frozen}:
        bed.freeze("a")
    print(*(bed.pid(name) for name in "ab"), sleeper.pid, flush=True)
    time.sleep(60)
"""
    write_scenario(scenario_of(), tmp_path).rename(tmp_path / "two.yaml")
    environment = {**os.environ, "TMPDIR": str(tmp_path / "temporary")}
    command, pipe = [sys.executable, "-c", code], subprocess.PIPE
    with subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe) as parent:
        assert parent.stdout is not None
        made = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(made) == 3 and all(state(pid) in "SRT" for pid in made)
        assert cgroups() and any((tmp_path / "temporary").iterdir())
        parent.kill()
        _, complaint = parent.communicate(timeout=30)  # until all who could say something have ended
    assert complaint == b""
    assert eventually(lambda: not any(state(pid) for pid in made))


def test_a_trace_is_replayed_on_the_links_and_then_forgotten(tmp_path: Path) -> None:
    (tmp_path / "wifi.csv").write_text("t_s,Mbps\n0,10\n0.3,30\n")
    path = write_scenario(scenario_of(), tmp_path)
    path.write_text(path.read_text().replace("trace: null", "trace: wifi.csv", 1))
    with testbed.Testbed(load_scenario(path), scale=2.0) as bed:

        def rates() -> set[str]:
            """Of both ends of provider a's link."""
            near = subprocess.run(bed.command_at("a", ["tc", "qdisc"]), capture_output=True, text=True, check=True)
            return {line.split("rate ")[1].split()[0] for line in near.stdout.splitlines() if "rate" in line}

        assert rates() == {"20Mbit"}
        with bed.replaying():
            assert eventually(lambda: rates() == {"15Mbit"})
        assert rates() == {"20Mbit"}


@pytest.mark.slow
def test_the_command_measures_random_plans_and_those_given(
    graph: LayerGraph, plan_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = write_scenario(scenario_of(), tmp_path), tmp_path / "out"
    how = ["--plans", "2", "--method", "equal", "--plan", str(plan_file), "--images", "2", "--scale", "2"]
    assert run(["testbed", str(path), "--model", str(graph.path), *how, "--out", str(out), "--json"]) == 0
    said = capsys.readouterr()
    data = json.loads(said.out)
    assert [row["plan"] for row in data["plans"]] == ["plan", "random-0", "random-1", "equal"]
    for row in data["plans"]:
        assert row["predicted_ms"] > 0 and 0 < row["measured_ms"] <= row["p90_ms"]
        assert row["error"] == pytest.approx(row["predicted_ms"] / row["measured_ms"] - 1)
    assert (data["scale"], data["emulated"], data["images"]) == (2.0, False, 2)
    assert data["summary"]["max_error"] == max(abs(row["error"]) for row in data["plans"])
    assert "as fast as this machine lets them" in " ".join(said.err.split())
    assert {p.name for p in out.rglob("*.*")} == {
        *("fidelity.csv", "fidelity.png", "plan.json", "random-0.json", "random-1.json", "equal.json")
    }


def test_the_guard_removes_only_what_it_was_told_of(tmp_path: Path) -> None:
    mine, other = tmp_path / "mine", tmp_path / "other"
    mine.mkdir()
    other.mkdir()
    with subprocess.Popen(["sleep", "60"]) as sleeper, subprocess.Popen(["sleep", "60"]) as bystander:
        with Guard() as guard:
            guard.watch("process", sleeper.pid)
            guard.watch("folder", mine)
        assert sleeper.wait(10) == -signal.SIGKILL
        assert bystander.poll() is None and other.exists() and not mine.exists()
        bystander.terminate()


def test_a_provider_that_cannot_start_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(testbed, "create_keys", lambda folder, names: folder.mkdir())
    with pytest.raises(RunError, match="provider 'a' did not start: .*cannot read the key"):
        testbed.Testbed(scenario_of()).__enter__()
