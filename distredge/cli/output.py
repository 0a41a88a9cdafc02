"""What commands print: one JSON document, or tables; progress and errors go to stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from distredge.cli.interrupts import raise_owed

if TYPE_CHECKING:
    from distredge.experiments.runner import Progress as WorkProgress
    from distredge.planners.base import Progress as PlannerProgress

JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Decides every random choice.")]

_WIDTH = None if sys.stdout.isatty() else 120
"""Of tables in a file or pipe, whose reader's width is unknown."""

console = Console(highlight=False, width=_WIDTH)
errors = Console(stderr=True, highlight=False)

_LINE_EVERY = 0.05
"""Share of the work after which a log gets a line."""


def emit(as_json: bool, data: object, show: Callable[[], None]) -> None:
    """Print `data` as JSON if asked for, else call `show`."""
    if as_json:
        json.dump(data, sys.stdout, indent=2, allow_nan=False)
        sys.stdout.write("\n")
    else:
        show()


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table; numbers are aligned to the right, floats have two decimals."""
    drawn = Table(title=title, title_justify="left")
    for i, name in enumerate(columns):
        numeric = bool(rows) and all(isinstance(row[i], int | float) for row in rows)
        drawn.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        drawn.add_row(*(_text(cell) for cell in row))
    console.print(drawn)


def _text(cell: object) -> str:
    if isinstance(cell, bool) or not isinstance(cell, int | float):
        return str(cell)
    return f"{cell:,}" if isinstance(cell, int) else f"{cell:,.2f}"


@contextmanager
def progress_bar(title: str) -> Iterator[PlannerProgress]:
    """A bar on stderr with the time left; yields a function (share done, best value so far)."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[best]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal) as bar:
        task = bar.add_task(title, total=1.0, best="")

        def tell(share: float, best: float) -> None:
            raise_owed()
            bar.update(task, completed=share, best=f"{best:.1f} ms")

        yield tell


@contextmanager
def work_bar() -> Iterator[WorkProgress]:
    """A bar on stderr with the time left or, if nobody watches, a line from time to time."""
    shown = Progress(
        TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"), console=errors, transient=True, disable=not errors.is_terminal,
    )  # fmt: skip
    with shown as bar:
        task = bar.add_task("", total=1.0, left="")
        last = -1.0

        def tell(what: str, share: float, left_s: float) -> None:
            nonlocal last
            raise_owed()
            left = f"about {_span(left_s)} left" if share < 1.0 else "done"
            bar.update(task, completed=share, description=what, left=left)
            if not errors.is_terminal and (share >= 1.0 or share - last >= _LINE_EVERY):
                errors.print(f"{share:.0%} {what}, {left}")
                last = share

        yield tell


def _span(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{seconds:.0f} s" if seconds < 90 else f"{minutes} min" if minutes < 90 else f"{minutes / 60:.1f} h"
