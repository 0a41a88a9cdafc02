"""The synthetic traces of Fig. 11: what the generator promises, and that the shipped files are its."""

from __future__ import annotations

import csv

import numpy as np

import distredge
from distredge.experiments.dynamic import CHANGED, re_plans
from distredge.experiments.traces import LEAP, LEVELS_MBPS, LIMITS_MBPS, SEGMENT_S, SEGMENTS, STEP_S, throughput


def test_averages_leap_and_throughput_fluctuates() -> None:
    length = SEGMENT_S // STEP_S
    for seed in range(20):
        traces = throughput(seed)
        assert traces.shape == (4, SEGMENTS * length)
        assert traces.min() >= LIMITS_MBPS[0] and traces.max() <= LIMITS_MBPS[1]
        means = traces.reshape(4, SEGMENTS, length).mean(axis=2)
        leaps = np.abs(np.log(means[:, 1:] / means[:, :-1]))
        assert np.all(leaps > 0.5 * np.log(LEAP)) and LEVELS_MBPS[0] * 0.7 < means.min()
        assert np.std(np.log(traces[:, :length]), axis=1).min() > 0.2
    assert np.array_equal(throughput(3), throughput(3)) and not np.array_equal(throughput(3), throughput(4))


def test_a_plan_is_made_anew_after_a_large_change_only() -> None:
    traces = np.full((4, 360), 100.0)
    assert [k for k, _ in re_plans(traces)] == [0]
    traces[2, 120:] = 100.0 * (1.0 + 2 * CHANGED)
    at, rates = re_plans(traces)[1]
    assert len(re_plans(traces)) == 2 and 120 + 15 < at <= 120 + 30
    assert rates[2] > 100.0 * (1.0 + CHANGED) and rates[0] == 100.0


def test_the_shipped_scenario_holds_these_traces() -> None:
    scenario = distredge.load_scenario("dynamic-nano")
    for provider, trace in zip(scenario.providers, throughput(0), strict=True):
        assert provider.trace is not None
        rows = list(csv.DictReader((scenario.folder / provider.trace).read_text().splitlines()))
        assert [float(row["Mbps"]) for row in rows] == trace.tolist()
        assert [int(row["t_s"]) for row in rows] == list(range(0, SEGMENTS * SEGMENT_S, STEP_S))
        assert provider.bandwidth_mbps == round(float(trace[:30].mean()))
