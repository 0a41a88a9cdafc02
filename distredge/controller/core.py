"""`Core`: the one object that owns what is stored, what is known and the background work; the service calls it.

All its methods may be called from any thread and return quickly: re-planning runs elsewhere. What changes something is
stored first and known afterwards, so that a controller that is killed comes back knowing all that it ever acknowledged;
a `StoreError` means that what could not be stored has not happened, and the same call may be made again.
"""

from __future__ import annotations

import uuid

from distredge import __version__
from distredge.control.schema import (
    Beat,
    DeviceView,
    Event,
    Orders,
    Overview,
    Registration,
    Role,
    StreamOpened,
    StreamOpening,
    StreamSummary,
    StreamView,
    Telemetry,
    plan_sha256,
)
from distredge.controller import events as e
from distredge.controller import intake, views
from distredge.controller.decide import decide, noticed
from distredge.controller.intake import Conflict as Conflict
from distredge.controller.keeper import Keeper
from distredge.controller.library import NotKnown as NotKnown
from distredge.controller.library import check_name
from distredge.controller.state import Heard
from distredge.controller.store import Told
from distredge.errors import InputError, PlanError
from distredge.plans.nodes import REQUESTER

MAX_DEVICES = 20_000
"""That may be registered at a time."""

MAX_STREAMS = 1000
"""That may be open at a time."""

EVENTS_SHOWN = 100
"""Of a stream, in its view."""


