"""`distredge profile`, `profiles`, `profile-show`, `profile-check`: measure devices, and see what is known of them."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import typer
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from distredge.cli.models import InputShape, Model, load
from distredge.cli.output import JsonFlag, Seed, console, emit, errors, table
from distredge.cli.planning import model_of
from distredge.errors import InputError
from distredge.profiles.board import BoardProfile
from distredge.profiles.check import cross_validation, doubts
from distredge.profiles.store import list_profiles, load_profile
from distredge.profiles.table import TableProfile

if TYPE_CHECKING:
    from distredge.measure.backends import Target
    from distredge.measure.device import Progress
    from distredge.measure.verify import PartCheck
    from distredge.plans.plan import Plan

Threads = Annotated[int, typer.Option("--threads", min=1, max=256, help="Threads of the engine.")]
Backend = Annotated[
    Literal["ort", "torch", "tensorrt", "trtexec"],
    typer.Option(help="ONNX Runtime here; PyTorch here; TensorRT here; or trtexec here or, by --host, over ssh."),
]
Precision = Annotated[
    Literal["FP32", "FP16", "INT8"] | None,
    typer.Option(help="In which to compute; FP16 on a GPU and FP32 on a processor if not given."),
]
Device = Annotated[Literal["cpu", "cuda"], typer.Option(help="Of `--backend torch`.")]
Host = Annotated[
    str | None, typer.Option(help="USER@BOARD of `--backend trtexec`, by ssh; nothing is installed there.")
]
Trtexec = Annotated[str | None, typer.Option(help="Where trtexec is, if it is not found by itself.")]
ProfileName = Annotated[str, typer.Argument(metavar="PROFILE", help="A shipped name or a file.")]
Picture = Annotated[Path | None, typer.Option("--plot", help="Draw latency against rows into this PNG.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("profile")(profile)
    app.command("profiles")(profiles)
    app.command("profile-show")(profile_show)
    app.command("profile-check")(profile_check)


def profile(
    model: Model,
    out: Annotated[Path, typer.Option(help="Folder that the profile is written to, or added to.")],
    backend: Backend = "ort",
    name: Annotated[str | None, typer.Option(help="Name of the profile; that of the machine if not given.")] = None,
    adaptive: Annotated[
        bool, typer.Option("--adaptive", help="As few row counts as --max-error allows (the default).")
    ] = False,
    max_error: Annotated[
        float | None, typer.Option(help="Bound on the error between measured row counts, 0.03 if not given.")
    ] = None,
    granularity: Annotated[int | None, typer.Option(min=1, help="Measure every N-th row count instead.")] = None,
    layers: Annotated[str | None, typer.Option(help="Measure only these layers: names with commas between.")] = None,
    parts: Annotated[int, typer.Option(min=0, help="Random split-parts to measure whole.")] = 16,
    plan: Annotated[Path | None, typer.Option(help="Measure the split-parts of this plan whole as well.")] = None,
    seconds_per_point: Annotated[float, typer.Option(min=0.001, help="To spend on each point.")] = 0.2,
    budget_s: Annotated[
        float | None, typer.Option("--budget-s", min=0.1, help="Seconds after which nothing is refined any more.")
    ] = None,
    threads: Threads = 1,
    precision: Precision = None,
    device: Device = "cpu",
    host: Host = None,
    trtexec: Trtexec = None,
    plot: Picture = None,
    input_shape: InputShape = None,
    as_json: JsonFlag = False,
    seed: Seed = 0,
) -> None:
    """Measure a device: how long it takes for some rows of each layer of a model, and for whole split-parts.

    What the profile already holds is kept, so an interrupted measurement goes on where it stopped.

    Example: distredge profile vgg16 --out profiles-here --name my-pc
    """
    from distredge.measure.backends import Target
    from distredge.measure.device import Campaign, measure_device
    from distredge.measure.row_counts import Adaptive, Every
    from distredge.plans.plan import Plan

    if granularity is not None and (adaptive or max_error is not None):
        raise InputError("--granularity measures every N-th row count: leave out --adaptive and --max-error")
    graph = load(model, input_shape)
    campaign = Campaign(
        row_counts=Every(granularity) if granularity else Adaptive(0.03 if max_error is None else max_error),
        seconds_per_point=seconds_per_point,
        budget_s=budget_s,
        layers=tuple(part.strip() for part in layers.split(",")) if layers else None,
        parts=parts,
        plan=Plan.load(plan) if plan else None,
    )
    target = Target(backend, threads, precision, device, host, trtexec)
    rng = np.random.default_rng(seed)
    if name is None:
        name = (host or platform.node() or "this-machine").rpartition("@")[2]
    with target.open(rng) as bench, _bar("measuring") as tell:
        measured = measure_device(graph, bench, name=name, out=out, rng=rng, campaign=campaign, progress=tell)
    rows = {
        layer.signature: layer.height for layer in graph.layers if not layers or layer.name in (campaign.layers or ())
    }
    data = {"file": str(out / f"{name}.json"), **quality(measured, rows)}
    if plot:
        from distredge.plots import draw_profiles

        draw_profiles([measured], graph, plot)
        data["plot"] = str(plot)
    emit(as_json, data, lambda: _show_quality(data))


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
    profile: ProfileName,
    model: Annotated[str | None, typer.Option(help="Whose layers to draw, with --plot.")] = None,
    compare: Annotated[str | None, typer.Option(help="Other profiles to draw beside it: names with commas.")] = None,
    plot: Picture = None,
    input_shape: InputShape = None,
    as_json: JsonFlag = False,
    seed: Seed = 0,
) -> None:
    """Show where a profile's figures come from and how far off they are; draw latency against rows.

    Example: distredge profile-show jetson-nano --model vgg16 --compare jetson-tx2 --plot nano.png
    """
    found = load_profile(profile)
    data: dict[str, Any] = {"name": found.name, "kind": found.kind, **found.provenance()}
    if plot:
        from distredge.plots import draw_profiles

        if model is None:
            raise InputError("--plot needs --model: the network whose layers are drawn")
        others = [load_profile(other.strip()) for other in compare.split(",")] if compare else []
        draw_profiles([found, *others], load(model, input_shape), plot)
        data["plot"] = str(plot)
    elif model or compare:
        raise InputError("--model and --compare are for a picture: add --plot FILE.png")
    emit(as_json, data, lambda: console.print_json(data=data))


def profile_check(
    profile: ProfileName,
    plan: Annotated[
        Path | None, typer.Option(help="Measure this plan's split-parts here and now, and compare with the profile.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="The plan's model, if it is not in the zoo.")] = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="Draw fits and residuals into this PNG.")] = None,
    threads: Threads = 1,
    backend: Backend = "ort",
    precision: Precision = None,
    device: Device = "cpu",
    host: Host = None,
    trtexec: Trtexec = None,
    as_json: JsonFlag = False,
    seed: Seed = 0,
) -> None:
    """Check a profile: how far off each representation is, what speaks against it; with a plan, against this device.

    Example: distredge profile-check profiles-here/my-pc.json
    """
    found = load_profile(profile)
    if isinstance(found, BoardProfile):
        if plan or plot:
            raise InputError(f"'{found.name}' was not measured: --plan and --plot are for measured profiles")
        data = _board_check(found)
        emit(as_json, data, lambda: _show_board_check(data))
        return
    assert isinstance(found, TableProfile)
    data = {
        "name": found.name,
        "kind": found.kind,
        "representation": found.representation,
        "cross_validation": cross_validation(found),
        "fusion": found.file.fusion.model_dump(mode="json") if found.file.fusion else None,
        "notes": found.file.provenance.notes,
        "doubts": doubts(found.file),
    }
    if plan:
        from distredge.measure.backends import Target
        from distredge.plans.plan import Plan

        rng = np.random.default_rng(seed)
        target = Target(backend, threads, precision, device, host, trtexec)
        data["plan"] = _plan_check(found, Plan.load(plan), model, target, rng)
    if plot:
        from distredge.plots import draw_residuals

        draw_residuals(found, plot)
        data["plot"] = str(plot)
    emit(as_json, data, lambda: _show_check(data))


@contextmanager
def _bar(title: str) -> Iterator[Progress]:
    """A bar on stderr with points done and the time left."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=errors, transient=True, disable=not errors.is_terminal) as bar:
        task = bar.add_task(title, total=None)

        def tell(done: int, total: int, what: str) -> None:
            bar.update(task, completed=done, total=total, description=f"{title} {what}")

        yield tell


