"""The agent's goals as claims, set before it was built, and how they are judged."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import median

import numpy as np

from distredge.experiments.agent_general import GROUPS
from distredge.experiments.base import Claim, Judgement, Results, Row, Value, Verdict
from distredge.experiments.methods import scenario_of

SOURCE = "a goal set beforehand"

EQUAL = 0.001
"""Medians over gold that differ by less are equal."""


def grouped(rows: Sequence[Row], by: Sequence[str], column: str = "ratio") -> dict[tuple[Value, ...], list[float]]:
    """A column's figures by the values of others, in the rows' order."""
    found: dict[tuple[Value, ...], list[float]] = {}
    for row in rows:
        found.setdefault(tuple(row[name] for name in by), []).append(float(row[column] or 0.0))
    return found


def ends(rows: Sequence[Row]) -> dict[tuple[str, str, str], list[float]]:
    """The ratio at the end of each seed, by model, scenario and method."""
    last = {(str(r["model"]), str(r["scenario"]), str(r["method"]), r["seed"]): float(r["ratio"] or 0.0) for r in rows}
    found: dict[tuple[str, str, str], list[float]] = {}
    for (*case, _), ratio in last.items():
        found.setdefault((case[0], case[1], case[2]), []).append(ratio)
    return found


def group_of(row: Row) -> str:
    """Numbers of providers that a cluster of the any-cluster curve is counted to, from-to."""
    providers = int(row["providers"] or 0)
    return next(f"{low}-{high}" for low, high in GROUPS if low <= providers <= high)


def many(scenario: str) -> bool:
    """Whether a scenario is one of the large ones, with sixteen providers."""
    return len(scenario_of(scenario).providers) > 8


def _verdict(reached: Sequence[bool]) -> Verdict:
    return "holds" if all(reached) else "holds partly" if any(reached) else "does not hold"


def percent(ratio: float) -> str:
    """What a ratio has over 1."""
    return f"{100.0 * (ratio - 1.0):.1f} %"


def _near_gold(subject: str, size: bool, most: float) -> Callable[[Results, str], Judgement]:
    """Whether a method's median over the seeds is within `most` of gold in the median case, and within 5 % in each."""

    def judge(results: Results, _: str) -> Judgement:
        cases = {(m, s): median(x) for (m, s, method), x in ends(results["agent-time"]).items() if method == subject}
        mine = {case: ratio for case, ratio in cases.items() if many(case[1]) == size}
        if not mine:
            return Judgement("not run", "no such case was run")
        middle, worst = median(mine.values()), max(mine, key=lambda case: mine[case])
        reached = [middle <= 1.0 + most, mine[worst] <= 1.05]
        said = f"median {percent(middle)}, worst {percent(mine[worst])} ({' '.join(worst)}), {len(mine)} cases"
        return Judgement(_verdict(reached), said)

    return judge


def _better(subject: str, than: str) -> Callable[[Results, str], Judgement]:
    """Whether a method ends nearer to gold than another: in all cases, in some, in none."""

    def judge(results: Results, _: str) -> Judgement:
        found = ends(results["agent-time"])
        gaps = [
            median(found[m, s, than]) - median(x)
            for (m, s, method), x in found.items()
            if method == subject and (m, s, than) in found
        ]
        better, worse = sum(gap > EQUAL for gap in gaps), sum(gap < -EQUAL for gap in gaps)
        verdict: Verdict = "does not hold" if not better else "holds" if better == len(gaps) else "holds partly"
        return Judgement(verdict, f"better in {better} of {len(gaps)} cases, worse in {worse}, else equal")

    return judge


def _quantile_goal(
    experiment: str, chosen: Callable[[Row], bool], most: float, most_p90: float | None
) -> Callable[[Results, str], Judgement]:
    """Whether the ratios of some rows are within `most` of gold in the median, and within `most_p90` in nine of ten."""

    def judge(results: Results, _: str) -> Judgement:
        found = [float(row["ratio"] or 0.0) for row in results[experiment] if chosen(row)]
        if not found:
            return Judgement("not run", "no such case was run")
        middle, high = median(found), float(np.quantile(found, 0.9))
        reached = [middle <= 1.0 + most, *([] if most_p90 is None else [high <= 1.0 + most_p90])]
        return Judgement(_verdict(reached), f"median {percent(middle)}, p90 {percent(high)}, {len(found)} decisions")

    return judge


def _row(method: str, size: bool | None = None, **columns: Value) -> Callable[[Row], bool]:
    """Chooses rows by method, size of the scenario and other columns."""

    def chosen(row: Row) -> bool:
        fits = row["method"] == method and all(row[name] == value for name, value in columns.items())
        return fits and (size is None or many(str(row["scenario"])) == size)

    return chosen


def _in_group(method: str, group: str) -> Callable[[Row], bool]:
    return lambda row: row["method"] == method and group_of(row) == group


