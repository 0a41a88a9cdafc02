"""How fast providers compute while a stream runs, beside what was expected. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from distredge.runtime.drift import ChangePoint
from distredge.runtime.message import Stint

BASELINE = 8
"""The median of so many ratios at the beginning says how a provider computes when nothing is wrong, whatever its
profile says."""

OVERHEAD_MS = 1.0
"""Of a stage, on both sides of the ratio: what a host takes to get to it decides little of how long a short one is."""

SLACK = 0.35
"""Less, in the logarithm of the time, is taken for noise: what a device computes beside it comes and goes. A provider
that has become 1.4 times as slow has hardly changed; one that is twice as slow is noticed in a second or two."""

RECHECK_S = 5.0
"""A slow provider without work is given some after so long, twice as long each time that it is slow again."""

MAX_RECHECK_S = 120.0


class SpeedChange(NamedTuple):
    """A provider takes so many times as long as at the beginning, from about `at_s` on."""

    at_s: float
    node: str
    before: float
    after: float


@dataclass
class _Speed:
    test: ChangePoint
    first: list[float] = field(default_factory=list)
    assumed: float = 1.0
    worked_s: float = 0.0
    recheck_s: float = RECHECK_S

    def learn(self, at_s: float, took_ms: float, expected_ms: float) -> None:
        """Take what a provider has lately computed: into what is usual, and then beside it."""
        log_ratio = math.log(took_ms / expected_ms)
        if len(self.first) < BASELINE:
            self.first.append(log_ratio)
        else:
            self.test.add(at_s, log_ratio - statistics.median(self.first))


class Pacemaker:
    """Notices providers that have become slow, or fast again.

    Of each it knows the ratio of what its stages took to what was expected of them, against that ratio at the
    beginning; `runtime.drift` tells change from noise.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._expected: dict[int, Mapping[tuple[str, int], float]] = {}
        self._speeds: dict[str, _Speed] = {}

    def expect(self, epoch: int, expected_ms: Mapping[tuple[str, int], float]) -> None:
        """What each stage, by provider and boundary, should take under an epoch's plan."""
        self._expected[epoch] = expected_ms
        for old in [number for number in self._expected if number < epoch - 1]:
            del self._expected[old]

    def took(self, name: str, stints: Iterable[Stint]) -> None:
        """What a provider says that it has computed."""
        now = self._clock()
        speed = self._speeds.setdefault(name, _Speed(_test(), worked_s=now))
        took_ms = expected_ms = 0.0
        for stint in stints:
            should_ms = self._expected.get(stint.epoch, {}).get((name, stint.boundary), 0.0)
            if should_ms > 0.0:
                took_ms += stint.total_ms + OVERHEAD_MS * stint.times
                expected_ms += (should_ms + OVERHEAD_MS) * stint.times
        if expected_ms > 0.0:
            speed.worked_s = now
            speed.learn(now, took_ms, expected_ms)

    def slowdown(self, name: str) -> float:
        """How many times as long as at the beginning a provider is taken to need."""
        speed = self._speeds.get(name)
        return speed.assumed if speed else 1.0

    def forget(self, name: str) -> None:
        """A provider was away: whatever slowed it may be gone."""
        speed = self._speeds.get(name)
        if speed:
            speed.assumed, speed.test = 1.0, _test()

    def changes(self) -> list[SpeedChange]:
        """Whose speed has changed since this was last asked."""
        now = self._clock()
        found = []
        for name, speed in self._speeds.items():
            before, change = speed.assumed, speed.test.changed()
            at_s = now
            if change is not None:
                at_s, speed.assumed = change.at_s, round(math.exp(change.level), 2)
            elif before > 1.0 and now - speed.worked_s > speed.recheck_s:
                speed.assumed, speed.test, speed.worked_s = 1.0, _test(), now
                speed.recheck_s = min(MAX_RECHECK_S, 2.0 * speed.recheck_s)
            if speed.assumed != before:
                found.append(SpeedChange(at_s, name, before, speed.assumed))
        return found


def _test() -> ChangePoint:
    return ChangePoint(slack=SLACK)
