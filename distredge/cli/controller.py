"""`distredge controller`: the service that knows the devices, serves split decisions and follows drift."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import platformdirs
import typer

from distredge.cli.output import JsonFlag, Seed, console, errors
from distredge.errors import InputError, needing
from distredge.logs import Form, Level, start_logging

StateFile = Annotated[
    Path | None, typer.Option("--state", metavar="FILE", help="SQLite file; by default in the user's data folder.")
]


def default_state() -> Path:
    """The state file unless another one is given."""
    return Path(platformdirs.user_data_dir("distredge")) / "controller.sqlite"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("controller")(controller)


def controller(
    listen: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Port 0: any free one. Beyond this machine: with TLS and tokens.")
    ] = "127.0.0.1:8780",
    state: StateFile = None,
    models: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of .onnx files: models that the zoo has not.")
    ] = None,
    tls_cert: Annotated[Path | None, typer.Option(metavar="FILE", help="Certificate chain, PEM.")] = None,
    tls_key: Annotated[Path | None, typer.Option(metavar="FILE", help="Its key, PEM, without a password.")] = None,
    host_name: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="It answers under this name too; may be repeated.")
    ] = None,
    log_level: Annotated[Level, typer.Option(help="From which level up it logs, on stderr.")] = "info",
    log_format: Annotated[Form, typer.Option(help="Plain lines, or a JSON object a line.")] = "text",
    as_json: JsonFlag = False,
    seed: Seed = 0,
) -> None:
    """Serve decisions, follow devices and streams, and plan anew when the network has changed, until interrupted.

    Example: distredge controller --listen 127.0.0.1:8780
    """
    with needing("the controller", "controller"):
        from distredge.controller.serve import Settings, serve

    if models is not None and not models.is_dir():
        raise InputError(f"--models '{models}' is no folder")
    start_logging(log_level, log_format)
    file = state or default_state()

    def started(url: str, is_open: bool) -> None:
        if is_open:
            errors.print(
                "there are no tokens: whoever can reach this machine's loopback may do everything", soft_wrap=True
            )
        if as_json:
            print(json.dumps({"url": url, "state": str(file)}), flush=True)
        else:
            console.print(f"controller at {url}, state in {file}", soft_wrap=True)

    serve(Settings(listen, file, models, tls_cert, tls_key, tuple(host_name or ())), started)
