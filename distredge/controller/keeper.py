"""`Keeper`: what is known, kept in step with what is stored, and the re-plans that follow from it.

An event is stored first and applied afterwards. What the re-planner answers waits in a queue until it could be stored.
"""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import RLock

from distredge.control.schema import Orders, plan_sha256
from distredge.controller import events as e
from distredge.controller.decide import banned, decide_stream, noticed
from distredge.controller.jobs import Job, Outcome, Replanner
from distredge.controller.library import Library, NotKnown, read_policy
from distredge.controller.models import Models
from distredge.controller.state import Heard, Latest, Seen, State, StreamState, apply
from distredge.controller.store import Store, StoreError, Told
from distredge.controller.views import Predicted, measured_now
from distredge.errors import DistrEdgeError, InputError, PlanError
from distredge.plans.plan import Plan
from distredge.scenario import Scenario

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Found:
    """What the re-planner has answered, and to what."""

    asked: e.ReplanStarted
    answer: Outcome | str


class Keeper(Library):
    """See the module. `clock` gives Unix seconds; `models` is a folder of .onnx files for models the zoo has not."""

    def __init__(
        self,
        store: Store,
        replanner: Replanner,
        clock: Callable[[], float] = time.time,
        models: Path | None = None,
    ) -> None:
        super().__init__(store)
        self._replanner, self._clock, self._models = replanner, clock, Models(models)
        self.watchers: list[Callable[[Sequence[e.AnyEvent], Told | None], None]] = []
        """Called with what has been stored: events, and telemetry that came with them. The lock is held."""
        self._lock = RLock()
        self._found: deque[_Found] = deque()
        self._scenarios: dict[str, Scenario] = {}
        self._heard: dict[str, Heard] = {}
        self._latest: dict[str, Latest] = {}
        self._seen = Seen(clock(), self._heard, self._latest)
        self._state = State()
        for event in store.all_events():
            self._state = apply(self._state, event)
        self._resume()

    @property
    def state(self) -> State:
        """All that is known, but for what was last heard."""
        return self._state

    def _resume(self) -> None:
        """After a start: what was last told is known again, and re-plans that were under way have ended."""
        for name, stream in self._state.streams.items():
            if told := self.store.latest(name):
                self._latest[name] = noticed(stream, None, told.telemetry, told.at_s)
            if stream.replan is not None:
                reason = "the controller has ended meanwhile"
                self._tell(e.ReplanFailed(at_s=self._clock(), stream=name, interrupted=True, reason=reason))

    def _tell(self, *events: e.AnyEvent, told: Told | None = None, plans: Sequence[Plan] = ()) -> None:
        """Store what has happened; then it is known."""
        self.store.add(events, told, plans)
        for event in events:
            self._state = apply(self._state, event)
            log.info("%s: %s", event.kind.replace("_", " "), event.reason)
        for watcher in self.watchers:
            watcher(events, told)

    def _order(self, event: e.Pinned | e.Unpinned | e.OperatorRolledBack) -> Orders:
        self._tell(event)
        return self._state.streams[event.stream].orders

    def _opened(self, stream: str) -> StreamState:
        """An open stream; raises `NotKnown`."""
        known = self._state.streams.get(stream)
        if known is None or not known.open:
            raise NotKnown(f"there is no open stream '{stream}' here: open a new one")
        return known

    def _snapshot(self) -> Seen:
        """What was last heard, for whoever looks at it without the lock."""
        return Seen(self._seen.since_s, dict(self._heard), dict(self._latest))

    def _forget(self, stream: str) -> None:
        """Nothing more is heard of a closed stream that is not known any more."""
        self._scenarios.pop(stream, None)
        for name in [n for n in self._latest if n not in self._state.streams]:
            del self._latest[name]

    # Decisions.

    def _follow(self, stream: str) -> None:
        """Do all that is to be done about a stream now. The lock is held."""
        while (known := self._state.streams.get(stream)) is not None and known.open:
            event = decide_stream(known, self._seen, self._clock())
            if event is None:
                return
            self._tell(event)
            if isinstance(event, e.ReplanStarted):
                self._begin(event)
        self._forget(stream)

    def _begin(self, asked: e.ReplanStarted) -> None:
        """Have a better plan looked for."""
        try:
            job = self._job(self._state.streams[asked.stream], asked)
            self._replanner.start(job, lambda answer: self._answered(_Found(asked, answer)))
        except StoreError:
            self._found.append(_Found(asked, "the plan in force could not be read"))
            raise
        except DistrEdgeError as exc:
            self._tell(e.ReplanFailed(at_s=self._clock(), stream=asked.stream, reason=str(exc)))

    def _job(self, stream: StreamState, asked: e.ReplanStarted) -> Job:
        policy = stream.current.policy_sha256
        return Job(
            stream=stream.stream,
            scenario=self._resolved(stream),
            plan=self.plan(asked.plan_sha256),
            policy=self.policy(policy) if policy else None,
            present=asked.measured.present,
            mbps=dict(asked.measured.mbps),
            slowdown=dict(asked.measured.slowdown),
            banned=tuple(self.plan(s) for s in banned(stream, asked) if self.store.knows_plan(s)),
        )

    def _answered(self, found: _Found) -> None:
        """The re-planner's answer, from its thread."""
        self._found.append(found)
        try:
            self._settle()
        except StoreError as exc:
            log.error("%s", exc)  # `tick` tries again

    def _settle(self) -> None:
        """Take what the re-planner has answered, and decide on it."""
        while self._found:
            found = self._found[0]
            event = self._result(found)
            with self._lock:
                if not self._found or self._found[0] is not found:
                    continue  # another thread has taken it
                stream = self._state.streams.get(found.asked.stream)
                if stream is not None and stream.replan == found.asked:  # else it has ended, or is over time
                    plans = () if isinstance(found.answer, str) else (found.answer.plan,)
                    self._tell(event, plans=plans)
                self._found.popleft()
                self._follow(found.asked.stream)

    def _result(self, found: _Found) -> e.ReplanDone | e.ReplanFailed:
        """What has come of a re-plan, as an event."""
        stream, answer = found.asked.stream, found.answer
        if isinstance(answer, str) or not math.isfinite(answer.latency_ms):
            reason = answer if isinstance(answer, str) else "no plan can be carried out as things are"
            return e.ReplanFailed(at_s=self._clock(), stream=stream, reason=reason)
        try:
            policy = None if answer.policy is None else read_policy(answer.policy)
        except InputError as exc:
            return e.ReplanFailed(at_s=self._clock(), stream=stream, reason=str(exc))
        if policy is not None and answer.policy is not None:
            self.store.add_policy(policy, answer.policy)
        current, current_ms = self._current_ms(found.asked, answer)
        return e.ReplanDone(
            at_s=self._clock(),
            stream=stream,
            plan_sha256=plan_sha256(answer.plan),
            policy_sha256=policy.sha256 if policy else None,
            latency_ms=answer.latency_ms,
            current_sha256=current,
            current_ms=current_ms if math.isfinite(current_ms) else None,
            methods={name: ms for name, ms in answer.methods.items() if math.isfinite(ms)},
            training=answer.training,
            seconds=answer.seconds,
            measured=found.asked.measured,
            reason=f"{answer.how}, in {answer.seconds:.1f} s",
        )

    def _current_ms(self, asked: e.ReplanStarted, answer: Outcome) -> tuple[str, float]:
        """The plan in force and its latency; it may be another one by now than the job's."""
        known = self._state.streams.get(asked.stream)
        if known is None or known.current.plan_sha256 == asked.plan_sha256:
            return asked.plan_sha256, answer.current_ms
        current = known.current.plan_sha256
        try:
            bound = self._models.bound(self.plan(current))
            return current, self._models.timeline(bound, self._resolved(known), asked.measured).latency_ms
        except InputError as exc:
            log.warning("the plan in force cannot be compared with what was found: %s", exc)
            return asked.plan_sha256, answer.current_ms

    # What is shown.

    def _resolved(self, stream: StreamState) -> Scenario:
        """A stream's scenario with its profiles, the same object each time."""
        if stream.stream not in self._scenarios:
            self._scenarios[stream.stream] = self.resolved(stream.scenario)
        return self._scenarios[stream.stream]

    def _plan_or_none(self, stream: StreamState) -> Plan | None:
        try:
            return self.plan(stream.current.plan_sha256)
        except NotKnown:
            return None

    def _predicted(self, stream: StreamState, seen: Seen) -> Predicted | None:
        """What the simulator says of the plan in force; None if it cannot, of which the first reason is recorded."""
        try:
            bound = self._models.bound(self.plan(stream.current.plan_sha256))
            timeline = self._models.timeline(bound, self._resolved(stream), measured_now(stream, seen))
            return Predicted(bound, timeline)
        except PlanError:  # a provider of it is not there: that is seen elsewhere, and passes
            return None
        except InputError as exc:
            with self._lock:
                if self._state.streams[stream.stream].unpredictable is None:
                    self._tell(e.Unpredictable(at_s=self._clock(), stream=stream.stream, reason=str(exc)))
            return None