class Core(Keeper):
    """The controller without its HTTP: a `Library` with devices and streams.

    `clock` gives Unix seconds. `models` is a folder of .onnx files for models that the zoo has not.
    """

    # Devices.

    def register_device(self, name: str, registration: Registration) -> DeviceView:
        """A provider is there (again); raises `InputError` for an impossible name or beyond `MAX_DEVICES`."""
        check_name("device", name)
        if name == REQUESTER:
            raise InputError(f"no provider may be named '{REQUESTER}'")
        with self._lock:
            now_s, known = self._clock(), self._state.devices.get(name)
            if known is None and len(self._state.devices) >= MAX_DEVICES:
                raise InputError(f"{MAX_DEVICES} devices are registered, and no more may be: remove some first")
            if known is None or known.registration != registration:
                reason = "for the first time" if known is None else "with other properties than before"
                self._tell(e.DeviceRegistered(at_s=now_s, node=name, registration=registration, reason=reason))
            elif known.lost_s is not None:
                self._tell(_returned(name, known.lost_s, now_s))
            self._heard[name] = Heard(now_s)
            return views.device_view(self._state.devices[name], self._seen, now_s)

    def beat(self, name: str, beat: Beat) -> None:
        """It still is; raises `NotKnown` for one that has to register, `InputError` for a beat from the future."""
        with self._lock:
            now_s, known = self._clock(), self._state.devices.get(name)
            if known is None:
                raise NotKnown(f"there is no device '{name}' here: register it first")
            intake.check_time(beat.at_s, now_s)
            if known.lost_s is not None:
                self._tell(_returned(name, known.lost_s, now_s))
            self._heard[name] = Heard(now_s, beat)

    def remove_device(self, name: str, reason: str = "") -> None:
        """Forget one; raises `NotKnown`."""
        with self._lock:
            if name not in self._state.devices:
                raise NotKnown(f"there is no device '{name}' here")
            self._tell(e.DeviceRemoved(at_s=self._clock(), node=name, reason=reason or "an operator removed it"))
            self._heard.pop(name, None)

    def devices(self) -> tuple[DeviceView, ...]:
        """All that are registered, by name."""
        with self._lock:
            state, seen, now_s = self._state, self._snapshot(), self._clock()
        return tuple(views.device_view(device, seen, now_s) for _, device in sorted(state.devices.items()))

    # Streams.

    def open_stream(self, opening: StreamOpening) -> StreamOpened:
        """A requester begins.

        Raises `InputError` if plan, policy, scenario and profiles do not fit together, or beyond `MAX_STREAMS`.
        """
        scenario = self.resolved(opening.scenario)
        if strange := sorted({*opening.plan.providers} - {*scenario.provider_names}):
            raise PlanError(f"the plan's provider '{strange[0]}' is not in scenario '{scenario.name}'")
        if opening.policy_sha256 is not None:
            self.policy(opening.policy_sha256)
        with self._lock:
            if sum(s.open for s in self._state.streams.values()) >= MAX_STREAMS:
                raise InputError(f"{MAX_STREAMS} streams are open, and no more may be: close some first")
            event = e.StreamOpenedAs(
                at_s=self._clock(),
                stream=f"{opening.requester}-{uuid.uuid4().hex[:8]}",
                requester=opening.requester,
                scenario=opening.scenario,
                model=opening.plan.model.name,
                plan_sha256=plan_sha256(opening.plan),
                policy_sha256=opening.policy_sha256,
                reason=f"{opening.requester} serves {opening.plan.model.name} by a plan of '{opening.plan.method}'",
            )
            self._tell(event, plans=(opening.plan,))
            self._scenarios[event.stream] = scenario
            return StreamOpened(stream=event.stream, orders=self._state.streams[event.stream].orders)

    def take_telemetry(self, stream: str, telemetry: Telemetry) -> Orders:
        """Take what a requester tells and answer what it is to do.

        The last message may be repeated: it counts once. Raises `NotKnown` for a stream that is not open (the requester
        then opens a new one), `Conflict` for an older message, an epoch that goes back or orders that were never given,
        `InputError` for nodes or plans that are not of the stream and for a message from the future.
        """
        with self._lock:
            known, latest, now_s = self._opened(stream), self._latest.get(stream), self._clock()
            if latest and telemetry.sequence == latest.telemetry.sequence:
                return known.orders
            intake.check(known, latest, telemetry, now_s)
            happened = tuple(intake.happenings(known, telemetry, now_s))
            told = Told(stream=stream, at_s=now_s, telemetry=telemetry)
            self._tell(*happened, told=told, plans=telemetry.plans)
            self._latest[stream] = noticed(self._state.streams[stream], latest, telemetry, now_s)
            self._follow(stream)
            return self._state.streams[stream].orders

    def close_stream(self, stream: str, reason: str = "") -> None:
        """The requester has ended; raises `NotKnown` if the stream is not open."""
        with self._lock:
            known = self._opened(stream)
            why = reason or f"{known.requester} has ended"
            self._tell(e.StreamClosed(at_s=self._clock(), stream=stream, reason=why))
            self._forget(stream)

    def pin(self, stream: str, reason: str = "") -> Orders:
        """Keep the plan in force whatever comes; raises `NotKnown`, or `Conflict` if it is pinned already."""
        with self._lock:
            known = self._opened(stream)
            if known.orders.pinned:
                raise Conflict(f"the plan of '{stream}' is pinned already")
            if not self.store.knows_plan(known.current.plan_sha256):
                raise Conflict(f"the plan in force of '{stream}' is not known here, so it cannot be ordered")
            return self._order(
                e.Pinned(
                    at_s=self._clock(),
                    stream=stream,
                    version=known.orders.version + 1,
                    plan_sha256=known.current.plan_sha256,
                    policy_sha256=known.current.policy_sha256,
                    reason=reason or "an operator pinned the plan in force",
                )
            )

    def unpin(self, stream: str, reason: str = "") -> Orders:
        """Let plans change again; raises `NotKnown`, or `Conflict` if it is not pinned."""
        with self._lock:
            known = self._opened(stream)
            if not known.orders.pinned:
                raise Conflict(f"the plan of '{stream}' is not pinned")
            reason = reason or "an operator let plans change again"
            version = known.orders.version + 1
            return self._order(e.Unpinned(at_s=self._clock(), stream=stream, version=version, reason=reason))

    def roll_back(self, stream: str, reason: str = "") -> Orders:
        """Order the plan that was in force before this one; raises `NotKnown`, or `Conflict` if there is none."""
        with self._lock:
            known = self._opened(stream)
            before = views.back(known)
            if before is None:
                raise Conflict(f"no other plan was in force in '{stream}' that was not rolled back itself")
            return self._order(
                e.OperatorRolledBack(
                    at_s=self._clock(),
                    stream=stream,
                    version=known.orders.version + 1,
                    plan_sha256=before.plan_sha256,
                    policy_sha256=before.policy_sha256,
                    refused_sha256=known.current.plan_sha256,
                    measured=views.measured_now(known, self._seen),
                    reason=reason or "an operator rolled back",
                )
            )

    def streams(self) -> tuple[StreamSummary, ...]:
        """All that are open, and the last ones that were closed; the newest first."""
        with self._lock:
            state, seen, now_s = self._state, self._snapshot(), self._clock()
        found = [views.summary(s, self._plan_or_none(s), seen, now_s) for s in state.streams.values()]
        return tuple(sorted(found, key=lambda s: s.opened_s, reverse=True))

    def stream_view(self, stream: str) -> StreamView:
        """All that the page shows of one; raises `NotKnown`."""
        with self._lock:
            state, seen, now_s = self._state, self._snapshot(), self._clock()
        known = state.streams.get(stream)
        if known is None:
            raise NotKnown(f"there is no stream '{stream}' here")
        plan, predicted = self._plan_or_none(known), self._predicted(known, seen)
        events, history = self.store.events(stream, limit=EVENTS_SHOWN), self.store.history(stream)
        return views.stream_view(known, state, seen, now_s, plan, predicted, history, events)

    def overview(self, role: Role) -> Overview:
        """What the page shows first, to somebody of a role."""
        devices, streams = self.devices(), self.streams()
        return Overview(now_s=self._clock(), version=__version__, role=role, devices=devices, streams=streams)

    def events(self, stream: str | None = None, after: int = 0, limit: int = 100) -> tuple[Event, ...]:
        """What has happened (to a stream), oldest first, beginning behind the event `after`.

        With `after` 0 the newest `limit` ones.
        """
        return self.store.events(stream, after, limit)

    # Time.

    def tick(self) -> None:
        """To be called every half second: notices silence, decides and has done what was decided."""
        self._settle()
        with self._lock:
            for event in decide(self._state, self._seen, self._clock()):
                if isinstance(event, e.DeviceLost):
                    self._tell(event)
                else:
                    self._follow(event.stream)

    def close(self) -> None:
        """End background work and close the store."""
        self._replanner.close()
        with self._lock:
            self.store.close()


def _returned(name: str, lost_s: float, now_s: float) -> e.DeviceReturned:
    reason = f"{name} is heard of again after {now_s - lost_s:.0f} s"
    return e.DeviceReturned(at_s=now_s, node=name, reason=reason)
