"""`distredge models`, `distredge inspect`: what can be planned, and what it consists of."""

from __future__ import annotations

from typing import Annotated

import typer

from distredge.cli.output import JsonFlag, Seed, console, emit, errors, table
from distredge.model.graph import LayerGraph
from distredge.model.load import load_model

Model = Annotated[str, typer.Argument(metavar="MODEL", help="A zoo name or the path of an .onnx file.")]


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


def inspect(model: Model, as_json: JsonFlag = False, seed: Seed = 0) -> None:
    """Show a model's fused layers, partition points and head.

    Example: distredge inspect resnet50
    """
    graph = load_model(model)
    data = describe(graph)
    layers = data["layers"]
    assert isinstance(layers, list)

    def show() -> None:
        columns = ["name", "op", "out_shape", "kernel", "stride", "macs", "params", "inputs"]
        table(f"{graph.name}: {len(graph.layers)} layers", columns, [[_cell(x[c]) for c in columns] for x in layers])
        console.print(f"a layer-volume may begin at: {', '.join(graph.layers[p].name for p in graph.partition_points)}")
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
            }
            for layer in graph.layers
        ],
        "partition_points": [graph.layers[p].name for p in graph.partition_points],
        "head": [{"name": n, "op": op} for n, op in zip(graph.head.nodes, graph.head.ops, strict=True)],
    }


def _cell(value: object) -> object:
    return "x".join(str(v) for v in value) if isinstance(value, list) and value and isinstance(value[0], int) else (
        ", ".join(value) if isinstance(value, list) else value
    )  # fmt: skip
