"""Runs a command line and turns what goes wrong into one line and an exit code."""

from __future__ import annotations

import signal
import sys

import typer

from distredge.cli.interrupts import interrupt, lost_exception, was_interrupted
from distredge.errors import DistrEdgeError

_UsageProblem: type[Exception] = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")

INTERRUPTED = 130
"""Exit code after Ctrl-C."""


def new_app() -> typer.Typer:
    """A command line without commands."""
    return typer.Typer(
        name="distredge",
        help="Shares one CNN inference among unequal devices by rows, without changing its result.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )


def run_and_exit(app: typer.Typer) -> None:
    """Run the command of `sys.argv` and leave with its exit code; being terminated cleans up as Ctrl-C does."""
    signal.signal(signal.SIGINT, interrupt)
    sys.unraisablehook = lost_exception
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    sys.exit(run(app, sys.argv[1:]))


def run(app: typer.Typer, arguments: list[str]) -> int:
    """Run a command; returns 0, 1 (failed while running) or 2 (bad input), after one line on stderr for an error."""
    try:
        code = typer.main.get_command(app).main(args=arguments, prog_name="distredge", standalone_mode=False)
    except DistrEdgeError as exc:
        return _fail(str(exc), exc.exit_code)
    except _UsageProblem as exc:
        return _fail(f"{exc.format_message()} (see distredge {_command(arguments)}--help)", 2)  # type: ignore[attr-defined]
    except typer.Abort:
        return _fail("interrupted", INTERRUPTED)
    except OSError as exc:
        return _fail(f"{exc.filename or ''}: {exc.strerror or exc}".lstrip(": "), 1)
    except Exception:
        if was_interrupted():
            return _fail("interrupted", INTERRUPTED)
        raise
    if code == INTERRUPTED:  # typer's answer to Ctrl-C
        return _fail("interrupted", INTERRUPTED)
    return code if isinstance(code, int) else 0


def _command(arguments: list[str]) -> str:
    return f"{arguments[0]} " if arguments and not arguments[0].startswith("-") else ""


def _fail(message: str, code: int) -> int:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return code
