"""One frame, measured or predicted, in the same terms: parts that are computed, and deliveries of rows between nodes.

Times are in ms from the moment the requester has the frame's rows ready. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import msgspec

from distredge.plans.plan import BoundPlan
from distredge.profiles.network import QUANTUM_BYTES, ms_per_byte
from distredge.runtime.tracing import Kind, Span
from distredge.scenario import REQUESTER, Io, Scenario
from distredge.simulate.timeline import Timeline, Work, trace

_SAME_S = 2e-6
_SAME_MS = 2e-3

NO_FRAME = -1


class Part(msgspec.Struct, frozen=True):
    """A node's part in a volume (or the head). `behind` is a frame that it had to wait for, if any."""

    node: str
    volume: int
    start_ms: float
    stop_ms: float
    rows: tuple[int, int] = (0, 0)
    behind: int = NO_FRAME

    @property
    def compute_ms(self) -> float:
        """Time to compute it."""
        return self.stop_ms - self.start_ms


class Delivery(msgspec.Struct, frozen=True):
    """Rows for a volume: ready at their sender, wholly handed to its uplink, all at their receiver.

    `behind` is another frame whose rows the sender had to send first, if any.
    """

    volume: int
    sender: str
    receiver: str
    ready_ms: float
    sent_ms: float
    arrived_ms: float
    payload_bytes: float = 0.0
    behind: int = NO_FRAME


class FrameView(msgspec.Struct, frozen=True, dict=True):
    """What happened to one frame, or should."""

    latency_ms: float
    parts: tuple[Part, ...]
    deliveries: tuple[Delivery, ...]

    @cached_property
    def by_place(self) -> Mapping[tuple[str, int], Part]:
        """The parts by node and volume."""
        return {(part.node, part.volume): part for part in self.parts}

    @cached_property
    def by_receiver(self) -> Mapping[tuple[str, int], Sequence[Delivery]]:
        """The deliveries by receiver and volume, the one that arrived last as the last."""
        found: dict[tuple[str, int], list[Delivery]] = {}
        for item in sorted(self.deliveries, key=lambda d: (d.arrived_ms, d.sent_ms)):
            found.setdefault((item.receiver, item.volume), []).append(item)
        return found

    def delivery(self, sender: str, receiver: str, volume: int) -> Delivery | None:
        """The last delivery from one node to another for a volume."""
        found = [d for d in self.by_receiver.get((receiver, volume), ()) if d.sender == sender]
        return max(found, key=lambda d: d.sent_ms, default=None)

    def before(self, part: Part) -> Part | None:
        """What the node computed of this frame before a part."""
        return max(
            (p for p in self.parts if p.node == part.node and p.volume < part.volume),
            key=lambda p: p.volume,
            default=None,
        )

    def source(self, delivery: Delivery) -> Part | None:
        """The part with which a delivery's rows became ready; None for the requester's."""
        return max(
            (
                p
                for p in self.parts
                if p.node == delivery.sender
                and p.volume < delivery.volume
                and p.stop_ms <= delivery.ready_ms + _SAME_MS
            ),
            key=lambda p: p.volume,
            default=None,
        )


@dataclass(frozen=True)
class PartTimes:
    """What a part took (ms).

    `receive_ms`: from when the first of its rows were ready at another node until the last were here; `wait_ms`: what
    the node did nothing for this frame before it; `send_ms`: until the last of what became ready with it was handed
    over.
    """

    start_ms: float
    receive_ms: float
    wait_ms: float
    compute_ms: float
    send_ms: float
    stop_ms: float


def part_times(view: FrameView, part: Part) -> PartTimes:
    """A part's times, in the same terms for a measured frame and a predicted one."""
    came = view.by_receiver.get((part.node, part.volume), ())
    before = view.before(part)
    sent = [d.sent_ms for d in view.deliveries if d.sender == part.node and view.source(d) == part]
    return PartTimes(
        part.start_ms,
        came[-1].arrived_ms - min(d.ready_ms for d in came) if came else 0.0,
        part.start_ms - (before.stop_ms if before else 0.0),
        part.compute_ms,
        max(sent) - part.stop_ms if sent else 0.0,
        part.stop_ms,
    )


# Predicted.


def predicted_view(bound: BoundPlan, scenario: Scenario, element_bytes: int | None = None) -> FrameView:
    """What the simulator says of a plan; `element_bytes` replaces the scenario's for another precision on the wire."""
    timeline = trace(bound, scenario, element_bytes=element_bytes)
    parts = tuple(
        Part(w.provider, w.volume, float(w.start_ms), float(w.stop_ms), (w.rows.start, w.rows.stop))
        for w in timeline.work
    )
    return FrameView(float(timeline.latency_ms), parts, _predicted_deliveries(bound, scenario, timeline))


