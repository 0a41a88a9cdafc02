"""The command line: thin; every command parses, calls and prints."""

from __future__ import annotations

from distredge.cli import (
    compare,
    exchange,
    experiment,
    general,
    link,
    models,
    moving,
    pareto,
    planning,
    profiles,
    query,
    quickstart,
    running,
    sweep,
    testbed,
    trace,
    training,
)
from distredge.cli.command_line import new_app, run_and_exit
from distredge.cli.command_line import run as run_line

app = new_app()
PARTS = (
    *(quickstart, models, profiles, exchange, link, planning, training, general, moving, pareto),
    *(compare, experiment, sweep, query, running, trace, testbed),
)
for commands in PARTS:
    commands.register(app)


def main() -> None:
    """Run the command of `sys.argv` and leave with its exit code."""
    run_and_exit(app)


def run(arguments: list[str]) -> int:
    """Run a command; see `command_line.run`."""
    return run_line(app, arguments)
