"""Claims on rows by hand: every verdict, and what is said."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product

import pytest

from distredge.experiments import breakdown, groups, nonlinear, schemes, tables
from distredge.experiments.base import Judgement, Results, Row
from distredge.experiments.judging import BASELINES, faster, gains, judged_larger, rows_of, within
from distredge.experiments.registry import CLAIMS, EXPERIMENTS


def row(scenario: str, method: str, latency_ms: float | None, seed: int = 0, **more: object) -> Row:
    found: Row = {"model": "vgg16", "scenario": scenario, "method": method, "seed": seed, "latency_ms": latency_ms}
    return found | more  # type: ignore[return-value]


def test_gains_are_over_the_best_of_the_baselines_and_of_the_median_seed() -> None:
    rows = [
        row("a", "aofl", 30.0), row("a", "offload", 20.0), row("a", "equal", 1.0), row("a", "modnn", None),
        row("a", "osds", 10.0), row("a", "osds", 5.0, 1), row("a", "osds", 16.0, 2), row("b", "osds", 1.0),
    ]  # fmt: skip
    assert gains(rows, "osds") == {("vgg16", "a"): 2.0}
    assert gains(rows, "osds", ("aofl",)) == {("vgg16", "a"): 3.0}
    assert rows_of({"x": rows, "y": rows[:3]}, ("x", "y")) == rows


@pytest.mark.parametrize(
    ("factors", "verdict"),
    [
        ((1.2, 3.04), "holds"),
        ((0.8, 1.3), "holds partly"),
        ((1.2, 3.5, 3.6), "holds partly"),
        ((1.03, 1.04), "does not hold"),
        ((0.8, 0.9, 1.3), "does not hold"),
        ((3.5, 0.5), "does not hold"),
        ((), "not run"),
    ],
)
def test_within_a_range(factors: Sequence[float], verdict: str) -> None:
    assert within({("m", str(k)): f for k, f in enumerate(factors)}, 1.1, 3.0).verdict == verdict


@pytest.mark.parametrize(
    ("factors", "verdict"),
    [
        ((1.01, 2.0), "holds"),
        ((1.01, 1.0), "holds partly"),
        ((1.0, 0.7), "does not hold"),
        ((0.9, 0.9, 2.0), "does not hold"),
        ((), "not run"),
    ],
)
def test_faster_than_the_best_baseline(factors: Sequence[float], verdict: str) -> None:
    assert faster({("m", str(k)): f for k, f in enumerate(factors)}).verdict == verdict


@pytest.mark.parametrize(
    ("da", "db", "verdict"),
    [((1.2, 1.3), (1.5,), "holds"), ((1.2, 1.6), (1.5,), "holds partly"), ((1.5,), (1.2,), "does not hold")],
)
def test_larger_in_some_groups(da: Sequence[float], db: Sequence[float], verdict: str) -> None:
    rows = [row(f"{g}-{k}", "osds", 1.0) for g, f in (("da", da), ("db", db)) for k in range(len(f))]
    rows += [row(f"{g}-{k}", "aofl", x) for g, f in (("da", da), ("db", db)) for k, x in enumerate(f)]
    assert judged_larger(("fig6",), ("db-",), ("da-",))({"fig6": rows}, "osds").verdict == verdict


def test_whether_the_pi_idles() -> None:
    rows = [row("dc-50", "osds", 1.0, workers="xavier-0"), row("dc-300", "osds", 1.0, workers="xavier-0 pi3-0")]
    assert groups.judge_idle_pi({"fig6": rows[:1]}, "osds").verdict == "holds"
    assert groups.judge_idle_pi({"fig6": rows}, "osds").verdict == "holds partly"
    assert groups.judge_idle_pi({"fig6": rows[1:]}, "osds").verdict == "does not hold"
    assert groups.judge_idle_pi({"fig6": rows}, "osds-paper").verdict == "not run"


def alphas(**ips: Sequence[float]) -> Results:
    """Images a second and volumes (16 at 0, 2 at 1) at the five alphas by scenario."""
    volumes = (16, 10, 6, 4, 2)
    return {
        "fig4": [
            {"scenario": place, "alpha": a, "repeat": 0, "ips": i, "volumes": v}
            for place, values in ips.items()
            for a, i, v in zip(schemes.ALPHAS, values, volumes, strict=True)
        ]
    }


@pytest.mark.parametrize(
    ("places", "best", "poor"),
    [
        ({"x": (5, 6, 7, 9, 5), "y": (1, 2, 3, 4, 1)}, "holds", "holds"),
        ({"x": (5, 6, 7, 9, 5), "y": (1, 2, 3, 1, 3)}, "holds partly", "holds partly"),
        ({"x": (9, 6, 7, 5, 5)}, "does not hold", "does not hold"),
    ],
)
def test_alpha(places: dict[str, Sequence[float]], best: str, poor: str) -> None:
    results = alphas(**places)
    assert schemes.judge_best_alpha(results, "").verdict == best
    assert schemes.judge_poor_extremes(results, "").verdict == poor
    assert schemes.judge_volumes(results, "").verdict == "holds"


@pytest.mark.parametrize(
    ("few", "many", "verdict"),
    [(0.2, 0.01, "holds"), (0.2, 0.1, "holds partly"), (0.04, 0.01, "holds partly"), (0.0, 0.0, "does not hold")],
)
def test_samples(few: float, many: float, verdict: str) -> None:
    rows: list[Row] = [
        {"scenario": place, "samples": n, "repeat": k, "ips": 1.0 + k * (few if n < 100 else many)}
        for place, n, k in product(schemes.SAMPLE_PLACES, schemes.SAMPLE_COUNTS, range(2))
    ]
    assert schemes.judge_samples({"fig5": rows}, "").verdict == verdict


def test_nonlinear() -> None:
    def layer(profile: str, middle: float) -> list[Row]:
        ms = (0.0, middle, 10.0)
        return [
            {"profile": profile, "kind": "measured", "layer": "l", "rows": k, "ms": t, "line_ms": 5.0 * k}
            for k, t in enumerate(ms)
        ]

    assert nonlinear.judge({"fig13": layer("a", 8.0)}, "").verdict == "holds"
    assert nonlinear.judge({"fig13": layer("a", 8.0) + layer("b", 5.5)}, "").verdict == "holds partly"
    assert nonlinear.judge({"fig13": layer("b", 5.5)}, "").verdict == "does not hold"


def longest(**ms: tuple[float, float]) -> Results:
    return {"fig14": [row("db-50", m, 1.0, max_transmission_ms=t, max_compute_ms=c) for m, (t, c) in ms.items()]}


def test_breakdown() -> None:
    results = longest(coedge=(9.0, 1.0), modnn=(9.0, 1.0), deepthings=(5.0, 8.0), aofl=(4.0, 6.0), osds=(4.0, 3.0))
    assert breakdown.judge_transmission(results, "").verdict == "holds"
    assert breakdown.judge_computing(results, "").verdict == "holds"
    assert breakdown.judge_aofl(results, "osds").verdict == "holds"
    results = longest(coedge=(9.0, 1.0), modnn=(3.0, 9.0), deepthings=(5.0, 8.0), aofl=(4.0, 3.0), osds=(4.0, 3.0))
    assert breakdown.judge_transmission(results, "").verdict == "holds partly"
    assert breakdown.judge_computing(results, "").verdict == "does not hold"
    assert breakdown.judge_aofl(results, "osds").verdict == "does not hold"


def test_groups_and_capability() -> None:
    results = {
        table: [
            {"scenario": s, "profile": board, "mbps": float(mbps), "computing_ms": float(len(board))}
            for s, entries in printed.items()
            for mbps, board in entries
        ]
        for table, printed in tables.PRINTED.items()
    }
    assert tables.judge_groups(results, "").verdict == "holds"
    assert tables.judge_order(results, "").verdict != "holds"
    ms = {tables.PI: 1000.0, tables.NANO: 80.0, tables.TX2: 40.0, tables.XAVIER: 8.0}
    for rows in results.values():
        for r in rows:
            r["computing_ms"] = ms[str(r["profile"])]
    assert tables.judge_order(results, "").verdict == "holds"
    results["table1"][0]["mbps"] = 51.0
    assert tables.judge_groups(results, "").verdict == "holds partly"


def test_every_claim_has_a_name_of_its_own_needs_what_there_is_and_is_not_run_without_rows() -> None:
    assert len({claim.name for claim in CLAIMS}) == len(CLAIMS)
    for claim in CLAIMS:
        assert set(claim.needs) <= set(EXPERIMENTS)
        assert {j.verdict for j in claim.judged({}).values()} == {"not run"}


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.name)
def test_a_claim_whose_methods_were_left_out_is_not_run(claim: object) -> None:
    nothing: dict[str, list[Row]] = {
        name: [row("da-50", "equal", 1.0, workers="a")] for name in ("fig6", "fig7", "fig8")
    }
    judge: Callable[[Results, str], Judgement] = claim.judge  # type: ignore[attr-defined]
    if set(claim.needs) <= set(nothing):  # type: ignore[attr-defined]
        assert judge(nothing, "osds").verdict == "not run"


def test_the_baselines_are_the_papers_seven() -> None:
    assert len(BASELINES) == 7
