"""`distredge experiment`: the paper's figures and tables again, and its claims beside what is found."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import date as calendar
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from distredge.cli.output import JsonFlag, Seed, console, emit, table, work_bar
from distredge.errors import InputError
from distredge.planners import planner

if TYPE_CHECKING:
    from distredge.experiments.report import Judged


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("experiment")(experiment)


def experiment(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME...", help="fig4 .. fig14, table1 .. table3, or all of the paper; agent: the agent."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for CSV, PNG and the pages.")],
    quick: Annotated[bool, typer.Option("--quick", help="Fewer repeats and episodes: minutes, not hours.")] = False,
    methods: Annotated[str | None, typer.Option(help="Only these, with commas between.")] = None,
    jobs: Annotated[int | None, typer.Option(min=1, max=256, help="Processes; as many as cores if left out.")] = None,
    date: Annotated[str | None, typer.Option(help="Stands in the report; today if left out.")] = None,
    as_json: JsonFlag = False,
    seed: Seed = 0,
) -> None:
    """Make figures and tables of the DistrEdge paper again, and judge its claims: CSV, PNG and report.html in a folder.

    Interrupt it as you like: run again, it goes on. Boards are calibrated on published figures, not measured.

    Example: distredge experiment fig6 fig7 --quick --out results
    """
    from distredge import __version__
    from distredge.experiments.base import FULL, QUICK
    from distredge.experiments.engines import Processes
    from distredge.experiments.publish import publish
    from distredge.experiments.registry import experiments
    from distredge.experiments.runner import run
    from distredge.experiments.store import claim_folder

    chosen = experiments(names)
    only = None if methods is None else tuple(part.strip() for part in methods.split(",") if part.strip())
    for name in only or ():
        planner(name)
    if only == ():
        raise InputError("--methods is empty: name some, with commas between, or leave it out")
    effort = replace(QUICK if quick else FULL, seed=seed, methods=only)
    claim_folder(out, effort, __version__)
    with work_bar() as tell:
        run(chosen, out, effort, Processes(jobs or os.cpu_count() or 1), tell)
    pages = publish(out, effort, __version__, date or calendar.today().isoformat())
    judged = [item for items in pages.values() for item in items]
    data = {
        "out": str(out),
        "reports": [str(out / page) for page in pages],
        "effort": effort.name,
        "experiments": [e.name for e in chosen],
        "claims": [_data(item) for item in judged],
    }
    emit(as_json, data, lambda: _show(judged, [out / page for page in pages]))


def _data(item: Judged) -> dict[str, Any]:
    return {
        "name": item.claim.name,
        "statement": item.claim.statement,
        "source": item.claim.source,
        "experiments": list(item.claim.needs),
        "verdict": item.verdict,
        "found": {
            subject or "all": {"verdict": judgement.verdict, "figures": judgement.found}
            for subject, judgement in item.found.items()
        },
        "likely_reason": item.reason or None,
    }


def _show(judged: list[Judged], pages: list[Path]) -> None:
    run = [item for item in judged if item.verdict != "not run"]
    rows = [[item.claim.name, item.verdict, next(iter(item.found.values())).found] for item in run]
    table("Claims; boards calibrated, not measured", ["claim", "verdict", "found here"], rows)
    console.print(f"{len(judged) - len(run)} claims not run; all of it in {', '.join(map(str, pages))}")
