"""Links measured by timed transfers: of a made-up network, of shaped sockets, of namespaces shaped by the kernel."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from distredge.cli.main import run
from distredge.errors import RunError
from distredge.measure.link import LinkReport, Route, Transfer, measure_links
from distredge.profiles.network import PACE, WIRE_OVERHEAD, wire_mbps
from distredge.runtime import crew as crew_module
from distredge.runtime.prober import Prober
from distredge.runtime.requester import Requester
from distredge.scenario import REQUESTER, load_scenario
from distredge.testing.providers import equal_plan, provider_threads
from distredge.testing.toy_models import chain, save_model

FILE = """\
# two boards on my desk
name: desk
providers:
  - {name: a, profile: jetson-nano, bandwidth_mbps: 80}   # the left one
  - name: b
    profile: jetson-nano   # lent
    bandwidth_mbps: 1   # a guess
"""


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTREDGE_CACHE", str(tmp_path / "cache"))


# ---- a made-up network -----------------------------------------------------------------------------------------------

READ, WRITE = (0.02, 2e-6), (0.05, 3e-6)
DELAY_MS = 0.4


def network(rates: dict[tuple[str, str], float], rng: np.random.Generator, outliers: float = 0.0) -> Transfer:
    """Links of these rates (Mbit/s): each transfer is off by 1 %, some take twice as long."""

    def transfer(route: Route) -> tuple[float, tuple[tuple[float, float], ...]]:
        total_ms, sender, spent = 0.0, REQUESTER, [[0.0, 0.0]]
        for receiver, size in route:
            spent[-1][1] = READ[0] + size * READ[1]
            spent.append([WRITE[0] + size * WRITE[1], 0.0])
            link_ms = DELAY_MS + size * 8 * WIRE_OVERHEAD / (rates[sender, receiver] * 1000.0)
            total_ms += link_ms * rng.normal(1.0, 0.01) * (2.0 if rng.random() < outliers else 1.0)
            sender = receiver
        return total_ms + sum(map(sum, spent)), tuple((w, r) for w, r in spent)

    return transfer


def measured(rates: dict[tuple[str, str], float], outliers: float = 0.0, **options: object) -> LinkReport:
    rng = np.random.default_rng(0)
    return measure_links(["a", "b"], network(rates, rng, outliers), rng, **options)  # type: ignore[arg-type]


def star(requester: float, a: float, b: float) -> dict[tuple[str, str], float]:
    own = {REQUESTER: requester, "a": a, "b": b}
    return {(s, r): min(own[s], own[r]) for s in own for r in own if s != r}


def test_rates_delays_and_io_are_told_apart() -> None:
    report = measured(star(1000.0, 50.0, 8.0), outliers=0.1)
    by_name = {node.name: node for node in report.nodes}
    assert by_name["a"].bandwidth_mbps == pytest.approx(50.0, rel=0.03)
    assert by_name["b"].bandwidth_mbps == pytest.approx(8.0, rel=0.03)
    for node in report.nodes:
        assert node.io.read_ms == pytest.approx(READ[0], rel=0.01)
        assert node.io.read_ms_per_mb == pytest.approx(READ[1] * 1e6, rel=0.01)
        assert node.io.write_ms == pytest.approx(WRITE[0] + DELAY_MS, rel=0.25)
        assert node.io.write_ms_per_mb == pytest.approx(WRITE[1] * 1e6, rel=0.01)
    assert all(link.mbps_p10 < link.mbps * 1.05 and link.mbps_p90 > link.mbps * 0.95 for link in report.links)


def test_sizes_that_take_too_long_are_left_out() -> None:
    report = measured(star(1000.0, 50.0, 0.5))
    largest = {(link.sender, link.receiver): link.largest for link in report.links}
    assert largest[REQUESTER, "a"] == 4 * 1024 * 1024 > 16 * largest[REQUESTER, "b"]


def test_a_slow_requester_shows_when_providers_are_faster_among_themselves() -> None:
    rates = star(20.0, 80.0, 80.0)
    assert not measured(rates).requester_limits
    report = measured(rates, between=True)
    assert report.requester_limits
    assert {node.name: round(node.bandwidth_mbps / 10) for node in report.nodes} == {REQUESTER: 2, "a": 8, "b": 8}


def test_the_slower_direction_counts() -> None:
    rates = star(1000.0, 50.0, 50.0) | {("a", REQUESTER): 10.0}
    (node,) = (node for node in measured(rates).nodes if node.name == "a")
    assert node.bandwidth_mbps == pytest.approx(10.0, rel=0.03)


@pytest.mark.parametrize(("options", "says"), [({"outliers": 0.4}, "varied"), ({"repeats": 1}, "only 6 transfers")])
def test_what_cannot_be_trusted_is_doubted(options: dict[str, float], says: str) -> None:
    report = measured(star(1000.0, 50.0, 50.0), **options)
    assert all(says in str(link.doubt) for link in report.links)
    assert all(node.doubts for node in report.nodes)
    assert not any(node.doubts for node in measured(star(1000.0, 50.0, 50.0)).nodes)


# ---- real sockets ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [20.0, 100.0])
def test_a_link_shaped_in_user_space_is_measured(rate: float) -> None:
    """Senders use `PACE` of it, which is what comes through, or somewhat less on a machine that is busy."""
    sizes = (16384, 65536, 262144, int(rate) * 8192)
    with provider_threads(["a", "b"]) as addresses, Prober(addresses, rate_mbps=rate) as prober:
        report = measure_links(
            ["a", "b"], prober.transfer, np.random.default_rng(0), sizes=sizes, repeats=4, between=True
        )
    assert len(report.links) == 6
    for link in report.links:
        assert 0.85 * PACE * rate <= link.mbps <= 1.03 * PACE * rate
    assert not report.requester_limits


def test_a_provider_that_runs_a_plan_is_not_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from distredge.model.load import load_model

    monkeypatch.setattr(crew_module, "SETUP_S", 0.7)
    bound = equal_plan(load_model(save_model(chain(np.random.default_rng(0)), tmp_path)), ["a"])
    with provider_threads(["a"]) as addresses:
        with Requester(bound, addresses), pytest.raises(RunError, match="serves another requester"), Prober(addresses):
            pass
        with Prober(addresses) as prober:
            total_ms, spent_ms = prober.transfer([("a", 5000), (REQUESTER, 4)])
        assert total_ms > sum(map(sum, spent_ms)) > 0.0
        assert [len(pair) for pair in spent_ms] == [2, 2, 2]


# ---- the command -----------------------------------------------------------------------------------------------------


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    capsys.readouterr()
    code = run(["measure-link", *map(str, arguments)])
    out, err = capsys.readouterr()
    return code, out, err


def test_the_command_reports_both_directions(capsys: pytest.CaptureFixture[str]) -> None:
    with provider_threads(["a"]) as addresses:
        code, out, err = call(capsys, f"a={addresses['a']}", "--sizes", "4096,65536", "--repeats", 4, "--json")
    assert code == 0, err
    data = json.loads(out)
    assert {(link["sender"], link["receiver"]) for link in data["links"]} == {("a", REQUESTER), (REQUESTER, "a")}
    assert all(link["mbps"] > 0 and link["samples"] == 8 for link in data["links"])
    assert [node["name"] for node in data["nodes"]] == [REQUESTER, "a"]
    assert set(data["nodes"][1]["io"]) == {"read_ms", "read_ms_per_mb", "write_ms", "write_ms_per_mb"}


def test_figures_go_into_the_users_file_and_nothing_else_changes(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "desk.yaml"
    path.write_text(FILE)
    rng = np.random.default_rng(0)
    made_up = network(star(1000.0, 50.0, 8.0), rng)
    monkeypatch.setattr(Prober, "transfer", lambda self, route: made_up(tuple(route)))
    with provider_threads(["a", "b"]) as addresses:
        peers = [f"{name}={address}" for name, address in addresses.items()]
        code, out, err = call(capsys, *peers, "--scenario", path, "--write", "--json")
    assert code == 0, err
    assert json.loads(out)["written"] == [REQUESTER, "a", "b"]
    scenario = load_scenario(path)
    assert [p.bandwidth_mbps for p in scenario.providers] == pytest.approx([50.0, 8.0], rel=0.03)
    assert scenario.requester.bandwidth_mbps is None
    assert scenario.requester.io.read_ms == pytest.approx(READ[0], rel=0.01)
    for comment in ("# two boards on my desk", "# the left one", "# lent", "# a guess"):
        assert comment in path.read_text()


def test_a_file_is_left_alone_if_nothing_could_be_measured_well(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "desk.yaml"
    path.write_text(FILE)
    with provider_threads(["a"]) as addresses:
        options = ["--sizes", "4096,16384", "--repeats", 1, "--write"]
        code, out, err = call(capsys, f"a={addresses['a']}", "--scenario", path, *options)
    assert (code, path.read_text()) == (1, FILE)
    assert "left as it is" in err and "not to be trusted" in out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "which providers?"),
        (["a"], "Give a=HOST:PORT"),
        (["a=nowhere"], "is no address"),
        (["requester=127.0.0.1:1"], "is no provider"),
        (["a=127.0.0.1:1", "a=127.0.0.1:2"], "named twice"),
        (["a=127.0.0.1:1", "--sizes", "4096"], "two or more numbers"),
        (["a=127.0.0.1:1", "--sizes", "4096,x"], "two or more numbers"),
        (["a=127.0.0.1:1", "--sizes", "4096,999999999"], "two or more numbers"),
        (["a=192.0.2.1:5701"], "--keys"),
        (["a=127.0.0.1:1", "--write"], "--scenario"),
        (["xavier-0=127.0.0.1:1", "--scenario", "db-50", "--write"], "copy it"),
        (["a=127.0.0.1:1", "--scenario", "db-50"], "is not in scenario 'db-50'"),
        (["--scenario", "db-50"], "which providers?"),
    ],
)
def test_bad_input_is_one_line(capsys: pytest.CaptureFixture[str], arguments: list[str], says: str) -> None:
    code, out, err = call(capsys, *arguments)
    assert (code, out) == (2, "")
    assert says in err and len(err.splitlines()) == 1


# ---- a link that the kernel shapes -----------------------------------------------------------------------------------


def sh(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


def can_make_namespaces() -> bool:
    if os.geteuid() != 0 or not (shutil.which("ip") and shutil.which("tc")):
        return False
    name = f"dem-{os.getpid()}-x"
    if subprocess.run(["ip", "netns", "add", name], capture_output=True).returncode:
        return False
    sh("ip", "netns", "del", name)
    return True


@pytest.fixture
def shaped_pair() -> Iterator[tuple[str, str, str]]:
    """Two network namespaces joined by a link of 50 Mbit/s each way; the second one's address."""
    if not can_make_namespaces():
        pytest.skip("needs root, ip and tc")
    here, there = f"dem-{os.getpid()}-a", f"dem-{os.getpid()}-b"
    with ExitStack() as stack:
        for name in (here, there):
            sh("ip", "netns", "add", name)
            stack.callback(sh, "ip", "netns", "del", name)
        sh("ip", "link", "add", "dem0", "netns", here, "type", "veth", "peer", "name", "dem0", "netns", there)
        for name, address in ((here, "10.77.0.1/24"), (there, "10.77.0.2/24")):
            sh("ip", "-n", name, "addr", "add", address, "dev", "dem0")
            sh("ip", "-n", name, "link", "set", "dem0", "up")
            shape = "tc qdisc add dev dem0 root tbf rate 50mbit burst 8kb limit 2mb".split()
            sh("ip", "netns", "exec", name, *shape)
        yield here, there, "10.77.0.2"


