"""`distredge provider`: a service provider in this process. Alone it needs only what a device has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from distredge.cli.command_line import new_app, run_and_exit
from distredge.cli.options import JsonFlag, Seed
from distredge.logs import Form, Level, start_logging

Name = Annotated[str, typer.Option("--name", help="Its name in scenarios and plans.")]
Listen = Annotated[
    str,
    typer.Option(
        "--listen",
        metavar="HOST:PORT",
        help="Where it listens; port 0: any free one. Beyond this machine: with --keys.",
    ),
]
KeysFolder = Annotated[
    Path | None,
    typer.Option("--keys", metavar="DIR", help="Folder with its key pair and the public keys of those it trusts."),
]
MemoryMb = Annotated[
    float | None, typer.Option("--memory-mb", min=1, help="It refuses plans with which it would take more.")
]
LogLevel = Annotated[Level, typer.Option("--log-level", help="From which level up it logs, on stderr.")]
LogFormat = Annotated[Form, typer.Option("--log-format", help="Plain lines, or a JSON object a line.")]
UntilStdinCloses = Annotated[bool, typer.Option("--until-stdin-closes", hidden=True)]


def main() -> None:
    """Run `distredge provider` without any other command: it starts faster, and a device has no more."""
    app = new_app()
    app.callback()(lambda: None)  # without it the one command would have no name
    app.command("provider")(provider)
    run_and_exit(app)


def provider(
    name: Name,
    listen: Listen = "127.0.0.1:5701",
    keys: KeysFolder = None,
    memory_mb: MemoryMb = None,
    log_level: LogLevel = "info",
    log_format: LogFormat = "text",
    until_stdin_closes: UntilStdinCloses = False,
    as_json: JsonFlag = False,
    seed: Seed = 0,
) -> None:
    """Serve split-parts to requesters, one after the other, until interrupted.

    Example: distredge provider --name nano-0 --listen 0.0.0.0:5701 --keys keys
    """
    from distredge.runtime.provider import serve_provider

    start_logging(log_level, log_format)

    def announce(address: str) -> None:
        line = json.dumps({"name": name, "address": address}) if as_json else f"provider '{name}' listens at {address}"
        print(line, flush=True)

    serve_provider(name, listen, keys, announce, until_stdin_closes, memory_mb)
