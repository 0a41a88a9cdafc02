"""The offset of another clock is never further off than it is said to be."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distredge.runtime.clock_offset import MAX_DRIFT, ClockOffset
from distredge.runtime.message import Stamps
from distredge.testing.traces import OddClock

seeds = st.integers(0, 10_000)


def exchanges(
    rng: np.random.Generator, drift: float, ahead_s: float, minutes: float
) -> tuple[ClockOffset, list[tuple[float, float]], float]:
    """A provider that answers pulses over a network whose queues fill now in one direction, now in the other.

    Gives the estimate, moments by both clocks, and the shortest round trip.
    """
    clock, offset = OddClock(ahead_s, drift), ClockOffset()
    fixed_s = 10.0 ** rng.uniform(-4, -2)
    moments, shortest = [], float("inf")
    at_s, queues = 5000.0, np.zeros(2)
    while at_s < 5000.0 + 60.0 * minutes:
        at_s += rng.uniform(0.05, 0.3)
        if rng.random() < 0.05:
            queues = rng.exponential(0.05, 2) * (rng.random(2) < 0.5)
        there_s, back_s = fixed_s * rng.uniform(1.0, 1.5, 2) + queues * rng.random(2)
        answered_s = at_s + there_s + rng.uniform(0.0, 0.1)
        moments.append((at_s, clock.shows(at_s)))
        shortest = min(shortest, there_s + back_s)
        if rng.random() < 0.9:  # some are lost
            arrived_s = answered_s + back_s
            offset.add(Stamps(at_s, clock.shows(at_s + there_s), clock.shows(answered_s)), arrived_s)
    return offset, moments, shortest


@settings(max_examples=30)
@given(seeds, st.floats(-0.9 * MAX_DRIFT, 0.9 * MAX_DRIFT), st.floats(-4000.0, 1e6))
def test_the_offset_is_never_further_off_than_it_says(seed: int, drift: float, ahead_s: float) -> None:
    rng = np.random.default_rng(seed)
    offset, moments, _ = exchanges(rng, drift, ahead_s, minutes=1.0)
    for own_s, other_s in moments[::10]:
        reading = offset.at(other_s)
        assert reading is not None
        assert abs(other_s - own_s - reading.offset_s) <= reading.bound_s + 1e-9
    curve = offset.curve(moments[0][1], moments[-1][1])
    assert curve is not None
    for own_s, other_s in moments:
        assert abs(curve.to_own(other_s) - own_s) <= curve.bound_s + 1e-9


def test_minutes_of_drift_cost_no_exactness() -> None:
    offset, moments, shortest = exchanges(np.random.default_rng(1), 150e-6, 12.0, minutes=8.0)
    first, last = offset.at(moments[0][1]), offset.at(moments[-1][1])
    assert first is not None and last is not None  # noqa: PT018
    assert last.offset_s - first.offset_s == pytest.approx(8 * 60 * 150e-6, abs=first.bound_s + last.bound_s)
    reading = offset.at(moments[len(moments) // 2][1])
    assert reading is not None
    assert reading.bound_s <= shortest  # half of it, and some seconds of drift


def test_one_way_that_is_always_slow_is_half_the_round_trip_off() -> None:
    offset = ClockOffset()
    for k in range(20):
        offset.add(Stamps(100.0 + k, 150.010 + k, 150.010 + k), 100.011 + k)
    reading = offset.at(160.010)
    assert reading is not None
    assert abs(reading.offset_s - 50.0) <= reading.bound_s <= 0.011 / 2 + 1e-9


def test_a_faster_drift_than_assumed_is_told() -> None:
    offset, moments, _ = exchanges(np.random.default_rng(0), 20 * MAX_DRIFT, 0.0, minutes=1.0)
    own_s, other_s = moments[len(moments) // 2]
    reading = offset.at(other_s)
    assert reading is not None
    assert reading.drift > MAX_DRIFT
    assert abs(other_s - own_s - reading.offset_s) <= reading.bound_s


@pytest.mark.parametrize(
    "stamps", [(2.0, 5.0, 5.0, 1.0), (1.0, 6.0, 5.0, 2.0), (1.0, 5.0, 99.0, 2.0), (float("nan"),) * 4]
)
def test_impossible_answers_are_ignored(stamps: tuple[float, float, float, float]) -> None:
    offset = ClockOffset()
    offset.add(Stamps(*stamps[:3]), stamps[3])
    assert offset.at(5.0) is None
