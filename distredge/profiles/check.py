"""What speaks against trusting a measured profile, and how far its representations are off."""

from __future__ import annotations

from typing import TypedDict

import numpy as np

from distredge.profiles.measured import UNSTEADY_CV, Conditions, RowTiming, TableFile
from distredge.profiles.regression import cross_validate
from distredge.profiles.table import MUCH_DRIFT, TableProfile

MANY_UNSTEADY = 0.2
"""A larger share of unsteady points makes the whole doubtful."""

CLOCK_CHANGE = 0.05


class Errors(TypedDict):
    """|predicted / measured - 1| of points that were left out."""

    points: int
    median: float
    mean: float
    p90: float


def cross_validation(profile: TableProfile) -> dict[str, Errors]:
    """The errors of each representation, see `regression.cross_validate`; empty if every layer has too few points."""
    errors = cross_validate(profile.points.values())
    return {
        name: Errors(
            points=len(e),
            median=round(float(np.median(e)), 5),
            mean=round(float(e.mean()), 5),
            p90=round(float(np.quantile(e, 0.9)), 5),
        )
        for name, e in errors.items()
        if len(e)
    }


def doubts(file: TableFile) -> list[str]:
    """What speaks against trusting a measured profile, a sentence each; empty: nothing that can be seen in it."""
    found = []
    source = file.provenance
    timings = [t for layer in file.layers.values() for t in layer if t.count > 1]
    unsteady = sum(t.cv > UNSTEADY_CV for t in timings)
    if timings and unsteady > MANY_UNSTEADY * len(timings):
        found.append(f"{unsteady} of {len(timings)} points varied by more than {UNSTEADY_CV:.0%}: was the device busy?")
    if source.sentinel and source.sentinel.drift > MUCH_DRIFT:
        found.append(f"the sentinel's time changed by {source.sentinel.drift:.0%} meanwhile: is the device too hot?")
    if not source.complete:
        found.append("the measurement was interrupted: run the same command again")
    falls = [(signature, pair) for signature, layer in file.layers.items() for pair in _falls(layer)]
    if falls:
        signature, (low, high) = falls[0]
        found.append(
            f"latency falls when rows are added, {len(falls)} time(s), first in {signature} from {low.median_ms:.3f} ms"
            f" at {low.rows} rows to {high.median_ms:.3f} ms at {high.rows}: does the runtime change its algorithm?"
        )
    return found + condition_doubts(source.conditions)


def _falls(layer: tuple[RowTiming, ...]) -> list[tuple[RowTiming, RowTiming]]:
    """Neighbours of which the one with more rows took less nine times in ten than the other one time in ten."""
    return [(low, high) for low, high in zip(layer[:-1], layer[1:], strict=True) if high.p90_ms < low.p10_ms]


def condition_doubts(conditions: tuple[Conditions, ...]) -> list[str]:
    """What the device's state says: throttling, clocks that moved, a governor that lets them."""
    found = [f"the device was throttled: {words}" for words in sorted({c.throttled for c in conditions if c.throttled})]
    governors = sorted({g for c in conditions for g in c.governors} - {"performance"})
    if governors:
        found.append(f"the clock's governor was {', '.join(governors)}: `performance` keeps it steady")
    for name in sorted({name for c in conditions for name in c.clocks_mhz}):
        clocks = [c.clocks_mhz[name] for c in conditions if name in c.clocks_mhz]
        if min(clocks) > 0 and max(clocks) / min(clocks) - 1 > CLOCK_CHANGE:
            found.append(f"the clock of {name} was between {min(clocks):.0f} and {max(clocks):.0f} MHz")
    modes = sorted({c.power_mode for c in conditions if c.power_mode})
    if len(modes) > 1:
        found.append(f"the power mode changed: {', '.join(modes)}")
    return found
