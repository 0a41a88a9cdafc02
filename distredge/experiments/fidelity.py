"""Predicted against measured: plans, run one after the other on a test-bed."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from distredge.api import make_task
from distredge.model.graph import LayerGraph
from distredge.planners import planner
from distredge.planners.base import make_plan
from distredge.planners.random_plans import random_plans
from distredge.plans.plan import Plan
from distredge.runtime.run import WIRES
from distredge.runtime.testbed.bed import Testbed
from distredge.scenario import Scenario
from distredge.simulate.timeline import trace


@dataclass(frozen=True)
class Candidate:
    """A plan and what it is called."""

    name: str
    plan: Plan


@dataclass(frozen=True)
class Measured:
    """A plan's latency: as predicted, and median and 90th percentile over the images.

    `error` is (predicted - measured) / measured.
    """

    plan: str
    method: str
    predicted_ms: float
    measured_ms: float
    p90_ms: float
    error: float


def drawn(graph: LayerGraph, scenario: Scenario, count: int, seed: int) -> list[Candidate]:
    """So many random plans."""
    plans = random_plans(make_task(graph, scenario, seed, None, None), count, seed)
    return [Candidate(f"random-{i}", plan) for i, plan in enumerate(plans)]


def planned(graph: LayerGraph, scenario: Scenario, method: str, seed: int, budget_s: float | None) -> Candidate:
    """A method's plan; raises `InputError` if the method cannot serve."""
    task = make_task(graph, scenario, seed, budget_s, None)
    return Candidate(method, make_plan(task, planner(method).plan(task), method, seed))


def given(path: Path) -> Candidate:
    """A plan from a file; raises `InputError` if it cannot be read."""
    return Candidate(path.stem, Plan.load(path))


def measure(
    bed: Testbed, graph: LayerGraph, candidates: Sequence[Candidate], images: int, model: str, hold: bool
) -> Iterator[Measured]:
    """Run each plan for so many images, one after the other, traces replayed from their beginning each time.

    With `hold` the providers stand in for the scenario's boards, else they compute. Raises `RunError` if a run fails.
    """
    options = ["--keep-plan", "--images", str(images), "--model", model, *(["--hold"] if hold else [])]
    for candidate in candidates:
        file = bed.folder / "plan.json"
        candidate.plan.save(file)
        with bed.replaying():
            report = bed.run(file, options)
        yield _measured(candidate, graph, bed.scenario, report)


def _measured(candidate: Candidate, graph: LayerGraph, scenario: Scenario, report: dict[str, Any]) -> Measured:
    bound, bytes_sent = candidate.plan.bind(graph), WIRES[report["wire"]]
    predicted = trace(bound, scenario, element_bytes=bytes_sent).latency_ms
    found = report["latency_ms"]["p50"]
    method = candidate.plan.method
    return Measured(candidate.name, method, predicted, found, report["latency_ms"]["p90"], (predicted - found) / found)


def summary(rows: Sequence[Measured]) -> dict[str, float]:
    """Median, 90th percentile and largest of |predicted - measured| / measured, and the mean with its sign."""
    errors = np.array([row.error for row in rows])
    median, p90 = (float(p) for p in np.percentile(np.abs(errors), (50, 90)))
    return {
        "median_error": median,
        "p90_error": p90,
        "max_error": float(np.abs(errors).max()),
        "mean_signed_error": float(errors.mean()),
    }


def as_csv(rows: Sequence[Measured]) -> str:
    """The rows with a header."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(Measured)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    return text.getvalue()


def draw(rows: Sequence[Measured], title: str, path: Path) -> None:
    """Write a PNG of predicted against measured, random plans as dots; raises `DependencyError` without matplotlib."""
    from distredge.plots import COLOURS, new_figure, save_figure

    figure = new_figure(5.2, 4.6)
    axes = figure.subplots()
    for colour, marker, label, chosen in (
        (COLOURS[0], "o", "random", [row for row in rows if row.method == "random"]),
        (COLOURS[1], "D", "methods", [row for row in rows if row.method != "random"]),
    ):
        if chosen:
            at = [row.predicted_ms for row in chosen], [row.measured_ms for row in chosen]
            axes.plot(*at, marker, color=colour, ms=4, ls="none", label=label)
    top = 1.08 * max(max(row.predicted_ms, row.measured_ms) for row in rows)
    ends = np.array([0.0, top])
    axes.plot(ends, ends, color="black", lw=0.8, label="as predicted")
    axes.fill_between(ends, 0.95 * ends, 1.05 * ends, color="black", alpha=0.12, lw=0, label="within 5 %")
    axes.set(xlim=(0, top), ylim=(0, top), xlabel="predicted ms", ylabel="measured ms, median", title=title)
    axes.legend(fontsize=8, frameon=False)
    save_figure(figure, path)
