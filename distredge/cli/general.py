"""`distredge train-general`: trains the agent for any cluster and model that is shipped in `agents/`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from distredge.cli.output import JsonFlag, Seed, emit, table, work_bar
from distredge.cli.planning import Budget
from distredge.errors import needing
from distredge.resources import check_writable


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("train-general")(train_general)


def train_general(
    out: Annotated[Path, typer.Option(help="The file to write; the checkpoint stands beside it.")],
    settings: Annotated[str, typer.Option(help="default, or a YAML file.")] = "default",
    budget_s: Budget = None,
    logs: Annotated[Path | None, typer.Option(help="Folder for TensorBoard's logs.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint.")] = False,
    as_json: JsonFlag = False,
    seed: Seed = 0,
) -> None:
    """Train one agent for any cluster and model, on random clusters and several models.

    Example: distredge train-general --out general.safetensors --budget-s 1800
    """
    from distredge.agents.general.settings import load_settings

    with needing("training an agent", "train"):
        from distredge.agents.general.training import train_general as train
    chosen = load_settings(settings)
    check_writable(out)
    extras = ("" if budget_s is None else f" --budget-s {budget_s:g}") + (" --resume" if resume else "")
    began, first = time.perf_counter(), 1.0
    with work_bar() as tell:

        def progress(share: float, over_gold: float) -> None:
            nonlocal first
            first = min(first, share)
            left_s = (time.perf_counter() - began) * (1.0 - share) / max(share - first, 1e-3)
            tell(f"training, {over_gold:.3f} times gold", share, left_s)

        policy = train(
            chosen,
            seed,
            out,
            command=f"distredge train-general --settings {settings} --seed {seed}{extras}",
            budget_s=budget_s,
            logs=logs,
            resume=resume,
            progress=progress,
        )
    data = {
        "file": str(out),
        "steps": policy.about.steps,
        **policy.about.figures,
        "seconds": time.perf_counter() - began,
    }
    emit(as_json, data, lambda: table("the general agent", ["", "value"], [list(item) for item in data.items()]))
