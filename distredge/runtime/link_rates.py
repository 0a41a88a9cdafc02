"""Rates of the nodes' links, from transfers between pairs of nodes. Pure.

Each node hangs on one link, and a transfer from one to another goes as fast as the slower of the two: both carry at
least as much, one of them no more. Which one is decided for a pair, again and again, by what came lately:

1. An end that never limits, or that was faster meanwhile with somebody else, is not the one: the other is. If neither
   can be, something else held the transfers up, and they say nothing.
2. Of two ends that may be, the one that is known to limit with somebody else explains the pair; the other one is taken
   to be as before.
3. Where nothing tells, the end that was taken to be slower limits, as that is the smaller change; both, if they are
   about alike.

A node that limits in no pair is taken to be as fast as was assumed, or as what was seen, if that is more.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from distredge.profiles.network import wire_mbps
from distredge.runtime.drift import SLACK, ChangePoint

MIN_BYTES = 16 * 1024
"""Of a transfer that tells anything: below, what a shaper lets through at once decides."""

ALIKE = 1.1
"""Rates that are assumed and differ by less are taken for the same."""

APART = math.exp(SLACK)
"""Rates that were measured and differ by less are taken for the same."""

ROUND_S = 0.2
"""Transfers are judged together so often: nodes tell of them at different moments."""

LATELY_S, LATELY = 0.5, 5
"""What came lately: in so many seconds, and so many transfers of a pair at least."""

LASTS_S = 5.0
"""Older transfers say nothing of now."""

KEPT = 64
"""Transfers of a pair that are kept."""

Pair: TypeAlias = tuple[str, str]
"""Two nodes, in the order of their names: both directions go over the same links."""


class RateChange(NamedTuple):
    """A node's link has so many Mbit/s, from about `at_s` on."""

    at_s: float
    node: str
    before_mbps: float
    after_mbps: float


@dataclass
class _Followed:
    """A node's test, and the rate that its ratios refer to."""

    base_mbps: float
    test: ChangePoint = field(default_factory=ChangePoint)


class LinkRates:
    """Follows a star's links, both directions of which are alike.

    `assumed` are the rates that are reckoned with, in Mbit/s; a node that is not named, or has an infinite one, never
    limits. Rates are what was seen: a sender that paces itself shows no more than its pace, so that a link that has
    become much faster is found step by step, if the pace follows.
    """

    def __init__(self, assumed: Mapping[str, float]) -> None:
        self.assumed = {name: mbps for name, mbps in assumed.items() if math.isfinite(mbps)}
        self._nodes = {name: _Followed(mbps) for name, mbps in self.assumed.items()}
        self._seen: dict[Pair, deque[tuple[float, float]]] = {}
        self._fresh: list[tuple[float, Pair, float]] = []
        self._judged_s = -math.inf
        self._changes: list[RateChange] = []

    def took(self, at_s: float, sender: str, receiver: str, payload_bytes: int, ms: float) -> None:
        """Take a transfer; times do not go back."""
        pair = (sender, receiver) if sender < receiver else (receiver, sender)
        if payload_bytes < MIN_BYTES or not 0.0 < ms < math.inf or not self.assumed.keys() & pair:
            return
        mbps = wire_mbps(ms / payload_bytes)
        self._seen.setdefault(pair, deque(maxlen=KEPT)).append((at_s, mbps))
        self._fresh.append((at_s, pair, mbps))
        if at_s - self._judged_s >= ROUND_S:
            self._judged_s = at_s
            self._judge(at_s)

    def rates(self) -> dict[str, float]:
        """As they seem now, small drift included; a node of which nothing is known has what is assumed."""
        return {name: node.base_mbps * math.exp(node.test.level) for name, node in self._nodes.items()}

    def changes(self) -> list[RateChange]:
        """What was found since this was last asked."""
        found, self._changes = self._changes, []
        return found

    def assume(self, at_s: float, node: str, mbps: float) -> None:
        """Somebody knows better; counts as a change."""
        for pair in [pair for pair in self._seen if node in pair]:
            del self._seen[pair]
        self._fresh = [fresh for fresh in self._fresh if node not in fresh[1]]
        self._nodes[node] = _Followed(mbps)
        self._change(RateChange(at_s, node, self.assumed[node], mbps))

    def _change(self, change: RateChange) -> None:
        self.assumed[change.node] = change.after_mbps
        self._changes.append(change)

    def _judge(self, now_s: float) -> None:
        """What the transfers since the last time say of which node."""
        for pair in [pair for pair, seen in self._seen.items() if now_s - seen[-1][0] > LASTS_S]:
            del self._seen[pair]
        verdict = _Verdict(self.assumed, self._seen, now_s)
        fresh, self._fresh = self._fresh, []
        for at_s, pair, mbps in fresh:
            for name in pair:
                if name in verdict.limiting.get(pair, ()):
                    self._add(at_s, name, mbps)
                elif name in self.assumed and verdict.is_unblamed(name, pair):
                    self._add(at_s, name, max(mbps, self.assumed[name]))

    def _add(self, at_s: float, name: str, mbps: float) -> None:
        node = self._nodes[name]
        node.test.add(at_s, math.log(mbps / node.base_mbps))
        if found := node.test.changed():
            after_mbps = node.base_mbps * math.exp(found.level)
            self._change(RateChange(found.at_s, name, self.assumed[name], after_mbps))


