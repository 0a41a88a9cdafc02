"""Who follows drifting links: what the delay costs, yardsticks that nobody beats, claims by hand, the command."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from distredge.experiments import dynamic
from distredge.experiments.base import QUICK, SECONDS, Results, Row
from distredge.experiments.dynamic import METHODS
from distredge.experiments.followers import ADAPT_S, ESTIMATE_SIGMA, Followed, Hour, Work, aofl, decide, links, online
from distredge.experiments.methods import scenario_of
from distredge.experiments.traces import Drift, synthetic
from distredge.experiments.yardsticks import best_fixed, held, oracle
from distredge.planners import planner

LITTLE = Work(
    library={"screens": 1, "rounds": 2, "conditions": 8, "steps": 800, "try_on": 60, "keep": 24},
    critic={"pieces": 6, "slopes_at": 24, "conditions": 200, "steps": 100},
    episodes=16,
    oracle_steps=4000,
    oracle_rounds=1,
    fixed_tries=20,
)


def hour(drift: Drift, every_s: int = 10) -> Hour:
    return Hour(scenario_of(dynamic.BASE), drift, 0, every_s, LITTLE)


def mean_ms(of: Hour, followed: Followed) -> float:
    at = np.array(list(of.latencies(followed)))
    return float(at[:, 1] @ at[:, 2] / at[:, 1].sum())


@pytest.fixture(scope="module")
def some() -> Hour:
    """Twelve minutes in which every link's average leaps."""
    mbps = np.concatenate([synthetic(0).mbps[:, 100:136], synthetic(0).mbps[:, 220:256]], axis=1)
    return hour(Drift(np.arange(72, dtype=np.float64) * 10.0, mbps, 720.0), every_s=60)


def test_a_change_is_felt_until_it_is_detected() -> None:
    fell = hour(Drift(np.array([0.0, 10.0]), np.array([[200.0, 20.0], [100.0] * 2, [100.0] * 2, [100.0] * 2]), 20.0))
    followed = aofl(fell)
    (before, _, after_ms, new_ms) = [ms for _, _, ms in fell.latencies(followed)]
    assert [at for at, _, _ in fell.latencies(followed)] == [0.0, ADAPT_S, 10.0, 10.0 + ADAPT_S]
    assert before < new_ms < 0.8 * after_ms
    old = fell.simulators.evaluate(links(np.array([[20.0, 100.0, 100.0, 100.0]])), [followed.plans[0]])
    assert after_ms == pytest.approx(old[0, 0])
    late, at_once = (mean_ms(fell, Followed(followed.plans, lag_s, 0.0)) for lag_s in (ADAPT_S, 0.0))
    assert late - at_once == pytest.approx((after_ms - new_ms) * ADAPT_S / 20.0)


def test_all_are_told_the_same_about_rates_and_not_the_truth() -> None:
    one, again, other = (Hour(scenario_of(dynamic.BASE), synthetic(0), seed, 10, LITTLE).told for seed in (0, 0, 1))
    assert np.array_equal(one, again) and not np.array_equal(one, other)
    off = np.log(one / synthetic(0).mbps)
    assert abs(off.mean()) < 0.01 and np.std(off) == pytest.approx(ESTIMATE_SIGMA, rel=0.1)


@pytest.mark.slow
def test_nobody_beats_the_oracle_and_no_held_plan_the_best_fixed_one(some: Hour) -> None:
    followed = {name: method(some) for name, method in METHODS.items()}
    ms = {name: mean_ms(some, plans) for name, plans in followed.items()}
    assert min(ms.values()) == ms["oracle"]
    least = {at: t for at, _, t in some.latencies(followed["oracle"])}
    for name in ("osds", "osds-paper", "best-fixed"):
        for at, _, t in some.latencies(followed[name]):
            known = least[max(moment for moment in least if moment <= at)]
            assert t > 0.97 * known, (name, at)
    fixed = followed["best-fixed"].plans
    assert all(plan.key == fixed[0].key for plan in fixed)
    for plan in [*held(some), *(some.agent[0].library)]:
        assert ms["best-fixed"] <= mean_ms(some, Followed([plan] * 72, 0.0, 0.0)) * (1.0 + 1e-9)
    assert ms["osds"] < ms["best-fixed"]


@pytest.mark.slow
def test_the_same_seed_makes_the_same_plans(some: Hour) -> None:
    for method in (online, oracle, best_fixed, METHODS["osds-paper"]):
        one, two = method(some), method(some)
        assert [plan.key for plan in one.plans] == [plan.key for plan in two.plans]


@pytest.mark.slow
def test_the_policy_changes_plans_for_a_gain_only(some: Hour) -> None:
    agent, rates = some.agent[0], np.array([100.0, 80.0, 60.0, 40.0])
    first = decide(agent, rates, None)
    assert decide(agent, rates * 1.001, first) is first
    assert decide(agent, rates[::-1].copy(), first) is not first


def test_coedge_as_the_planner_would_have_it(some: Hour) -> None:
    plan = METHODS["coedge"](some).plans[7]
    alone = planner("coedge").plan(some.task(some.told[:, 7]))
    assert np.array_equal(plan.cuts, alone.cuts) and plan.locations == alone.scheme.locations


