"""How claims are judged: pure functions from rows of compared methods to a verdict and the figures found."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import median
from typing import TypeAlias

from distredge.experiments.base import Judgement, Results, Row, Verdict

BASELINES = ("coedge", "modnn", "mednn", "deepthings", "deeperthings", "aofl", "offload")
"""The seven methods that the paper compares DistrEdge with (section V-B)."""

EVERYONE = "aofl-all"
"""A yardstick that is no baseline: see `aofl_all.py`."""

OVER_EVERYONE = "over an AOFL that must use all devices:"

Case: TypeAlias = tuple[str, str]
"""A model and a scenario."""

TOLERANCE = 0.05
"""The paper's factors have one decimal."""

EQUAL = 0.005
"""Latencies that differ by less are equal."""


def rows_of(results: Results, names: Iterable[str]) -> list[Row]:
    """The rows of several experiments, each case of a method once."""
    found = {(r["model"], r["scenario"], r["method"], r["seed"]): r for name in names for r in results[name]}
    return list(found.values())


def latencies(rows: Sequence[Row]) -> dict[Case, dict[str, float]]:
    """Each method's latency in ms by case, the median over its seeds; refusals are left out."""
    every: dict[Case, dict[str, list[float]]] = {}
    for row in rows:
        if isinstance(row["latency_ms"], float):
            case = (str(row["model"]), str(row["scenario"]))
            every.setdefault(case, {}).setdefault(str(row["method"]), []).append(row["latency_ms"])
    return {case: {m: median(ms) for m, ms in methods.items()} for case, methods in every.items()}


def gains(rows: Sequence[Row], subject: str, over: Sequence[str] = BASELINES) -> dict[Case, float]:
    """How many times as fast as the best of `over` a method is, by case."""
    found = {}
    for case, ms in latencies(rows).items():
        others = [ms[m] for m in over if m in ms]
        if subject in ms and others:
            found[case] = min(others) / ms[subject]
    return found


def faster(found: Mapping[Case, float]) -> Judgement:
    """Whether factors over the best baseline are above 1: everywhere (holds), in half the cases (partly), or not."""
    if not found:
        return Judgement("not run", "the methods to compare were left out")
    better = sum(1 for gain in found.values() if gain > 1.0 + EQUAL)
    equal = sum(1 for gain in found.values() if abs(gain - 1.0) <= EQUAL)
    verdict: Verdict = (
        "holds" if better == len(found) else "holds partly" if 2 * better >= len(found) else "does not hold"
    )
    said = f"faster in {better} of {len(found)} cases, equal in {equal}, slower in {len(found) - better - equal}"
    return Judgement(verdict, f"{said}: {spread(found.values())} times as fast")


def within(found: Mapping[Case, float], least: float, most: float) -> Judgement:
    """Whether factors are in a range: all (holds); half of them, or none below it (partly); else not."""
    if not found:
        return Judgement("not run", "the methods to compare were left out")
    inside = sum(1 for gain in found.values() if least - TOLERANCE <= gain <= most + TOLERANCE)
    enough = min(found.values()) >= least - TOLERANCE
    verdict: Verdict = (
        "holds" if inside == len(found) else "holds partly" if enough or 2 * inside >= len(found) else "does not hold"
    )
    return Judgement(verdict, f"{spread(found.values())} times; {inside} of {len(found)} cases in the range")


def judged_within(
    names: tuple[str, ...], prefixes: tuple[str, ...], least: float, most: float, over: Sequence[str]
) -> Callable[[Results, str], Judgement]:
    """A judge of the factors over some methods in the scenarios whose names begin so; all without prefixes."""

    def judge(results: Results, subject: str) -> Judgement:
        rows = rows_of(results, names)
        found = within(_of(gains(rows, subject, over), prefixes), least, most)
        everyone = _of(gains(rows, subject, (EVERYONE,)), prefixes)
        if tuple(over) != ("aofl",) or not everyone:
            return found
        other = within(everyone, least, most)
        return Judgement(found.verdict, f"{found.found} ({OVER_EVERYONE} {other.found})")

    return judge


def judged_faster(names: tuple[str, ...]) -> Callable[[Results, str], Judgement]:
    """A judge of whether a method is faster than the best baseline everywhere."""

    def judge(results: Results, subject: str) -> Judgement:
        return faster(gains(rows_of(results, names), subject))

    return judge


def judged_larger(
    names: tuple[str, ...], more: tuple[str, ...], less: tuple[str, ...]
) -> Callable[[Results, str], Judgement]:
    """A judge of whether factors over AOFL are larger in some scenarios than in others: all of them, or the median."""

    def judge(results: Results, subject: str) -> Judgement:
        rows = rows_of(results, names)
        found = _larger(gains(rows, subject, ("aofl",)), more, less)
        other = _larger(gains(rows, subject, (EVERYONE,)), more, less)
        if "not run" in (found.verdict, other.verdict):
            return found
        return Judgement(found.verdict, f"{found.found} ({OVER_EVERYONE} {other.found})")

    return judge


def _larger(found: Mapping[Case, float], more: tuple[str, ...], less: tuple[str, ...]) -> Judgement:
    large, small = list(_of(found, more).values()), list(_of(found, less).values())
    if not large or not small:
        return Judgement("not run", "the methods to compare were left out")
    said = f"{spread(large)} times against {spread(small)} times"
    if min(large) > max(small):
        return Judgement("holds", said)
    return Judgement("holds partly" if median(large) > median(small) * (1.0 + EQUAL) else "does not hold", said)


def _of(found: Mapping[Case, float], prefixes: tuple[str, ...]) -> dict[Case, float]:
    return {case: gain for case, gain in found.items() if not prefixes or case[1].startswith(prefixes)}


def spread(values: Iterable[float]) -> str:
    """`1.02-1.41`, or one figure if there is one."""
    known = sorted(values)
    low, high = f"{known[0]:.2f}", f"{known[-1]:.2f}"
    return low if low == high else f"{low}-{high}"


def grade(right: int, all_: int) -> Verdict:
    """Holds if all are right, partly if some are, else not."""
    return "holds" if right == all_ else "holds partly" if right else "does not hold"
