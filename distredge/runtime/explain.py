"""Why a frame took longer than predicted, or less long: its critical path, beside what was predicted. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from distredge.runtime.frame_view import NO_FRAME, Delivery, FrameView, Part
from distredge.scenario import REQUESTER

AS_PREDICTED = 0.02
"""A difference of this share of the prediction needs no explanation."""

AS_PREDICTED_MS = 0.2

SAID = 0.8
"""Causes are named until they make up this share of the difference, `MOST_SAID` at most."""

WORTH_SAYING = 0.05
"""A cause of a smaller share of the difference is not named."""

MOST_SAID = 3

Cause: TypeAlias = Literal["compute", "link", "wait", "unknown"]


@dataclass(frozen=True)
class Segment:
    """A stretch of a frame's critical path, and how long it should have lasted.

    - `compute`: `node` computed its part in `volume`;
    - `link`: rows for `volume` went from `node` to `peer`, from the moment their sender was done with computing them;
    - `wait`: `node` had all rows for `volume`, but did not compute yet (or, the requester: the frame was not done yet);
    - `unknown`: what was before was not recorded, or happened under an earlier plan.

    `behind` is another frame that was served first, if any.
    """

    cause: Cause
    node: str
    peer: str
    volume: int
    start_ms: float
    stop_ms: float
    predicted_ms: float = 0.0
    behind: int = NO_FRAME

    @property
    def ms(self) -> float:
        """How long it lasted."""
        return self.stop_ms - self.start_ms

    @property
    def excess_ms(self) -> float:
        """How much longer it lasted than it should have."""
        return self.ms - self.predicted_ms


def critical_path(view: FrameView, head: int) -> tuple[Segment, ...]:
    """What a frame's end waited for, from its beginning on; `head` is the number of volumes.

    Walked backwards: a result came last from one node, which computed it when the last of its rows had come, and so on.
    The segments follow each other without a gap and together last as long as the frame.
    """
    found: list[Segment] = []
    last = _last(view, REQUESTER, head + 1)
    if last is None:
        return (Segment("unknown", REQUESTER, "", head + 1, 0.0, view.latency_ms),)
    found.append(Segment("wait", REQUESTER, "", head + 1, last.arrived_ms, view.latency_ms))
    part = _back_over(view, last, found)
    while part is not None:
        found.append(Segment("compute", part.node, "", part.volume, part.start_ms, part.stop_ms))
        rows, own = _last(view, part.node, part.volume), view.before(part)
        if own is not None and (rows is None or own.stop_ms >= rows.arrived_ms):
            found.append(_wait(part, own.stop_ms))
            part = own
        elif rows is not None:
            found.append(_wait(part, rows.arrived_ms))
            part = _back_over(view, rows, found)
        else:
            found.append(Segment("unknown", part.node, "", part.volume, 0.0, part.start_ms))
            break
    return tuple(reversed(found))


def _last(view: FrameView, node: str, volume: int) -> Delivery | None:
    arrived = view.by_receiver.get((node, volume))
    return arrived[-1] if arrived else None


def _wait(part: Part, since_ms: float) -> Segment:
    return Segment("wait", part.node, "", part.volume, since_ms, part.start_ms, behind=part.behind)


def _back_over(view: FrameView, rows: Delivery, found: list[Segment]) -> Part | None:
    """Add the link by which rows came; gives the part that made them (None: the requester, at the frame's start)."""
    part = view.source(rows)
    since_ms = part.stop_ms if part else 0.0 if rows.sender == REQUESTER else rows.ready_ms
    found.append(
        Segment("link", rows.sender, rows.receiver, rows.volume, since_ms, rows.arrived_ms, behind=rows.behind)
    )
    if part is None and rows.sender != REQUESTER:
        found.append(Segment("unknown", rows.sender, "", rows.volume, 0.0, since_ms))
    return part


def lasting(view: FrameView, segment: Segment) -> float | None:
    """How long the same stretch lasts in another view of the frame; None if there is none."""
    part = view.by_place.get((segment.node, segment.volume))
    if segment.cause == "compute":
        return part.compute_ms if part else None
    if segment.cause == "link":
        rows = view.delivery(segment.node, segment.peer, segment.volume)
        source = view.source(rows) if rows else None
        return rows.arrived_ms - (source.stop_ms if source else 0.0) if rows else None
    if segment.cause == "wait":
        last = _last(view, segment.node, segment.volume)
        if segment.node == REQUESTER:
            return view.latency_ms - last.arrived_ms if last else None
        own = view.before(part) if part else None
        here_ms = max(last.arrived_ms if last else 0.0, own.stop_ms if own else 0.0)
        return part.start_ms - here_ms if part else None
    return None


@dataclass(frozen=True)
class Explanation:
    """A frame beside its prediction: the measured critical path, its causes in order of weight, and a sentence.

    If the frame was quicker than predicted, `causes` are from the predicted critical path, with what was saved.
    """

    latency_ms: float
    predicted_ms: float
    path: tuple[Segment, ...]
    causes: tuple[Segment, ...]
    sentence: str


def explain(frame: int, measured: FrameView, predicted: FrameView, head: int, is_resent: bool = False) -> Explanation:
    """Compare a frame with its prediction. `head` is the number of volumes.

    `is_resent`: an earlier plan had begun with the frame, so that the time before its rows left was lost with it.
    """
    path = tuple(replace(s, predicted_ms=lasting(predicted, s) or 0.0) for s in critical_path(measured, head))
    if is_resent:
        path = _apart(path, measured)
    difference_ms = measured.latency_ms - predicted.latency_ms
    if difference_ms >= 0.0:
        causes = sorted((s for s in path if s.excess_ms > 0.0), key=lambda s: -s.excess_ms)
    else:
        foreseen = [
            replace(s, predicted_ms=s.ms, stop_ms=s.start_ms + ms)
            for s in critical_path(predicted, head)
            if (ms := lasting(measured, s)) is not None
        ]
        causes = sorted((s for s in foreseen if s.excess_ms < 0.0), key=lambda s: s.excess_ms)
    said = _said(causes, abs(difference_ms))
    return Explanation(
        measured.latency_ms,
        predicted.latency_ms,
        path,
        tuple(causes),
        _sentence(frame, measured.latency_ms, predicted.latency_ms, said, head),
    )


def _apart(path: tuple[Segment, ...], view: FrameView) -> tuple[Segment, ...]:
    """The path with the time before the frame's rows left, which belongs to an earlier plan, on its own."""
    first = path[0]
    rows = view.delivery(first.node, first.peer, first.volume)
    if first.cause != "link" or rows is None:
        return path
    lost = Segment("unknown", REQUESTER, "", first.volume, 0.0, rows.ready_ms)
    return lost, replace(first, start_ms=rows.ready_ms), *path[1:]


def _said(causes: Sequence[Segment], difference_ms: float) -> list[Segment]:
    said: list[Segment] = []
    for segment in causes:
        enough = sum(abs(s.excess_ms) for s in said) >= SAID * difference_ms
        if len(said) == MOST_SAID or enough or abs(segment.excess_ms) < WORTH_SAYING * difference_ms:
            break
        said.append(segment)
    return said


def _sentence(frame: int, latency_ms: float, predicted_ms: float, said: Sequence[Segment], head: int) -> str:
    difference_ms = latency_ms - predicted_ms
    if abs(difference_ms) <= max(AS_PREDICTED * predicted_ms, AS_PREDICTED_MS) or not said:
        return f"frame {frame} took {latency_ms:.1f} ms, {difference_ms:+.1f} ms from the predicted {predicted_ms:.1f}"
    than = "longer" if difference_ms > 0.0 else "less"
    causes = "; ".join(_phrase(segment, head) for segment in said)
    return f"frame {frame} took {abs(difference_ms):.1f} ms {than} than predicted: {causes}"


def _phrase(segment: Segment, head: int) -> str:
    """A cause in words."""
    ms, where = f"{abs(segment.excess_ms):.1f} ms", stage_name(segment.volume, head)
    behind = f" behind frame {segment.behind}" if segment.behind != NO_FRAME else ""
    if segment.cause == "compute":
        return f"{ms} in {where} on {segment.node}, computing {_times(segment)}"
    if segment.cause == "link":
        return f"{ms} on the way from {segment.node} to {segment.peer} for {where}, taking {_times(segment)}{behind}"
    if segment.cause == "unknown":
        return f"{ms} before {where} on {segment.node}, of which nothing was recorded under this plan"
    if segment.node == REQUESTER:
        return f"{ms} at the requester when all had arrived"
    return f"{ms} in {where} on {segment.node}, waiting{behind} with all rows there"


def stage_name(volume: int, head: int) -> str:
    """`volume 3`, counted from 0 as in plans and logs; behind them the head and the result."""
    return {head: "the head", head + 1: "the result"}.get(volume, f"volume {volume}")


def _times(segment: Segment) -> str:
    if segment.predicted_ms > 0.0 and not 0.7 < segment.ms / segment.predicted_ms < 1.4:
        return f"{segment.ms / segment.predicted_ms:.2g} times as long as predicted"
    return f"{segment.ms:.1f} ms instead of {segment.predicted_ms:.1f}"
