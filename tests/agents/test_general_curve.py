"""The any-cluster curve: rows that repeat themselves, ratios to the best plan known."""

from __future__ import annotations

import numpy as np

from distredge.agents.general.clusters import Grounds
from distredge.agents.general.policy import shipped_policy
from distredge.experiments.agent_general import GROUPS, CurveEffort, curve_cases, run, summary

SHORT = CurveEffort(clusters=2, gold_runs=4, gold_steps=5000, search_ms=(1, 2))


def test_rows_are_ratios_to_the_best_plan_known() -> None:
    policy, grounds = shipped_policy(), Grounds()
    chosen = list(curve_cases(policy.about.held_out, SHORT))
    rows = [run(case, policy, grounds, SHORT) for case in chosen]
    names = ["proportional", "agent", *(f"{kind} {ms} ms" for kind in ("cold", "warm", "mixed") for ms in (1, 2))]
    found = np.array([[row[name] for name in names] for row in rows], dtype=float)
    assert found.min() >= 1.0
    assert np.all(found[:, 1] <= found[:, 0])
    assert all(row["warm 2 ms"] <= row["agent"] and row["cold 2 ms"] <= row["proportional"] for row in rows)
    assert rows[3] == run(chosen[3], policy, grounds, SHORT)
    lines = summary(rows, names)
    assert [line["clusters"] for line in lines if not line["hard"]] == [2] * len(GROUPS)
    assert all(line["proportional median"] >= 1.05 for line in lines if line["hard"])
