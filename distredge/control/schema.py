"""The values of the controller's HTTP interface, version 1: what is told, what is answered, what its page shows.

Times `*_s` are Unix seconds, latencies milliseconds, rates Mbit/s.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from distredge.config import Frozen, Whole
from distredge.plans.nodes import NODE_NAME
from distredge.plans.plan import Plan
from distredge.scenario import Scenario

MAX_NODES = 256

MAX_ITEMS = 1000
"""Of a list in a message."""

Name = Annotated[str, Field(pattern=NODE_NAME, max_length=64)]
Text = Annotated[str, Field(max_length=500)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Mbps = Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)]
Factor = Annotated[float, Field(ge=1e-3, le=1e3, allow_inf_nan=False)]
Ms = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]
Seconds = Annotated[float, Field(ge=0, le=1e11, allow_inf_nan=False)]
Count = Annotated[Whole, Field(ge=0, le=2**40)]

Role: TypeAlias = Literal["device", "operator", "reader"]
"""A device registers, opens streams and tells; an operator may do everything; a reader only looks."""

Health: TypeAlias = Literal["up", "late", "down"]


def plan_sha256(plan: Plan) -> str:
    """By which a plan is known: of its JSON without spaces."""
    return hashlib.sha256(plan.model_dump_json().encode()).hexdigest()


# Devices.


class Registration(Frozen):
    """A provider says that it is there."""

    address: str | None = Field(default=None, pattern=r"^\S+:\d+$", max_length=300, description="where it listens")
    profile: str | None = Field(default=None, max_length=200, description="that describes its speed, if it knows one")
    memory_mb: Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)] | None = None
    protocol: Count = Field(description="of the providers' messages")
    version: Annotated[str, Field(max_length=50)] = Field(description="of DistrEdge")
    platform: Annotated[str, Field(max_length=200)] = ""


class Beat(Frozen):
    """It still is."""

    at_s: Seconds
    serving: bool = Field(description="whether a requester's session is under way")
    memory_free_mb: Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)] | None = None


class DeviceView(Frozen):
    """What the controller knows of a provider."""

    name: str
    registration: Registration
    health: Health
    heard_s: Seconds
    serving: bool
    memory_free_mb: float | None


# Streams.


class StreamOpening(Frozen):
    """A requester begins to serve images under a plan."""

    requester: Name
    scenario: Scenario
    plan: Plan
    policy_sha256: Sha256 | None = Field(default=None, description="of the policy that it decides by")


class Orders(Frozen):
    """What a requester is to do: which plan and policy, unless `plan_sha256` is None: as it decides itself.

    A plan is ordered once, by a `version` greater than the last one carried out; afterwards the requester decides
    locally again, unless it is `pinned`: then it keeps the plan as long as its devices are there.
    """

    version: Count = 0
    plan_sha256: Sha256 | None = None
    policy_sha256: Sha256 | None = None
    pinned: bool = False
    reason: Text = ""


class StreamOpened(Frozen):
    """The controller's answer: the stream's name there."""

    stream: str
    orders: Orders


class Latencies(Frozen):
    """Of the frames of a span."""

    frames: Count
    p50: Ms
    p90: Ms
    p99: Ms
    ips: Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]


class Change(Frozen):
    """A change-point that the requester has found: of a node's link (Mbit/s), or of its compute (slowdown factor)."""

    at_s: Seconds
    kind: Literal["link", "compute"]
    node: Name
    before: Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)]
    after: Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)]


class PlanChange(Frozen):
    """A plan that came into force at the requester, why, and who had decided it."""

    at_s: Seconds
    epoch: Count
    first_frame: Count
    plan_sha256: Sha256
    source: Literal["first", "crew", "policy", "search", "controller", "rollback"]
    reason: Text
    expected_ms: Ms | None = None


class Span(Frozen):
    """Something that a node did for a frame; times from the frame's beginning."""

    node: Name
    kind: Literal["send", "receive", "compute", "wait"]
    volume: Count = Field(description="their number for the head, one more for the requester")
    start_ms: Ms
    stop_ms: Ms


class FrameSpans(Frozen):
    """One frame as it was measured."""

    frame: Count
    epoch: Count
    latency_ms: Ms
    spans: Annotated[tuple[Span, ...], Field(max_length=MAX_ITEMS * 4)]


