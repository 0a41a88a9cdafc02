"""Events of a trace file, in the Trace Event Format: times in microseconds, a process a node, a thread a kind of work.

Slices of one thread may nest but not overlap otherwise; those that would are put into further threads of the same kind.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from distredge.runtime.frame_view import FrameView
from distredge.runtime.tracing import Kind, Span
from distredge.scenario import REQUESTER

PREDICTED = "predicted (simulator)"
"""The process, and the category of slices, that show what was predicted; no node can have such a name."""

ROWS: Mapping[Kind, str] = {
    "result": "images",
    "split": "split",
    "receive": "receive",
    "wait": "wait",
    "compute": "compute",
    "head": "compute",
    "send": "send",
}
"""In which thread a kind of span is shown, in their order."""

SHORTEST_US = 1.0
"""A slice lasts so long at least: an arrow must be able to begin or end in it."""

Event = dict[str, Any]


class Process:
    """A process of the trace, whose threads are made as they are needed."""

    def __init__(self, pid: int, name: str) -> None:
        self.pid, self.name = pid, name
        self.threads: dict[str, int] = {}
        self._free_us: dict[str, float] = {}

    def slice(self, row: str, name: str, category: str, start_us: float, stop_us: float, args: Event) -> Event:
        """A slice in the first thread of a row that is free; slices of a row must come in order of their start."""
        thread, k, stop_us = row, 1, max(stop_us, start_us + SHORTEST_US)
        while self._free_us.get(thread, float("-inf")) > start_us:
            k += 1
            thread = f"{row} {k}"
        self._free_us[thread] = stop_us
        return {
            "ph": "X",
            "name": name,
            "cat": category,
            "pid": self.pid,
            "tid": self.threads.setdefault(thread, len(self.threads) + 1),
            "ts": start_us,
            "dur": round(stop_us - start_us, 3),
            "args": args,
        }


def metadata(process: Process, label: str) -> list[Event]:
    """Names and order of a process and its threads."""

    def told(kind: str, tid: int, args: Event) -> Event:
        return {"ph": "M", "name": kind, "pid": process.pid, "tid": tid, "args": args}

    found = [
        told("process_name", 0, {"name": process.name}),
        told("process_sort_index", 0, {"sort_index": process.pid}),
    ]
    if label:
        found.append(told("process_labels", 0, {"labels": label}))
    for name, tid in process.threads.items():
        found.append(told("thread_name", tid, {"name": name}))
        found.append(told("thread_sort_index", tid, {"sort_index": _order(name)}))
    return found


def _order(thread: str) -> int:
    """Where a thread of a node stands; those of the predicted process stay as they were made."""
    row, _, k = thread.partition(" ")
    rows = [*dict.fromkeys(ROWS.values())]
    return 1000 * rows.index(row) + int(k or 1) if row in rows and (not k or k.isdecimal()) else 0


RowsOf = Mapping[int, Mapping[tuple[str, int], tuple[int, int]]]
"""By epoch the rows of each part, by node and volume."""


def slices(process: Process, spans: Iterable[Span], zero_s: float, first_frame: int, rows: RowsOf) -> list[Event]:
    """The slices of a node's spans; `zero_s` is the beginning of the trace, `first_frame` that of the first image."""
    found = []
    for span in sorted(spans, key=lambda s: s.start_s):
        args: Event = {
            "kind": span.kind,
            "image": span.frame - first_frame,
            "epoch": span.epoch,
            "frame": span.frame,
            "volume": span.volume,
            "peer": span.peer,
            "payload_bytes": span.payload_bytes,
        }
        if span.kind in ("compute", "wait") and (part := rows.get(span.epoch, {}).get((process.name, span.volume))):
            args["rows"] = list(part)
        start_us, stop_us = us(span.start_s - zero_s), us(span.stop_s - zero_s)
        found.append(process.slice(ROWS[span.kind], _title(span, first_frame), span.kind, start_us, stop_us, args))
    return found


def _title(span: Span, first_frame: int) -> str:
    """What a viewer writes on a slice."""
    if span.kind == "result":
        return f"image {span.frame - first_frame}"
    if span.kind == "receive":
        return f"volume {span.volume} from {span.peer}"
    if span.kind == "send":
        return f"volume {span.volume} to {span.peer}"
    return span.kind if span.kind in ("split", "head") else f"volume {span.volume}"


def arrows(made: Mapping[str, Sequence[Event]]) -> list[Event]:
    """An arrow from each send to the receipt of its rows, from the slices of all nodes.

    An end of an arrow belongs to the slice in which it lies, so it lies a little inside. One that would point back in
    time, as clocks are known only so well, is left out.
    """
    receipts = {_way(e["args"]["peer"], node, e): e for node, own in made.items() for e in _kind(own, "receive")}
    found: list[Event] = []
    for node, own in made.items():
        for sent in _kind(own, "send"):
            got = receipts.get(_way(node, sent["args"]["peer"], sent))
            if got is None:
                continue
            start_us = round(sent["ts"] + SHORTEST_US / 2.0, 3)
            stop_us = round(got["ts"] + got["dur"] - SHORTEST_US / 2.0, 3)
            if start_us < stop_us:
                end = {"name": "rows", "cat": "rows", "id": len(found) // 2 + 1}
                found.append({"ph": "s", **end, "pid": sent["pid"], "tid": sent["tid"], "ts": start_us})
                found.append({"ph": "f", "bp": "e", **end, "pid": got["pid"], "tid": got["tid"], "ts": stop_us})
    return found


def _kind(events: Iterable[Event], kind: Kind) -> list[Event]:
    return [e for e in events if e["args"]["kind"] == kind]


def _way(sender: str, receiver: str, event: Event) -> tuple[str, str, int, int, int]:
    args = event["args"]
    return sender, receiver, args["epoch"], args["frame"], args["volume"]


def foreseen(process: Process, view: FrameView, begun_us: float, epoch: int) -> list[Event]:
    """The slices of a frame as it was predicted, begun when the epoch's first one was."""

    def made(node: str, row: str, title: str, start_ms: float, stop_ms: float, args: Event) -> tuple[float, Any]:
        times = round(begun_us + 1000.0 * start_ms, 3), round(begun_us + 1000.0 * stop_ms, 3)
        return start_ms, (f"{node} {row}", title, PREDICTED, *times, {"epoch": epoch, **args})

    found = [made(REQUESTER, "image", "predicted image", 0.0, view.latency_ms, {})]
    for part in view.parts:
        args = {"volume": part.volume, "rows": list(part.rows)}
        found.append(made(part.node, "compute", f"volume {part.volume}", part.start_ms, part.stop_ms, args))
    for rows in view.deliveries:
        args = {"volume": rows.volume, "payload_bytes": rows.payload_bytes}
        there, here = f"volume {rows.volume} to {rows.receiver}", f"volume {rows.volume} from {rows.sender}"
        found.append(made(rows.sender, "send", there, rows.ready_ms, rows.sent_ms, args))
        found.append(made(rows.receiver, "on its way", here, rows.ready_ms, rows.arrived_ms, args))
    return [process.slice(*told) for _, told in sorted(found, key=lambda item: item[0])]


def us(seconds: float) -> float:
    """Microseconds, to the nanosecond."""
    return round(seconds * 1e6, 3)
