"""What is to be done, given what is known: pure, and each decision says why, in words and figures.

A decision is an event that is to be recorded. One of them asks for work besides: `ReplanStarted`.
"""

from __future__ import annotations

from dataclasses import replace

from distredge.control.schema import Telemetry
from distredge.controller import events as e
from distredge.controller.measured import differences
from distredge.controller.state import DeviceState, Latest, Seen, State, StreamState

LATE_S = 6.0
"""A provider or requester that was not heard of for so long is shown as late: three missed heartbeats."""

DOWN_S = 15.0
"""After so long it is lost, or silent."""

CLOSE_S = 600.0
"""After so long a silent stream is closed: its requester has ended without a word, or will open another one."""

LARGE = 1.5
"""Drift is large if a rate, or a node's slowdown, is off by more than this factor, either way.

A policy that sees the rates follows smaller drift by itself, and the estimates of rates vary by a tenth or two.
"""

SETTLED_S = 0.5
"""So long must conditions have been far before something is done: the last of several changes is waited for."""

REPLAN_EVERY_S = 3.0
"""Between the beginnings of two re-plans of a stream."""

RETRY_S = 30.0
"""After a re-plan that failed, unless conditions have moved again."""

REPLAN_MAX_S = 120.0
"""A re-plan that has not answered by then has failed."""

GAIN = 0.03
"""By so much must a plan be better to be worth a change: below that, the simulator's own error decides."""

HORIZON_S = 30.0
"""For which conditions are taken to last."""

SWAP_COST_MS = 100.0
"""What a change of plan costs, once: the frames under way finish under the old plan while the new one is made ready."""


def decide(state: State, seen: Seen, now_s: float) -> list[e.DeviceLost | e.StreamEvent]:
    """The next thing to do about each device and stream; to be asked again when it has been done, until it is none."""
    lost = (decide_device(device, seen, now_s) for device in state.devices.values() if device.lost_s is None)
    streams = (decide_stream(stream, seen, now_s) for stream in state.streams.values() if stream.open)
    return [event for event in (*lost, *streams) if event is not None]


def decide_device(device: DeviceState, seen: Seen, now_s: float) -> e.DeviceLost | None:
    """Whether a provider that was there is lost."""
    heard_s = max(heard_of_device(device, seen), seen.since_s)
    if now_s - heard_s <= DOWN_S:
        return None
    reason = f"nothing was heard of {device.name} for {now_s - heard_s:.0f} s; it is taken for lost after {DOWN_S:.0f}"
    return e.DeviceLost(at_s=now_s, node=device.name, reason=reason)


def heard_of_device(device: DeviceState, seen: Seen) -> float:
    """When something was heard of a provider."""
    heard = seen.devices.get(device.name)
    return max(heard.at_s, device.heard_s) if heard else device.heard_s


def heard_of_stream(stream: StreamState, seen: Seen) -> float:
    """When something was heard of a stream."""
    latest = seen.streams.get(stream.stream)
    return max(latest.at_s, stream.heard_s) if latest else stream.heard_s


def decide_stream(stream: StreamState, seen: Seen, now_s: float) -> e.StreamEvent | None:
    """The next thing to do about an open stream."""
    silent_for = now_s - max(heard_of_stream(stream, seen), seen.since_s)
    if silent_for > CLOSE_S:
        reason = f"nothing was heard of {stream.requester} for {silent_for:.0f} s"
        return e.StreamClosed(at_s=now_s, stream=stream.stream, reason=reason)
    if silent_for > DOWN_S and stream.silent_s is None:
        reason = f"nothing was heard of {stream.requester} for {silent_for:.0f} s"
        return e.StreamSilent(at_s=now_s, stream=stream.stream, reason=reason)
    latest = seen.streams.get(stream.stream)
    if stream.candidate is not None:
        return _judge(stream, stream.candidate, latest, now_s)
    if stream.replan is not None:
        return _overdue(stream, stream.replan, now_s)
    if latest is None or now_s - latest.at_s > LATE_S:
        return None
    return _follow(stream, latest, now_s)


def noticed(stream: StreamState, before: Latest | None, telemetry: Telemetry, at_s: float) -> Latest:
    """The newest telemetry, with since when conditions have been far from the stream's basis."""
    latest = Latest(at_s, telemetry, stream.basis, None, telemetry.timeline or (before.timeline if before else None))
    if not any(differences(stream.basis, latest.measured, stream.scenario, LARGE)):
        return latest
    known = before is not None and before.basis == stream.basis and before.far_since_s is not None
    return replace(latest, far_since_s=before.far_since_s if known and before else at_s)


def _overdue(stream: StreamState, replan: e.ReplanStarted, now_s: float) -> e.ReplanFailed | None:
    if now_s - replan.at_s <= REPLAN_MAX_S:
        return None
    return e.ReplanFailed(at_s=now_s, stream=stream.stream, reason=f"no answer in {REPLAN_MAX_S:.0f} s")


