"""`distredge provider`, `run`, `up`, `keys`: execute a plan on real devices or on processes of this machine."""

from __future__ import annotations

import typer


def register(app: typer.Typer) -> None:
    """Add the commands."""
