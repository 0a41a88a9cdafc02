"""What a running stream tells of the world it runs in: who is there, how slow each is, how fast the links are. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from distredge.profiles.network import wire_mbps
from distredge.runtime.link_rates import LinkRates
from distredge.runtime.message import Heartbeat, Transfer
from distredge.runtime.pacemaker import Pacemaker

SOUNDED = 1.3
"""A probed link counts as changed if its rate differs from what was assumed by this factor."""

MAX_CHANGES = 1000
"""That are kept for whoever asks for them."""


@dataclass(frozen=True)
class Situation:
    """What a plan has to cope with.

    Who is there; how many times as long as expected each takes to compute, and the rates of the nodes' links in Mbit/s,
    where they are not as the scenario says.
    """

    present: tuple[str, ...]
    slowdown: Mapping[str, float]
    mbps: Mapping[str, float] = field(default_factory=dict)


class Change(NamedTuple):
    """A node's link (Mbit/s) or compute (factor) is not what it was taken for; `at_s` by the watch's clock."""

    at_s: float
    kind: Literal["link", "compute"]
    node: str
    before: float
    after: float


class Watch:
    """Gathers what nodes tell. Without `links` their rates are not looked at.

    `headroom` times what a link is taken to carry may be sent over it: a link that has become faster cannot be noticed
    otherwise.
    """

    def __init__(self, clock: Callable[[], float], links: LinkRates | None = None, headroom: float = 1.0) -> None:
        self.pacemaker = Pacemaker(clock)
        self._clock, self._links, self._headroom = clock, links, headroom
        self._usual = dict(links.assumed) if links else {}
        self.idle: frozenset[str] = frozenset()
        """Providers that stand by."""
        self._mbps: dict[str, float] = {}
        self._changes: list[Change] = []

    def heard(self, heartbeat: Heartbeat) -> None:
        """Take what a provider has computed, and what came to it."""
        self.pacemaker.took(heartbeat.sender, heartbeat.work)
        self.took(heartbeat.sender, heartbeat.transfers)

    def took(self, receiver: str, transfers: Iterable[Transfer]) -> None:
        """Take what came to a node."""
        if self._links is not None:
            now = self._clock()
            for transfer in transfers:
                self._links.took(now, transfer.sender, receiver, transfer.payload_bytes, transfer.ms)

    def sounded(self, node: str, payload_bytes: int, ms: float) -> None:
        """Take what a probe has shown of a link that no rows use."""
        mbps = wire_mbps(ms / payload_bytes)
        if self._links is not None and node in self._links.assumed:
            assumed = self._links.assumed[node]
            if not 1.0 / SOUNDED < mbps / assumed < SOUNDED:
                self._links.assume(self._clock(), node, mbps)

    def situation(self, present: tuple[str, ...]) -> Situation:
        """As it is taken to be: it changes when a change is found, not with every figure."""
        slowdown = {name: s for name in present if (s := self.pacemaker.slowdown(name)) != 1.0}
        return Situation(present, slowdown, dict(self._mbps))

    def rates(self) -> dict[str, float]:
        """Rates of the nodes' links as they seem now, Mbit/s; empty if they are not looked at."""
        return self._links.rates() if self._links is not None else {}

    def pace_mbps(self, name: str) -> float | None:
        """How fast a node may send, or be sent to; None where nothing is known that limits.

        One that stands by may do so as fast as ever: only probes pass its link, to find out how fast it is.
        """
        if self._links is None or name not in self._usual:
            return None
        assumed = self._links.assumed[name]
        return self._headroom * (max(assumed, self._usual[name]) if name in self.idle else assumed)

    def changed(self) -> bool:
        """Whether the situation has changed since this was last asked."""
        found = [Change(c.at_s, "compute", c.node, c.before, c.after) for c in self.pacemaker.changes()]
        if self._links is not None:
            found += [Change(c.at_s, "link", c.node, c.before_mbps, c.after_mbps) for c in self._links.changes()]
        self._mbps.update({c.node: c.after for c in found if c.kind == "link"})
        self._changes = [*self._changes, *found][-MAX_CHANGES:]
        return bool(found)

    def take_changes(self) -> list[Change]:
        """The changes that were found since the last time this was asked."""
        found, self._changes = self._changes, []
        return found
