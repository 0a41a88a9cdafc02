"""How far another node's clock is ahead of this one's, from pulses that it answers. Pure."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import deque
from dataclasses import dataclass
from itertools import pairwise

from distredge.runtime.message import Stamps

MAX_DRIFT = 200e-6
"""Two quartz clocks, disciplined or not, hardly ever run apart faster than this: 12 ms a minute."""

BUCKET_S = 1.0
"""Of all pulses of a second the quickest ones count, in each direction."""

MAX_BUCKETS = 3600
"""What is older than the last hour is forgotten."""


STEP_S = 0.2
"""So far apart are the readings of a curve, if it needs no more than `MAX_STEPS`."""

MAX_STEPS = 400


@dataclass(frozen=True)
class Reading:
    """The other clock is `offset_s` ahead, give or take `bound_s`, when it shows `at_s`.

    `drift` is the difference of the clocks' rates that had to be assumed.
    """

    at_s: float
    offset_s: float
    bound_s: float
    drift: float = MAX_DRIFT


@dataclass
class _Bucket:
    """The narrowest limits of the offset that a second's pulses gave, and when, by the other clock."""

    at_s: float
    most_s: float
    most_at_s: float
    least_s: float
    least_at_s: float


class ClockOffset:
    """Estimates the offset of a clock whose rate may differ by `MAX_DRIFT`, and says how wrong it may be.

    Nothing arrives before it was sent. A pulse that left at t0 and came at t1 of the other clock therefore says that
    it was at most t1 - t0 ahead; the answer, sent at its t2, here at t3, that it was at least t2 - t3 ahead. Each limit
    widens by the drift with the distance in time. The estimate is the middle of what all limits leave, its bound half
    of it: at most half of the shortest round trip near that time, and less if the quickest way there and the quickest
    way back belong to different pulses. Queues, however unequal, make it wide but never wrong.
    """

    def __init__(self, max_drift: float = MAX_DRIFT) -> None:
        self._drift = max_drift
        self._buckets: deque[_Bucket] = deque(maxlen=MAX_BUCKETS)

    def add(self, stamps: Stamps, arrived_s: float) -> None:
        """Take an answered pulse, which arrived at `arrived_s` by this node's clock; nonsense is ignored."""
        t0, t1, t2, t3 = stamps.sent_s, stamps.received_s, stamps.answered_s, arrived_s
        there_s, away_s = t2 - t1, t3 - t0
        if not all(map(math.isfinite, (t0, t1, t2, t3))) or not 0.0 <= there_s <= 1.001 * away_s + 0.001:
            return
        last = self._buckets[-1] if self._buckets else None
        if last is not None and t1 < last.at_s - BUCKET_S:
            self._buckets.clear()  # the other node was started anew, and its clock with it
            last = None
        if last is None or t1 >= last.at_s + BUCKET_S:
            self._buckets.append(_Bucket(t1, t1 - t0, t1, t2 - t3, t2))
            return
        if t1 - t0 <= last.most_s:
            last.most_s, last.most_at_s = t1 - t0, t1
        if t2 - t3 >= last.least_s:
            last.least_s, last.least_at_s = t2 - t3, t2

    def at(self, other_s: float) -> Reading | None:
        """The offset when the other clock shows `other_s`; None before the first answer.

        If the limits contradict each other the clocks drift faster than was assumed: then twice as much is assumed,
        as often as it takes.
        """
        if not self._buckets:
            return None
        drift = self._drift
        while True:
            most = min(b.most_s + drift * abs(other_s - b.most_at_s) for b in self._buckets)
            least = max(b.least_s - drift * abs(other_s - b.least_at_s) for b in self._buckets)
            if least <= most or drift > 1.0:
                return Reading(other_s, (most + least) / 2.0, abs(most - least) / 2.0, drift)
            drift *= 2.0

    def curve(self, first_s: float, last_s: float) -> OffsetCurve | None:
        """The offset from `first_s` to `last_s` by the other clock; None before the first answer."""
        steps = max(1, min(MAX_STEPS, math.ceil((last_s - first_s) / STEP_S)))
        found = [self.at(first_s + (last_s - first_s) * k / steps) for k in range(steps + 1)]
        return OffsetCurve(tuple(reading for reading in found if reading)) if all(found) else None


@dataclass(frozen=True)
class OffsetCurve:
    """Readings in order of time, between which the offset is interpolated, and beyond which it stays as it is."""

    readings: tuple[Reading, ...]

    def to_own(self, other_s: float) -> float:
        """A moment of the other clock by this node's."""
        at = bisect_right(self.readings, other_s, key=lambda reading: reading.at_s)
        if at == 0 or at == len(self.readings):
            return other_s - self.readings[min(at, len(self.readings) - 1)].offset_s
        before, after = self.readings[at - 1], self.readings[at]
        share = (other_s - before.at_s) / (after.at_s - before.at_s)
        return other_s - before.offset_s - share * (after.offset_s - before.offset_s)

    @property
    def bound_s(self) -> float:
        """How wrong a moment may be at most: a reading, and what the offset may do between two of them."""
        worst = max(self.readings, key=lambda reading: reading.bound_s)
        apart_s = max((b.at_s - a.at_s for a, b in pairwise(self.readings)), default=0.0)
        return worst.bound_s + max(reading.drift for reading in self.readings) * apart_s / 2.0