def _predicted_deliveries(bound: BoundPlan, scenario: Scenario, timeline: Timeline) -> tuple[Delivery, ...]:
    """The simulator says when all the rows for a part are in memory; here each message gets the moment of its arrival.

    That is when its last quantum has passed the receiver's link, unless others keep it waiting: an estimate, except
    for the last of them. Writing into memory comes after it, as a wait of the part.
    """
    here_ms = {(w.provider, w.volume): w.arrived_ms for w in timeline.work}
    here_ms[REQUESTER, len(bound.volumes) + 1] = timeline.latency_ms
    totals: dict[tuple[str, int], float] = {}
    last_sent: dict[tuple[str, int], float] = {}
    for t in timeline.transfers:
        place = t.receiver, t.volume
        totals[place] = totals.get(place, 0.0) + t.payload_bytes
        last_sent[place] = max(last_sent.get(place, 0.0), t.sent_ms)
    nodes: dict[str, tuple[float, Io]] = {p.name: (ms_per_byte(p.bandwidth_mbps), p.io) for p in scenario.providers} | {
        REQUESTER: (ms_per_byte(scenario.requester_mbps), scenario.requester.io)
    }
    found = []
    for t in timeline.transfers:
        place = t.receiver, t.volume
        per_byte, io = nodes[t.receiver]
        alone_ms = t.sent_ms + min(QUANTUM_BYTES, t.payload_bytes) * per_byte
        all_ms = here_ms[place] - io.writing_ms(totals[place])
        arrived_ms = all_ms if t.sent_ms == last_sent[place] else min(all_ms, alone_ms)
        ready_ms = _ready_ms(timeline.work, t.sender, t.volume, len(bound.volumes), t.start_ms)
        times = float(ready_ms), float(t.sent_ms), float(arrived_ms)
        found.append(Delivery(t.volume, t.sender, t.receiver, *times, float(t.payload_bytes)))
    return tuple(found)


def _ready_ms(work: Sequence[Work], sender: str, volume: int, volumes: int, start_ms: float) -> float:
    """When a sender had a message's rows: after its last part before their volume.

    What only the head or the requester needs leaves with the part that made it, the last one that was done by then.
    """
    own = [w for w in work if w.provider == sender and w.volume < volume]
    if volume >= volumes:
        own = [w for w in own if w.stop_ms <= start_ms + _SAME_MS]
    return max(own, key=lambda w: w.volume).stop_ms if own else 0.0


# Measured.


def measured_view(
    spans: Mapping[str, Sequence[Span]], result: Span, rows: Mapping[tuple[str, int], tuple[int, int]] | None = None
) -> FrameView:
    """What happened to the frame of a `result` span. `spans` are those of all nodes by one clock, in seconds.

    `rows` are those of each part, by node and volume.
    """
    rows = rows or {}
    views = [_NodeView(node, own, result) for node, own in spans.items()]
    arrivals = {(v.node, s.volume, s.peer): v.ms(s.stop_s) for v in views for s in v.of("receive")}
    return FrameView(
        (result.stop_s - result.start_s) * 1000.0,
        tuple(v.part(s, rows.get((v.node, s.volume), (0, 0))) for v in views for s in v.of("compute", "head")),
        tuple(
            v.delivery(s, arrivals[s.peer, s.volume, v.node])
            for v in views
            for s in v.of("send")
            if (s.peer, s.volume, v.node) in arrivals
        ),
    )


class _NodeView:
    """A node's spans, those of a frame under the epoch in which its result came, and those of other frames."""

    def __init__(self, node: str, spans: Sequence[Span], result: Span) -> None:
        self.node, self._zero_s = node, result.start_s
        self._frame = [s for s in spans if s.frame == result.frame and s.epoch == result.epoch]
        self._others = [
            s for s in spans if s.frame != result.frame and s.stop_s >= result.start_s and s.start_s <= result.stop_s
        ]

    def of(self, *kinds: Kind) -> list[Span]:
        return [s for s in self._frame if s.kind in kinds]

    def ms(self, at_s: float) -> float:
        return (at_s - self._zero_s) * 1000.0

    def part(self, span: Span, rows: tuple[int, int]) -> Part:
        waits = [s for s in self.of("wait") if s.volume == span.volume]
        behind = self._ahead(waits[0], "compute", "head") if waits else NO_FRAME
        return Part(self.node, span.volume, self.ms(span.start_s), self.ms(span.stop_s), rows, behind)

    def delivery(self, span: Span, arrived_ms: float) -> Delivery:
        return Delivery(
            span.volume,
            self.node,
            span.peer,
            self.ms(span.start_s),
            self.ms(span.stop_s),
            arrived_ms,
            span.payload_bytes,
            self._ahead(span, "send"),
        )

    def _ahead(self, span: Span, *kinds: Kind) -> int:
        """The frame that was served before the one of a span, and ended while that lasted."""
        found = [s for s in self._others if s.kind in kinds and span.start_s < s.stop_s <= span.stop_s + _SAME_S]
        found = [s for s in found if s.kind != "send" or s.start_s <= span.start_s]
        return max(found, key=lambda s: s.stop_s).frame if found else NO_FRAME
