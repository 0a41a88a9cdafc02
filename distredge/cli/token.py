"""`distredge token`: who may speak to the controller."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from distredge.cli.controller import StateFile, default_state
from distredge.cli.output import JsonFlag, Seed, console, emit, errors, table
from distredge.control.schema import Role
from distredge.errors import needing

if TYPE_CHECKING:
    from distredge.controller.store import Store

Name = Annotated[str, typer.Argument(help="Whose it is.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    tokens = typer.Typer(help="Tokens by which the controller knows who may do what.", no_args_is_help=True)
    tokens.command("add")(add)
    tokens.command("list")(list_tokens)
    tokens.command("remove")(remove)
    app.add_typer(tokens, name="token")


def add(
    name: Name,
    role: Annotated[Role, typer.Option(help="device: registers and streams; reader: looks; operator: everything.")],
    state: StateFile = None,
    as_json: JsonFlag = False,
    seed: Seed = 0,
) -> None:
    """Make a token and print it: it is kept nowhere. A controller that runs knows it within a second.

    Example: distredge token add nano-0 --role device > nano-0.token
    """
    with _opened(state) as store:
        from distredge.controller.auth import new_token

        secret = new_token(store, name, role)
    emit(as_json, {"name": name, "role": role, "token": secret}, lambda: print(secret))


def list_tokens(state: StateFile = None, as_json: JsonFlag = False, seed: Seed = 0) -> None:
    """List whose tokens there are.

    Example: distredge token list
    """
    with _opened(state) as store:
        tokens = store.tokens()
    data = [{"name": t.name, "role": t.role, "created": _when(t.created_s)} for t in tokens]
    emit(as_json, data, lambda: table("tokens", ["name", "role", "created"], [list(d.values()) for d in data]))


def remove(name: Name, state: StateFile = None, as_json: JsonFlag = False, seed: Seed = 0) -> None:
    """Withdraw a token; a controller that runs refuses it within a second.

    Example: distredge token remove nano-0
    """
    with _opened(state) as store:
        store.remove_token(name)
        left = len(store.tokens())
    if not left:
        errors.print("no token is left: on loopback the controller is open to everybody now", soft_wrap=True)
    emit(as_json, {"removed": name, "left": left}, lambda: console.print(f"removed '{name}', {left} left"))


@contextmanager
def _opened(state: Path | None) -> Iterator[Store]:
    with needing("the controller", "controller"):
        from distredge.controller.store import Store

    with closing(Store(state or default_state(), alone=False)) as store:
        yield store


def _when(at_s: float) -> str:
    return datetime.fromtimestamp(at_s, timezone.utc).isoformat(timespec="seconds")
