"""Links that drift: synthetic traces in the place of Fig. 11's, which are not published, and a scenario's own ones.

The generator, for each device: a level for each segment of 20 minutes, drawn evenly on a logarithmic scale, each at
least `LEAP` times up or down from the one before; times log-normal noise whose logarithm is an autoregressive process
of first order, sampled every `STEP_S`, that forgets within a minute.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from distredge.errors import InputError
from distredge.profiles.profile import FloatArray
from distredge.runtime.testbed.replay import read_trace
from distredge.scenario import Scenario
from distredge.simulate.kernel import IntArray

DEVICES = 4

STEP_S = 10
"""A sample stands for so many seconds."""

SEGMENT_S = 20 * 60
"""The average changes after each segment: in Fig. 11 at 20 and 40 minutes."""

SEGMENTS = 3

LEVELS_MBPS = (40.0, 160.0)
"""A segment's level is drawn between these, evenly on a logarithmic scale."""

LEAP = 1.6
"""By this factor, up or down, a level differs at least from the one before it."""

FLUCTUATION = 0.4
"""Standard deviation of the logarithm of throughput around its level."""

CORRELATION = 0.7
"""Of the logarithm between two samples."""

LIMITS_MBPS = (5.0, 300.0)


class Span(NamedTuple):
    """From `at_s` on, for so many `seconds`, the rates are those of one moment and the plan was made for another."""

    at_s: float
    seconds: float
    rates: int
    plan: int


@dataclass(frozen=True, eq=False)
class Drift:
    """Rates that change at moments and stay in between: from `starts_s` (n,) on, the first 0, `mbps` (devices, n).

    The last ones stay until `end_s`.
    """

    starts_s: FloatArray
    mbps: FloatArray
    end_s: float

    @property
    def moments(self) -> range:
        """Their numbers."""
        return range(len(self.starts_s))

    @cached_property
    def _sums(self) -> tuple[FloatArray, FloatArray]:
        """Moments (n + 1,), and each device's rate summed up over time until then (devices, n + 1)."""
        edges = np.append(self.starts_s, self.end_s)
        return edges, np.pad(np.cumsum(self.mbps * np.diff(edges), axis=1), ((0, 0), (1, 0)))

    def mean_mbps(self, begin_s: float, end_s: float) -> FloatArray:
        """(devices,): the mean rate between two moments."""
        edges, sums = self._sums
        return np.array([np.diff(np.interp([begin_s, end_s], edges, row))[0] for row in sums]) / (end_s - begin_s)

    def looked_at(self, every_s: int) -> IntArray:
        """Numbers of the moments that are the first in their `every_s` seconds."""
        turn = self.starts_s // every_s
        return np.flatnonzero(np.diff(turn, prepend=-1.0) > 0)

    def spans(self, lag_s: float) -> list[Span]:
        """All the time, cut where rates change, and where a plan made for a moment is in force: `lag_s` after it.

        The first plan is in force from the beginning.
        """
        due = self.starts_s + lag_s
        edges = np.unique(np.concatenate([self.starts_s, due[due < self.end_s]]))
        return [
            Span(float(a), float(b - a), _last(self.starts_s, a), max(0, _last(due, a)))
            for a, b in zip(edges, np.append(edges[1:], self.end_s), strict=True)
        ]


def _last(moments: FloatArray, at_s: float) -> int:
    """Number of the last moment that is not after `at_s`; -1 if there is none."""
    return int(np.searchsorted(moments, at_s, side="right")) - 1


def throughput(seed: int) -> FloatArray:
    """(devices, samples) Mbit/s: a level for each segment, times noise that forgets within a minute."""
    rng = np.random.default_rng([seed, 11])
    length = SEGMENT_S // STEP_S
    traces = np.empty((DEVICES, SEGMENTS * length))
    for trace in traces:
        levels = np.repeat(_levels(rng), length)
        noise, drawn = np.empty(len(trace)), rng.normal(0.0, 1.0, len(trace))
        last = drawn[0]
        for i, fresh in enumerate(drawn):
            last = CORRELATION * last + (1.0 - CORRELATION**2) ** 0.5 * fresh if i else fresh
            noise[i] = last
        trace[:] = np.clip(levels * np.exp(FLUCTUATION * noise - FLUCTUATION**2 / 2), *LIMITS_MBPS)
    return np.round(traces, 2)


def _levels(rng: np.random.Generator) -> list[float]:
    """A level for each segment, each far enough from the last."""
    low, high = np.log(LEVELS_MBPS)
    levels: list[float] = []
    while len(levels) < SEGMENTS:
        level = float(np.exp(rng.uniform(low, high)))
        if not levels or abs(np.log(level / levels[-1])) >= np.log(LEAP):
            levels.append(level)
    return levels


def synthetic(seed: int) -> Drift:
    """An hour of `throughput`."""
    mbps = throughput(seed)
    return Drift(np.arange(mbps.shape[1], dtype=np.float64) * STEP_S, mbps, float(mbps.shape[1] * STEP_S))


def imported(scenario: Scenario) -> Drift:
    """The traces that a scenario names, from the earliest moment of any; providers without one keep their rate.

    What a file says last holds as long as what it says before that. Raises `InputError` if there is no trace, or no
    change in any; `ScenarioError` for a file that is none.
    """
    traces = {p.name: read_trace(scenario.folder / p.trace) for p in scenario.providers if p.trace}
    known = np.unique(np.concatenate([[], *(trace.moments_s for trace in traces.values())]))
    if len(known) < 2:
        raise InputError(
            f"'{scenario.name}' has no links that change: give its providers a `trace`, a CSV with the columns t_s,Mbps"
        )
    rates: Sequence[Sequence[float]] = [
        [traces[p.name].rate_at(t) for t in known] if p.name in traces else [p.bandwidth_mbps] * len(known)
        for p in scenario.providers
    ]
    starts = known - known[0]
    return Drift(starts, np.array(rates), float(2.0 * starts[-1] - starts[-2]))