class _Verdict:
    """Which ends limit in which pair, by the module's rules."""

    def __init__(
        self, assumed: Mapping[str, float], seen: Mapping[Pair, deque[tuple[float, float]]], now_s: float
    ) -> None:
        self._assumed, self._seen, self._now_s = assumed, seen, now_s
        self._rates: dict[tuple[Pair, float], float] = {}
        self._of: dict[str, list[Pair]] = {}
        for pair in seen:
            for name in pair:
                self._of.setdefault(name, []).append(pair)
        enough = [pair for pair, transfers in seen.items() if len(transfers) >= LATELY]
        suspects = {pair: tuple(name for name in pair if not self._is_faster(name, pair)) for pair in enough}
        self._known = {names[0] for names in suspects.values() if len(names) == 1}
        self.limiting = {pair: self._narrowed(names) for pair, names in suspects.items()}
        """Ends that limit, by pair."""
        self._limiting = {name for names in self.limiting.values() for name in names}

    def is_unblamed(self, name: str, pair: Pair) -> bool:
        """Whether a node limits nowhere, and no pair shows it faster: it is as fast as assumed at least, or as this."""
        return name not in self._limiting and pair == self._fastest(name)

    def _fastest(self, name: str) -> Pair | None:
        judged = (pair for pair in self._of[name] if self.limiting.get(pair))
        return max(judged, key=lambda pair: self._lately(pair, self._since_s(pair)), default=None)

    def _narrowed(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """Rules 2 and 3, for two ends that may both limit."""
        known = tuple(name for name in names if name in self._known)
        if len(names) < 2 or known:
            return known
        slowest = min(self._assumed[name] for name in names)
        return tuple(name for name in names if self._assumed[name] < slowest * ALIKE)

    def _is_faster(self, name: str, pair: Pair) -> bool:
        """Whether a node never limits, or was faster with somebody else since a pair has the rate that it has."""
        if name not in self._assumed:
            return True
        since_s = self._since_s(pair)
        enough = self._lately(pair, since_s) * APART
        return any(self._lately(other, since_s) > enough for other in self._of[name] if other != pair)

    def _since_s(self, pair: Pair) -> float:
        """When that begins which is a pair's present."""
        seen = self._seen[pair]
        return min(seen[-LATELY][0], self._now_s - LATELY_S)

    def _lately(self, pair: Pair, since_s: float) -> float:
        """A pair's rate since then, Mbit/s; 0 if nothing came."""
        key = pair, since_s
        if key not in self._rates:
            rates = [*self._newest(pair, since_s)]
            self._rates[key] = statistics.median(rates) if rates else 0.0
        return self._rates[key]

    def _newest(self, pair: Pair, since_s: float) -> Iterator[float]:
        for at_s, mbps in reversed(self._seen[pair]):
            if at_s < since_s:
                return
            yield mbps
