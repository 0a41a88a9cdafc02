"""What the controller knows: the fold of all events, and beside it what was last heard. Pure values.

`apply` is the only way by which a `State` changes, so that reading the stored events again gives the same one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from distredge.control.schema import Beat, FrameSpans, Orders, Registration, Telemetry
from distredge.controller import events as e
from distredge.controller.measured import Measured
from distredge.scenario import Scenario

MAX_HISTORY = 20
"""Plans that were in force that are remembered, for rolling back."""

MAX_REFUSED = 20
"""Plans that reality, or an operator, has refused that are remembered."""

MAX_CLOSED = 100
"""Closed streams that are still known."""


@dataclass(frozen=True)
class DeviceState:
    """A provider that has registered; `lost_s`: since when it has been silent."""

    name: str
    registration: Registration
    heard_s: float
    """As far as events tell: see `Seen`."""
    lost_s: float | None = None


@dataclass(frozen=True)
class InForce:
    """A plan that is, or was, in force at a requester."""

    plan_sha256: str
    policy_sha256: str | None
    epoch: int
    since_s: float


@dataclass(frozen=True)
class Refused:
    """A plan that was rolled back, and the conditions under which it was."""

    plan_sha256: str
    measured: Measured


@dataclass(frozen=True)
class StreamState:
    """A requester's stream.

    `basis` are the conditions for which its plan was made or last compared with others: drift is measured from there.
    """

    stream: str
    requester: str
    model: str
    scenario: Scenario
    opened_s: float
    heard_s: float
    """As far as events tell: see `Seen`."""
    current: InForce
    basis: Measured
    orders: Orders = Orders()
    history: tuple[InForce, ...] = ()
    """Plans that were in force before, the newest last."""
    refused: tuple[Refused, ...] = ()
    drift: e.LargeDrift | None = None
    """The last one, until a plan was found for it."""
    replan: e.ReplanStarted | None = None
    """Under way."""
    candidate: e.ReplanDone | None = None
    """Found, and not yet ordered or put aside."""
    last_replan: e.ReplanDone | None = None
    """The newest one that found something."""
    replanned_s: float | None = None
    """When the newest one began."""
    failed_s: float | None = None
    """When the newest one found nothing, if it did not."""
    unpredictable: str | None = None
    """Why the simulator could not say what its plan should take, if it ever could not."""
    silent_s: float | None = None
    closed_s: float | None = None

    @property
    def open(self) -> bool:
        """Whether its requester has not ended."""
        return self.closed_s is None


@dataclass(frozen=True)
class State:
    """All devices by name and streams by theirs, in the order in which they came."""

    devices: Mapping[str, DeviceState] = field(default_factory=dict)
    streams: Mapping[str, StreamState] = field(default_factory=dict)


# What was last heard. It changes too often to be events: telemetry has a table of its own, heartbeats are not stored.


@dataclass(frozen=True)
class Heard:
    """The newest sign of life of a provider."""

    at_s: float
    beat: Beat | None = None


@dataclass(frozen=True)
class Latest:
    """The newest telemetry of a stream; since when its conditions have been far from a basis (None: they are not)."""

    at_s: float
    telemetry: Telemetry
    basis: Measured
    far_since_s: float | None = None
    timeline: FrameSpans | None = None
    """Of the newest frame that was told of."""

    @property
    def measured(self) -> Measured:
        """Conditions as they are now."""
        told = self.telemetry
        return Measured(present=tuple(sorted({*told.present})), mbps=told.mbps, slowdown=told.slowdown)


@dataclass(frozen=True)
class Seen:
    """What was last heard, by name; `since_s`: nothing could be heard before, as the controller was not there."""

    since_s: float
    devices: Mapping[str, Heard] = field(default_factory=dict)
    streams: Mapping[str, Latest] = field(default_factory=dict)


# Events.


def apply(state: State, event: e.AnyEvent) -> State:
    """The state after an event; one about a device or stream that is not known (any more) changes nothing."""
    if isinstance(event, e.OfDevice):
        return _apply_to_device(state, event)
    if isinstance(event, e.StreamOpenedAs):
        return replace(state, streams={**state.streams, event.stream: _opened(event)})
    stream = state.streams.get(event.stream)
    if stream is None:
        return state
    streams = {**state.streams, event.stream: _STREAM[type(event)](stream, event)}
    return replace(state, streams=_without_oldest_closed(streams) if isinstance(event, e.StreamClosed) else streams)


def _apply_to_device(state: State, event: e.OfDevice) -> State:
    if isinstance(event, e.DeviceRegistered):
        device = DeviceState(event.node, event.registration, event.at_s)
        return replace(state, devices={**state.devices, event.node: device})
    known = state.devices.get(event.node)
    if known is None:
        return state
    if isinstance(event, e.DeviceRemoved):
        return replace(state, devices={n: d for n, d in state.devices.items() if n != event.node})
    lost = isinstance(event, e.DeviceLost)
    device = replace(known, lost_s=event.at_s) if lost else replace(known, lost_s=None, heard_s=event.at_s)
    return replace(state, devices={**state.devices, event.node: device})


def _opened(event: e.StreamOpenedAs) -> StreamState:
    return StreamState(
        stream=event.stream,
        requester=event.requester,
        model=event.model,
        scenario=event.scenario,
        opened_s=event.at_s,
        heard_s=event.at_s,
        current=InForce(event.plan_sha256, event.policy_sha256, 0, event.at_s),
        basis=Measured.of(event.scenario),
    )


def _without_oldest_closed(streams: dict[str, StreamState]) -> dict[str, StreamState]:
    closed = sorted((s.closed_s, name) for name, s in streams.items() if s.closed_s is not None)
    forgotten = {name for _, name in closed[:-MAX_CLOSED]}
    return {name: s for name, s in streams.items() if name not in forgotten}


def _silent(stream: StreamState, event: e.StreamSilent) -> StreamState:
    return replace(stream, silent_s=event.at_s)


def _returned(stream: StreamState, event: e.StreamReturned) -> StreamState:
    return replace(stream, silent_s=None, heard_s=event.at_s)


def _closed(stream: StreamState, event: e.StreamClosed) -> StreamState:
    return replace(stream, closed_s=event.at_s, replan=None, candidate=None)


def _drift_seen(stream: StreamState, event: e.DriftSeen) -> StreamState:
    return replace(stream, heard_s=event.at_s)


def _large_drift(stream: StreamState, event: e.LargeDrift) -> StreamState:
    return replace(stream, drift=event, heard_s=event.at_s)


def _replan_started(stream: StreamState, event: e.ReplanStarted) -> StreamState:
    return replace(stream, replan=event, candidate=None, replanned_s=event.at_s, failed_s=None)


def _replan_done(stream: StreamState, event: e.ReplanDone) -> StreamState:
    return replace(stream, replan=None, candidate=event, last_replan=event)


def _replan_failed(stream: StreamState, event: e.ReplanFailed) -> StreamState:
    if event.interrupted:
        return replace(stream, replan=None, replanned_s=None)
    return replace(stream, replan=None, failed_s=event.at_s)


def _plan_ordered(stream: StreamState, event: e.PlanOrdered) -> StreamState:
    orders = _orders(event, pinned=False)
    return replace(stream, orders=orders, basis=event.measured, candidate=None, drift=None)


def _plan_kept(stream: StreamState, event: e.PlanKept) -> StreamState:
    return replace(stream, basis=event.judged or stream.basis, candidate=None, drift=None)


def _in_force(stream: StreamState, event: e.PlanInForce) -> StreamState:
    change = event.change
    current = InForce(change.plan_sha256, event.policy_sha256 or stream.current.policy_sha256, change.epoch, event.at_s)
    again = change.plan_sha256 == stream.current.plan_sha256
    history = stream.history if again else (*stream.history, stream.current)[-MAX_HISTORY:]
    return replace(stream, current=current, history=history, heard_s=event.at_s)


def _rolled_back(stream: StreamState, event: e.PlanRolledBack) -> StreamState:
    """The plan that was left is not remembered: to go back to it would be to try it again."""
    change = event.change
    policy = next((h.policy_sha256 for h in reversed(stream.history) if h.plan_sha256 == change.plan_sha256), None)
    current = InForce(change.plan_sha256, policy or stream.current.policy_sha256, change.epoch, event.at_s)
    history = _forgotten(stream.history, {change.plan_sha256, event.refused_sha256})
    refused = _refused(stream, event.refused_sha256, event.measured)
    return replace(stream, current=current, history=history, refused=refused, heard_s=event.at_s)


def _operator_rolled_back(stream: StreamState, event: e.OperatorRolledBack) -> StreamState:
    orders = _orders(event, pinned=stream.orders.pinned)
    refused = _refused(stream, event.refused_sha256, event.measured)
    return replace(stream, orders=orders, refused=refused, basis=event.measured, drift=None)


def _pinned(stream: StreamState, event: e.Pinned) -> StreamState:
    orders = _orders(event, pinned=True)
    return replace(stream, orders=orders)


def _unpinned(stream: StreamState, event: e.Unpinned) -> StreamState:
    return replace(stream, orders=Orders(version=event.version, reason=_short(event.reason)), drift=None)


def _unpredictable(stream: StreamState, event: e.Unpredictable) -> StreamState:
    return replace(stream, unpredictable=event.reason)


def _orders(event: e.PlanOrdered | e.OperatorRolledBack | e.Pinned, pinned: bool) -> Orders:
    return Orders(
        version=event.version,
        plan_sha256=event.plan_sha256,
        policy_sha256=event.policy_sha256,
        pinned=pinned,
        reason=_short(event.reason),
    )


def _short(reason: str) -> str:
    """What fits into orders, of which the event says all."""
    return reason[:500]


def _forgotten(history: tuple[InForce, ...], plans: set[str]) -> tuple[InForce, ...]:
    """Without its newest entries of these plans."""
    while history and history[-1].plan_sha256 in plans:
        history = history[:-1]
    return history


def _refused(stream: StreamState, plan_sha256: str, measured: Measured) -> tuple[Refused, ...]:
    others = tuple(r for r in stream.refused if r.plan_sha256 != plan_sha256)
    return (*others, Refused(plan_sha256, measured))[-MAX_REFUSED:]


_STREAM: Mapping[type[e.StreamEvent], Callable[[StreamState, Any], StreamState]] = {
    e.StreamSilent: _silent,
    e.StreamReturned: _returned,
    e.StreamClosed: _closed,
    e.DriftSeen: _drift_seen,
    e.LargeDrift: _large_drift,
    e.ReplanStarted: _replan_started,
    e.ReplanDone: _replan_done,
    e.ReplanFailed: _replan_failed,
    e.PlanOrdered: _plan_ordered,
    e.PlanKept: _plan_kept,
    e.PlanInForce: _in_force,
    e.PlanRolledBack: _rolled_back,
    e.OperatorRolledBack: _operator_rolled_back,
    e.Pinned: _pinned,
    e.Unpinned: _unpinned,
    e.Unpredictable: _unpredictable,
}
"""What each does to a stream."""