def quality(measured: TableProfile, heights: dict[str, int]) -> dict[str, Any]:
    """How far a measured profile can be trusted, and how many points of the layers' rows it took."""
    file = measured.file
    timings = [t for layer in file.layers.values() for t in layer]
    mine = [len(file.layers[signature]) for signature in heights]
    told = measured.provenance()
    return {
        "name": measured.name,
        "layers": len(file.layers),
        "points": len(timings) + len(file.heads),
        "row_points": sum(mine),
        "rows": sum(heights.values()),
        "share_of_rows": round(sum(mine) / max(sum(heights.values()), 1), 4),
        "fused_parts": len(file.parts),
        "median_cv": round(float(np.median([t.cv for t in timings])), 4),
        "drift": told["drift"],
        "unsteady": told["unsteady"],
        "representation": measured.representation,
        "cross_validation": cross_validation(measured),
        "fusion": told["fusion"],
        "notes": file.provenance.notes,
        "doubts": doubts(file),
    }


def _show_quality(data: dict[str, Any]) -> None:
    console.print(
        f"{data['row_points']} of {data['rows']} row counts measured ({data['share_of_rows']:.1%}), "
        f"{data['fused_parts']} split-parts; median coefficient of variation {data['median_cv']:.1%}"
        + (f", drift of the sentinel {data['drift']:.1%}" if isinstance(data["drift"], float) else "")
    )
    _show_errors(data)
    console.print(f"wrote {data['file']}: name it as a provider's profile in a scenario")


