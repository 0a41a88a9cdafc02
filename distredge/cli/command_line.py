"""Runs a command and turns what goes wrong into one line and an exit code; without what parses commands."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable

from distredge.cli.interrupts import interrupt, lost_exception, was_interrupted
from distredge.errors import DistrEdgeError

INTERRUPTED = 130
"""Exit code after Ctrl-C."""


def run_and_exit(run: Callable[[list[str]], int]) -> None:
    """Run the command of `sys.argv` and leave with its exit code; being terminated cleans up as Ctrl-C does."""
    signal.signal(signal.SIGINT, interrupt)
    sys.unraisablehook = lost_exception
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    sys.exit(run(sys.argv[1:]))


def exit_code(command: Callable[[], int]) -> int:
    """What a command returns, or 1 (failed while running) or 2 (bad input), after one line on stderr for an error."""
    try:
        return command()
    except DistrEdgeError as exc:
        return fail(str(exc), exc.exit_code)
    except OSError as exc:
        return fail(f"{exc.filename or ''}: {exc.strerror or exc}".lstrip(": "), 1)
    except Exception:
        if was_interrupted():
            return fail("interrupted", INTERRUPTED)
        raise


def fail(message: str, code: int) -> int:
    """Print an error as one line; returns `code`."""
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return code
