"""`distredge`, `python -m distredge`: the command line."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; Ctrl-C while it is still being imported ends in one line as well.

    A provider does not load, and its device need not have, what all other commands import.
    """
    try:
        if sys.argv[1:2] == ["provider"]:
            from distredge.cli.provider_command import main as run_command
        else:
            from distredge.cli.main import main as run_command

        run_command()
    except KeyboardInterrupt:
        _interrupted()
    except RuntimeError as exc:
        if not isinstance(exc.__cause__, KeyboardInterrupt):  # before 3.12, in the middle of a class
            raise
        _interrupted()


def _interrupted() -> None:
    print("error: interrupted", file=sys.stderr)
    sys.exit(130)


if __name__ == "__main__":
    main()
