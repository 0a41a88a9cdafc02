"""Fig. 11 and 12: links whose throughput varies strongly, in the simulator; who follows them, and how well.

What each method does is in `followers`, what they are measured against in `yardsticks`, the links in `traces`.
docs/dynamic.md tells what was found. With a scenario that names traces of its own:

    python -m distredge.experiments.dynamic lab.yaml --out results
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from distredge.experiments.base import (
    FULL,
    OURS,
    QUICK,
    SECONDS,
    Claim,
    Effort,
    Experiment,
    Judgement,
    Results,
    Row,
    Shown,
    Value,
)
from distredge.experiments.followers import FULL_WORK, QUICK_WORK, Followed, Hour, aofl, aofl_all, coedge, online, paper
from distredge.experiments.judging import EVERYONE, grade, spread
from distredge.experiments.methods import scenario_of
from distredge.experiments.runner import run as run_all
from distredge.experiments.store import claim
from distredge.experiments.traces import DEVICES, SEGMENT_S, SEGMENTS, STEP_S, Drift, imported, synthetic, throughput
from distredge.experiments.yardsticks import best_fixed, oracle
from distredge.profiles.profile import FloatArray
from distredge.scenario import Scenario, load_scenario

BASE = "homogeneous-200"
"""Its four Nanos are used, with the traces' rates."""

METHODS: Mapping[str, Callable[[Hour], Followed]] = {
    "coedge": coedge,
    "aofl": aofl,
    EVERYONE: aofl_all,
    "osds-paper": paper,
    "osds": online,
    "oracle": oracle,
    "best-fixed": best_fixed,
}
"""In the order of the tables."""

YARDSTICKS = {EVERYONE: "aofl", "oracle": "osds", "best-fixed": "osds"}
"""No methods to choose: they come with these."""

COST_S = {"osds-paper": 35.0, "oracle": 120.0, "osds": 15.0, "best-fixed": 25.0}
"""About what an hour takes on one core, with its share of the pre-training; the others less than five seconds."""

TRACES = 5
"""Hours, each with a seed of its own; a quick run has one."""

NEAR = 0.05
"""The aim: so much above the oracle at most."""

WHOLE = -1
"""Stands for the whole hour where a segment's number may stand."""


def _trace_cases(effort: Effort) -> list[Row]:
    return [{"device": i + 1} for i in range(DEVICES)]


def _trace_rows(case: Row, effort: Effort) -> list[Row]:
    trace = throughput(effort.seed)[int(case["device"] or 1) - 1]
    return [{**case, "t_s": k * STEP_S, "mbps": float(rate)} for k, rate in enumerate(trace)]


def _methods(effort: Effort) -> list[str]:
    return [m for m in METHODS if effort.methods is None or YARDSTICKS.get(m, m) in effort.methods]


def _cases(effort: Effort) -> list[Row]:
    traces = 1 if effort.name == "quick" else TRACES
    return [{"trace": effort.seed + n, "method": method} for n in range(traces) for method in _methods(effort)]


def run(case: Row, effort: Effort) -> list[Row]:
    """Latency over an hour of a method on a synthetic trace."""
    return _followed(case, effort, scenario_of(BASE), synthetic(int(case["trace"] or 0)))


def _followed(case: Row, effort: Effort, scenario: Scenario, drift: Drift) -> list[Row]:
    work = QUICK_WORK if effort.name == "quick" else FULL_WORK
    hour = Hour(scenario, drift, int(case["trace"] or 0), effort.dynamic_step_s, work)
    followed = METHODS[str(case["method"])](hour)
    seconds: Row = {"plan_seconds": followed.plan_seconds, "prepare_seconds": followed.prepare_seconds}
    return [
        {**case, "t_s": at_s, "seconds": lasts_s, "latency_ms": ms} | seconds
        for at_s, lasts_s, ms in hour.latencies(followed)
    ]


def cost_s(case: Row, effort: Effort) -> float:
    """About how long a case takes on one core."""
    return COST_S.get(str(case["method"]), 4.0) * (0.25 if effort.name == "quick" else 1.0)


@dataclass(frozen=True)
class Figures:
    """Of a method in a part of an hour, in ms an image, over time: any moment counts alike."""

    mean: float
    median: float
    p90: float


