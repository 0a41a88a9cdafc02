"""Fig. 14: the longest transmission and the longest computing of a provider, by method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

from distredge.experiments.base import OURS, Claim, Judgement, Results, Row, Shown
from distredge.experiments.judging import BASELINES, grade
from distredge.experiments.methods import comparison

LAYERWISE = ("coedge", "modnn", "mednn")
EQUAL = ("deepthings", "deeperthings")


def maxima(rows: Sequence[Row]) -> dict[str, tuple[float, float]]:
    """Longest transmission and computing of a provider in ms, by method, medians over seeds."""
    found: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        if isinstance(row["max_transmission_ms"], float) and isinstance(row["max_compute_ms"], float):
            pair = (row["max_transmission_ms"], row["max_compute_ms"])
            found.setdefault(str(row["method"]), []).append(pair)
    return {method: (median(t for t, _ in pairs), median(c for _, c in pairs)) for method, pairs in found.items()}


def _largest(rows: Sequence[Row], chosen: tuple[str, ...], place: int, what: str) -> Judgement:
    """Whether each of `chosen` has more of something than every other method that shares out rows."""
    ms = {m: pair[place] for m, pair in maxima(rows).items() if m != "offload" and m in (*BASELINES, "osds")}
    mine = {m: ms[m] for m in chosen if m in ms}
    rest = {m: value for m, value in ms.items() if m not in chosen}
    if not mine or not rest:
        return Judgement("not run", "the methods to compare were left out")
    next_ = max(rest, key=lambda m: rest[m])
    right = sum(1 for value in mine.values() if value > rest[next_])
    said = ", ".join(f"{m} {value:.0f} ms" for m, value in mine.items())
    return Judgement(grade(right, len(mine)), f"longest {what}: {said}; of the others {next_} {rest[next_]:.0f} ms")


def judge_transmission(results: Results, subject: str) -> Judgement:
    """Whether the methods that go layer by layer have the longest transmission."""
    return _largest(results["fig14"], LAYERWISE, 0, "transmission")


def judge_computing(results: Results, subject: str) -> Judgement:
    """Whether the methods that split equally have the longest computing."""
    return _largest(results["fig14"], EQUAL, 1, "computing")


def judge_aofl(results: Results, subject: str) -> Judgement:
    """Whether a method computes for less long than AOFL."""
    ms = maxima(results["fig14"])
    if subject not in ms or "aofl" not in ms:
        return Judgement("not run", "the methods to compare were left out")
    (sent, computed), (aofl_sent, aofl_computed) = ms[subject], ms["aofl"]
    said = f"computing {computed:.1f} ms against {aofl_computed:.1f}, transmission {sent:.1f} against {aofl_sent:.1f}"
    return Judgement("holds" if computed < aofl_computed * 0.995 else "does not hold", said)


def _draw(rows: Sequence[Row], path: Path) -> None:
    from distredge.plots import draw_bars

    ms = maxima(rows)
    sent, computed = ({m: pair[place] for m, pair in ms.items()} for place in (0, 1))
    draw_bars({"max. transmission": sent, "max. computing": computed}, "ms", path)


def _table(rows: Sequence[Row]) -> Shown:
    latency = {str(r["method"]): r["latency_ms"] for r in rows}
    lines = tuple((method, *pair, latency[method]) for method, pair in maxima(rows).items())
    return Shown(("method", "max. transmission ms", "max. computing ms", "latency ms"), lines)


FIG14 = replace(
    comparison(
        "fig14",
        "Fig. 14: longest transmission and computing (VGG-16, DB, 50 Mbit/s)",
        "Longest transmission and computing latency among the four devices, by method.",
        ("vgg16",),
        ("db-50",),
    ),
    here="From the timelines of the plans of Fig. 6: for each provider, the time from when its rows set out until"
    " all are in its memory, and its computing, each summed over the volumes; drawn is the largest of the four"
    " providers.",
    draw=_draw,
    table=_table,
)

EXPERIMENTS = (FIG14,)

CLAIMS = (
    Claim(
        "layerwise-transmission", "CoEdge, MoDNN and MeDNN have large transmission latency: data moves between any"
        " two layers",
        "section V-G, Fig. 14", ("fig14",), "longer than of every method with volumes: all three, some, none",
        judge_transmission,
    ),
    Claim(
        "equal-computing", "DeepThings and DeeperThings have large computing latency: they split equally",
        "section V-G, Fig. 14", ("fig14",), "longer than of every other method that shares: both, one, none",
        judge_computing,
    ),
    Claim(
        "aofl-computing", "AOFL's linear ratio causes computing delays that DistrEdge avoids", "section V-G, Fig. 14",
        ("fig14",), "the longest computing is shorter than AOFL's", judge_aofl, OURS,
    ),
)  # fmt: skip
