"""What is measured of a stream's world, and how far that is from what a plan was made for. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator

from distredge.config import Frozen
from distredge.control.schema import Factor, Mbps
from distredge.plans.nodes import REQUESTER
from distredge.scenario import Scenario


class Measured(Frozen):
    """Who is there (by name), rates of access links in Mbit/s, factors on compute times.

    What is not named is as the scenario says.
    """

    present: tuple[str, ...]
    mbps: dict[str, Mbps] = {}
    slowdown: dict[str, Factor] = {}

    @classmethod
    def of(cls, scenario: Scenario) -> Measured:
        """Nothing measured yet: everybody is there and as the scenario says."""
        return cls(present=tuple(sorted(scenario.provider_names)))


def differences(before: Measured, now: Measured, scenario: Scenario, factor: float) -> Iterator[str]:
    """What of `now` differs from `before`, in words: who is there, and what is off by more than a factor either way.

    Of those that are gone only that is said. The requester's link counts if the scenario gives it a rate.
    """
    for name in sorted({*before.present} - {*now.present}):
        yield f"{name} is gone"
    for name in sorted({*now.present} - {*before.present}):
        yield f"{name} is there again"
    rates = {p.name: p.bandwidth_mbps for p in scenario.providers if p.name in now.present}
    if scenario.requester.bandwidth_mbps is not None:
        rates[REQUESTER] = scenario.requester.bandwidth_mbps
    for name, rate in rates.items():
        old, new = before.mbps.get(name, rate), now.mbps.get(name, rate)
        if _apart(old, new) > factor:
            verb = "fell" if new < old else "rose"
            yield f"{name}'s link {verb} from {old:.3g} to {new:.3g} Mbit/s (x{new / old:.2f})"
    for name in now.present:
        old, new = before.slowdown.get(name, 1.0), now.slowdown.get(name, 1.0)
        if _apart(old, new) > factor:
            yield f"{name} computes {new / old:.2f} times as long as before (x{old:.2f}, now x{new:.2f})"


def _apart(a: float, b: float) -> float:
    return math.exp(abs(math.log(b / a)))
