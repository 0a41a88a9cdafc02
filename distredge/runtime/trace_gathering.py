"""The requester's side of a trace: gathers what nodes noted and puts it on its own clock."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from distredge.runtime.clock_offset import ClockOffset
from distredge.runtime.conductor import EpochBegun
from distredge.runtime.frame_view import FrameView, measured_view, predicted_view
from distredge.runtime.message import Stamps
from distredge.runtime.trace_file import About, Clock, PlanRun, Trace
from distredge.runtime.tracing import RESULT, Recorder, Span
from distredge.scenario import REQUESTER, Scenario

MAX_GATHERED = 1_000_000
"""Spans of a node that are kept; further ones are counted and lost."""


class Gathering:
    """What the nodes of a session have noted. Used under the session's lock."""

    def __init__(self) -> None:
        self._clocks: dict[str, ClockOffset] = {}
        self._spans: dict[str, list[Span]] = {}
        self._dropped: dict[str, int] = {}
        self._lost: dict[str, int] = {}
        self._own: list[Span] = []

    def answered(self, name: str, stamps: Stamps, arrived_s: float) -> None:
        """A provider has answered a pulse; its answer arrived at `arrived_s`."""
        self._clocks.setdefault(name, ClockOffset()).add(stamps, arrived_s)

    def took(self, name: str, spans: Sequence[Span], dropped: int) -> None:
        """A node has sent spans, and says how many it has dropped by now."""
        known = self._spans.setdefault(name, [])
        room = MAX_GATHERED - len(known)
        known.extend(spans[:room])
        self._lost[name] = self._lost.get(name, 0) + max(0, len(spans) - room)
        self._dropped[name] = dropped

    def frame(self, own: Recorder, settled_s: float) -> tuple[Span, FrameView] | None:
        """The last frame whose result came before a moment of this node's clock, and what happened to it.

        By then its providers should have told; None if there is no such frame.
        """
        self._own += own.take(own.waiting)
        done = [span for span in self._own if span.kind == "result" and span.stop_s <= settled_s]
        if not done:
            return None
        result = done[-1]
        spans: dict[str, Sequence[Span]] = {REQUESTER: self._own}
        for name, noted in self._spans.items():
            near = [span for span in noted if span.frame == result.frame]
            moved = self._on_own_clock(name, near)
            spans[name] = moved[0] if moved else ()
        return result, measured_view(spans, result)

    def forget(self, before: int) -> None:
        """Keep nothing of the frames before one."""
        self._own = [span for span in self._own if span.frame >= before]
        self._spans = {name: [s for s in noted if s.frame >= before] for name, noted in self._spans.items()}

    def trace(
        self,
        own: Recorder,
        history: Iterable[EpochBegun],
        scenario: Scenario,
        wire: str,
        element_bytes: int,
        first_frame: int,
    ) -> Trace:
        """All of it by this node's clock, whose own spans are taken from `own`.

        `history` are the plans that were in force, `first_frame` is that of the first image after the warm-up. Spans of
        a node whose clock is not known, as it never answered a pulse, count as dropped.
        """
        self._own += own.take(own.waiting)
        spans: dict[str, tuple[Span, ...]] = {REQUESTER: tuple(self._own)}
        clocks = {REQUESTER: Clock()}
        dropped = {REQUESTER: own.dropped}
        for name, noted in self._spans.items():
            moved = self._on_own_clock(name, noted)
            spans[name], clocks[name] = moved or ((), Clock())
            dropped[name] = self._dropped[name] + self._lost[name] + len(noted) - len(spans[name])
        plans = {
            begun.epoch: PlanRun(
                begun.reason,
                begun.bound.plan.model_dump(mode="json"),
                predicted_view(begun.bound, scenario, element_bytes),
                begun.first_frame,
            )
            for begun in history
        }
        for name, found in spans.items():
            spans[name] = tuple(_numbered(span, plans) for span in found)
        model = next(iter(plans.values())).plan["model"]["name"] if plans else ""
        return Trace(About(model, scenario.name, wire, first_frame, clocks, dropped, plans), spans)

    def _on_own_clock(self, name: str, noted: Sequence[Span]) -> tuple[tuple[Span, ...], Clock] | None:
        """A node's spans by this node's clock; None if the node's is not known."""
        if not noted or name not in self._clocks:
            return None
        first_s, last_s = min(s.start_s for s in noted), max(s.stop_s for s in noted)
        curve = self._clocks[name].curve(first_s, last_s)
        if curve is None:
            return None
        moved = tuple(
            msgspec.structs.replace(s, start_s=start_s, stop_s=max(start_s, curve.to_own(s.stop_s)))
            for s in noted
            for start_s in (curve.to_own(s.start_s),)
        )
        middle = curve.readings[len(curve.readings) // 2]
        return moved, Clock(middle.offset_s, curve.bound_s)


def _numbered(span: Span, plans: Mapping[int, PlanRun]) -> Span:
    """A span that is of a result, with the number of its boundary under its plan."""
    if span.volume != RESULT or span.epoch not in plans:
        return span
    return msgspec.structs.replace(span, volume=plans[span.epoch].head + 1)
