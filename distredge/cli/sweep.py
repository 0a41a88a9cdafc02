"""`distredge sweep`: models x scenarios x methods x seeds, here or on a Ray."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from distredge.cli.output import JsonFlag, Seed, console, emit, table, work_bar
from distredge.errors import InputError, RunError
from distredge.resources import check_writable, write_atomically

if TYPE_CHECKING:
    from distredge.experiments.engines import Engine


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("sweep")(sweep)


def sweep(
    spec: Annotated[Path, typer.Argument(metavar="SPEC.yaml", help="What to plan: docs/sweep.md.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for results.csv and results.json.")],
    engine: Annotated[Literal["local", "ray"], typer.Option(help="Processes here, or a Ray.")] = "local",
    processes: Annotated[
        int | None, typer.Option(min=1, max=256, help="On this machine; as many as cores if left out.")
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS", help="A Ray cluster's: auto, HOST:PORT or ray://HOST:PORT; else one is started."
        ),
    ] = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="Draw images a second as bars into this PNG.")] = None,
    as_json: JsonFlag = False,
    seed: Seed = 0,
) -> None:
    """Plan every model on every scenario by every method for every seed; --seed is added to each of them.

    Interrupt it as you like: run again, it goes on, and tries again what failed.

    Example: distredge sweep sweep.yaml --out results
    """
    from distredge.experiments.base import FULL
    from distredge.experiments.runner import run
    from distredge.experiments.store import claim
    from distredge.experiments.sweep import MADE_WITH, NAME, document, draw, load_sweep

    who = _engine(engine, address, processes or os.cpu_count() or 1)
    material = load_sweep(spec)
    if plot:
        check_writable(plot)
    claim(out / MADE_WITH, {"seed": seed, **material.made_with()})
    with who as workers, work_bar() as tell:
        results = run([material.experiment()], out, replace(FULL, seed=seed), workers, tell)
    data = document(material.sweep, results)
    write_atomically(out / f"{NAME}.json", json.dumps(data, indent=2, allow_nan=False) + "\n")
    if plot:
        draw(results[NAME], plot)
    emit(as_json, {"out": str(out), **data}, lambda: _show(data["name"], data["summary"], out))
    failed = [row for row in results[NAME] if row["failure"]]
    if failed:
        first = "{model} on {scenario} by {method}: {failure}".format_map(failed[0])
        raise RunError(
            f"{len(failed)} of {len(results[NAME])} cases failed, the same command tries them again (first {first})"
        )


def _engine(name: str, address: str | None, processes: int) -> AbstractContextManager[Engine]:
    from distredge.experiments.engines import Processes
    from distredge.experiments.ray_engine import ray_engine

    if name == "ray":
        return ray_engine(address, processes)
    if address is not None:
        raise InputError("--address is of a Ray: give --engine ray as well, or leave it out")
    return nullcontext(Processes(processes))


def _show(name: str, lines: Sequence[Mapping[str, Any]], out: Path) -> None:
    cases, figures = ("model", "scenario", "method", "seeds"), ("median_ms", "min_ms", "max_ms", "over_best")
    cells = [[*(line[k] for k in cases), *(_number(line[k]) for k in figures), line["why"]] for line in lines]
    table(name, [*cases, "median ms", "min", "max", "over best", "why not"], cells)
    console.print(f"rows in {out}")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
