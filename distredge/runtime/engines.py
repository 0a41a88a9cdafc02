"""Builds the engines of a provider's stages: real ones, or stand-ins for boards."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from distredge.engine.base import Engine, HeadEngine
from distredge.engine.emulated import EmulatedEngine, EmulatedHead
from distredge.errors import RunError
from distredge.geometry.interval import Interval
from distredge.geometry.split import Volume
from distredge.model.graph import LayerGraph
from distredge.runtime.message import Emulation, Setup, Stage

Engines = Mapping[int, Engine | HeadEngine]
"""Engines by boundary."""


def emulated_engines(setup: Setup, emulation: Emulation) -> Engines:
    """An engine for each stage that holds it for its profiled time."""
    return {
        stage.boundary: EmulatedEngine([(1, *piece.shape) for piece in stage.outputs], hold_ms)
        if stage.layers
        else EmulatedHead(setup.outputs, hold_ms)
        for stage, hold_ms in zip(setup.stages, emulation.hold_ms, strict=True)
    }


def real_engines(setup: Setup, path: Path) -> Engines:
    """An ONNX Runtime engine for each stage of the model at `path`; raises `RunError` if a stage does not fit it."""
    from distredge.engine.onnxruntime import FixedEngine, OrtHead
    from distredge.engine.subgraph import OnnxSource
    from distredge.model.onnx_import import import_onnx

    graph = import_onnx(path, path.stem, setup.model_sha256, input_shape=setup.input_shape)
    source = OnnxSource.of(graph)
    engines: dict[int, Engine | HeadEngine] = {}
    for stage in setup.stages:
        if stage.layers is None:
            engines[stage.boundary] = OrtHead(graph, threads=setup.threads, source=source)
        else:
            volume = Volume(graph, *stage.layers)
            _check(graph, volume, stage)
            engine = engines[stage.boundary] = FixedEngine(volume, threads=setup.threads, source=source)
            engine.prepare(Interval(*stage.out))
    return engines


def _check(graph: LayerGraph, volume: Volume, stage: Stage) -> None:
    """Raise `RunError` if what was announced is no split-part of the model."""
    known = 0 <= volume.start < volume.stop <= len(graph.layers) and volume.start in graph.cut_points
    if not known or not 0 <= stage.out[0] < stage.out[1] <= volume.height:
        raise RunError(f"the model has no rows {stage.out} of a volume of the layers {stage.layers}")
    part = volume.part(Interval(*stage.out))
    for layers, rows, pieces in (
        (volume.entering, part.inputs, stage.inputs),
        (volume.leaving, part.outputs, stage.outputs),
    ):
        if tuple((p.layer, p.rows) for p in pieces) != tuple(
            (i, tuple(r) if r.size else (0, 0)) for i, r in zip(layers, rows, strict=True)
        ):
            raise RunError(f"rows {stage.out} of layer {volume.layers[-1].name} go with other rows of {layers} here")
