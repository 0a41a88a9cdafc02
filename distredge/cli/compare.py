"""`distredge compare`: many methods on many models and scenarios, side by side."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from distredge.cli.models import load
from distredge.cli.output import JsonFlag, Seed, console, emit, progress_bar, table
from distredge.errors import InputError
from distredge.planners import METHODS, planner
from distredge.resources import write_atomically
from distredge.scenario import is_scenario, load_scenario

if TYPE_CHECKING:
    from distredge.experiments.compare import Row

COLUMNS = ("model", "scenario", "method", "latency_ms", "ips", "speed_up", "seconds", "refusal")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("compare")(compare)


def compare(
    models: Annotated[list[str], typer.Argument(metavar="MODEL...", help="Zoo names or .onnx files.")],
    scenarios: Annotated[
        list[str], typer.Option("--scenario", help="Shipped names or YAML files, as many as you like.")
    ],
    methods: Annotated[str, typer.Option(help="Names with commas between, or all.")] = "all",
    budget_s: Annotated[
        float, typer.Option("--budget-s", min=0.1, help="Seconds for each method that can use them.")
    ] = 10.0,
    csv_file: Annotated[Path | None, typer.Option("--csv", help="Write the rows into this CSV.")] = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="Draw images a second as bars into this PNG.")] = None,
    as_json: JsonFlag = False,
    seed: Seed = 0,
) -> None:
    """Plan every model on every scenario by every method, and show them side by side.

    All are costed by the same simulator. Speed-up is over the best baseline: the literature's methods but DistrEdge.

    Example: distredge compare vgg16 resnet50 --scenario db-50 na-nano --csv rows.csv
    """
    from distredge.experiments.compare import compare as run
    from distredge.experiments.compare import verdict

    chosen = list(METHODS) if methods == "all" else _listed(methods)
    for method in chosen:
        planner(method)
    more = [name for name in models if is_scenario(name)]  # `--scenario db-50 na-nano`: the second is an argument
    graphs = [load(model, None) for model in models if model not in more]
    places = [load_scenario(name) for item in [*scenarios, *more] for name in _listed(item)]
    if not graphs or not places:
        raise InputError("give at least one model and one scenario: distredge compare vgg16 --scenario db-50")
    with progress_bar("comparing") as tell:
        rows = list(
            run(graphs, places, chosen, seed=seed, budget_s=budget_s, progress=lambda what, share: tell(share, 0.0))
        )
    data: list[dict[str, Any]] = []
    verdicts = []
    for n, (_, group) in enumerate(groupby(rows, key=lambda row: (row.model, row.scenario))):
        of_case = list(group)
        data += [_data(row, of_case) for row in of_case]
        said = verdict(of_case, graphs[n // len(places)], places[n % len(places)])
        verdicts.append({"model": of_case[0].model, "scenario": of_case[0].scenario, "verdict": said})
    if csv_file:
        write_atomically(csv_file, _csv(data))
    if plot:
        from distredge.plots import draw_comparison

        draw_comparison(data, plot)
    calibrated = sorted({p.name for place in places for p in place.profiles if p.kind == "calibrated"})
    emit(
        as_json,
        {"rows": data, "verdicts": verdicts, "calibrated_profiles": calibrated},
        lambda: _show(data, verdicts, calibrated),
    )


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _data(row: Row, of_case: Sequence[Row]) -> dict[str, Any]:
    from distredge.experiments.compare import speed_up

    return {
        "model": row.model,
        "scenario": row.scenario,
        "method": row.method,
        "latency_ms": row.latency_ms,
        "ips": row.ips,
        "speed_up": speed_up(row, of_case),
        "seconds": round(row.seconds, 3),
        "refusal": row.refusal,
    }


def _csv(data: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(data)
    return text.getvalue()


def _show(data: list[dict[str, Any]], verdicts: list[dict[str, str]], calibrated: list[str]) -> None:
    for case in verdicts:
        rows = [r for r in data if (r["model"], r["scenario"]) == (case["model"], case["scenario"])]
        rows.sort(key=lambda r: r["latency_ms"] if r["latency_ms"] is not None else float("inf"))
        cells = [
            [r["method"], *(_number(r[k]) for k in ("latency_ms", "ips", "speed_up", "seconds")), r["refusal"]]
            for r in rows
        ]
        table(
            f"{case['model']} on {case['scenario']}",
            ["method", "latency ms", "images/s", "over best baseline", "planned in s", "why not"],
            cells,
        )
        console.print(case["verdict"])
    if calibrated:
        console.print(f"profiles {', '.join(calibrated)}: calibrated from published figures, not measured")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
