"""What a test-bed decides: shares, traces, scales, and whether there can be one at all. Nothing here needs root."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distredge.cli.main import run
from distredge.errors import InputError, RunError, ScenarioError
from distredge.model.load import load_model
from distredge.profiles.network import MESSAGE_MS
from distredge.runtime.testbed.quota import find_controller, quota
from distredge.runtime.testbed.replay import Replay, Trace, read_trace, write_trace
from distredge.runtime.testbed.scale import scaled, write_scenario
from distredge.scenario import Io, Provider, Requester, Scenario, load_scenario
from distredge.simulate.timeline import trace
from distredge.testing.providers import equal_plan
from distredge.testing.toy_models import chain, save_model

TESTBED = ["testbed", "db-50", "--model", "vgg16"]


@given(st.floats(0.01, 64.0))
def test_a_quota_is_the_share_and_within_what_linux_takes(share: float) -> None:
    amount, period = quota(share)
    assert amount / period == pytest.approx(share, rel=0.01)
    assert amount >= 1000 and 1000 <= period <= 1_000_000


@pytest.mark.parametrize("share", [0.0, -1.0, 65.0, math.nan, math.inf])
def test_a_share_that_cannot_be_is_refused(share: float) -> None:
    with pytest.raises(InputError, match="share of a core"):
        quota(share)


def test_the_cpu_controller_is_found_in_either_version(tmp_path: Path) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "30 20 0:25 / /c/memory rw - cgroup cgroup rw,memory\n31 20 0:26 / /c/cpu rw shared:9 - cgroup cgroup rw,cpu\n"
    )
    found = find_controller(mounts)
    assert (str(found.folder), found.version) == ("/c/cpu", 1)
    unified = tmp_path / "unified"
    unified.mkdir()
    mounts.write_text(f"30 20 0:25 / {unified} rw - cgroup2 cgroup2 rw,nsdelegate\n")
    with pytest.raises(InputError, match="no CPU controller"):
        find_controller(mounts)
    (unified / "cgroup.subtree_control").write_text("cpuset cpu io\n")
    found = find_controller(mounts)
    assert (found.folder, found.version) == (unified, 2)


TRACES = st.lists(st.tuples(st.integers(0, 5000), st.integers(1, 1000)), min_size=1, unique_by=lambda row: row[0]).map(
    lambda rows: Trace(*zip(*((t / 10, float(rate)) for t, rate in sorted(rows)), strict=True))
)


@given(TRACES, st.floats(0.0, 600.0))
def test_a_traces_rate_holds_until_its_next_change(found: Trace, t_s: float) -> None:
    rate, change = found.rate_at(t_s), found.next_change(t_s)
    assert change > t_s
    assert rate == found.rate_at((t_s + min(change, t_s + 1.0)) / 2)
    if change < math.inf:
        assert found.rate_at(change) == found.rates_mbps[found.moments_s.index(change)]
    else:
        assert rate == found.rates_mbps[-1]


def test_a_trace_is_written_as_it_is_read_and_a_bad_one_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    write_trace(Trace((0.0, 0.5, 10.0), (20.0, 8.25, 100.0)), path)
    assert read_trace(path).scaled(4.0) == Trace((0.0, 0.5, 10.0), (5.0, 2.0625, 25.0))
    for text in ("", "t_s,Mbps\n", "t,Mbps\n0,5\n", "t_s,Mbps\n0,x\n", "t_s,Mbps\n1,5\n0,5\n", "t_s,Mbps\n0,0\n"):
        path.write_text(text)
        with pytest.raises(ScenarioError, match="trace.csv' is no trace"):
            read_trace(path)


class Links:
    """Takes the rates that a replay sets; the first changes may be slow."""

    def __init__(self, delays_s: tuple[float, ...] = ()) -> None:
        self.changes: list[dict[str, float]] = []
        self.last = threading.Event()
        self.delays_s = list(delays_s)

    def set_rates(self, rates: Mapping[str, float]) -> None:
        self.changes.append(dict(rates))
        if 99.0 in rates.values():
            self.last.set()
        if self.delays_s:
            time.sleep(self.delays_s.pop(0))


def test_a_replay_sets_what_changes_in_order_and_then_what_was_before() -> None:
    links = Links()
    traces = {"a": Trace((0.0, 0.05, 0.1), (10.0, 20.0, 99.0)), "b": Trace((0.0, 0.05), (5.0, 5.0))}
    with Replay(traces, links.set_rates, {"a": 50.0, "b": 50.0}):
        assert links.changes[0] == {"a": 10.0, "b": 5.0}
        assert links.last.wait(10)
    assert [c for c in links.changes if c] == [{"a": 10.0, "b": 5.0}, {"a": 20.0}, {"a": 99.0}, {"a": 50.0, "b": 50.0}]


def test_a_replay_that_is_late_catches_up() -> None:
    links = Links(delays_s=(0.0, 0.5))
    moments = tuple(k / 100 for k in range(41))
    with Replay({"a": Trace(moments, (*(float(k + 1) for k in range(40)), 99.0))}, links.set_rates, {}):
        assert links.last.wait(10)
    rates = [change["a"] for change in links.changes if change]
    assert len(rates) <= 3 and rates[0] == 1.0 and rates[-1] == 99.0  # forty changes, most of them overtaken


def test_what_a_replay_could_not_set_is_raised_when_it_ends() -> None:
    def refuse(rates: Mapping[str, float]) -> None:
        if rates.get("a") == 99.0:
            refused.set()
            raise RunError("no such device")

    refused = threading.Event()
    with pytest.raises(RunError, match="no such device"), Replay({"a": Trace((0.0, 0.01), (1.0, 99.0))}, refuse, {}):
        assert refused.wait(10)


def test_a_scaled_scenario_is_predicted_that_much_slower(tmp_path: Path) -> None:
    io = Io(read_ms=0.5, read_ms_per_mb=2.0, write_ms=0.0, write_ms_per_mb=3.0)
    providers = tuple(Provider(name=n, profile="jetson-nano", bandwidth_mbps=100, io=io) for n in ("a", "b"))
    scenario = Scenario(name="s", requester=Requester(bandwidth_mbps=200, io=io), providers=providers)
    slow = scaled(scenario, 4.0)
    assert [p.bandwidth_mbps for p in slow.providers] == [25.0, 25.0] and slow.requester.bandwidth_mbps == 50.0
    assert slow.providers[0].io == Io(read_ms=2.0, read_ms_per_mb=8.0, write_ms=0.0, write_ms_per_mb=12.0)
    toy = save_model(chain(np.random.default_rng(0), height=48, width=32), tmp_path)
    bound = equal_plan(load_model(toy), ["a", "b"])
    before, after = trace(bound, scenario).latency_ms, trace(bound, slow).latency_ms
    assert after == pytest.approx(4 * before)
    assert scaled(scenario, 1.0) == scenario
    assert scaled(load_scenario("db-50"), 4.0).providers[0].io.write_ms == MESSAGE_MS  # that is this machine's own time
    with pytest.raises(InputError, match="--scale 300 takes providers.0.slowdown out of its range"):
        scaled(scaled(scenario, 10.0), 300.0)


def test_a_written_scenario_says_the_same_from_another_folder(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    scenario = load_scenario("dynamic-nano")
    made = load_scenario(write_scenario(scaled(scenario, 2.0), there, 2.0))
    assert made.provider_names == scenario.provider_names
    for was, now in zip(scenario.providers, made.providers, strict=True):
        assert now.bandwidth_mbps == was.bandwidth_mbps / 2
        first, second = (read_trace(s.folder / str(p.trace)) for s, p in ((scenario, was), (made, now)))
        assert second.moments_s == first.moments_s
        assert second.rates_mbps == pytest.approx(first.scaled(2.0).rates_mbps, rel=1e-4)


@pytest.mark.parametrize(
    ("asked", "answers", "says"),
    [
        ("platform.system", lambda: "Darwin", "run it on Linux"),
        ("os.geteuid", lambda: 1000, "run it as root"),
        ("shutil.which", lambda tool: None if tool == "tc" else tool, "'tc': install iproute2"),
        ("shutil.which", lambda tool: None if tool == "nsenter" else tool, "'nsenter': install util-linux"),
    ],
)
def test_a_machine_or_user_that_cannot_have_one_is_told_what_to_do(
    asked: str,
    answers: Callable[..., object],
    says: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    host: dict[str, Callable[..., object]] = {
        "platform.system": lambda: "Linux",
        "os.geteuid": lambda: 0,
        "shutil.which": lambda tool: f"/bin/{tool}",
    }
    for what, answer in {**host, asked: answers}.items():
        monkeypatch.setattr(what, answer)
    assert run([*TESTBED, "--plans", "1"]) == 2
    complaint = capsys.readouterr().err
    assert says in complaint and complaint.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ([], "nothing to run"),
        (["--plans", "1", "--emulate", "--cpu", "nano-0=0.5"], "leave out one of --emulate, --cpu"),
        (["--plans", "1", "--cpu", "nano-0"], "give NAME=SHARE"),
        (["--plans", "1", "--cpu", "nano-0=0"], "share of a core"),
        (["--plans", "1", "--cpu", "nano-9=0.5"], "unknown provider 'nano-9'"),
        (["--plans", "1", "--scale", "0.5"], "--scale"),
        (["--method", "serach"], "did you mean 'search'"),
        (["--plan", "missing.json"], "missing.json"),
    ],
)
def test_options_that_cannot_be_are_refused_in_one_line(
    options: list[str], says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("distredge.runtime.testbed.namespaces.check_host", lambda: None)
    assert run([*TESTBED, *options]) == 2
    complaint = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(complaint) == 1 and says in complaint[0]
