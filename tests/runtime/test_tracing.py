"""What nodes note, the file that it becomes, and whether a frame's delay is found where it was put."""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from threading import Thread
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distredge.errors import InputError
from distredge.model.load import load_model
from distredge.runtime.explain import critical_path, explain
from distredge.runtime.frame_view import predicted_view
from distredge.runtime.run import RunOptions, run_plan
from distredge.runtime.trace_events import PREDICTED
from distredge.runtime.trace_file import Trace, document, read, write
from distredge.runtime.trace_gathering import Gathering
from distredge.runtime.tracing import BATCH_SPANS, Recorder, Span
from distredge.scenario import REQUESTER
from distredge.testing.branchy_models import branchy_model
from distredge.testing.providers import equal_plan, random_images, random_plan, toy_scenario
from distredge.testing.random_models import random_model
from distredge.testing.toy_devices import random_scenario
from distredge.testing.toy_models import chain, save_model
from distredge.testing.traces import OddClock, Place, Replay, places

from .conftest import StartProviders

seeds = st.integers(0, 10_000)

# Recorder.


def test_a_recorder_that_is_off_notes_nothing() -> None:
    recorder = Recorder()
    recorder.add("compute", 1, 0, 0, 1.0, 2.0)
    recorder.received(1, 0, 0, "a", 1.0, 10)
    recorder.all_received(1, 0, 0)
    assert recorder.take() == ()
    assert recorder.dropped == 0


def test_chunks_of_a_block_become_one_span_a_sender() -> None:
    recorder = Recorder()
    recorder.start()
    for at_s, peer in ((1.0, "a"), (1.1, "b"), (1.2, "a"), (1.4, "b")):
        recorder.received(1, 7, 2, peer, at_s, 100)
    recorder.received(1, 8, 2, "a", 1.5, 5)
    recorder.all_received(1, 7, 2)
    assert recorder.take() == (
        Span("receive", 1, 7, 2, "a", 1.0, 1.2, 200),
        Span("receive", 1, 7, 2, "b", 1.1, 1.4, 200),
    )


def test_what_there_is_no_room_for_is_counted() -> None:
    recorder = Recorder(capacity=10)
    recorder.start()
    for k in range(25):
        recorder.add("compute", 1, k, 0, 1.0, 2.0)
    assert [s.frame for s in recorder.take(4)] == [0, 1, 2, 3]
    assert (recorder.waiting, recorder.dropped) == (6, 15)
    recorder.stop()
    assert recorder.take() == ()


def test_frames_that_never_came_whole_do_not_pile_up() -> None:
    recorder = Recorder()
    recorder.start()
    for frame in range(10_000):
        recorder.received(1, frame, 0, "a", 1.0, 10)
    assert recorder.dropped > 0
    recorder.all_received(1, 9_999, 0)
    recorder.all_received(1, 0, 0)
    assert [s.frame for s in recorder.take()] == [9_999]