# Drift.


def _follow(stream: StreamState, latest: Latest, now_s: float) -> e.StreamEvent | None:
    """Say that drift is large, once; then look for a better plan unless it is pinned."""
    if latest.far_since_s is None or latest.basis != stream.basis or now_s - latest.far_since_s < SETTLED_S:
        return None
    measured = latest.measured
    words = "; ".join(differences(stream.basis, measured, stream.scenario, LARGE))
    if not words:
        return None
    reason = f"{words}; for {now_s - latest.far_since_s:.1f} s, and large beyond x{LARGE:g} either way"
    told = stream.drift
    if told is None or any(differences(told.measured, measured, stream.scenario, LARGE)):
        pinned = "; nothing is done, as an operator has pinned the plan" if stream.orders.pinned else ""
        return e.LargeDrift(
            at_s=now_s, stream=stream.stream, since_s=latest.far_since_s, measured=measured, reason=reason + pinned
        )
    if stream.orders.pinned or not measured.present or _too_soon(stream, told, now_s):
        return None
    return e.ReplanStarted(
        at_s=now_s,
        stream=stream.stream,
        measured=measured,
        plan_sha256=stream.current.plan_sha256,
        reason=reason,
    )


def _too_soon(stream: StreamState, drift: e.LargeDrift, now_s: float) -> bool:
    if stream.replanned_s is not None and now_s - stream.replanned_s < REPLAN_EVERY_S:
        return True
    return stream.failed_s is not None and now_s - stream.failed_s < RETRY_S and drift.at_s <= stream.failed_s


# Judgement of what was found.


def _judge(stream: StreamState, found: e.ReplanDone, latest: Latest | None, now_s: float) -> e.PlanOrdered | e.PlanKept:
    """Order a plan that was found, or keep the one in force, and why."""
    kept = e.PlanKept(
        at_s=now_s,
        stream=stream.stream,
        plan_sha256=stream.current.plan_sha256,
        candidate_sha256=found.plan_sha256,
        judged=None,
    )
    if why := _beside_the_point(stream, found, latest):
        return kept.model_copy(update={"reason": why})
    if why := _not_better(stream, found, latest):
        return kept.model_copy(update={"reason": why, "judged": found.measured})
    return e.PlanOrdered(
        at_s=now_s,
        stream=stream.stream,
        version=stream.orders.version + 1,
        plan_sha256=found.plan_sha256,
        policy_sha256=found.policy_sha256,
        measured=found.measured,
        reason=f"{_compared(found)}; {found.reason}",
    )


def _beside_the_point(stream: StreamState, found: e.ReplanDone, latest: Latest | None) -> str | None:
    """Why what was found is not even judged, if it is not."""
    if stream.orders.pinned:
        return "an operator has pinned the plan meanwhile"
    if latest and (moved := "; ".join(differences(found.measured, latest.measured, stream.scenario, LARGE))):
        return f"conditions moved again while a plan was looked for: {moved}"
    if found.current_sha256 != stream.current.plan_sha256:
        return "another plan has come into force than the one it was compared with"
    return None


def _not_better(stream: StreamState, found: e.ReplanDone, latest: Latest | None) -> str | None:
    """Why the plan in force is as good under these conditions, if it is."""
    if found.plan_sha256 == stream.current.plan_sha256:
        return f"nothing better than the plan in force was found ({found.latency_ms:.1f} ms)"
    if found.plan_sha256 in banned(stream, found):
        return f"the plan that was found ({found.latency_ms:.1f} ms) was rolled back under such conditions"
    if found.current_ms is None:
        return None
    spared_ms = found.current_ms - found.latency_ms
    if spared_ms < GAIN * found.current_ms:
        return f"{_compared(found)}: less than {GAIN:.0%} better"
    told = latest.telemetry.latency if latest else None
    frames = HORIZON_S * (told.ips if told else 1000.0 / found.current_ms)
    if spared_ms * frames <= SWAP_COST_MS:
        return f"{_compared(found)}: in {HORIZON_S:.0f} s less is spared than the {SWAP_COST_MS:.0f} ms of a change"
    return None


def _compared(found: e.ReplanDone) -> str:
    now = "the plan in force cannot go on" if found.current_ms is None else f"{found.current_ms:.1f} ms as it is"
    return f"{found.latency_ms:.1f} ms by the simulator under what is measured, {now}"


def banned(stream: StreamState, asked: e.ReplanStarted | e.ReplanDone) -> tuple[str, ...]:
    """Plans that were rolled back under conditions like those of a re-plan."""
    return tuple(
        r.plan_sha256
        for r in stream.refused
        if not any(differences(r.measured, asked.measured, stream.scenario, LARGE))
    )
