"""The synthetic traces of Fig. 11: what the generator promises, and that the shipped files are its."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

import distredge
from distredge.errors import InputError, ScenarioError
from distredge.experiments.followers import CHANGED, re_plans
from distredge.experiments.traces import (
    LEAP,
    LEVELS_MBPS,
    LIMITS_MBPS,
    SEGMENT_S,
    SEGMENTS,
    STEP_S,
    Drift,
    imported,
    synthetic,
    throughput,
)
from distredge.profiles.profile import FloatArray


def every_ten_seconds(mbps: FloatArray) -> Drift:
    return Drift(np.arange(mbps.shape[1], dtype=np.float64) * 10.0, mbps, mbps.shape[1] * 10.0)


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
    mbps = np.full((4, 360), 100.0)
    assert [k for k, _ in re_plans(every_ten_seconds(mbps))] == [0]
    mbps[2, 120:] = 100.0 * (1.0 + 2 * CHANGED)
    found = re_plans(every_ten_seconds(mbps))
    at, rates = found[1]
    assert len(found) == 2 and 120 + 15 < at <= 120 + 30
    assert rates[2] > 100.0 * (1.0 + CHANGED) and rates[0] == pytest.approx(100.0)


def test_means_over_time() -> None:
    drift = Drift(np.array([0.0, 10.0, 40.0]), np.array([[10.0, 20.0, 80.0], [1.0, 1.0, 1.0]]), 50.0)
    assert drift.mean_mbps(0.0, 50.0) == pytest.approx([(100 + 600 + 800) / 50, 1.0])
    assert drift.mean_mbps(5.0, 15.0) == pytest.approx([15.0, 1.0])
    assert drift.looked_at(10).tolist() == [0, 1, 2] and drift.looked_at(30).tolist() == [0, 2]


def test_a_plan_is_in_force_a_while_after_the_moment_that_it_is_made_for() -> None:
    drift = Drift(np.array([0.0, 10.0, 12.0]), np.ones((1, 3)), 20.0)
    assert drift.spans(0.0) == [(0.0, 10.0, 0, 0), (10.0, 2.0, 1, 1), (12.0, 8.0, 2, 2)]
    assert drift.spans(1.5) == [
        (0.0, 1.5, 0, 0), (1.5, 8.5, 0, 0), (10.0, 1.5, 1, 0), (11.5, 0.5, 1, 1), (12.0, 1.5, 2, 1), (13.5, 6.5, 2, 2),
    ]  # fmt: skip
    late = drift.spans(5.0)
    assert [(rates, plan) for _, _, rates, plan in late] == [(0, 0), (0, 0), (1, 0), (2, 0), (2, 1), (2, 2)]
    assert sum(span.seconds for span in late) == 20.0


def test_the_shipped_scenario_holds_these_traces() -> None:
    scenario = distredge.load_scenario("dynamic-nano")
    for provider, trace in zip(scenario.providers, throughput(0), strict=True):
        assert provider.trace is not None
        rows = list(csv.DictReader((scenario.folder / provider.trace).read_text().splitlines()))
        assert [float(row["Mbps"]) for row in rows] == trace.tolist()
        assert [int(row["t_s"]) for row in rows] == list(range(0, SEGMENTS * SEGMENT_S, STEP_S))
        assert provider.bandwidth_mbps == round(float(trace[:30].mean()))


def test_what_is_imported_from_the_shipped_traces_is_what_was_generated() -> None:
    found, wanted = imported(distredge.load_scenario("dynamic-nano")), synthetic(0)
    assert np.array_equal(found.starts_s, wanted.starts_s) and found.end_s == wanted.end_s == SEGMENTS * SEGMENT_S
    assert np.array_equal(found.mbps, wanted.mbps)


LAB = """schema_version: 1
name: lab
providers:
  - {name: a, profile: jetson-nano, bandwidth_mbps: 80, trace: a.csv}
  - {name: b, profile: jetson-nano, bandwidth_mbps: 40, trace: b.csv}
  - {name: c, profile: jetson-nano, bandwidth_mbps: 30}
"""


def test_traces_of_other_clocks_and_moments_are_put_together(tmp_path: Path) -> None:
    (tmp_path / "lab.yaml").write_text(LAB)
    (tmp_path / "a.csv").write_text("t_s,Mbps\n1700000000,80\n1700000004,20\n")
    (tmp_path / "b.csv").write_text("t_s,Mbps\n1700000001,40\n1700000004.5,50\n")
    found = imported(distredge.load_scenario(tmp_path / "lab.yaml"))
    assert found.starts_s.tolist() == [0.0, 1.0, 4.0, 4.5] and found.end_s == 5.0
    assert found.mbps.tolist() == [[80.0, 80.0, 20.0, 20.0], [40.0, 40.0, 40.0, 50.0], [30.0] * 4]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("t_s,Mbps\n0,80\n", "no links that change.*t_s,Mbps"),
        ("t_s,Mbps\n0,80\n5,fast\n", "is no trace.*t_s,Mbps"),
        ("t_s,Mbps\n0,80\n0,70\n", "times must increase"),
        ("t_s,Mbps\n0,80\n5,-1\n", "rates be 0.001"),
        ("t_s,Mbps\n0,80\n5,nan\n", "rates be 0.001"),
        ("seconds,rate\n0,80\n", "is no trace.*t_s,Mbps"),
        ("", "times must increase"),
    ],
)
def test_bad_traces_are_refused_in_a_line(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "lab.yaml").write_text(LAB)
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text(text)
    with pytest.raises((InputError, ScenarioError), match=said) as caught:
        imported(distredge.load_scenario(tmp_path / "lab.yaml"))
    assert "\n" not in str(caught.value)


def test_a_scenario_without_traces_has_no_drift() -> None:
    with pytest.raises(InputError, match="no links that change"):
        imported(distredge.load_scenario("db-50"))
