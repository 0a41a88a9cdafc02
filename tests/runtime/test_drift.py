"""Change told from noise: no more alarms than is promised, changes found in time, and what is said of them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distredge.experiments.drift import HARD, NOISES, delays, false_alarms, on_traces, stream
from distredge.runtime.drift import GAP_S, MOST, SLACK, ChangePoint


def fed(test: ChangePoint, level: float, begin_s: float, seconds: float, per_s: float = 20.0) -> float:
    """Feed observations that are all the same; when they end."""
    for k in range(round(seconds * per_s)):
        test.add(begin_s + k / per_s, level)
    return begin_s + seconds


@pytest.mark.slow
@pytest.mark.parametrize(("per_s", "hours"), [(10, 20), (20, 10), (100, 4)])
@pytest.mark.parametrize("noise", ["outliers, AR(1) 0.5", "outliers, bursts, AR(1) 0.5"])
def test_at_most_one_false_alarm_an_hour(noise: str, per_s: float, hours: int) -> None:
    assert false_alarms(NOISES[noise], per_s, hours) <= 1.0


@pytest.mark.parametrize("noise", ["white", "outliers"])
def test_no_false_alarm_in_hours_without_bursts(noise: str) -> None:
    assert false_alarms(NOISES[noise], 10, 5) == 0.0


@pytest.mark.parametrize("per_s", [10, 20, 100])
def test_a_halving_of_the_rate_is_found_within_three_seconds(per_s: float) -> None:
    """Whatever was sent takes twice as long; in all runs, under all of the noise."""
    assert delays(2.0, HARD, per_s, 200 if per_s < 100 else 50)[-1] <= 3.0


@pytest.mark.parametrize("per_s", [10, 20, 100])
def test_a_doubling_of_the_rate_is_nearly_always_found_within_three_seconds(per_s: float) -> None:
    """Not in all runs: a burst, which makes slower, may come just then."""
    found = delays(0.5, HARD, per_s, 200 if per_s < 100 else 50)
    assert sum(delay <= 3.0 for delay in found) >= 0.95 * len(found)


def test_so_it_is_with_five_observations_a_second_if_there_are_no_bursts() -> None:
    assert delays(2.0, NOISES["outliers"], 5, 200)[-1] <= 3.0


def test_when_and_how_much_is_said_once() -> None:
    test = ChangePoint()
    began = fed(test, 0.0, 100.0, 10.0)
    fed(test, -math.log(2.0), began, 5.0)
    found = test.changed()
    assert found is not None
    assert found.at_s == pytest.approx(began, abs=0.5)
    assert found.level == pytest.approx(-math.log(2.0))
    assert test.level == pytest.approx(-math.log(2.0))
    assert test.changed() is None


def test_a_change_back_is_a_change() -> None:
    test = ChangePoint()
    now = fed(test, 0.0, 0.0, 5.0)
    now = fed(test, 1.0, now, 5.0)
    assert test.changed() is not None
    fed(test, 0.0, now, 5.0)
    found = test.changed()
    assert found is not None and found.level == pytest.approx(0.0)


@given(st.floats(-SLACK, SLACK), st.floats(5.0, 100.0))
def test_what_is_within_the_slack_is_never_a_change_but_seen(level: float, per_s: float) -> None:
    test = ChangePoint()
    fed(test, level, 0.0, 30.0, per_s)
    assert test.changed() is None
    assert test.level == level


@given(st.floats(SLACK + 0.1, 3.0), st.sampled_from([-1.0, 1.0]), st.floats(8.0, 200.0))
def test_what_is_more_is_found_with_its_level(size: float, sign: float, per_s: float) -> None:
    test = ChangePoint()
    now = fed(test, 0.0, 0.0, 5.0, per_s)
    fed(test, sign * size, now, 10.0, per_s)
    found = test.changed()
    assert found is not None
    assert found.at_s == pytest.approx(now, abs=0.8) and found.level == pytest.approx(sign * size)


@given(st.lists(st.floats(-5.0, 5.0), min_size=1, max_size=5))
def test_a_few_wild_ones_in_a_row_are_no_change(wild: list[float]) -> None:
    test = ChangePoint()
    now = fed(test, 0.0, 0.0, 3.0)
    for k, value in enumerate(wild):
        test.add(now + k / 20.0, value)
    fed(test, 0.0, now + len(wild) / 20.0, 5.0)
    assert test.changed() is None


def test_no_more_than_its_share_is_added_by_a_bin() -> None:
    """However far it is off: three bins are not enough."""
    assert 3 * MOST < 1.0 < 4 * MOST
    test = ChangePoint()
    now = fed(test, 0.0, 0.0, 3.0)
    now = fed(test, 50.0, now, 1.0)
    fed(test, 0.0, now, 5.0)
    assert test.changed() is None


def test_what_was_added_up_before_a_gap_is_forgotten() -> None:
    test, now = ChangePoint(), 0.0
    for _ in range(20):
        now = fed(test, 1.0, now, 1.0) + GAP_S + 1.0
    assert test.changed() is None
    fed(test, 1.0, now, 3.0)
    assert test.changed() is not None


def test_nothing_is_known_of_silence() -> None:
    assert ChangePoint().level == 0.0
    assert ChangePoint().changed() is None


def test_the_experiment_is_the_same_each_time_and_its_streams_are_as_they_say() -> None:
    assert delays(2.0, HARD, 20, 5) == delays(2.0, HARD, 20, 5)
    times, logs = stream(np.random.default_rng(0), NOISES["outliers, AR(1) 0.5"], 20, 600.0)
    assert len(times) == pytest.approx(20 * 600, rel=0.05)
    assert np.all(np.diff(times) > 0.0) and times[-1] < 600.0
    assert np.percentile(logs, 84) - np.percentile(logs, 16) == pytest.approx(0.4, abs=0.07)
    assert np.mean(logs > 0.7) == pytest.approx(0.05, abs=0.02)


def test_on_the_dynamic_traces_most_large_steps_are_found_in_time() -> None:
    found = on_traces(20)
    assert found.steps > 100
    assert found.in_time > 0.5 * found.steps
