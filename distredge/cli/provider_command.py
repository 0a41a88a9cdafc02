"""`distredge provider`: a service provider in this process."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Annotated

import typer

from distredge.cli.output import JsonFlag, Seed

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
UntilStdinCloses = Annotated[bool, typer.Option("--until-stdin-closes", hidden=True)]


def provider(
    name: Name,
    listen: Listen = "127.0.0.1:5701",
    keys: KeysFolder = None,
    until_stdin_closes: UntilStdinCloses = False,
    as_json: JsonFlag = False,
    seed: Seed = 0,
) -> None:
    """Serve split-parts to requesters, one after the other, until interrupted.

    Example: distredge provider --name nano-0 --listen 0.0.0.0:5701 --keys keys
    """
    from distredge.runtime.provider import serve_provider

    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO)

    def announce(address: str) -> None:
        line = json.dumps({"name": name, "address": address}) if as_json else f"provider '{name}' listens at {address}"
        print(line, flush=True)

    serve_provider(name, listen, keys, announce, until_stdin_closes)
