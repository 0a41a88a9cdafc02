"""What happened: the append-only truth from which the controller's state follows. Each says when and, in words, why.

What is heard all the time (heartbeats, rates, latencies) is no event: see `state.Seen`.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Field, TypeAdapter

from distredge.config import Frozen
from distredge.control.schema import Change, Count, Ms, Name, PlanChange, Registration, Seconds, Sha256
from distredge.controller.measured import Measured
from distredge.scenario import Scenario


class Happening(Frozen):
    """Of every event: when, by the controller's clock, in Unix seconds, and why."""

    at_s: Seconds
    reason: str = ""


class OfDevice(Happening):
    """Something about a provider."""

    node: Name


class OfStream(Happening):
    """Something about a stream."""

    stream: str


class DeviceRegistered(OfDevice):
    """It is there, for the first time or with other properties."""

    kind: Literal["device_registered"] = "device_registered"
    registration: Registration


class DeviceLost(OfDevice):
    """It has not been heard of for too long."""

    kind: Literal["device_lost"] = "device_lost"


class DeviceReturned(OfDevice):
    """It is heard of again."""

    kind: Literal["device_returned"] = "device_returned"


class DeviceRemoved(OfDevice):
    """An operator had it forgotten."""

    kind: Literal["device_removed"] = "device_removed"


class StreamOpenedAs(OfStream):
    """A requester begins to serve images under a plan."""

    kind: Literal["stream_opened"] = "stream_opened"
    requester: Name
    scenario: Scenario
    model: str
    plan_sha256: Sha256
    policy_sha256: Sha256 | None = None


class StreamSilent(OfStream):
    """Its requester has not been heard of for too long."""

    kind: Literal["stream_silent"] = "stream_silent"


class StreamReturned(OfStream):
    """Its requester is heard of again."""

    kind: Literal["stream_returned"] = "stream_returned"


class StreamClosed(OfStream):
    """Its requester has ended, or was silent for so long that it must have."""

    kind: Literal["stream_closed"] = "stream_closed"


class DriftSeen(OfStream):
    """The requester has found a change-point."""

    kind: Literal["drift_seen"] = "drift_seen"
    node: Name
    change: Change


class LargeDrift(OfStream):
    """Conditions are far from those that the last re-plan, or the first plan, was made for."""

    kind: Literal["large_drift"] = "large_drift"
    since_s: Seconds
    measured: Measured


class ReplanStarted(OfStream):
    """A better plan is looked for."""

    kind: Literal["replan_started"] = "replan_started"
    measured: Measured
    plan_sha256: Sha256 = Field(description="in force, with which what is found will be compared")


class ReplanDone(OfStream):
    """It was looked for: what was found, by the simulator under the measured conditions."""

    kind: Literal["replan_done"] = "replan_done"
    plan_sha256: Sha256
    policy_sha256: Sha256 | None = Field(default=None, description="fine-tuned; null: it stays as it was")
    latency_ms: Ms
    current_sha256: Sha256 = Field(description="in force, with which it is compared")
    current_ms: Ms | None = Field(description="null: it needs a provider that is not there")
    methods: dict[str, Ms] = {}
    training: tuple[tuple[Seconds, Ms], ...] = ()
    seconds: Seconds
    measured: Measured


class ReplanFailed(OfStream):
    """Nothing was found, and why."""

    kind: Literal["replan_failed"] = "replan_failed"
    interrupted: bool = Field(default=False, description="by the controller's end: it may begin again at once")


class PlanOrdered(OfStream):
    """The requester is to use a plan that was found."""

    kind: Literal["plan_ordered"] = "plan_ordered"
    version: Count
    plan_sha256: Sha256
    policy_sha256: Sha256 | None = None
    measured: Measured = Field(description="for which it was made")


class PlanKept(OfStream):
    """What was found is not used: not better by more than its cost, or no longer to the point."""

    kind: Literal["plan_kept"] = "plan_kept"
    plan_sha256: Sha256 = Field(description="that stays in force")
    candidate_sha256: Sha256
    judged: Measured | None = Field(description="under which the plan has proved good; null: it was not judged")


class PlanInForce(OfStream):
    """The requester says that a plan came into force."""

    kind: Literal["plan_in_force"] = "plan_in_force"
    change: PlanChange
    policy_sha256: Sha256 | None = Field(default=None, description="that it decides by from now on")


class PlanRolledBack(OfStream):
    """The requester says that it went back to an earlier plan, as reality disagreed."""

    kind: Literal["plan_rolled_back"] = "plan_rolled_back"
    change: PlanChange
    refused_sha256: Sha256 = Field(description="the plan that it left")
    measured: Measured


class OperatorRolledBack(OfStream):
    """An operator orders the plan that was in force before."""

    kind: Literal["operator_rolled_back"] = "operator_rolled_back"
    version: Count
    plan_sha256: Sha256
    policy_sha256: Sha256 | None = None
    refused_sha256: Sha256
    measured: Measured


class Pinned(OfStream):
    """An operator keeps the plan in force."""

    kind: Literal["pinned"] = "pinned"
    version: Count
    plan_sha256: Sha256
    policy_sha256: Sha256 | None = None


class Unpinned(OfStream):
    """Plans may change again."""

    kind: Literal["unpinned"] = "unpinned"
    version: Count


class Unpredictable(OfStream):
    """The simulator cannot say what the stream's plan should take: its model is not known here, for one."""

    kind: Literal["unpredictable"] = "unpredictable"


DeviceEvent: TypeAlias = DeviceRegistered | DeviceLost | DeviceReturned | DeviceRemoved

StreamEvent: TypeAlias = (
    StreamOpenedAs
    | StreamSilent
    | StreamReturned
    | StreamClosed
    | DriftSeen
    | LargeDrift
    | ReplanStarted
    | ReplanDone
    | ReplanFailed
    | PlanOrdered
    | PlanKept
    | PlanInForce
    | PlanRolledBack
    | OperatorRolledBack
    | Pinned
    | Unpinned
    | Unpredictable
)

AnyEvent: TypeAlias = DeviceEvent | StreamEvent

EVENT: TypeAdapter[AnyEvent] = TypeAdapter(Annotated[AnyEvent, Field(discriminator="kind")])
"""Reads an event from JSON: `EVENT.validate_json(text)`."""
