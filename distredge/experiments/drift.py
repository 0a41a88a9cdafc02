"""How well change is told from noise: false alarms an hour, and how soon what change is found. Simulated, seeded.

`python -m distredge.experiments.drift` prints the tables of docs/drift.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from distredge.experiments.traces import STEP_S, throughput
from distredge.profiles.profile import FloatArray
from distredge.runtime.drift import ChangePoint

SIGMA = 0.2
"""Standard deviation of an observation's logarithm, outliers apart."""

OUTLIERS = 0.05
"""Share of observations that take two to five times as long."""

BURST_EVERY_S, BURST_S = 30.0, (0.1, 0.5)
"""On average so often everything takes two to five times as long for so long."""

CHANGE_S = 20.0
"""When the change comes in a run, and up to a second later."""

FOLLOWED_S = 30.0
"""For so long after it a change may be found."""


class Noise(NamedTuple):
    """What disturbs a stream: outliers, bursts, and how alike two observations in a row are."""

    outliers: float = 0.0
    bursts: bool = False
    correlation: float = 0.0


NOISES = {
    "white": Noise(),
    "outliers": Noise(OUTLIERS),
    "outliers, AR(1) 0.5": Noise(OUTLIERS, correlation=0.5),
    "outliers, bursts": Noise(OUTLIERS, bursts=True),
    "outliers, bursts, AR(1) 0.5": Noise(OUTLIERS, bursts=True, correlation=0.5),
    "outliers, AR(1) 0.7": Noise(OUTLIERS, correlation=0.7),
}

HARD = NOISES["outliers, bursts, AR(1) 0.5"]


def stream(rng: np.random.Generator, noise: Noise, per_s: float, seconds: float) -> tuple[FloatArray, FloatArray]:
    """Times, irregular, and logarithms of measured over assumed time of a stream on which nothing changes."""
    times = np.cumsum(rng.uniform(0.5, 1.5, int(seconds * per_s * 1.1) + 10) / per_s)
    times = times[times < seconds]
    logs = _correlated(rng.normal(0.0, SIGMA, len(times)), noise.correlation)
    logs += np.where(rng.random(len(times)) < noise.outliers, np.log(rng.uniform(2.0, 5.0, len(times))), 0.0)
    for _ in range(rng.poisson(seconds / BURST_EVERY_S) if noise.bursts else 0):
        began = rng.uniform(0.0, seconds)
        first, last = np.searchsorted(times, (began, began + rng.uniform(*BURST_S)))
        logs[first:last] += math.log(rng.uniform(2.0, 5.0))
    return times, logs


def _correlated(fresh: FloatArray, correlation: float) -> FloatArray:
    """An AR(1) sequence of the same standard deviation."""
    if not correlation:
        return fresh
    last, share = 0.0, math.sqrt(1.0 - correlation**2)
    found = np.empty_like(fresh)
    for i, value in enumerate(fresh.tolist()):
        last = correlation * last + share * value
        found[i] = last
    return found


def alarms(times: FloatArray, logs: FloatArray) -> list[tuple[float, float]]:
    """When a test finds changes in a stream, and the levels."""
    test, found = ChangePoint(), []
    for at_s, log_ratio in zip(times.tolist(), logs.tolist(), strict=True):
        test.add(at_s, log_ratio)
        if change := test.changed():
            found.append((at_s, change.level))
    return found


def false_alarms(noise: Noise, per_s: float, hours: int, seed: int = 0) -> float:
    """Changes an hour that are found though there is none."""
    streams = (stream(np.random.default_rng([seed, hour]), noise, per_s, 3600.0) for hour in range(hours))
    return sum(len(alarms(*one)) for one in streams) / hours


def delays(factor: float, noise: Noise, per_s: float, runs: int, seed: int = 0) -> list[float]:
    """Seconds, sorted, after which a change by a factor is found in each run; inf if it is not."""
    found = []
    for run in range(runs):
        rng = np.random.default_rng([seed, run])
        times, logs = stream(rng, noise, per_s, CHANGE_S + FOLLOWED_S)
        changed_s = CHANGE_S + rng.uniform()
        logs[times >= changed_s] += math.log(factor)
        after = (at_s - changed_s for at_s, _ in alarms(times, logs) if at_s >= changed_s)
        found.append(next(after, math.inf))
    return sorted(found)


class OnTraces(NamedTuple):
    """On the traces of Fig. 11: steps of a factor 1.5 or more, how many were found in 3 s, and alarms an hour."""

    steps: int
    in_time: int
    alarms_an_hour: float


def on_traces(per_s: float, seed: int = 0) -> OnTraces:
    """Follow links whose rate is another one every 10 s."""
    steps = in_time = count = 0
    traces = throughput(seed)
    for node, trace in enumerate(traces):
        times, logs = stream(np.random.default_rng([seed, node]), HARD, per_s, len(trace) * STEP_S)
        level = np.log(trace[0] / trace)
        found = [at_s for at_s, _ in alarms(times, logs + level[(times / STEP_S).astype(int)])]
        count += len(found)
        large = np.flatnonzero(np.abs(np.diff(level)) >= math.log(1.5)) + 1
        steps += len(large)
        in_time += sum(_any_between(found, k * STEP_S, k * STEP_S + 3.0) for k in large.tolist())
    return OnTraces(steps, in_time, count / (traces.size * STEP_S / 3600.0))


def _any_between(moments: Iterable[float], first: float, last: float) -> bool:
    return any(first <= at_s <= last for at_s in moments)


def main() -> None:
    """Print the tables."""
    print("| noise | " + " | ".join(f"{rate} a second" for rate in (5, 10, 20, 100)) + " |\n|---|---|---|---|---|")
    for name, noise in NOISES.items():
        cells = (f"{false_alarms(noise, rate, hours):.2f}" for rate, hours in ((5, 20), (10, 20), (20, 20), (100, 10)))
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
    print("\n| time changes by | a second | half | nine in ten | all | within 3 s |\n|---|---|---|---|---|---|")
    for factor in (0.5, 0.7, 1.4, 2.0, 4.0):
        for rate in (5, 10, 20, 100):
            s = delays(factor, HARD, rate, 200)
            cells = (f"{s[len(s) * k // 100]:.1f}" for k in (50, 90))
            share = sum(d <= 3.0 for d in s) / len(s)
            print(f"| x{factor:g} | {rate} | {' | '.join(cells)} | {s[-1]:.1f} | {share:.1%} |", flush=True)
    for rate in (5, 20, 100):
        print(f"\nFig. 11, {rate} a second: {on_traces(rate)}", flush=True)


if __name__ == "__main__":
    main()
