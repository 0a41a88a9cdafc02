"""`distredge profile`, `profiles`, `profile-show`: measure this device, and see what is known of others."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from distredge.cli.models import InputShape, Model, load
from distredge.cli.output import JsonFlag, Seed, console, emit, errors, table
from distredge.profiles.store import list_profiles, load_profile
from distredge.profiles.table import TableProfile

Threads = Annotated[int, typer.Option("--threads", min=1, max=256, help="Threads of the engine.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("profile")(profile)
    app.command("profiles")(profiles)
    app.command("profile-show")(profile_show)


def profile(
    model: Model,
    out: Annotated[Path, typer.Option(help="Folder that the profile is written to, or added to.")],
    backend: Annotated[Literal["ort"], typer.Option(help="ort: ONNX Runtime on this machine's processor.")] = "ort",
    name: Annotated[str, typer.Option(help="Name of the profile.")] = platform.node() or "this-machine",
    effort: Annotated[
        Literal["quick", "default"], typer.Option(help="How many row counts a layer, for how long.")
    ] = "default",
    budget_s: Annotated[float | None, typer.Option("--budget-s", min=0.1, help="Seconds to spend at most.")] = None,
    threads: Threads = 1,
    input_shape: InputShape = None,
    as_json: JsonFlag = False,
    seed: Seed = 0,
) -> None:
    """Measure this machine: how long it takes for some rows of each layer of a model.

    What the profile already holds is kept, so an interrupted measurement goes on where it stopped.

    Example: distredge profile vgg16 --out profiles-here --name my-pc
    """
    from distredge.measure.device import EFFORTS, measure_device

    graph = load(model, input_shape)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal) as bar:
        task = bar.add_task("measuring", total=None)

        def tell(done: int, total: int, what: str) -> None:
            bar.update(task, completed=done, total=total, description=f"measuring {what}")

        measured = measure_device(
            graph,
            name=name,
            out=out,
            rng=np.random.default_rng(seed),
            threads=threads,
            points=EFFORTS[effort].points,
            seconds_per_point=EFFORTS[effort].seconds_per_point,
            budget_s=budget_s,
            progress=tell,
        )
    data = {"file": str(out / f"{name}.json"), **quality(measured)}
    emit(as_json, data, lambda: _show_quality(data, measured))


def profiles(as_json: JsonFlag = False, seed: Seed = 0) -> None:
    """List the shipped device profiles.

    Example: distredge profiles
    """
    data = list_profiles()

    def show() -> None:
        rows = [[row["name"], row["kind"], _told(row, "device"), _told(row, "runtime")] for row in data]
        table("Device profiles", ["name", "kind", "device", "runtime"], rows)
        console.print("calibrated: an analytic model fitted to published figures, not measured on the device")

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


def quality(measured: TableProfile) -> dict[str, object]:
    """How far a measured profile can be trusted."""
    timings = [t for layer in measured.file.layers.values() for t in layer] + list(measured.file.heads.values())
    told = measured.provenance()
    return {
        "name": measured.name,
        "layers": len(measured.file.layers),
        "points": len(timings),
        "median_cv": float(np.median([t.cv for t in timings])),
        "drift": told["drift"],
        "unsteady": told["unsteady"],
    }


def _show_quality(data: dict[str, object], measured: TableProfile) -> None:
    unsteady, drift = data["unsteady"], data["drift"]
    assert isinstance(unsteady, list)
    console.print(
        f"{data['points']} points of {data['layers']} layers; median coefficient of variation {data['median_cv']:.1%}"
        + (f", drift of the sentinel {drift:.1%}" if isinstance(drift, float) else "")
    )
    if unsteady:
        console.print(f"{len(unsteady)} points varied by more than 5 %, for example: {unsteady[0]}")
    console.print(f"wrote {data['file']}: name it as a provider's profile in a scenario")


def _told(row: dict[str, object], key: str) -> object:
    provenance = row["provenance"]
    assert isinstance(provenance, dict)
    return provenance.get(key, "")
