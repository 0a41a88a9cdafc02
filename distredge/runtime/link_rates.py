"""Rates of the nodes' links, from transfers between pairs of nodes. Pure.

Each node hangs on one link, and a transfer from one to another goes as fast as the slower of the two. So a transfer
speaks of a node: surely if the other one never limits (the requester, mostly), probably if that is taken to be faster,
perhaps if both are alike. Of what a node's transfers of the last seconds say, only the surest counts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from distredge.profiles.network import wire_mbps
from distredge.runtime.drift import ChangePoint

MIN_BYTES = 16 * 1024
"""Of a transfer that tells anything: below, what a shaper lets through at once decides."""

ALIKE = 1.1
"""Rates that differ by less are taken for the same."""

LASTS_S = 3.0
"""For so long after a surer transfer a node's less sure ones do not count."""

SURELY, PROBABLY, PERHAPS = 2, 1, 0


class RateChange(NamedTuple):
    """A node's link has so many Mbit/s, from about `at_s` on."""

    at_s: float
    node: str
    before_mbps: float
    after_mbps: float


class LinkRates:
    """Follows a star's links. `assumed` are the rates that are reckoned with, in Mbit/s; a node that is not named, or
    has an infinite one, never limits.

    """

    def __init__(self, assumed: Mapping[str, float]) -> None:
        self.assumed = {name: mbps for name, mbps in assumed.items() if math.isfinite(mbps)}
        self._tests: dict[str, ChangePoint] = {}
        self._surest: dict[str, tuple[int, float]] = {}
        self._changes: list[RateChange] = []

    def took(self, at_s: float, sender: str, receiver: str, payload_bytes: int, ms: float) -> None:
        """Take a transfer; times do not go back."""
        if payload_bytes < MIN_BYTES or ms <= 0.0:
            return
        mbps = wire_mbps(ms / payload_bytes)
        for node, other in ((sender, receiver), (receiver, sender)):
            if node in self.assumed and self._counts(at_s, node, self.assumed.get(other, math.inf)):
                self._add(at_s, node, mbps)

    def rates(self) -> dict[str, float]:
        """As they seem now, small drift included."""
        levels = {node: test.level for node, test in self._tests.items()}
        return {node: mbps * math.exp(levels.get(node, 0.0)) for node, mbps in self.assumed.items()}

    def changes(self) -> list[RateChange]:
        """What was found since this was last asked."""
        found, self._changes = self._changes, []
        return found

    def assume(self, at_s: float, node: str, mbps: float) -> None:
        """Somebody knows better."""
        self._change(RateChange(at_s, node, self.assumed[node], mbps))

    def _change(self, change: RateChange) -> None:
        self.assumed[change.node] = change.after_mbps
        self._tests.pop(change.node, None)
        self._changes.append(change)

    def _add(self, at_s: float, node: str, mbps: float) -> None:
        assumed, test = self.assumed[node], self._tests.setdefault(node, ChangePoint())
        test.add(at_s, math.log(mbps / assumed))
        if found := test.changed():
            self._change(RateChange(found.at_s, node, assumed, assumed * math.exp(found.level)))

    def _counts(self, at_s: float, node: str, other_mbps: float) -> bool:
        """Whether a transfer to or from another node says something of a node that no surer one has said lately."""
        if other_mbps * ALIKE < self.assumed[node]:
            return False
        sure = SURELY if math.isinf(other_mbps) else PROBABLY if other_mbps > self.assumed[node] * ALIKE else PERHAPS
        surest, last_s = self._surest.get(node, (sure, at_s))
        if sure < surest and at_s - last_s <= LASTS_S:
            return False
        self._surest[node] = sure, at_s
        return True
