"""`distredge pareto`: plans of which none is both faster and better in another goal than another one."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import typer

from distredge.cli.goals import (
    Deadline,
    Exclude,
    MaxCost,
    MaxEnergy,
    MaxRedundant,
    MinReliability,
    Pin,
    RawTo,
    goals_of,
)
from distredge.cli.models import InputShape, Model, load
from distredge.cli.output import JsonFlag, Seed, console, emit, progress_bar, table
from distredge.cli.planning import FIGURES, Budget, ScenarioName, calibration_note, warn
from distredge.resources import check_writable, write_atomically
from distredge.scenario import load_scenario


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("pareto")(pareto)


def pareto(
    model: Model,
    scenario: ScenarioName,
    against: Annotated[str, typer.Option(help="energy, cost, redundant or failures.")] = "energy",
    points: Annotated[int, typer.Option(min=2, max=100, help="Plans on the front, at most.")] = 8,
    out: Annotated[Path | None, typer.Option(help="Write what --json prints into this file.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the front into this PNG.")] = None,
    budget_s: Budget = None,
    deadline_ms: Deadline = None,
    max_energy_j: MaxEnergy = None,
    max_cost: MaxCost = None,
    max_redundant: MaxRedundant = None,
    min_reliability: MinReliability = None,
    exclude: Exclude = None,
    pin: Pin = None,
    raw_to: RawTo = None,
    input_shape: InputShape = None,
    as_json: JsonFlag = False,
    seed: Seed = 0,
) -> None:
    """Find the plans of which none is both faster and better in another goal than another one.

    Example: distredge pareto vgg16 --scenario db-50 --against energy --points 8
    """
    from distredge.api import pareto as find

    goals = goals_of(f"latency,{against}", deadline_ms, max_energy_j, max_cost, max_redundant, min_reliability,
                     exclude, pin, raw_to)  # fmt: skip
    graph, chosen = load(model, input_shape), load_scenario(scenario)
    warn(chosen, graph)
    for path in (out, plot):
        if path is not None:
            check_writable(path)
    with progress_bar(f"latency against {against}") as progress:
        front = find(graph, chosen, against, points, seed, budget_s, progress, goals)
    data = {
        "model": graph.name,
        "scenario": chosen.name,
        "against": against,
        "points": [
            {**dataclasses.asdict(found), "plan": made.model_dump(mode="json")} for made, found in front
        ],
    }  # fmt: skip
    if out is not None:
        write_atomically(out, json.dumps(data, indent=2) + "\n")
    if plot is not None:
        from distredge.plots import draw_front

        draw_front(data, plot)

    def show() -> None:
        rows = [[found.latency_ms, *(write(found) for _, write in FIGURES)] for _, found in front]
        columns = ["latency ms", *(name for name, _ in FIGURES)]
        table(f"{graph.name} on {chosen.name}: latency against {against}", columns, rows)
        console.print(calibration_note(chosen))
        for path in (out, plot):
            if path is not None:
                console.print(f"wrote {path}")

    emit(as_json, data, show)