def rows_of(**ms: tuple[float, float, float]) -> Results:
    """Latency in the three segments by method, and seconds of planning: 100 of `osds`, 600 of `aofl`."""
    rows: list[Row] = [
        {"trace": 0, "method": method, "t_s": 1200.0 * k, "seconds": 1.0, "latency_ms": t}
        for method, segments in ms.items()
        for k, t in enumerate(segments)
    ]
    seconds: list[Row] = [{"trace": 0, "method": m, "plan_seconds": s} for m, s in (("osds", 100.0), ("aofl", 600.0))]
    return {"fig12": rows, "fig12" + SECONDS: seconds}


@pytest.mark.parametrize(
    ("osds", "verdict"),
    [
        ((50.0, 60.0, 65.0), "holds"), ((50.0, 90.0, 110.0), "holds partly"), ((80.0, 90.0, 95.0), "does not hold"),
        ((100.0, 90.0, 110.0), "does not hold"),
    ],
)  # fmt: skip
def test_share_of_aofl(osds: tuple[float, float, float], verdict: str) -> None:
    results = rows_of(osds=osds, aofl=(100.0, 100.0, 100.0))
    assert dynamic.judge_share(results, "osds").verdict == verdict
    assert dynamic.judge_share(results, "osds-paper").verdict == "not run"


def test_coedge_and_adapting() -> None:
    others = {"osds": (1.0, 1.0, 1.0), "aofl": (2.0, 2.0, 2.0)}
    for coedge, verdict in (
        ((3.0, 3.0, 3.0), "holds"),
        ((3.0, 1.0, 3.0), "holds partly"),
        ((1.0,) * 3, "does not hold"),
    ):
        yardsticks = {"best-fixed": (9.0, 9.0, 9.0)}
        assert dynamic.judge_coedge(rows_of(coedge=coedge, **others, **yardsticks), "").verdict == verdict
    results = dict(rows_of(**others))
    assert dynamic.judge_adapting(results, "osds").verdict == "holds"
    results["fig12" + SECONDS] = [{"method": m, "plan_seconds": s} for m, s in (("osds", 9.0), ("aofl", 0.1))]
    assert dynamic.judge_adapting(results, "osds").verdict == "holds partly"
    results["fig12" + SECONDS] = [{"method": m, "plan_seconds": s} for m, s in (("osds", 900.0), ("aofl", 0.1))]
    assert dynamic.judge_adapting(results, "osds").verdict == "does not hold"


def test_near_the_oracle() -> None:
    least = (100.0, 100.0, 100.0)
    assert dynamic.judge_near(rows_of(osds=(103.0, 109.0, 103.0), oracle=least), "osds").verdict == "holds"
    found = dynamic.judge_near(rows_of(osds=(103.0, 110.0, 103.0), oracle=least), "osds")
    assert found.verdict == "does not hold" and "5.33 %" in found.found


def test_figures_count_every_moment_alike() -> None:
    rows: list[Row] = [
        {"trace": 3, "method": "osds", "t_s": t, "seconds": s, "latency_ms": ms}
        for t, s, ms in ((0.0, 8.0, 10.0), (8.0, 1.0, 100.0), (1300.0, 1.0, 40.0))
    ]
    found = dynamic.figures(rows)["osds"]
    assert found[3, 0].mean == pytest.approx(20.0) and found[3, 1].mean == 40.0
    whole = found[3, dynamic.WHOLE]
    assert whole.mean == pytest.approx(22.0) and (whole.median, whole.p90) == (10.0, 40.0)


def test_yardsticks_come_with_the_methods_that_they_are_for() -> None:
    def methods(*names: str) -> list[object]:
        return [case["method"] for case in dynamic.FIG12.cases(replace(QUICK, methods=names))]

    assert methods("aofl") == ["aofl", "aofl-all"]
    assert methods("osds", "offload") == ["osds", "oracle", "best-fixed"]


def test_an_imported_scenario_as_a_command(tmp_path: Path) -> None:
    def run(scenario: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "distredge.experiments.dynamic", scenario, "--quick", "--out", str(tmp_path)]
        return subprocess.run(command, capture_output=True, text=True, timeout=300)

    refused = run("db-50")
    assert refused.returncode != 0 and refused.stdout == ""
    assert refused.stderr.startswith("error: 'db-50' has no links that change") and refused.stderr.count("\n") == 1
    unknown = run("no-such-place")
    assert unknown.returncode != 0 and unknown.stderr.count("\n") == 1


def test_an_imported_scenario_is_followed_on_its_own_traces() -> None:
    experiment = dynamic.on_scenario(scenario_of("dynamic-nano"))
    effort = QUICK
    case = next(c for c in experiment.cases(effort) if c["method"] == "aofl")
    mine, shipped = (e.run(case, effort) for e in (experiment, dynamic.FIG12))
    assert [row["latency_ms"] for row in mine] == pytest.approx([row["latency_ms"] for row in shipped])
