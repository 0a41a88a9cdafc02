"""`distredge provider`: a service provider in this process.

It is parsed by Python's own argparse. Typer, and Pydantic under it, would be seven packages more on each device and, on
a slow one, half of the time that a provider takes to start.
"""

from __future__ import annotations

import json
from argparse import SUPPRESS, ArgumentParser, ArgumentTypeError, Namespace, RawDescriptionHelpFormatter
from pathlib import Path
from typing import NoReturn, get_args

from distredge.cli.command_line import exit_code, run_and_exit
from distredge.errors import InputError
from distredge.logs import Form, Level, start_logging

SUMMARY = "Serve split-parts to requesters, one after the other, until interrupted."

_EXAMPLE = "Example: distredge provider --name nano-0 --listen 0.0.0.0:5701 --keys keys"


def main() -> None:
    """Run the command of `sys.argv`, which is this one, and leave with its exit code."""
    run_and_exit(run)


def run(arguments: list[str]) -> int:
    """Run `provider ...`; returns 0, 1 (failed while running) or 2 (bad input), after one line on stderr."""
    return exit_code(lambda: _serve(arguments[1:]))


class _Parser(ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """As all commands do it: one line, exit code 2."""
        raise InputError(f"{message} (see {self.prog} --help)")


def _parser() -> ArgumentParser:
    parser = _Parser(
        prog="distredge provider",
        description=f"{SUMMARY}\n\n{_EXAMPLE}",
        formatter_class=RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--name", required=True, help="its name in scenarios and plans")
    where = "where it listens, by default %(default)s; port 0: any free one; beyond this machine: with --keys"
    add("--listen", metavar="HOST:PORT", default="127.0.0.1:5701", help=where)
    add("--keys", type=Path, metavar="DIR", help="folder with its key pair and the public keys of those it trusts")
    add("--memory-mb", type=_megabytes, metavar="MB", help="it refuses a plan with which it would take more")
    add("--controller", metavar="URL", help="tell the controller there that it is here")
    add("--token", type=Path, metavar="FILE", help="file with a token of the role `device` for the controller")
    add("--ca", type=Path, metavar="FILE", help="certificates by which the controller is known, besides the system's")
    add("--log-level", choices=get_args(Level), default="info", help="from which level up it logs, on stderr")
    add("--log-format", choices=get_args(Form), default="text", help="plain lines, or a JSON object a line")
    add("--json", action="store_true", help="print where it listens as a JSON document")
    add("--seed", type=int, default=0, help="taken as by every command; nothing here is random")
    add("--until-stdin-closes", action="store_true", help=SUPPRESS)
    return parser


def _megabytes(text: str) -> float:
    value = float(text)
    if not 1.0 <= value < float("inf"):
        raise ArgumentTypeError(f"{text} is not 1 MB or more")
    return value


def _serve(arguments: list[str]) -> int:
    try:
        options = _parser().parse_args(arguments)
    except SystemExit:  # after --help
        return 0
    from distredge.control.client import Api
    from distredge.runtime.provider import serve_provider  # which --help does not need

    start_logging(options.log_level, options.log_format)
    serve_provider(
        options.name,
        options.listen,
        options.keys,
        lambda address: print(_announcement(options, address), flush=True),
        options.until_stdin_closes,
        options.memory_mb,
        Api(options.controller, options.token, options.ca) if options.controller else None,
    )
    return 0


def _announcement(options: Namespace, address: str) -> str:
    if options.json:
        return json.dumps({"name": options.name, "address": address})
    return f"provider '{options.name}' listens at {address}"
