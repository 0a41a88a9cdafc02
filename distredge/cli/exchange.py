"""`distredge profile-import`, `profile-export`: figures from elsewhere become a profile, and a profile figures."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from distredge.cli.models import InputShape, load
from distredge.cli.output import JsonFlag, Seed, console, emit
from distredge.errors import InputError
from distredge.model.graph import LayerGraph
from distredge.profiles.measured import TableFile
from distredge.profiles.store import load_profile
from distredge.resources import check_writable, write_atomically

Model = Annotated[str, typer.Option("--model", metavar="MODEL", help="A zoo name or the path of an .onnx file.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("profile-import")(profile_import)
    app.command("profile-export")(profile_export)


def profile_import(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="What was measured, or predicted, elsewhere.")],
    format: Annotated[
        Literal["csv", "nn-meter", "ort", "trtexec"],
        typer.Option(help="Own CSV; nn-Meter's kernel data; ONNX Runtime's profile; or what trtexec exports."),
    ],
    model: Model,
    name: Annotated[str, typer.Option(help="Name of the profile.")],
    out: Annotated[Path, typer.Option(help="Folder that the profile is written to, or added to.")],
    device: Annotated[str, typer.Option(help="On which device it was measured.")] = "not known",
    runtime: Annotated[str | None, typer.Option(help="By which runtime; the format's own if not given.")] = None,
    runtime_version: Annotated[str, typer.Option(help="Its version.")] = "",
    threads: Annotated[int, typer.Option(min=0, help="How many it used; 0: not known.")] = 0,
    precision: Annotated[
        Literal["FP32", "FP16", "INT8"] | None,
        typer.Option(help="In which it computed; what the files tell, else FP32, if not given."),
    ] = None,
    input_shape: InputShape = None,
    as_json: JsonFlag = False,
    seed: Seed = 0,
) -> None:
    """Make a measured profile of figures from elsewhere: a CSV of your own, nn-Meter, ONNX Runtime, trtexec.

    A profile of that name is added to if it is of the same device, runtime and precision; figures are never replaced.

    Example: distredge profile-import board.csv --format csv --model vgg16 --name board --out profiles-here
    """
    from distredge.measure.imports import import_profile

    if not name or Path(name).name != name:
        raise InputError(f"'{name}' cannot name a profile: give a name without '/'")
    path = out / f"{name}.json"
    check_writable(path)
    graph = load(model, input_shape)
    file = import_profile(
        files,
        graph,
        format=format,
        name=name,
        device=device,
        runtime=runtime,
        runtime_version=runtime_version,
        precision=precision,
        threads=threads,
        add_to=path,
    )
    file.save(path)
    data = {"file": str(path), **_told(file, graph)}
    emit(as_json, data, lambda: _show_import(data))


def profile_export(
    profile: Annotated[str, typer.Argument(metavar="PROFILE", help="A shipped name or a file.")],
    model: Model,
    granularity: Annotated[int, typer.Option(min=1, help="Every N-th number of rows; 1 and all rows always.")] = 1,
    out: Annotated[Path | None, typer.Option(help="CSV file to write; stdout if not given.")] = None,
    input_shape: InputShape = None,
    as_json: JsonFlag = False,
    seed: Seed = 0,
) -> None:
    """Write what a profile, calibrated or measured, says of a model as CSV: layer, rows, latency; the head has 0 rows.

    Example: distredge profile-export jetson-nano --model vgg16 --granularity 16 --out nano.csv
    """
    from distredge.measure.export import exported, to_csv

    if out:
        check_writable(out)
    found, graph = load_profile(profile), load(model, input_shape)
    rows = list(exported(found, graph, granularity))
    if out:
        write_atomically(out, to_csv(rows))
    elif not as_json:
        sys.stdout.write(to_csv(rows))
        return
    data: dict[str, Any] = {
        "file": str(out) if out else None,
        "name": found.name,
        "kind": found.kind,
        "model": {"name": graph.name, "sha256": graph.sha256},
        "precision": found.precision,
        "rows": [row._asdict() for row in rows],
    }
    emit(as_json, data, lambda: console.print(f"wrote {out}: {len(rows)} figures of {graph.name} by '{found.name}'"))


def _told(file: TableFile, graph: LayerGraph) -> dict[str, Any]:
    """What an imported profile holds and what it lacks, JSON-ready."""
    known = {layer.name for layer in graph.layers if layer.signature in file.layers}
    return {
        "name": file.name,
        "model": {"name": graph.name, "sha256": graph.sha256},
        "subject": file.provenance.subject.model_dump(mode="json"),
        "layers": len(file.layers),
        "points": sum(map(len, file.layers.values())) + len(file.heads),
        "missing": [layer.name for layer in graph.layers if layer.name not in known],
        "notes": list(file.provenance.notes),
    }


def _show_import(data: dict[str, Any]) -> None:
    console.print(f"{data['points']} figures of {data['layers']} kinds of layers; what to know of them:")
    for note in data["notes"]:
        console.print(f"- {note}", markup=False)
    console.print(f"wrote {data['file']}: name it as a provider's profile in a scenario")