def test_several_threads_lose_nothing() -> None:
    recorder, taken = Recorder(), list[Span]()
    recorder.start()

    def work(volume: int) -> None:
        for frame in range(2000):
            recorder.received(1, frame, volume, "a", 1.0, 1)
            recorder.add("compute", 1, frame, volume, 1.0, 2.0)
            recorder.all_received(1, frame, volume)

    threads = [Thread(target=work, args=(v,)) for v in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        taken += recorder.take()
    for thread in threads:
        thread.join()
    while batch := recorder.take():
        taken += batch
    assert len({(s.kind, s.frame, s.volume) for s in taken}) == len(taken) == 2 * 4 * 2000


def test_a_batch_fits_into_a_message() -> None:
    largest = Span("compute", 2**40, 2**40, 2**40, "x" * 255, 1e9, 1.1e9, 2**40)
    assert len(msgspec.msgpack.encode((largest,) * BATCH_SPANS)) <= 64 * 1024


# Files and explanations.


def replay(seed: int, clocks: bool = True) -> tuple[Replay, np.random.Generator]:
    """A random plan of a random model for devices with clocks of their own."""
    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as name:
        make = random_model if rng.random() < 0.5 else branchy_model
        graph = load_model(save_model(make(rng), Path(name)))
    scenario = random_scenario(rng, int(rng.integers(1, 5)))
    odd = {n: OddClock(rng.uniform(-900.0, 1e5), rng.uniform(-1e-4, 1e-4)) for n in scenario.provider_names}
    return Replay(random_plan(rng, graph, scenario.provider_names), scenario, odd if clocks else {}), rng


def again(trace: Trace) -> Trace:
    """The trace, written and read."""
    with tempfile.TemporaryDirectory() as name:
        write(Path(name, "t.json"), trace)
        return read(Path(name, "t.json"))


@given(seeds)
def test_frames_as_predicted_are_seen_so(seed: int) -> None:
    made, rng = replay(seed)
    trace = again(made.trace([{}, {}, {}], rng))
    for image in (0, 1):
        view, run = trace.view(image), trace.run_of(image)
        assert view.latency_ms == pytest.approx(made.view.latency_ms, abs=1e-3)
        assert len(view.parts) == len(made.view.parts)
        assert "from the predicted" in explain(image, view, run.predicted, run.head).sentence


@given(seeds)
def test_a_critical_path_is_as_long_as_its_frame(seed: int) -> None:
    made, rng = replay(seed)
    where = places(made.view)
    delays = {where[int(k)]: float(rng.uniform(0.0, 20.0)) for k in rng.integers(0, len(where), 3)}
    trace = made.trace([{}, delays], rng)
    for view in (made.view, trace.view(0)):
        path = critical_path(view, len(made.bound.volumes))
        assert sum(s.ms for s in path) == pytest.approx(view.latency_ms, abs=1e-3)
        assert path[0].start_ms == 0.0
        assert all(s.cause != "unknown" for s in path)
        for before, after in zip(path[:-1], path[1:], strict=True):
            assert after.start_ms == pytest.approx(before.stop_ms, abs=1e-3)


@settings(max_examples=100)
@given(seeds, st.floats(1.0, 4.0))
def test_the_delay_that_was_put_in_is_the_one_that_is_found(seed: int, times: float) -> None:
    made, rng = replay(seed)
    where = places(made.view)
    place: Place = where[int(rng.integers(len(where)))]
    delay_ms = 2.0 + times * made.view.latency_ms
    trace = again(made.trace([{}, {}, {place: delay_ms}], rng))
    assert trace.slowest() == 1
    view, run = trace.view(1), trace.run_of(1)
    found = explain(1, view, run.predicted, run.head)
    cause, node, peer, volume = place
    first = found.causes[0]
    assert (first.cause, first.node, first.peer, first.volume) == (cause, node, peer, volume)
    assert first.excess_ms == pytest.approx(delay_ms, abs=1.0)
    assert node in found.sentence
    assert "longer than predicted" in found.sentence


def test_a_frame_that_waits_for_another_one_says_for_which() -> None:
    made, rng = replay(3, clocks=False)
    node, volume = made.view.parts[0].node, made.view.parts[0].volume
    delay_ms = made.view.latency_ms
    trace = made.trace([{}, {}, {("wait", node, "", volume): delay_ms}], rng)
    own = [*trace.spans[node]]
    late = next(s for s in own if s.kind == "wait" and s.frame == 2 and s.volume == volume)
    own.append(Span("compute", 1, 1, 9, "", late.start_s - 0.01, late.stop_s, 0))
    busy = Trace(trace.about, {**trace.spans, node: own})
    found = explain(1, busy.view(1), made.view, len(made.bound.volumes))
    assert f"on {node}, waiting behind frame 1" in found.sentence


def test_a_quicker_frame_is_explained_as_well() -> None:
    made, rng = replay(5)
    path = critical_path(made.view, len(made.bound.volumes))
    longest = max((s for s in path if s.cause in ("compute", "link")), key=lambda s: s.ms)
    place = (longest.cause, longest.node, longest.peer, longest.volume)
    trace = made.trace([{}, {place: -0.9 * longest.ms}], rng)
    found = explain(0, trace.view(0), made.view, len(made.bound.volumes))
    assert "less than predicted" in found.sentence
    assert (found.causes[0].cause, found.causes[0].node, found.causes[0].volume) == (place[0], place[1], place[3])


def test_what_was_dropped_is_said_to_be_unknown() -> None:
    made, rng = replay(7)
    trace = made.trace([{}, {}], rng)
    lost = Trace(trace.about, {REQUESTER: trace.spans[REQUESTER]})
    found = explain(0, lost.view(0), made.view, len(made.bound.volumes))
    assert [s.cause for s in found.path] == ["unknown"]


def test_time_under_an_earlier_plan_is_told_apart() -> None:
    made, rng = replay(3)
    trace = made.trace([{}, {}], rng)
    result = trace.results[0]
    own = [
        msgspec.structs.replace(s, start_s=s.start_s - 0.7) if s.kind == "result" and s.frame == 1 else s
        for s in trace.spans[REQUESTER]
    ]
    own.append(Span("send", 0, 1, 0, "d0", result.start_s - 0.7, result.start_s - 0.6, 10))
    resent = Trace(trace.about, {**trace.spans, REQUESTER: own})
    assert resent.is_resent(0)
    found = explain(0, resent.view(0), made.view, len(made.bound.volumes), resent.is_resent(0))
    assert found.path[0].cause == "unknown"
    assert found.path[0].ms == pytest.approx(700.0, abs=1.0)


@given(seeds)
def test_a_trace_is_read_as_it_was_written(seed: int) -> None:
    made, rng = replay(seed)
    trace = made.trace([{}, {}], rng)
    found = again(trace)
    assert found.about == trace.about
    zero_s = min(s.start_s for spans in trace.spans.values() for s in spans)
    for name, spans in trace.spans.items():
        for a, b in zip(sorted(spans, key=lambda s: s.start_s), found.spans[name], strict=True):
            moved = msgspec.structs.replace(a, start_s=b.start_s, stop_s=b.stop_s)
            assert moved == b
            assert (a.start_s - zero_s, a.stop_s - zero_s) == pytest.approx((b.start_s, b.stop_s), abs=1.01e-6)


@given(seeds)
def test_a_viewer_can_show_it(seed: int) -> None:
    made, rng = replay(seed)
    where = places(made.view)
    delays = {where[int(k)]: float(rng.uniform(0.0, 20.0)) for k in rng.integers(0, len(where), 3)}
    told: dict[str, Any] = json.loads(json.dumps(document(made.trace([{}, delays, {}], rng))))
    by_thread: dict[tuple[int, int], list[dict[str, Any]]] = defaultdict(list)
    for event in told["traceEvents"]:
        assert event["ph"] in {"X", "M", "s", "f"}
        assert isinstance(event["pid"], int) and isinstance(event["tid"], int)  # noqa: PT018
        if event["ph"] == "X":
            assert event["ts"] >= 0.0 or event["cat"] == PREDICTED
            assert event["dur"] >= 0.0
            by_thread[event["pid"], event["tid"]].append(event)
    for events in by_thread.values():  # slices of a thread may not overlap
        events.sort(key=lambda e: e["ts"])
        for a, b in zip(events[:-1], events[1:], strict=True):
            assert a["ts"] + a["dur"] <= b["ts"] + 1e-3
    named = {(e["pid"], e["tid"]) for e in told["traceEvents"] if e["name"] == "thread_name"}
    assert named == set(by_thread)
    processes = [e["args"]["name"] for e in told["traceEvents"] if e["name"] == "process_name"]
    assert {*processes} >= {REQUESTER, PREDICTED}
    check_arrows(told, by_thread)


def check_arrows(told: Mapping[str, Any], by_thread: Mapping[tuple[int, int], list[dict[str, Any]]]) -> None:
    """Each arrow begins in a send and ends, later, in the receipt of the same rows."""

    def around(end: dict[str, Any]) -> dict[str, Any]:
        found = [e for e in by_thread[end["pid"], end["tid"]] if e["ts"] <= end["ts"] <= e["ts"] + e["dur"]]
        assert found
        return found[0]

    starts = {e["id"]: e for e in told["traceEvents"] if e["ph"] == "s"}
    ends = {e["id"]: e for e in told["traceEvents"] if e["ph"] == "f"}
    assert starts.keys() == ends.keys()
    for k, start in starts.items():
        end = ends[k]
        assert start["ts"] < end["ts"]
        sent, got = around(start)["args"], around(end)["args"]
        assert (sent["kind"], got["kind"]) == ("send", "receive")
        assert (sent["frame"], sent["volume"]) == (got["frame"], got["volume"])
        assert end["bp"] == "e"


@pytest.mark.parametrize(
    "content", [b"", b"[]", b'{"traceEvents": []}', b'{"traceEvents": [], "otherData": {}}', b"\xff\xfe", None]
)
def test_another_file_is_refused_in_one_line(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "t.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError) as problem:
        read(path)
    assert "\n" not in str(problem.value)


def test_a_node_whose_clock_is_unknown_is_left_out_and_counted() -> None:
    made, _ = replay(3)
    gathering, own = Gathering(), Recorder()
    gathering.took("d0", [Span("compute", 1, 1, 0, "", 5.0, 6.0)] * 3, dropped=2)
    trace = gathering.trace(own, [], made.scenario, "float16", 2, 0)
    assert trace.spans["d0"] == ()
    assert trace.about.dropped["d0"] == 5


IMAGES = 250
"""Enough for a run that lasts some heartbeats: before the first of them no clock is known."""


@pytest.mark.parametrize("inflight", [1, 3])
def test_a_real_run_is_traced_whole(start_providers: StartProviders, tmp_path: Path, inflight: int) -> None:
    """Over real sockets: nothing is missing, no result comes of nothing, and clocks of one machine agree."""
    names = ("nano-0", "nano-1", "nano-2")
    graph = load_model(save_model(chain(np.random.default_rng(0), 56, 30), tmp_path))
    bound, path = equal_plan(graph, names), tmp_path / "out.json"
    options = RunOptions(trace=path, inflight=inflight)
    report = run_plan(bound, toy_scenario(names), start_providers(*names), random_images(graph, IMAGES), options)
    trace, head = read(path), len(bound.volumes)
    assert [*trace.results] == [*range(IMAGES)]
    assert not any(trace.about.dropped.values())
    for name, clock in trace.about.clocks.items():
        assert abs(clock.offset_s) <= clock.bound_s, name
    for image in range(0, IMAGES, 20):
        view, predicted = trace.view(image), trace.run_of(image).predicted
        assert {(p.node, p.volume) for p in view.parts} == {(p.node, p.volume) for p in predicted.parts}
        ways = {(d.sender, d.receiver, d.volume) for d in predicted.deliveries}
        assert {(d.sender, d.receiver, d.volume) for d in view.deliveries} == ways
        segments = critical_path(view, head)
        assert all(s.cause != "unknown" for s in segments)
        assert sum(s.ms for s in segments) == pytest.approx(view.latency_ms, abs=0.01)
    latencies = [1000.0 * (s.stop_s - s.start_s) for s in trace.results.values()]
    assert np.percentile(latencies, 50) == pytest.approx(report.latency_ms.p50, rel=0.01)


def test_a_predicted_view_ends_with_the_simulator() -> None:
    made, _ = replay(11)
    assert predicted_view(made.bound, made.scenario, 4).latency_ms >= made.view.latency_ms
