"""`distredge models`, `distredge inspect`: what can be planned, and what it consists of."""

from __future__ import annotations

from typing import Annotated

import typer

from distredge.cli.output import JsonFlag, Seed, console, emit, errors, table
from distredge.errors import InputError
from distredge.model.graph import LayerGraph
from distredge.model.load import load_model

Model = Annotated[str, typer.Argument(metavar="MODEL", help="A zoo name or the path of an .onnx file.")]
InputShape = Annotated[
    str | None,
    typer.Option("--input-shape", metavar="N,C,H,W", help="Sizes that an .onnx file leaves open, as in 1,3,224,224."),
]


def load(model: str, input_shape: str | None) -> LayerGraph:
    """The model of a command; raises `InputError` if the sizes are none."""
    if input_shape is None:
        return load_model(model)
    try:
        sizes = [int(size) for size in input_shape.split(",")]
    except ValueError as exc:
        raise InputError(f"--input-shape '{input_shape}': give numbers with commas, as in 1,3,224,224") from exc
    return load_model(model, sizes)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("models")(models)
    app.command("inspect")(inspect)


def models(as_json: JsonFlag = False, seed: Seed = 0) -> None:
    """List the models of the zoo; the first call exports them to ONNX.

    Example: distredge models --json
    """
    from distredge.model.zoo import NAMES

    rows = []
    for name in NAMES:
        errors.print(f"loading {name}", style="dim") if errors.is_terminal else None
        graph = load_model(name)
        rows.append(
            {
                "name": name,
                "task": graph.task,
                "input_shape": list(graph.input_shape),
                "layers": len(graph.layers),
                "partition_points": len(graph.partition_points),
                "params": graph.params,
                "macs": graph.macs,
            }
        )
    emit(as_json, rows, lambda: table("Models", list(rows[0]), [list(r.values()) for r in rows]))


def inspect(model: Model, input_shape: InputShape = None, as_json: JsonFlag = False, seed: Seed = 0) -> None:
    """Show a model's fused layers, partition points and head.

    Example: distredge inspect resnet50
    """
    graph = load(model, input_shape)
    data = describe(graph)
    layers = data["layers"]
    assert isinstance(layers, list)

    def show() -> None:
        columns = ["name", "op", "out_shape", "kernel", "stride", "macs", "params", "inputs"]
        table(f"{graph.name}: {len(graph.layers)} layers", columns, [[_cell(x[c]) for c in columns] for x in layers])
        console.print(f"a layer-volume may begin at: {', '.join(graph.layers[p].name for p in graph.partition_points)}")
        if several := [p for p in graph.cut_points if p not in graph.partition_points]:
            console.print(f"several tensors cross at: {', '.join(graph.layers[p].name for p in several)}")
        if whole := [layer.name for layer in graph.layers if layer.whole]:
            console.print(f"cannot be split by rows, and makes its readers wait for all rows: {', '.join(whole)}")
        console.print(f"head: {', '.join(graph.head.nodes) or 'none'}")
        console.print(f"{graph.params:,} parameters, {graph.macs / 1e9:.2f} GMACs, sha256 {graph.sha256}")

    emit(as_json, data, show)


def describe(graph: LayerGraph) -> dict[str, object]:
    """A graph as JSON-ready data."""
    return {
        "name": graph.name,
        "sha256": graph.sha256,
        "task": graph.task,
        "input_shape": list(graph.input_shape),
        "params": graph.params,
        "macs": graph.macs,
        "layers": [
            {
                "name": layer.name,
                "op": layer.op,
                "out_shape": list(layer.out_shape),
                "kernel": list(layer.kernel),
                "stride": list(layer.stride),
                "macs": layer.macs,
                "params": layer.params,
                "inputs": [source.source for source in layer.inputs],
                "whole": layer.whole,
            }
            for layer in graph.layers
        ],
        "partition_points": [graph.layers[p].name for p in graph.partition_points],
        "cut_points": [graph.layers[p].name for p in graph.cut_points],
        "outputs": [{"name": o.name, "shape": list(o.shape), "layer": o.layer} for o in graph.head.outputs],
        "head": [{"name": n, "op": op} for n, op in zip(graph.head.nodes, graph.head.ops, strict=True)],
    }


def _cell(value: object) -> object:
    return "x".join(str(v) for v in value) if isinstance(value, list) and value and isinstance(value[0], int) else (
        ", ".join(value) if isinstance(value, list) else value
    )  # fmt: skip
