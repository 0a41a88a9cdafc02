"""A run's trace: what all nodes noted, by one clock, beside what was predicted. Written for trace viewers, read back.

The file is in the Trace Event Format of Chrome, which ui.perfetto.dev and chrome://tracing open (`trace_events`). All
that a viewer has no place for stands under `otherData`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from statistics import median_low
from typing import Any

import msgspec

from distredge.errors import InputError
from distredge.resources import write_atomically
from distredge.runtime.frame_view import FrameView, measured_view
from distredge.runtime.trace_events import PREDICTED, Process, arrows, foreseen, metadata, slices, us
from distredge.runtime.tracing import Kind, Span
from distredge.scenario import REQUESTER

VERSION = 1


class Clock(msgspec.Struct, frozen=True):
    """How far a node's clock was ahead of the requester's, and how wrong that may be at most (s)."""

    offset_s: float = 0.0
    bound_s: float = 0.0


class PlanRun(msgspec.Struct, frozen=True):
    """A plan that was in force (an epoch): why, what it is, what was predicted, and from which frame on."""

    reason: str
    plan: dict[str, Any]
    predicted: FrameView
    first_frame: int

    @property
    def head(self) -> int:
        """The number of volumes."""
        return len(self.plan["volumes"])

    def rows(self) -> dict[tuple[str, int], tuple[int, int]]:
        """The rows of each part, by node and volume."""
        return {
            (name, v): (volume["cuts"][i], volume["cuts"][i + 1])
            for v, volume in enumerate(self.plan["volumes"])
            for i, name in enumerate(self.plan["providers"])
        }


class About(msgspec.Struct, frozen=True):
    """What a trace is of. `first_frame` is that of the first image; those before it warmed up.

    `clocks` are those of all nodes, `dropped` how many spans each had no room for, `plans` the epochs.
    """

    model: str
    scenario: str
    wire: str
    first_frame: int
    clocks: dict[str, Clock]
    dropped: dict[str, int]
    plans: dict[int, PlanRun]
    version: int = VERSION


class Trace(msgspec.Struct, frozen=True, dict=True):
    """Spans of all nodes by the requester's clock, in seconds."""

    about: About
    spans: Mapping[str, Sequence[Span]]

    @cached_property
    def results(self) -> Mapping[int, Span]:
        """The `result` span of each image, by its number; raises `InputError` without any."""
        first, own = self.about.first_frame, self.spans.get(REQUESTER, ())
        found = {s.frame - first: s for s in own if s.kind == "result" and s.frame >= first}
        if not found:
            raise InputError("the trace has no image whose result came back")
        return dict(sorted(found.items()))

    def slowest(self) -> int:
        """The image that took longest."""
        return max(self.results, key=lambda image: self.results[image].stop_s - self.results[image].start_s)

    def median(self) -> int:
        """An image that took as long as half of them at most."""
        return median_low((s.stop_s - s.start_s, image) for image, s in self.results.items())[1]

    def run_of(self, image: int) -> PlanRun:
        """The plan under which an image's result came; raises `InputError` if there is no such image or plan."""
        if image not in self.results:
            raise InputError(f"the trace has no image {image}: it has {min(self.results)} to {max(self.results)}")
        epoch = self.results[image].epoch
        if epoch not in self.about.plans:
            raise InputError(f"the trace says nothing of plan {epoch}, under which image {image} ran")
        return self.about.plans[epoch]

    def view(self, image: int) -> FrameView:
        """What happened to an image."""
        rows = self.run_of(image).rows()
        return measured_view(self.spans, self.results[image], rows)

    def is_resent(self, image: int) -> bool:
        """Whether an earlier plan had begun with an image."""
        result, own = self.results[image], self.spans.get(REQUESTER, ())
        return any(s.kind == "send" and s.frame == result.frame and s.epoch < result.epoch for s in own)


def write(path: Path, trace: Trace) -> None:
    """Write a trace; the file appears whole or not at all."""
    write_atomically(path, msgspec.json.encode(document(trace)))


def document(trace: Trace) -> dict[str, Any]:
    """A trace as JSON-ready data."""
    about, plans = trace.about, trace.about.plans
    zero_s = min((s.start_s for spans in trace.spans.values() for s in spans), default=0.0)
    names = [REQUESTER, *(name for name in trace.spans if name != REQUESTER)]
    processes = [Process(pid, name) for pid, name in enumerate([*names, PREDICTED], 1)]
    rows = {epoch: run.rows() for epoch, run in plans.items()}
    made = {
        process.name: slices(process, trace.spans.get(process.name, ()), zero_s, about.first_frame, rows)
        for process in processes[:-1]
    }
    events = [event for own in made.values() for event in own] + arrows(made)
    for epoch, run in plans.items():
        begun_s = _begun_s(trace, epoch)
        if begun_s is not None:
            events += foreseen(processes[-1], run.predicted, us(begun_s - zero_s), epoch)
    for process in processes:
        clock = about.clocks.get(process.name)
        events += metadata(process, f"clock known to {1000 * clock.bound_s:.2f} ms" if clock else "")
    return {"traceEvents": events, "displayTimeUnit": "ms", "otherData": {"distredge": msgspec.to_builtins(about)}}


def _begun_s(trace: Trace, epoch: int) -> float | None:
    """When the first image of an epoch began, of those whose results came back under it."""
    results = [s for s in trace.spans.get(REQUESTER, ()) if s.kind == "result" and s.epoch == epoch]
    images = [s for s in results if s.frame >= trace.about.first_frame] or results
    return min((s.start_s for s in images), default=None)


class _Event(msgspec.Struct):
    ph: str
    pid: int = 0
    name: str = ""
    cat: str = ""
    ts: float = 0.0
    dur: float = 0.0
    args: dict[str, Any] = {}


class _Other(msgspec.Struct):
    distredge: About


class _File(msgspec.Struct):
    traceEvents: list[_Event]  # noqa: N815
    otherData: _Other  # noqa: N815


class _Args(msgspec.Struct):
    kind: Kind
    epoch: int
    frame: int
    volume: int
    peer: str
    payload_bytes: int


def read(path: Path) -> Trace:
    """Read a trace, its times in seconds from its beginning; raises `InputError` with one line if it is none."""
    try:
        file = msgspec.json.decode(path.read_bytes(), type=_File)
        names = {e.pid: str(e.args["name"]) for e in file.traceEvents if e.ph == "M" and e.name == "process_name"}
        spans: dict[str, list[Span]] = {name: [] for name in names.values() if name != PREDICTED}
        for event in file.traceEvents:
            if event.ph == "X" and event.cat != PREDICTED:
                spans[names[event.pid]].append(_span(event))
    except OSError as exc:
        raise InputError(f"cannot read '{path}': {exc.strerror or exc}") from exc
    except (msgspec.DecodeError, UnicodeDecodeError, KeyError) as exc:
        raise InputError(f"'{path}' is no trace that `distredge run --trace` has written: {exc}") from exc
    about = file.otherData.distredge
    if about.version != VERSION:
        raise InputError(f"'{path}' is a trace of version {about.version}, this is for {VERSION}: record it again")
    return Trace(about, spans)


def _span(event: _Event) -> Span:
    args = msgspec.convert(event.args, _Args)
    return Span(
        args.kind, args.epoch, args.frame, args.volume, args.peer,
        event.ts / 1e6, (event.ts + event.dur) / 1e6, args.payload_bytes,
    )  # fmt: skip