class Telemetry(Frozen):
    """What a requester has seen since it last told; `sequence` counts these messages of a stream, from 1.

    `mbps` are rates of nodes' access links, `slowdown` the providers' factors over their profiles, both as estimated
    now: what is not named is as the scenario says. `transfer_ms` and `compute_ms` are samples since the last message
    (at most the newest of them). A plan that became known since is sent whole in `plans`.
    """

    sequence: Count
    at_s: Seconds
    span_s: Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]
    epoch: Count
    plan_sha256: Sha256
    order_version: Count = Field(description="of the newest orders carried out")
    latency: Latencies | None = Field(description="null: no frame was finished")
    expected_ms: Ms | None = Field(default=None, description="the latency that this plan should have now")
    present: Annotated[tuple[Name, ...], Field(max_length=MAX_NODES)]
    mbps: Annotated[dict[Name, Mbps], Field(max_length=MAX_NODES)] = {}
    slowdown: Annotated[dict[Name, Factor], Field(max_length=MAX_NODES)] = {}
    frame_ms: Annotated[tuple[Ms, ...], Field(max_length=MAX_ITEMS)] = ()
    transfer_ms: Annotated[tuple[Ms, ...], Field(max_length=MAX_ITEMS)] = ()
    compute_ms: Annotated[tuple[Ms, ...], Field(max_length=MAX_ITEMS)] = ()
    changes: Annotated[tuple[Change, ...], Field(max_length=MAX_ITEMS)] = ()
    plan_changes: Annotated[tuple[PlanChange, ...], Field(max_length=MAX_ITEMS)] = ()
    plans: Annotated[tuple[Plan, ...], Field(max_length=20)] = ()
    timeline: FrameSpans | None = None
    deadline_misses: Count = 0


# Decisions.


class DecisionRequest(Frozen):
    """The state of which a split decision is wanted.

    With `volume`, of that volume alone, from the accumulated latencies with which the providers leave the one before;
    else the whole plan. What is not named is as the policy's scenario says. `policy_sha256` names one of several.
    """

    model: Annotated[str, Field(max_length=200)]
    scenario: Annotated[str, Field(max_length=200)]
    policy_sha256: Sha256 | None = None
    mbps: Annotated[dict[Name, Mbps], Field(max_length=MAX_NODES)] = {}
    slowdown: Annotated[dict[Name, Factor], Field(max_length=MAX_NODES)] = {}
    io_ms: Annotated[dict[Name, Ms], Field(max_length=MAX_NODES)] = {}
    volume: Annotated[Whole, Field(ge=0, le=10_000)] | None = None
    accumulated_ms: Annotated[dict[Name, Ms], Field(max_length=MAX_NODES)] = {}
    cuts_before: Annotated[tuple[Whole, ...], Field(max_length=MAX_NODES + 1)] | None = Field(
        default=None, description="of the volume before, which some policies look at"
    )


class VolumeDecision(Frozen):
    """Where a volume is cut: `providers` in their order along the height."""

    volume: Count
    layers: tuple[str, str] = Field(description="first and last")
    cuts: tuple[int, ...]


class Decision(Frozen):
    """The answer: of one volume, or of all."""

    policy_sha256: Sha256
    kind: Literal["moving", "osds"]
    providers: tuple[str, ...]
    volumes: tuple[VolumeDecision, ...]
    expected_ms: float | None = Field(description="of a whole plan, by the policy's own account")


# What is recorded.


class Event(Frozen):
    """Something that happened, and why; `data` is of the kind."""

    id: Count
    at_s: Seconds
    kind: str
    stream: str | None
    node: str | None
    reason: str
    data: dict[str, object]


# What the page shows.


class StreamSummary(Frozen):
    """A stream in a list."""

    stream: str
    requester: str
    model: str
    scenario: str
    live: bool = Field(description="whether it has been heard of lately")
    opened_s: Seconds
    heard_s: Seconds
    epoch: Count
    orders: Orders
    plan_sha256: str
    method: str
    latency: Latencies | None
    expected_ms: float | None


class NodeView(Frozen):
    """A node of a stream's star."""

    node: str
    profile: str | None
    present: bool
    health: Health | None = Field(description="null: it has not registered")
    scenario_mbps: float | None = Field(description="null: its link never limits")
    mbps: float | None
    slowdown: float
    rows_share: float = Field(description="of the rows of all volumes, weighed by their operations")
    predicted_compute_ms: float


class PartView(Frozen):
    """Rows of a volume's last layer that a provider computes, and what it computes of the first layer besides."""

    provider: str
    rows: tuple[int, int]
    halo_rows: int = Field(description="rows of inner layers that another provider computes as well, in all")


class VolumeView(Frozen):
    """A volume of the plan in force."""

    layers: tuple[str, str]
    height: int
    parts: tuple[PartView, ...]


class Point(Frozen):
    """Of a stream's history."""

    at_s: Seconds
    p50: float | None
    p90: float | None
    ips: float
    expected_ms: float | None
    epoch: int


class MethodView(Frozen):
    """What a method's plan would take, by the corrected simulator, as things are now."""

    method: str
    latency_ms: float


class TrainingPoint(Frozen):
    """Of the last fine-tuning: latency of what the policy decides, in ms, after so many seconds."""

    seconds: float
    latency_ms: float


class StreamView(Frozen):
    """All that the page shows of a stream."""

    summary: StreamSummary
    nodes: tuple[NodeView, ...]
    volumes: tuple[VolumeView, ...]
    predicted: FrameSpans | None
    measured: FrameSpans | None
    history: tuple[Point, ...]
    events: tuple[Event, ...]
    methods: tuple[MethodView, ...]
    methods_at_s: float | None
    training: tuple[TrainingPoint, ...]
    can_roll_back: bool


class Overview(Frozen):
    """What the page shows first."""

    now_s: Seconds
    version: str
    role: Role
    devices: tuple[DeviceView, ...]
    streams: tuple[StreamSummary, ...]