@pytest.mark.slow
def test_a_link_shaped_by_the_kernel_is_measured_within_4_percent(
    shaped_pair: tuple[str, str, str], tmp_path: Path
) -> None:
    here, there, host = shaped_pair
    distredge = [sys.executable, "-m", "distredge"]
    sh(*distredge, "keys", str(tmp_path / "keys"), "a")
    options = ["--keys", str(tmp_path / "keys"), "--json"]
    serve = ["provider", "--name", "a", "--listen", f"{host}:5701", "--until-stdin-closes", *options]
    command = ["ip", "netns", "exec", there, *distredge, *serve]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as provider:
        assert provider.stdout is not None and provider.stdout.readline()
        measure = ["measure-link", f"a={host}:5701", "--repeats", "4", *options]
        command = ["ip", "netns", "exec", here, *distredge, *measure]
        begun = time.monotonic()
        done = subprocess.run(command, capture_output=True, text=True)
        provider.communicate(b"")
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - begun < 60
    for link in json.loads(done.stdout)["links"]:
        assert link["mbps"] == pytest.approx(50.0, rel=0.04)
        assert link["doubt"] is None


def test_wire_rate_is_the_inverse_of_a_bytes_time() -> None:
    assert wire_mbps(8 * WIRE_OVERHEAD / 50_000) == pytest.approx(50.0)
