"""What a requester's message means: whether it can be true, and what has happened by it. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from distredge.control.schema import PlanChange, Telemetry
from distredge.controller import events as e
from distredge.controller.measured import Measured
from distredge.controller.state import Latest, StreamState
from distredge.errors import InputError
from distredge.plans.nodes import REQUESTER

FUTURE_S = 60.0
"""A message dated further ahead of this machine's clock is refused."""


class Conflict(InputError):
    """It does not fit what has happened already: stale telemetry, an epoch that goes back, nothing to roll back to."""


def check_time(at_s: float, now_s: float) -> None:
    """Raise `InputError` for a message from the future."""
    if at_s > now_s + FUTURE_S:
        raise InputError(
            f"the message is dated {at_s - now_s:.0f} s ahead of the controller's clock: set the clock of its sender"
        )


def check(stream: StreamState, latest: Latest | None, telemetry: Telemetry, now_s: float) -> None:
    """Raise `Conflict` or `InputError` for a message that cannot follow the latest one of a stream."""
    check_time(telemetry.at_s, now_s)
    if latest and telemetry.sequence < latest.telemetry.sequence:
        raise Conflict(f"message {telemetry.sequence} is stale: {latest.telemetry.sequence} was taken already")
    if telemetry.epoch < stream.current.epoch:
        raise Conflict(f"epoch {telemetry.epoch} is stale: {stream.current.epoch} was in force already")
    if telemetry.order_version > stream.orders.version:
        raise Conflict(
            f"orders {telemetry.order_version} were never given, {stream.orders.version} are the newest: open a stream"
        )
    if any(change.epoch > telemetry.epoch for change in telemetry.plan_changes):
        raise InputError(f"a plan change is of a later epoch than the message's, {telemetry.epoch}")
    names = {*stream.scenario.provider_names}
    links = {*telemetry.mbps, *(c.node for c in telemetry.changes if c.kind == "link")}
    providers = {*telemetry.slowdown, *telemetry.present, *(c.node for c in telemetry.changes if c.kind == "compute")}
    if strange := sorted((links - names - {REQUESTER}) | (providers - names)):
        raise InputError(f"'{strange[0]}' is no node of the scenario '{stream.scenario.name}'")
    for plan in telemetry.plans:
        if plan.model.name != stream.model or not {*plan.providers} <= names:
            raise InputError(f"a plan of '{plan.model.name}' on {', '.join(plan.providers)} is not of this stream")


def happenings(stream: StreamState, telemetry: Telemetry, now_s: float) -> Iterator[e.StreamEvent]:
    """What has happened by a message; times are by this machine's clock, whatever the sender's says."""

    def when(at_s: float) -> float:
        return max(0.0, now_s - max(0.0, telemetry.at_s - at_s))

    if stream.silent_s is not None:
        reason = f"{stream.requester} is heard of again after {now_s - stream.silent_s:.0f} s"
        yield e.StreamReturned(at_s=now_s, stream=stream.stream, reason=reason)
    for change in telemetry.changes:
        what, unit = ("link", " Mbit/s") if change.kind == "link" else ("compute time", " times the profile's")
        reason = f"{change.node}'s {what} went from {change.before:.3g} to {change.after:.3g}{unit}"
        yield e.DriftSeen(at_s=when(change.at_s), stream=stream.stream, node=change.node, change=change, reason=reason)
    yield from _plan_changes(stream, telemetry, when(telemetry.at_s), [when(c.at_s) for c in telemetry.plan_changes])


def _plan_changes(
    stream: StreamState, telemetry: Telemetry, now_s: float, times_s: list[float]
) -> Iterator[e.PlanInForce | e.PlanRolledBack]:
    """The plans that came into force, those that are known of already left out."""
    epoch, plan = stream.current.epoch, stream.current.plan_sha256
    carried_out = telemetry.order_version == stream.orders.version
    policy = stream.orders.policy_sha256 if carried_out else None
    measured = Measured(present=tuple(sorted({*telemetry.present})), mbps=telemetry.mbps, slowdown=telemetry.slowdown)
    for change, at_s in (*zip(telemetry.plan_changes, times_s, strict=True), (_untold(telemetry), now_s)):
        if change.epoch <= epoch:
            continue
        if change.source == "rollback":
            yield e.PlanRolledBack(
                at_s=at_s,
                stream=stream.stream,
                change=change,
                refused_sha256=plan,
                measured=measured,
                reason=change.reason,
            )
        else:
            yield e.PlanInForce(
                at_s=at_s, stream=stream.stream, change=change, policy_sha256=policy, reason=change.reason
            )
        epoch, plan = change.epoch, change.plan_sha256


def _untold(telemetry: Telemetry) -> PlanChange:
    """That the plan of a message is in force, should no change have told."""
    return PlanChange(
        at_s=telemetry.at_s,
        epoch=telemetry.epoch,
        first_frame=0,
        plan_sha256=telemetry.plan_sha256,
        source="crew",
        reason="it was not told why",
    )
