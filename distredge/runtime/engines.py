"""Builds the engines of a provider's stages: real ones, or stand-ins for boards."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from distredge.engine.base import Engine, HeadEngine
from distredge.engine.emulated import EmulatedEngine, EmulatedHead
from distredge.errors import RunError
from distredge.geometry.interval import Interval
from distredge.geometry.split import SplitPart, Volume
from distredge.model.graph import LayerGraph
from distredge.runtime.message import Emulation, Setup, Stage

Engines = Mapping[int, Engine | HeadEngine]
"""Engines by boundary."""


def emulated_engines(setup: Setup, emulation: Emulation) -> Engines:
    """An engine for each stage that holds it for its profiled time."""
    return {
        stage.boundary: EmulatedEngine((1, *stage.out_shape), hold_ms)
        if stage.out_shape
        else EmulatedHead(setup.outputs, hold_ms)
        for stage, hold_ms in zip(setup.stages, emulation.hold_ms, strict=True)
    }


def real_engines(setup: Setup, path: Path) -> Engines:
    """An ONNX Runtime engine for each stage of the model at `path`; raises `RunError` if a stage does not fit it."""
    from distredge.engine.onnxruntime import OrtEngine, OrtHead
    from distredge.engine.slicing import OnnxSource
    from distredge.model.onnx_import import import_onnx

    graph = import_onnx(path, path.stem, setup.model_sha256)
    source = OnnxSource(path)
    engines: dict[int, Engine | HeadEngine] = {}
    for stage in setup.stages:
        if stage.layers is None:
            engines[stage.boundary] = OrtHead(graph, threads=setup.threads, source=source)
        else:
            volume = Volume(graph, *stage.layers)
            part = _part(graph, volume, stage)
            engines[stage.boundary] = OrtEngine(graph, volume, part, threads=setup.threads, source=source)
    return engines


def _part(graph: LayerGraph, volume: Volume, stage: Stage) -> SplitPart:
    """The stage's split-part, checked against what was announced."""
    known = 0 <= volume.start < volume.stop <= len(graph.layers) and volume.start in graph.partition_points
    if not known or not 0 <= stage.output[0] < stage.output[1] <= volume.height:
        raise RunError(f"the model has no rows {stage.output} of a volume of the layers {stage.layers}")
    part = volume.part(Interval(*stage.output))
    if part.input != stage.input:
        raise RunError(f"rows {stage.output} of layer {volume.layers[-1].name} need {part.input}, not {stage.input}")
    return part
