"""The command line: thin; every command parses, calls and prints."""

from __future__ import annotations

import typer

from distredge.cli import (
    compare,
    controller,
    deploy,
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
    token,
    trace,
    training,
)
from distredge.cli.command_line import INTERRUPTED, exit_code, fail, run_and_exit

_UsageProblem: type[Exception] = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")

app = typer.Typer(
    name="distredge",
    help="Shares one CNN inference among unequal devices by rows, without changing its result.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
PARTS = (
    *(quickstart, models, profiles, exchange, link, planning, training, general, moving, pareto),
    *(compare, experiment, sweep, query, running, deploy, trace, testbed, controller, token),
)
for commands in PARTS:
    commands.register(app)


def main() -> None:
    """Run the command of `sys.argv` and leave with its exit code."""
    run_and_exit(run)


def run(arguments: list[str]) -> int:
    """Run a command; returns 0, 1 (failed while running) or 2 (bad input), after one line on stderr for an error."""
    return exit_code(lambda: _call(arguments))


def _call(arguments: list[str]) -> int:
    try:
        code = typer.main.get_command(app).main(args=arguments, prog_name="distredge", standalone_mode=False)
    except _UsageProblem as exc:
        return fail(f"{exc.format_message()} (see distredge {_command(arguments)}--help)", 2)  # type: ignore[attr-defined]
    except typer.Abort:
        return fail("interrupted", INTERRUPTED)
    if code == INTERRUPTED:  # typer's answer to Ctrl-C
        return fail("interrupted", INTERRUPTED)
    return code if isinstance(code, int) else 0


def _command(arguments: list[str]) -> str:
    return f"{arguments[0]} " if arguments and not arguments[0].startswith("-") else ""