def _beats(experiment: str, subject: str, than: str) -> Callable[[Results, str], Judgement]:
    """Whether a method's mean ratio is below another's, in each group of rows that `scenario` makes."""

    def judge(results: Results, _: str) -> Judgement:
        means: dict[str, Mapping[str, float]] = {}
        for row in results[experiment]:
            means.setdefault(str(row.get("scenario", "") or group_of(row)), {})
        for group in means:
            mine = [r for r in results[experiment] if str(r.get("scenario", "") or group_of(r)) == group]
            means[group] = {str(k[0]): float(np.mean(v)) for k, v in grouped(mine, ("method",)).items()}
        said = ", ".join(f"{g} {percent(m[subject])} against {percent(m[than])}" for g, m in means.items())
        return Judgement(_verdict([m[subject] < m[than] for m in means.values()]), f"mean over gold: {said}")

    return judge


def _claim(name: str, statement: str, needs: str, rule: str, judge: Callable[[Results, str], Judgement]) -> Claim:
    return Claim(f"agent-{name}", statement, SOURCE, (needs,), rule, judge)


TIME, UNSEEN, WORLD, ROBUST, ANY = (
    "agent-time", "agent-unseen", "agent-wrong-world", "agent-robust", "agent-any-cluster",
)  # fmt: skip

DECISION = "actor and critic, k = 48"
"""What the agent for a moving network answers with."""

BOTH = "median and p90: both reached, one, none"

CLAIMS = (
    _claim("few", "osds is within 2 % of gold with 4 providers, no case above 5 %", TIME,
           "median over the seeds of each case: the median case and the worst", _near_gold("osds", False, 0.02)),
    _claim("many", "osds is within 3 % of gold with 16 providers, no case above 5 %", TIME,
           "median over the seeds of each case: the median case and the worst", _near_gold("osds", True, 0.03)),
    _claim("over-search", "for one fixed case learning finds better plans than search", TIME,
           "osds ends nearer to gold than search: in all cases, in some, in none", _better("osds", "search")),
    _claim("paper-over-annealing", "the paper's agent is better than plain annealing", TIME,
           "osds-paper ends nearer to gold: in all cases, in some, in none", _better("osds-paper", "annealing")),
    _claim("unseen-few", "no simulator, 4 providers: within 2 % (p90 6 %) of gold on unseen conditions", UNSEEN, BOTH,
           _quantile_goal(UNSEEN, _row(DECISION, False), 0.02, 0.06)),
    _claim("unseen-many", "no simulator, 16 providers: within 6 % (p90 15 %)", UNSEEN, BOTH,
           _quantile_goal(UNSEEN, _row(DECISION, True), 0.06, 0.15)),
    _claim("search-few", "with 1 ms of search, 4 providers: within 0.5 % (p90 4 %)", UNSEEN, BOTH,
           _quantile_goal(UNSEEN, _row("agent + 1 ms", False), 0.005, 0.04)),
    _claim("search-many", "with 10 ms of search, 16 providers: within 5 % (p90 12 %)", UNSEEN, BOTH,
           _quantile_goal(UNSEEN, _row("agent + 10 ms", True), 0.05, 0.12)),
    _claim("over-cold", "without a simulator the agent is better than 10 ms of search from nothing", UNSEEN,
           "mean over gold, by scenario: everywhere, in some, nowhere", _beats(UNSEEN, DECISION, "cold 10 ms")),
    _claim("adapting", "a wrong world, from images' latencies alone: within 3 % after 20 images", WORLD,
           "the median", _quantile_goal(WORLD, _row("end to end", images=20), 0.03, None)),
    _claim("refitting", "a wrong world, device and link times known: within 0.5 % after 50 images", WORLD,
           "the median", _quantile_goal(WORLD, _row("refitted + 10 ms", images=50), 0.005, None)),
    _claim("robust", "training under wrong estimates helps under wrong estimates", ROBUST,
           "mean over gold, by scenario: everywhere, in some, nowhere",
           _beats(ROBUST, "agent trained under noise", "agent")),
    _claim("zero-few", "never seen clusters of 2 to 8 and models: within 5 % (p90 15 %)", ANY, BOTH,
           _quantile_goal(ANY, _in_group("agent", "2-8"), 0.05, 0.15)),
    _claim("zero-many", "never seen clusters of 12 to 16 and models: within 8 % (p90 18 %)", ANY, BOTH,
           _quantile_goal(ANY, _in_group("agent", "12-16"), 0.08, 0.18)),
    _claim("warm-few", "the same with 10 ms of search, 2 to 8: within 1.5 % (p90 6 %)", ANY, BOTH,
           _quantile_goal(ANY, _in_group("mixed 10 ms", "2-8"), 0.015, 0.06)),
    _claim("warm-many", "the same with 10 ms of search, 12 to 16: within 5 % (p90 9 %)", ANY, BOTH,
           _quantile_goal(ANY, _in_group("mixed 10 ms", "12-16"), 0.05, 0.09)),
    _claim("warm-over-cold", "10 ms of search end better from the agent's plan than from a proportional one", ANY,
           "mean over gold, by number of providers: everywhere, in some, nowhere",
           _beats(ANY, "mixed 10 ms", "cold 10 ms")),
)  # fmt: skip
