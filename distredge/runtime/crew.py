"""Who of a session's providers is there: asked, present or absent. Pure: told of messages and of the time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum

from distredge.errors import DistrEdgeError, ProviderLostError, RunError
from distredge.runtime.message import (
    Busy,
    Failed,
    Heartbeat,
    Message,
    MessageError,
    NeedModel,
    Observed,
    Pulse,
    Ready,
    Report,
    Setup,
    Unreachable,
)
from distredge.runtime.outbox import Outbox
from distredge.runtime.provider import BEAT_S

LOST_S = 0.75
"""A provider that was there and has not been heard of for so long is lost."""

BUSY_S = 3.0
"""While it makes ready for a plan a provider may be silent for so long: building engines can keep it from speaking."""

SETUP_S = 10.0
"""How long a provider may take to answer a setup at all; building its engines may take longer."""

SUSPECT_S = 0.2
"""A provider that another one cannot reach has so long to be heard of itself."""

_BUSY_RETRY_S = 0.5

_LATE_S = 0.3
"""Who looks so much later than they meant to has been held up themselves, and accuses nobody."""


class Presence(Enum):
    """Whether a provider takes part."""

    ABSENT = "absent"
    ASKED = "asked"
    PRESENT = "present"


@dataclass
class Member:
    """What is known of a provider; times by the clock of this node, in seconds."""

    presence: Presence = Presence.ABSENT
    setup: Setup | None = None
    asked_s: float = 0.0
    heard_s: float | None = None
    is_busy: bool = False
    ask_again_s: float = 0.0
    links: tuple[Observed, ...] = field(default=())


class Crew:
    """The providers of a session by name.

    `on_gone` is told of one that is not there, or not any more, and why; `on_ready` of one whose engines for an epoch
    are built. Neither may call back for another provider's sake. `pace_mbps` says how fast each may send.
    """

    def __init__(
        self,
        session: str,
        addresses: Mapping[str, str],
        outbox: Outbox,
        clock: Callable[[], float],
        on_ready: Callable[[str, int], None],
        on_gone: Callable[[str, DistrEdgeError], None],
        pace_mbps: Callable[[str], float | None] = lambda name: None,
    ) -> None:
        self.members = {name: Member() for name in addresses}
        self._session, self._addresses, self._outbox, self._clock = session, addresses, outbox, clock
        self._on_ready, self._on_gone, self._pace_mbps = on_ready, on_gone, pace_mbps
        self._pulse_due_s = 0.0
        self._looked_s = clock()

    def title(self, name: str) -> str:
        """What to call a provider in a message."""
        return f"provider '{name}' at {self._addresses[name]}"

    def present(self) -> tuple[str, ...]:
        """Those that are there, whatever they are doing."""
        return tuple(name for name, member in self.members.items() if member.presence is Presence.PRESENT)

    def ask(self, name: str, setup: Setup, quietly: bool = False) -> None:
        """Tell a provider of a plan; `quietly` if it is expected not to be there."""
        member = self.members[name]
        member.setup, member.is_busy = setup, False
        member.asked_s = self._clock()
        if quietly:
            self._outbox.beat(name, setup)
            return
        if member.presence is Presence.ABSENT:
            member.presence, member.heard_s = Presence.ASKED, None
        self._outbox.put(name, setup)

    def drop(self, name: str) -> None:
        """Count a provider as absent."""
        self.members[name].presence = Presence.ABSENT

    def take(self, message: Message) -> None:
        """Note what a provider says; raises `MessageError` for what none should say."""
        if not isinstance(message, Heartbeat | Ready | NeedModel | Busy | Failed | Report | Unreachable):
            raise MessageError(f"{type(message).__name__} is for providers")
        member = self.members.get(message.sender)
        if member is None:
            raise MessageError(f"'{message.sender}' has no part in this session")
        member.heard_s = self._clock()
        if isinstance(message, Heartbeat | Report):
            member.links = message.links
        elif isinstance(message, Busy):
            member.is_busy, member.ask_again_s = True, self._clock() + _BUSY_RETRY_S
        elif isinstance(message, Ready):
            if member.setup is not None and message.epoch == member.setup.epoch:  # else it answers what is past
                member.presence = Presence.PRESENT
                self._on_ready(message.sender, message.epoch)
        elif isinstance(message, Unreachable) and message.peer in self.members:
            self.suspect(message.peer)

    def heard(self, name: str) -> None:
        """Something came from a provider."""
        member = self.members[name]
        if member.presence is Presence.PRESENT:
            member.heard_s = self._clock()

    def heard_all(self) -> None:
        """Something came that others may be queued behind."""
        for member in self.members.values():
            if member.presence is Presence.PRESENT:
                member.heard_s = self._clock()

    def suspect(self, name: str) -> None:
        """Somebody cannot reach a provider: it has little time left to be heard of."""
        member = self.members[name]
        if member.presence is Presence.PRESENT and member.heard_s is not None:
            member.heard_s = min(member.heard_s, self._clock() - LOST_S + SUSPECT_S)

    def all_speak(self) -> bool:
        """Whether everybody who is there has been heard of just now."""
        now = self._clock()
        heard = [m.heard_s for m in self.members.values() if m.presence is Presence.PRESENT]
        return all(at is not None and now - at < SUSPECT_S + BEAT_S for at in heard)

    def unreachable(self, name: str) -> None:
        """This node cannot reach a provider."""
        if self.members[name].presence is Presence.ASKED:
            address = self._addresses[name]
            self._gone(
                name,
                ProviderLostError(
                    f"{self.title(name)} is not there: start it with"
                    f" `distredge provider --name {name} --listen {address}`, with the same keys"
                ),
            )
        else:
            self.suspect(name)

    def tick(self, oldest: int, here: str) -> None:
        """Tell all that this node is there, and notice who is not; `here` is where providers are to answer to."""
        now = self._clock()
        if now - self._looked_s > BEAT_S + _LATE_S:
            self.heard_all()
        self._looked_s = now
        if now >= self._pulse_due_s:
            self._pulse_due_s = now + BEAT_S
            for name, member in self.members.items():
                present = member.presence is not Presence.ABSENT
                if present and not self._outbox.beat(name, Pulse(self._session, oldest, now, self._pace_mbps(name))):
                    self.suspect(name)  # whose process has ended, or who is being connected anew
        for name, member in self.members.items():
            if member.presence is Presence.ASKED and member.is_busy and now >= member.ask_again_s:
                member.ask_again_s = now + _BUSY_RETRY_S
                assert member.setup is not None
                self._outbox.put(name, member.setup)
            if problem := self._problem(name, member, now, here):
                self._gone(name, problem)

    def _problem(self, name: str, member: Member, now: float, here: str) -> DistrEdgeError | None:
        """Why a provider must be given up; None if it need not."""
        if member.presence is Presence.ABSENT:
            return None
        waited_s = now - member.asked_s
        if member.presence is Presence.ASKED and member.is_busy:
            if waited_s > SETUP_S:
                return RunError(f"{self.title(name)} serves another requester: try again when that is done")
        elif member.heard_s is None:
            if waited_s > SETUP_S:
                return ProviderLostError(
                    f"{self.title(name)} does not answer: is it a DistrEdge provider of that name, with the same"
                    f" keys, and can it reach this machine at {here}?"
                )
        elif now - member.heard_s > (LOST_S if member.presence is Presence.PRESENT else BUSY_S):
            return ProviderLostError(f"{self.title(name)} has stopped answering")
        return None

    def _gone(self, name: str, problem: DistrEdgeError) -> None:
        self.drop(name)
        self._on_gone(name, problem)