def _show_errors(data: dict[str, Any]) -> None:
    if data["cross_validation"]:
        rows = [
            [
                ("* " if name == data["representation"] else "") + name,
                *(f"{e[key]:.2%}" for key in ("median", "mean", "p90")),
            ]
            for name, e in data["cross_validation"].items()
        ]
        table("Error where left out (* in use)", ["representation", "median", "mean", "p90"], rows)
    if data["fusion"]:
        fusion = data["fusion"]
        console.print(
            f"split-parts that were left out: off by {fusion['error_median']:.1%} (median), {fusion['error_p90']:.1%} "
            f"(p90); by the plain sum of their layers {fusion['error_median_unfused']:.1%} (median)"
        )
    for note in data["notes"]:
        console.print(f"note: {note}")
    for doubt in data["doubts"]:
        console.print(f"doubtful: {doubt}")


def _plan_check(
    found: TableProfile, plan: Plan, model: str | None, target: Target, rng: np.random.Generator
) -> dict[str, Any]:
    from distredge.measure.verify import check_plan

    graph = model_of(plan, model)
    with target.open(rng) as bench, _bar("measuring") as tell:
        checks = check_plan(found, graph, plan, bench, rng, progress=tell)
    off = np.abs([check.error for check in checks])
    return {
        "parts": [_part(check) for check in checks],
        "error_median": round(float(np.median(off)), 4),
        "error_p90": round(float(np.quantile(off, 0.9)), 4),
    }


def _part(check: PartCheck) -> dict[str, Any]:
    return {
        "part": check.part,
        "predicted_ms": round(check.predicted_ms, 4),
        "measured_ms": round(check.measured_ms, 4),
        "error": round(check.error, 4),
    }


def _show_check(data: dict[str, Any]) -> None:
    console.print(f"{data['name']}: measured, read off by {data['representation']}")
    _show_errors(data)
    if "plan" in data:
        rows = [[p["part"], p["predicted_ms"], p["measured_ms"], f"{p['error']:+.1%}"] for p in data["plan"]["parts"]]
        table("Split-parts of the plan", ["part", "predicted ms", "measured ms", "error"], rows)
        console.print(
            f"error of split-parts: median {data['plan']['error_median']:.1%}, p90 {data['plan']['error_p90']:.1%}"
        )


def _board_check(board: BoardProfile) -> dict[str, Any]:
    """A calibrated board's figures, and how far each is off if the fit does not see it."""
    figures = board.provenance()["figures"]
    assert isinstance(figures, list)
    left_out = [abs(f["leave_one_out"]) for f in figures]
    return {
        "name": board.name,
        "kind": board.kind,
        "figures": figures,
        "leave_one_out_median": round(float(np.median(left_out)), 4) if left_out else None,
        "doubts": ["calibrated on published figures, not measured on the device"],
    }


def _show_board_check(data: dict[str, Any]) -> None:
    rows = [
        [f["model"], f["published_ms"], f["predicted_ms"], f"{f['residual']:+.1%}", f"{f['leave_one_out']:+.1%}"]
        for f in data["figures"]
    ]
    table(f"{data['name']}: published figures", ["model", "published ms", "predicted ms", "residual", "left out"], rows)
    for doubt in data["doubts"]:
        console.print(f"doubtful: {doubt}")


def _told(row: dict[str, object], key: str) -> object:
    provenance = row["provenance"]
    assert isinstance(provenance, dict)
    return provenance.get(key, "")
