"""The agent's page: goals judged by rows, tables and pictures of every experiment, real rows of the cheap ones."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest

from distredge.experiments.agent_page import AGENT
from distredge.experiments.base import QUICK, Results, Row
from distredge.experiments.publish import publish
from distredge.experiments.registry import EXPERIMENTS
from distredge.experiments.report import judge
from distredge.experiments.runner import run

METHODS = ("actor and critic, k = 48", "agent + 1 ms", "agent + 10 ms", "cold 10 ms")


def results(ratio: float, cold: float = 1.2) -> dict[str, list[Row]]:
    """Rows in which all that is ours is `ratio` over gold, and what it is compared with `cold`."""

    def of(method: str) -> float:
        return cold if method in ("cold 10 ms", "search", "annealing", "agent alone") else ratio

    time: list[Row] = [
        {"model": "vgg16", "scenario": s, "method": m, "seed": n, "cpu_s": t, "share": t, "latency_ms": 1.0,
         "ratio": of(m) + 1.0 - t}
        for s, m, n, t in product(("db-50", "lb"), ("search", "osds", "osds-paper", "annealing"), (0, 1), (0.5, 1.0))
    ]  # fmt: skip
    unseen: list[Row] = [
        {"scenario": s, "seed": 0, "moves": "links", "number": 0, "gold_ms": 1.0, "method": m, "ratio": of(m)}
        for s, m in product(("db-50", "ld"), METHODS)
    ]
    world: list[Row] = [
        {"scenario": "db-50", "seed": 0, "world": "w", "number": 0, "images": n, "condition": 0, "gold_ms": 1.0,
         "method": m, "ratio": ratio}
        for n, m in product((20, 50), ("end to end", "refitted + 10 ms"))
    ]  # fmt: skip
    robust: list[Row] = [
        {"scenario": "db-50", "seed": 0, "sigma": 0.5, "estimate": 0, "draw": 0, "gold_ms": 1.0, "method": m,
         "ratio": x}
        for m, x in (("agent", cold), ("agent trained under noise", ratio))
    ]  # fmt: skip
    ablation: list[Row] = [
        {"model": "vgg16", "scenario": "lb", "ground": "gold", "without": w, "seed": 0, "latency_ms": 1.0,
         "ratio": ratio, "policy_ms": 1.0, "policy_ratio": ratio, "episodes": 1, "cpu_s": 1.0}
        for w in ("nothing", "elites")
    ]  # fmt: skip
    curve: list[Row] = [
        {"case": n, "model": "resnet50", "providers": n, "volumes": 3, "used": 2, "gold_ms": 1.0, "method": m,
         "ratio": of(m)}
        for n, m in product((4, 16), ("agent", "mixed 10 ms", "cold 10 ms"))
    ]  # fmt: skip
    found = (time, ablation, unseen, world, robust, curve)
    return {e.name: rows for e, rows in zip(AGENT.experiments, found, strict=True)}


def verdicts(rows: Results) -> dict[str, str]:
    return {item.claim.name: item.verdict for item in judge(AGENT.claims, rows)}


def test_goals_hold_where_everything_is_at_gold_and_not_where_nothing_is() -> None:
    assert set(verdicts(results(1.0)).values()) == {"holds"}
    assert set(verdicts(results(1.5)).values()) == {"does not hold"}


def test_a_median_within_the_goal_with_a_tail_outside_holds_partly() -> None:
    rows = results(1.0)
    tail = [row | {"ratio": 1.3} for row in rows["agent-unseen"]]
    some = rows | {"agent-unseen": [*(3 * rows["agent-unseen"]), *tail]}
    assert verdicts(some)["agent-unseen-few"] == "holds partly"
    assert verdicts(some)["agent-zero-few"] == "holds"


def test_what_was_not_run_is_not_judged() -> None:
    assert verdicts({})["agent-few"] == "not run"
    only_few = {"agent-time": [row for row in results(1.0)["agent-time"] if row["scenario"] == "db-50"]}
    assert verdicts(only_few)["agent-many"] == "not run"


@pytest.mark.parametrize("name", [e.name for e in AGENT.experiments])
def test_tables_and_pictures(name: str, tmp_path: Path) -> None:
    rows = results(1.02)[name]
    EXPERIMENTS[name].draw(rows, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes()[:4] == b"\x89PNG"
    table = EXPERIMENTS[name].table(rows)
    assert all(len(row) == len(table.columns) for row in table.rows) and table.rows


@pytest.mark.slow
def test_real_rows_make_a_page(tmp_path: Path) -> None:
    """The first cases of the cheap experiments, at the quick effort."""
    curve = EXPERIMENTS["agent-any-cluster"]
    cases = curve.cases(QUICK)[::20]
    rows = run([replace(curve, cases=lambda effort: cases)], tmp_path, QUICK)["agent-any-cluster"]
    assert {row["case"] for row in rows} == {case["case"] for case in cases}
    assert all(float(row["ratio"] or 0.0) >= 1.0 - 1e-9 for row in rows)
    one = EXPERIMENTS["agent-time"]
    case = {"model": "vgg16", "scenario": "db-50", "method": "annealing", "seed": 0}
    timed = run([replace(one, cases=lambda effort: [case])], tmp_path, QUICK)["agent-time"]
    ratios = [float(row["ratio"] or 0.0) for row in timed]
    assert 0.999 < min(ratios) and ratios[-1] < 1.2
    assert publish(tmp_path, QUICK, "1", "2026-01-02") == {}  # not all of their cases are there
