"""What a requester has to tell a controller, gathered from one message to the next. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from distredge.control.schema import MAX_ITEMS, Change, FrameSpans, Latencies, PlanChange, Span, Telemetry, plan_sha256
from distredge.plans.plan import Plan
from distredge.runtime.conductor import EpochBegun, FrameDone
from distredge.runtime.frame_view import FrameView
from distredge.runtime.message import Stint, Transfer
from distredge.runtime.steering import Proposal
from distredge.runtime.watch import Change as Found
from distredge.runtime.watch import Situation

MAX_PLANS = 20


def _some() -> deque[float]:
    return deque(maxlen=MAX_ITEMS)


@dataclass
class Account:
    """Between two messages at most `MAX_ITEMS` of a kind are kept, the newest. Times by the requester's clock.

    Frames that take longer than `deadline_ms` are counted.
    """

    began_s: float
    deadline_ms: float | None = None
    sequence: int = 0
    epoch: int = 0
    misses: int = 0
    frame_ms: deque[float] = field(default_factory=_some)
    transfer_ms: deque[float] = field(default_factory=_some)
    compute_ms: deque[float] = field(default_factory=_some)
    changes: list[Found] = field(default_factory=list)
    plan_changes: list[tuple[EpochBegun, Proposal]] = field(default_factory=list)
    timeline: FrameSpans | None = None

    def done(self, frame: FrameDone) -> None:
        """A frame is done."""
        ms = (frame.done_s - frame.started_s) * 1000.0
        self.frame_ms.append(ms)
        self.misses += self.deadline_ms is not None and ms > self.deadline_ms

    def begun(self, told: EpochBegun, proposal: Proposal) -> None:
        """A plan is in force."""
        self.epoch = told.epoch
        self.plan_changes = [*self.plan_changes, (told, proposal)][-MAX_PLANS:]

    def worked(self, stints: Iterable[Stint]) -> None:
        """A provider has computed."""
        self.compute_ms.extend(stint.total_ms / stint.times for stint in stints if stint.times)

    def came(self, transfers: Iterable[Transfer]) -> None:
        """Rows have come to a node."""
        self.transfer_ms.extend(transfer.ms for transfer in transfers)

    def found(self, changes: Iterable[Found]) -> None:
        """The world has changed."""
        self.changes = [*self.changes, *changes][-MAX_ITEMS:]

    def told(
        self,
        now_s: float,
        unix_s: float,
        plan: Plan,
        expected_ms: float | None,
        situation: Situation,
        mbps: dict[str, float],
        order_version: int,
    ) -> Telemetry:
        """All since the last message as the next one, which begins anew; `unix_s` is the time of the day `now_s`."""
        self.sequence += 1
        ago = unix_s - now_s
        telemetry = Telemetry(
            sequence=self.sequence,
            at_s=unix_s,
            span_s=max(0.0, now_s - self.began_s),
            epoch=self.epoch,
            plan_sha256=plan_sha256(plan),
            order_version=order_version,
            latency=_latencies([*self.frame_ms], now_s - self.began_s),
            expected_ms=expected_ms,
            present=situation.present,
            mbps={name: rate for name, rate in mbps.items() if 0.0 < rate <= 1e6},
            slowdown=dict(situation.slowdown),
            frame_ms=tuple(self.frame_ms),
            transfer_ms=tuple(self.transfer_ms),
            compute_ms=tuple(self.compute_ms),
            changes=tuple(
                Change(at_s=c.at_s + ago, kind=c.kind, node=c.node, before=c.before, after=c.after)
                for c in self.changes
            ),
            plan_changes=tuple(_plan_change(told, proposal, ago) for told, proposal in self.plan_changes),
            plans=tuple(told.bound.plan for told, _ in self.plan_changes),
            timeline=self.timeline,
            deadline_misses=self.misses,
        )
        self.began_s, self.misses, self.timeline = now_s, 0, None
        for gathered in (self.frame_ms, self.transfer_ms, self.compute_ms):
            gathered.clear()
        self.changes, self.plan_changes = [], []
        return telemetry


def _plan_change(told: EpochBegun, proposal: Proposal, ago: float) -> PlanChange:
    return PlanChange(
        at_s=told.at_s + ago,
        epoch=told.epoch,
        first_frame=told.first_frame,
        plan_sha256=plan_sha256(told.bound.plan),
        source=proposal.source,
        reason=proposal.reason[:500],
        expected_ms=proposal.latency_ms,
    )


def _latencies(frame_ms: list[float], span_s: float) -> Latencies | None:
    if not frame_ms:
        return None
    p50, p90, p99 = (float(p) for p in np.percentile(frame_ms, (50, 90, 99)))
    return Latencies(frames=len(frame_ms), p50=p50, p90=p90, p99=p99, ips=len(frame_ms) / max(span_s, 1e-3))


def frame_spans(frame: int, epoch: int, view: FrameView) -> FrameSpans:
    """What happened to a frame, as a controller is told of it; times before its beginning count as its beginning."""

    def span(node: str, kind: Literal["send", "receive", "compute"], volume: int, start: float, stop: float) -> Span:
        start_ms = max(0.0, start)
        return Span(node=node, kind=kind, volume=volume, start_ms=start_ms, stop_ms=max(start_ms, stop))

    spans = [span(p.node, "compute", p.volume, p.start_ms, p.stop_ms) for p in view.parts]
    for d in view.deliveries:
        spans.append(span(d.sender, "send", d.volume, d.ready_ms, d.sent_ms))
        spans.append(span(d.receiver, "receive", d.volume, d.sent_ms, d.arrived_ms))
    return FrameSpans(frame=frame, epoch=epoch, latency_ms=view.latency_ms, spans=tuple(spans[: 4 * MAX_ITEMS]))
