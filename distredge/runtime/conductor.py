"""Leads a session through its epochs: frames out, results in order, a new plan when the crew changes.

Pure, so that every failure can be played in a test: told of messages and of the time, it speaks through an `Outbox`.
Each plan is an epoch. After a loss a new epoch begins at once, on those that are left, and what was under way is sent
again (`urgent`); any other plan begins when all have made ready for it, and the frames under way finish under the old
one.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from distredge.engine.base import FloatRows
from distredge.errors import DistrEdgeError, ProviderLostError, RunError
from distredge.plans.plan import BoundPlan
from distredge.runtime.assignment import image_rows
from distredge.runtime.crew import Crew, Presence
from distredge.runtime.message import (
    Buffer,
    Failed,
    Heartbeat,
    Message,
    MessageError,
    Report,
    ResultChunk,
    RowsChunk,
    Send,
    Setup,
    Wire,
    pack,
)
from distredge.runtime.outbox import Outbox, Parcel
from distredge.runtime.results import Outputs, Results
from distredge.runtime.watch import Situation, Watch
from distredge.scenario import REQUESTER

INVITE_S = 0.5
"""An absent provider is asked so often whether it is there again."""

RETURN_S = 1.0
"""A provider that was lost is taken in again after so long, twice as long each time that it is lost again."""

MAX_RETURN_S = 60.0

FORGIVEN_S = 20.0
"""One that has been there for so long is taken in again as if it had never been lost before."""

READY_S = 5.0
"""So long may a provider take to make ready for a plan while frames wait for it."""

ASK_AGAIN_S = 0.4
"""One that has not made ready is told of the plan again after so long."""

STALL_S = 0.5
"""When nobody has received, computed or sent anything for so long, frames under way have lost something."""

STRANDED_S = 20.0
"""So long a stream without any provider waits for one to return."""

STUCK_S = 60.0
"""However busy providers say that they are: without a result for so long, or for `STUCK_FACTOR` times what the slowest
frame took, frames under way are lost. While nothing is known of how long they take, after `UNKNOWN_S`."""

STUCK_FACTOR = 10.0

UNKNOWN_S = 300.0

BETTER = "a better plan"
"""Why a plan that was offered comes into force."""

log = logging.getLogger(__name__)


Replan: TypeAlias = Callable[[Situation], BoundPlan]
"""A plan for a situation, at once."""

Brief: TypeAlias = Callable[[BoundPlan | None, int, int], Mapping[str, Setup]]
"""What each provider of the session is told of a plan (None: to stand by), its epoch and the oldest one not over."""


@dataclass(frozen=True)
class FrameDone:
    """A frame's outputs; `started_s` and `done_s` by the requester's clock, `epoch` that of its plan."""

    frame: int
    outputs: Outputs
    started_s: float
    done_s: float
    epoch: int


@dataclass(frozen=True)
class EpochBegun:
    """A plan is in force: why, since when, and which frame is its first."""

    epoch: int
    bound: BoundPlan
    reason: str
    at_s: float
    first_frame: int


@dataclass(frozen=True)
class Offer:
    """A plan that may be better, why, and what each stage should take under it (ms, by provider and boundary).

    It is for a `situation`, or for any in which all are there who have a part in it.
    """

    bound: BoundPlan
    expected_ms: Mapping[tuple[str, int], float]
    reason: str = BETTER
    situation: Situation | None = None


Told: TypeAlias = FrameDone | EpochBegun | Report | DistrEdgeError
"""What a conductor has to say."""


@dataclass
class _Epoch:
    number: int
    bound: BoundPlan
    results: Results
    sends: tuple[Send, ...]
    setups: Mapping[str, Setup]
    waiting: set[str]
    reason: str
    since_s: float
    asked_s: float
    frames: set[int] = field(default_factory=set)


@dataclass
class _Frame:
    """An image under way, and since when: infinite until it is sent or has to wait for a plan."""

    image: FloatRows
    started_s: float


@dataclass
class _Absence:
    """How often a provider was lost lately, when it is taken in again, when it was asked and when it answered last."""

    losses: int = 0
    back_s: float = 0.0
    invite_s: float = 0.0
    returned_s: float = 0.0


class Conductor:
    """See the module. `tell` is called with everything that happened, results in the order of their frames.

    `brief` makes what providers are told, `replan` a plan for a situation, which `watch` knows but for who is there;
    `situation_changed` is told of every situation that a better plan than the one in force may be looked for, which
    `offer` brings. `where` is the address at which providers answer. A first plan that its providers cannot begin is
    told as an error, later ones are replaced.
    """

    def __init__(
        self,
        session: str,
        addresses: Mapping[str, str],
        where: str,
        outbox: Outbox,
        wire: Wire,
        brief: Brief,
        replan: Replan,
        watch: Watch,
        tell: Callable[[Told], None],
        clock: Callable[[], float],
        situation_changed: Callable[[Situation], None] = lambda situation: None,
    ) -> None:
        self.crew = Crew(session, addresses, outbox, clock, self._ready, self._gone, watch.pace_mbps)
        self._watch = watch
        self._session, self._where, self._outbox, self._wire = session, where, outbox, wire
        self._brief, self._replan, self._tell, self._clock = brief, replan, tell, clock
        self._situation_changed = situation_changed
        self._absences = {name: _Absence() for name in addresses}
        self._epochs: dict[int, _Epoch] = {}
        self._number = 0
        self._current: _Epoch | None = None
        self._pending: _Epoch | None = None
        self._frames: dict[int, _Frame] = {}
        self._unsent: list[int] = []
        self._done: dict[int, FrameDone] = {}
        self._next_frame = self._next_told = 0
        self._stalls = 0
        self._active_s = self._result_s = clock()
        self._slowest_s = 0.0
        self._stranded_s = math.inf
        self._has_begun = False
        self._settled: Situation | None = None
        self._last_failure: DistrEdgeError | None = None

    # From outside.

    def begin(self, bound: BoundPlan) -> None:
        """Have the providers of a plan make ready for it; the others are asked later whether they are there."""
        self._prepare(bound, "the first plan", urgent=False)

    def submit(self, image: FloatRows) -> int:
        """Send an image, now or as soon as a plan is in force; returns the number of its frame."""
        frame = self._next_frame
        self._next_frame += 1
        self._frames[frame] = _Frame(image, self._clock() if self._current is None else math.inf)
        self._unsent.append(frame)
        self._send_unsent()
        return frame

    def handle(self, message: Message, payload: Buffer) -> None:
        """Act on a message; raises `MessageError` for one that does not fit, ignores what is left of older epochs."""
        if isinstance(message, ResultChunk | RowsChunk):
            if message.sender not in self.crew.members:
                raise MessageError(f"'{message.sender}' has no part in this session")
            self.crew.heard(message.sender)
            self._active_s = self._clock()
            epoch = self._epochs.get(message.epoch)
            if epoch is not None and message.frame in epoch.frames:
                epoch.results.add(message, payload)
            elif message.epoch >= self.oldest and message.frame >= self._next_frame:
                raise MessageError(f"nothing of frame {message.frame} is expected")
            return
        self.crew.take(message)
        if isinstance(message, Failed):
            self._failed(message)
        elif isinstance(message, Heartbeat):
            if message.is_active:
                self._active_s = self._clock()
            self._watch.heard(message)
        elif isinstance(message, Report):
            self._tell(message)

    def unreachable(self, name: str) -> None:
        """A provider takes no messages."""
        self.crew.unreachable(name)

    def tick(self) -> None:
        """Whatever has become due."""
        self.crew.tick(self.oldest, self._where)
        now = self._clock()
        if self._has_begun:
            self._invite(now)
            self._look_for_late(now)
            if self._stranded_s < now - STRANDED_S:
                self._stranded_s = math.inf
                problem = self._last_failure or ProviderLostError("no provider is left")
                self._tell(RunError(f"{problem}; no provider is left that could go on"))
            if self._watch.changed():
                self._look_for_better()

    def offer(self, offered: Offer) -> int | None:
        """A better plan; it is taken if it fits the situation and no other one waits. The number of its epoch, if so.

        That is the one in force if it is the plan in force.
        """
        situation = self.situation()
        fits = offered.situation == situation if offered.situation else workers(offered.bound) <= {*situation.present}
        if not fits or self._pending is not None or self._current is None:
            return None
        if offered.situation:
            self._settled = situation
        if not same(offered.bound, self._current.bound):
            self._prepare(offered.bound, offered.reason, urgent=False)
        number = self._current.number if self._pending is None else self._number
        self._watch.pacemaker.expect(number, offered.expected_ms)
        return number

    def situation(self) -> Situation:
        """As it is now."""
        return self._watch.situation(self.crew.present())

    @property
    def oldest(self) -> int:
        """The oldest epoch that is not over."""
        return min(self._epochs, default=self._number)

    @property
    def bound(self) -> BoundPlan | None:
        """The plan in force."""
        return self._current.bound if self._current else None

    # Plans.

    def _prepare(self, bound: BoundPlan, reason: str, urgent: bool) -> None:
        """Have a plan made ready for; an urgent one ends all that is under way."""
        self._number += 1
        if urgent:
            self._recall()
        if self._pending is not None:
            self._epochs.pop(self._pending.number, None)
        number, oldest = self._number, min(self._epochs, default=self._number)
        results = Results(bound, self._wire, lambda frame, outputs: self._finish(number, frame, outputs))
        setups = self._brief(bound, number, oldest)
        waiting = {name for name, setup in setups.items() if setup.stages}
        self._pending = self._epochs[number] = _Epoch(
            number, bound, results, image_rows(bound), setups, waiting, reason, self._clock(), self._clock()
        )
        self._outbox.renew(oldest)
        log.info("a plan is made ready for: %s", reason, extra={"epoch": number})
        for name in waiting:
            self.crew.ask(name, setups[name])

    def _recall(self) -> None:
        """What is under way is to be sent again."""
        for epoch in self._epochs.values():
            self._unsent += epoch.frames
        self._unsent.sort()
        self._epochs.clear()
        self._current = None

    def _ready(self, name: str, number: int) -> None:
        pending = self._pending
        absence = self._absences[name]
        if pending is not None and number == pending.number and name in pending.waiting:
            pending.waiting.discard(name)
            if not pending.waiting:
                self._activate(pending)
        elif self._has_begun and absence.invite_s:
            absence.invite_s, absence.returned_s = 0.0, self._clock()
            log.info("%s is there again", self.crew.title(name))
            self._watch.pacemaker.forget(name)
            if self._current is None and self._pending is None:
                self._replace(f"{name} is there")
            else:
                self._look_for_better()

    def _activate(self, epoch: _Epoch) -> None:
        self._pending, self._current = None, epoch
        self._stranded_s = math.inf
        first_frame = self._unsent[0] if self._unsent else self._next_frame
        self._tell(EpochBegun(epoch.number, epoch.bound, epoch.reason, self._clock(), first_frame))
        if not self._has_begun:
            self._has_begun, self._settled = True, self.situation()
        elif self.situation() != self._settled:
            self._look_for_better()
        self._retire()
        self._send_unsent()

    def _replace(self, reason: str) -> None:
        """Go on with those that are there, at once."""
        if not self.crew.present():
            self._number += 1
            self._recall()
            self._pending = None
            self._stranded_s = min(self._stranded_s, self._clock())
            log.warning("no provider is left: %s", reason)
            return
        self._prepare(self._replan(self.situation()), reason, urgent=True)

    def _look_for_better(self) -> None:
        situation = self.situation()
        if situation.present:
            self._situation_changed(situation)

    def _retire(self) -> None:
        """Forget epochs that are not in force any more and have no frame under way."""
        for number in [n for n, e in self._epochs.items() if not e.frames and e not in (self._current, self._pending)]:
            del self._epochs[number]

    # The crew.

    def _gone(self, name: str, problem: DistrEdgeError) -> None:
        if not self._has_begun:
            self._tell(problem)
            return
        log.warning("%s", problem)
        self._last_failure = problem
        absence, now = self._absences[name], self._clock()
        absence.losses = 1 if now - absence.returned_s > FORGIVEN_S else absence.losses + 1
        absence.back_s = now + min(MAX_RETURN_S, RETURN_S * 2.0 ** (absence.losses - 1))
        if any(name in workers(epoch.bound) for epoch in self._epochs.values()):
            self._replace(f"{name} is lost")
        else:
            self._look_for_better()

    def _failed(self, message: Failed) -> None:
        problem = RunError(f"{self.crew.title(message.sender)} {message.reason}")
        if not self._has_begun:
            self._tell(problem)
        elif self.crew.members[message.sender].presence is not Presence.ABSENT and message.epoch in self._epochs:
            self.crew.drop(message.sender)
            self._gone(message.sender, problem)

    def _invite(self, now: float) -> None:
        """Ask those that are absent whether they are there again."""
        for name, absence in self._absences.items():
            absent = self.crew.members[name].presence is Presence.ABSENT
            if absent and now >= absence.back_s and now >= absence.invite_s + INVITE_S:
                absence.invite_s = now
                self.crew.ask(name, self._brief(None, self._number, self.oldest)[name], quietly=True)

    # Frames.

    def _send_unsent(self) -> None:
        if self._current is None:
            return
        for frame in self._unsent:
            self._send(self._current, frame)
        self._unsent.clear()

    def _send(self, epoch: _Epoch, number: int) -> None:
        frame = self._frames[number]
        epoch.frames.add(number)
        rows = frame.image.reshape(1, *epoch.bound.graph.image)
        parcels: list[Parcel] = []
        for send in epoch.sends:
            data, scale = pack(rows[:, :, send.rows[0] : send.rows[1]], self._wire)
            chunk = RowsChunk(
                self._session, REQUESTER, epoch.number, number, send.boundary, send.layer, send.rows, 0, scale
            )
            parcels.append((send.peer, chunk, data))
        self._active_s = self._clock()
        frame.started_s = min(frame.started_s, self._active_s)
        self._outbox.put_together(parcels)

    def _finish(self, number: int, frame: int, outputs: Outputs) -> None:
        epoch = self._epochs.get(number)
        if epoch is None or frame not in epoch.frames:
            return
        epoch.frames.discard(frame)
        known = self._frames.pop(frame)
        self._stalls, self._result_s = 0, self._clock()
        self._slowest_s = max(self._slowest_s, self._result_s - known.started_s)
        self._done[frame] = FrameDone(frame, outputs, known.started_s, self._result_s, number)
        while self._next_told in self._done:
            self._tell(self._done.pop(self._next_told))
            self._next_told += 1
        self._retire()

    def _look_for_late(self, now: float) -> None:
        """Give up on a provider that does not make ready, and send again what does not come."""
        pending = self._pending
        if pending is not None:
            if now - pending.since_s > READY_S:
                name = min(pending.waiting)
                self.crew.drop(name)
                self._gone(name, ProviderLostError(f"{self.crew.title(name)} does not make ready"))
                return
            if now - pending.asked_s > ASK_AGAIN_S:
                pending.asked_s = now
                for name in pending.waiting:
                    self._outbox.put(name, pending.setups[name])
        if self._current is None or not self._current.frames:
            self._result_s = now
            return
        stuck_s = max(STUCK_S, STUCK_FACTOR * self._slowest_s) if self._slowest_s else UNKNOWN_S
        is_idle = now - self._active_s > STALL_S and self.crew.all_speak()
        if is_idle or now - self._result_s > stuck_s:
            self._stalled()

    def _stalled(self) -> None:
        """A frame does not come although all are there: again, and then on one provider after the other."""
        self._stalls += 1
        self._active_s = self._result_s = self._clock()
        present = self.crew.present()
        log.warning("a frame does not come back, for the %d. time", self._stalls)
        if self._stalls > len(present) + 1:
            self._tell(RunError("frames do not come back, whoever computes them: see the providers' logs"))
            self._stalls = 0
            return
        if self._stalls == 1:
            self._prepare(self._replan(self.situation()), "a frame did not come back", urgent=True)
        else:
            alone = Situation((present[(self._stalls - 2) % len(present)],), {})
            self._prepare(self._replan(alone), "frames did not come back", urgent=True)


def workers(bound: BoundPlan) -> set[str]:
    """The providers that a plan gives something to do."""
    volumes = range(len(bound.volumes))
    names = {n for i, n in enumerate(bound.plan.providers) if any(bound.part(v, i) for v in volumes)}
    return names | ({bound.plan.head_provider} if bound.graph.head.nodes else set())


def same(a: BoundPlan, b: BoundPlan) -> bool:
    """Whether two plans have the same done by the same."""
    first, second = a.plan, b.plan
    return first.volumes == second.volumes and first.providers == second.providers
