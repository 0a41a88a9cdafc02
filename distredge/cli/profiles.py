"""`distredge profile`, `profiles`, `profile-show`: measure this device, and see what is known of others."""

from __future__ import annotations

from typing import Annotated

import typer

from distredge.cli.output import JsonFlag, Seed, console, emit, table
from distredge.profiles.store import list_profiles, load_profile


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("profiles")(profiles)
    app.command("profile-show")(profile_show)


def profiles(as_json: JsonFlag = False, seed: Seed = 0) -> None:
    """List the shipped device profiles.

    Example: distredge profiles
    """
    data = list_profiles()

    def show() -> None:
        columns = list(data[0])
        table("Device profiles", columns, [[str(row[c]) for c in columns] for row in data])

    emit(as_json, data, show)


def profile_show(
    profile: Annotated[str, typer.Argument(metavar="PROFILE", help="A shipped name or a file.")],
    as_json: JsonFlag = False,
    seed: Seed = 0,
) -> None:
    """Show where a profile's figures come from and how far off they are.

    Example: distredge profile-show jetson-nano
    """
    found = load_profile(profile)
    data = {"name": found.name, "kind": found.kind, **found.provenance()}
    emit(as_json, data, lambda: console.print_json(data=data))
