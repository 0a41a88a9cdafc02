"""Synthetic throughput traces in the place of Fig. 11's, which are not published."""

from __future__ import annotations

import numpy as np

from distredge.profiles.profile import FloatArray

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