def figures(rows: Sequence[Row]) -> dict[str, dict[tuple[int, int], Figures]]:
    """By method, and by trace and segment of 20 minutes (`WHOLE`: all of it)."""
    groups: dict[str, dict[tuple[int, int], list[tuple[float, float]]]] = {}
    for row in rows:
        trace, of_method = int(row["trace"] or 0), groups.setdefault(str(row["method"]), {})
        weighed = float(row["seconds"] or 0.0), float(row["latency_ms"] or 0.0)
        for segment in (int(float(row["t_s"] or 0.0)) // SEGMENT_S, WHOLE):
            of_method.setdefault((trace, segment), []).append(weighed)
    return {method: {part: _figures(np.array(w)) for part, w in parts.items()} for method, parts in groups.items()}


def _figures(weighed: FloatArray) -> Figures:
    seconds, ms = weighed.T
    median, p90 = np.quantile(ms, [0.5, 0.9], weights=seconds, method="inverted_cdf")
    return Figures(float(seconds @ ms / seconds.sum()), float(median), float(p90))


def shares(rows: Sequence[Row], method: str, of: str, whole: bool = False) -> list[float]:
    """Mean latency of a method over another's, in each segment of each trace or in each whole; [] if one is missing."""
    found = figures(rows)
    if not {method, of} <= set(found):
        return []
    parts = [part for part in found[method] if (part[1] == WHOLE) == whole]
    return [found[method][part].mean / found[of][part].mean for part in parts]


NOT_RUN = Judgement("not run", "the methods to compare were left out")


def judge_share(results: Results, subject: str) -> Judgement:
    """Whether latency is 40 to 65 % of AOFL's in every segment, both deciding online."""
    rows = results["fig12"]
    found, least = shares(rows, subject, "aofl"), shares(rows, "oracle", "aofl")
    if not found:
        return NOT_RUN
    inside = sum(1 for share in found if 0.40 <= share <= 0.65)
    said = f"{spread(found)} of AOFL's mean latency in the segments, {mean(found):.2f} in the mean"
    more = f"; the oracle has {spread(least)}, {mean(least):.2f}" if least else ""
    return Judgement(grade(inside, len(found)), said + more)


def judge_coedge(results: Results, subject: str) -> Judgement:
    """Whether CoEdge is slowest in every segment, all deciding online."""
    others = [m for m in figures(results["fig12"]) if m in ("aofl", *OURS)]
    each = [found for m in others if (found := shares(results["fig12"], "coedge", m))]
    if not each:
        return NOT_RUN
    ratios = [min(of_segment) for of_segment in zip(*each, strict=True)]
    said = f"{spread(ratios)} times the latency of the next slowest in the segments"
    return Judgement(grade(sum(ratio > 1.0 for ratio in ratios), len(ratios)), said)


def judge_adapting(results: Results, subject: str) -> Judgement:
    """Whether a new plan takes DistrEdge at most 210 s, and AOFL longer than DistrEdge."""
    rows = results["fig12" + SECONDS]
    seconds = {m: [float(r["plan_seconds"] or 0.0) for r in rows if r["method"] == m] for m in ("aofl", *OURS)}
    if not seconds[subject] or not seconds["aofl"]:
        return NOT_RUN
    ours, theirs = mean(seconds[subject]), mean(seconds["aofl"])
    before = mean(float(r.get("prepare_seconds") or 0.0) for r in rows if r["method"] == subject)
    right = (ours <= 210.0) + (theirs > ours)
    said = f"adapting: {subject} {ours:.2g} s (and {before:.0f} s of training before the hour), aofl {theirs:.2g} s"
    return Judgement(grade(right, 2), f"{said}, on this machine")


def judge_near(results: Results, subject: str) -> Judgement:
    """Whether the mean of each hour is at most `NEAR` over the oracle's."""
    found = shares(results["fig12"], subject, "oracle", whole=True)
    if not found:
        return NOT_RUN
    near = sum(1 for share in found if share <= 1.0 + NEAR)
    said = f"{spread(100.0 * (share - 1.0) for share in found)} % over the oracle's mean latency of an hour"
    return Judgement(grade(near, len(found)), said)


def _draw_traces(rows: Sequence[Row], path: Path) -> None:
    from distredge.plots import draw_lines

    panels = {}
    for device in range(1, DEVICES + 1):
        mine = [r for r in rows if r["device"] == device]
        panels[f"device {device}"] = {"": ([float(r["t_s"] or 0.0) / 60 for r in mine], [r["mbps"] for r in mine])}
    draw_lines(panels, "minutes", "Mbit/s", path)


def _draw(rows: Sequence[Row], path: Path) -> None:
    """Means of a minute, a panel a trace, two at most."""
    from distredge.plots import draw_lines

    traces = sorted({int(r["trace"] or 0) for r in rows})[:2]
    panels: dict[str, dict[str, Any]] = {f"trace {trace}": {} for trace in traces}
    for trace in traces:
        for method in METHODS:
            mine = [r for r in rows if (r["method"], r["trace"]) == (method, trace)]
            if mine:
                panels[f"trace {trace}"][method] = _minutes(mine)
    draw_lines(panels, "minutes", "ms an image", path, wide=True)


def _minutes(rows: Sequence[Row]) -> tuple[list[float], list[float]]:
    found: dict[int, list[tuple[float, float]]] = {}
    for row in rows:
        weighed = float(row["seconds"] or 0.0), float(row["latency_ms"] or 0.0)
        found.setdefault(int(float(row["t_s"] or 0.0) // 60), []).append(weighed)
    return [m + 0.5 for m in found], [_figures(np.array(w)).mean for w in found.values()]


def _trace_table(rows: Sequence[Row]) -> Shown:
    lines: list[tuple[Value, ...]] = []
    for device in range(1, DEVICES + 1):
        rates = [float(r["mbps"] or 0.0) for r in rows if r["device"] == device]
        length = SEGMENT_S // STEP_S
        means = [mean(rates[k * length : (k + 1) * length]) for k in range(SEGMENTS)]
        lines.append((device, *means, min(rates), max(rates)))
    return Shown(("device", "mean Mbit/s 0-20 min", "20-40 min", "40-60 min", "least", "most"), tuple(lines))


def _table(rows: Sequence[Row]) -> Shown:
    """Means over the traces; shares with the least and the most of them."""
    segments = sorted({part[1] for parts in figures(rows).values() for part in parts} - {WHOLE})
    lines: list[tuple[Value, ...]] = []
    for method, parts in figures(rows).items():
        hours = [f for (_, segment), f in parts.items() if segment == WHOLE]
        by_segment = [mean(f.mean for (_, k), f in parts.items() if k == segment) for segment in segments]
        whole = mean(f.mean for f in hours), mean(f.median for f in hours), mean(f.p90 for f in hours)
        ratios = [shares(rows, method, of, whole=True) for of in ("aofl", "oracle")]
        lines.append((method, *whole, *by_segment, *(f"{mean(r):.3f} ({spread(r)})" if r else "" for r in ratios)))
    names = [f"mean {20 * k}-{20 * (k + 1)} min" for k in segments]
    return Shown(("method", "mean ms", "p50", "p90", *names, "over aofl's mean", "over the oracle's"), tuple(lines))


FIG11 = Experiment(
    name="fig11",
    title="Fig. 11: throughput of a highly dynamic network",
    paper="Four traces with high fluctuation, whose averages change at 20 and 40 minutes. They are not published.",
    here="Synthetic and seeded: a level for each device and each 20 minutes, drawn between 40 and 160 Mbit/s and at"
    " least 1.6 times up or down from the one before, times log-normal noise (standard deviation 0.4) that forgets"
    " within a minute.",
    key=("device",),
    columns={"device": int, "t_s": int, "mbps": float},
    cases=_trace_cases,
    run=_trace_rows,
    cost_s=lambda case, effort: 0.1,
    draw=_draw_traces,
    table=_trace_table,
)

FIG12 = Experiment(
    name="fig12",
    title="Fig. 12: latency in a highly dynamic network (VGG-16, four Nanos)",
    paper="Latency of an image over an hour; CoEdge, AOFL and DistrEdge decide online, AOFL and DistrEdge partition"
    " anew when averaged throughput changes significantly.",
    here="In the simulator, on traces like Fig. 11's, five hours of them (quick: one). CoEdge, AOFL and `osds` decide"
    " anew whenever rates change, for rates estimated 7 % off (log-normal), and their plans are in force 1.7 s"
    " after the change: 1.5 s until the estimate has it, 0.2 s for the swap. AOFL partitions anew when the mean of five"
    " minutes differs by half, at no cost. `osds` is the agent for a moving network, pre-trained before the hour; it"
    " changes plans for 3 % and more. `osds-paper` is the paper's agent (600 episodes, quick 300; a quarter of them"
    " after a large change, at no cost): it sees the latencies of the image that it splits, so it needs no estimate."
    " `oracle` searches under the true rates of each moment at no cost; `best-fixed` is the best single plan in"
    " hindsight; `aofl-all` is AOFL without its choice of devices.",
    key=("trace", "method"),
    columns={"trace": int, "method": str, "t_s": float, "seconds": float, "latency_ms": float},
    cases=_cases,
    run=run,
    cost_s=cost_s,
    draw=_draw,
    table=_table,
    timed=("plan_seconds", "prepare_seconds"),
)

EXPERIMENTS = (FIG11, FIG12)

CLAIMS = (
    Claim(
        "dynamic-share", "in a dynamic network latency is 40 to 65 % of AOFL's", "section V-F, Fig. 12", ("fig12",),
        "means of the segments of 20 minutes, deciding online: all in the range; partly: some; else not",
        judge_share, OURS,
    ),
    Claim(
        "dynamic-coedge", "in a dynamic network CoEdge's latency is the largest", "section V-F, Fig. 12", ("fig12",),
        "means of the segments of 20 minutes, against aofl, osds and osds-paper: in all; partly: in some; else not",
        judge_coedge,
    ),
    Claim(
        "dynamic-oracle", "in a dynamic network latency is at most 5 % over that of a search at each moment",
        "no claim of the paper: an aim of this project", ("fig12",),
        "means of the hours: all; partly: some; else not", judge_near, OURS,
    ),
    Claim(
        "adapting", "adapting takes 20 to 210 s, AOFL's brute-force search 10 minutes", "section V-F", ("fig12",),
        "planning anew takes at most 210 s, and AOFL longer than DistrEdge: both, one, none (osds only decides)",
        judge_adapting, OURS[1:],
    ),
)  # fmt: skip


def on_scenario(scenario: Scenario) -> Experiment:
    """Fig. 12 on the providers of a scenario and its own traces; raises what `traces.imported` raises."""
    drift = imported(scenario)

    def cases(effort: Effort) -> list[Row]:
        return [{"trace": effort.seed, "method": method} for method in _methods(effort)]

    title = f"Latency while the links of '{scenario.name}' drift (VGG-16)"
    return replace(FIG12, title=title, cases=cases, run=partial(_followed, scenario=scenario, drift=drift))


def main(arguments: Sequence[str] | None = None) -> int:
    """Fig. 12 on a scenario with traces of its own: rows, picture, and the table on the screen."""
    parser = argparse.ArgumentParser(description="Who follows a scenario's traces, and how well.")
    parser.add_argument("scenario", help="a shipped name, or a .yaml file, with traces: docs/dynamic.md")
    parser.add_argument("--out", type=Path, default=Path("dynamic"))
    parser.add_argument("--quick", action="store_true", help="every minute only, less search")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args(arguments)
    effort = replace(QUICK if chosen.quick else FULL, seed=chosen.seed)
    experiment = on_scenario(scenario := load_scenario(chosen.scenario))
    rates = hashlib.sha256(imported(scenario).mbps.tobytes()).hexdigest()
    made_with = {"effort": effort.name, "seed": effort.seed, "scenario": scenario.model_dump_json(), "rates": rates}
    claim(chosen.out / "dynamic.json", made_with)
    rows = run_all([experiment], chosen.out, effort)[experiment.name]
    experiment.draw(rows, chosen.out / f"{experiment.name}.png")
    shown = experiment.table(rows)
    for line in (shown.columns, *shown.rows):
        print(" | ".join(f"{cell:.1f}" if isinstance(cell, float) else str(cell) for cell in line))
    return 0


if __name__ == "__main__":
    from distredge.experiments.faults import exit_with

    exit_with(main)
