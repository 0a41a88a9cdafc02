"""How fast providers compute while a stream runs, beside what was expected. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from distredge.runtime.message import Stint

WINDOW_S = 1.0
"""A provider's speed is that of the last second."""

MIN_TIMES = 3
"""Stages that must have been computed in it."""

BASELINE_TIMES = 12
"""So many stages at the beginning say how a provider computes when nothing is wrong, whatever its profile says."""

CHANGED = 2.0
"""A provider that is so many times as slow, or as fast, as was assumed has changed."""

SURE_S = 0.4
"""For so long it must be so."""

RECHECK_S = 5.0
"""A slow provider without work is given some after so long, twice as long each time that it is slow again."""

MAX_RECHECK_S = 120.0


@dataclass
class _Speed:
    recent: deque[tuple[float, float, float, int]] = field(default_factory=deque)
    first: list[tuple[float, float]] = field(default_factory=list)
    baseline: float | None = None
    assumed: float = 1.0
    differs_s: float | None = None
    worked_s: float = 0.0
    recheck_s: float = RECHECK_S


class Pacemaker:
    """Notices providers that have become slow, or fast again.

    Of each it knows the ratio of what its stages took to what was expected of them, against that ratio at the
    beginning.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._expected: dict[int, Mapping[tuple[str, int], float]] = {}
        self._speeds: dict[str, _Speed] = {}
        self._changed = False

    def expect(self, epoch: int, expected_ms: Mapping[tuple[str, int], float]) -> None:
        """What each stage, by provider and boundary, should take under an epoch's plan."""
        self._expected[epoch] = expected_ms
        for old in [number for number in self._expected if number < epoch - 1]:
            del self._expected[old]

    def took(self, name: str, stints: Iterable[Stint]) -> None:
        """What a provider says that it has computed."""
        now = self._clock()
        speed = self._speeds.setdefault(name, _Speed(worked_s=now))
        for stint in stints:
            expected_ms = self._expected.get(stint.epoch, {}).get((name, stint.boundary), 0.0) * stint.times
            if expected_ms > 0.0:
                speed.recent.append((now, stint.total_ms, expected_ms, stint.times))
                speed.worked_s = now
                if speed.baseline is None:
                    speed.first += [(stint.total_ms / stint.times, expected_ms / stint.times)] * stint.times
        while speed.recent and speed.recent[0][0] < now - WINDOW_S:
            speed.recent.popleft()
        if speed.baseline is None and len(speed.first) >= BASELINE_TIMES:
            speed.baseline = sum(m for m, _ in speed.first) / sum(e for _, e in speed.first)
            speed.first.clear()
        self._judge(speed, now)

    def slowdown(self, name: str) -> float:
        """How many times as long as at the beginning a provider is taken to need."""
        speed = self._speeds.get(name)
        return speed.assumed if speed else 1.0

    def forget(self, name: str) -> None:
        """A provider was away: whatever slowed it may be gone."""
        speed = self._speeds.get(name)
        if speed:
            speed.recent.clear()
            speed.assumed, speed.differs_s = 1.0, None

    def changed(self) -> bool:
        """Whether somebody's speed has changed since this was last asked."""
        now = self._clock()
        for speed in self._speeds.values():
            if speed.assumed > 1.0 and now - speed.worked_s > speed.recheck_s:
                speed.assumed, speed.worked_s = 1.0, now
                speed.recheck_s = min(MAX_RECHECK_S, 2.0 * speed.recheck_s)
                self._changed = True
        found, self._changed = self._changed, False
        return found

    def _judge(self, speed: _Speed, now: float) -> None:
        if speed.baseline is None or sum(times for *_, times in speed.recent) < MIN_TIMES:
            return
        took, expected = (sum(item[k] for item in speed.recent) for k in (1, 2))
        ratio = took / expected / speed.baseline
        if 1.0 / CHANGED < ratio / speed.assumed < CHANGED:
            speed.differs_s = None
            return
        if speed.differs_s is None:
            speed.differs_s = now
        if now - speed.differs_s >= SURE_S:
            speed.assumed, speed.differs_s = max(1.0, round(ratio, 1)), None
            self._changed = True
