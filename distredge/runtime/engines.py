"""The engines of a provider's stages: real ones, kept from plan to plan, or stand-ins for boards."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from distredge.engine.base import Engine, HeadEngine
from distredge.engine.emulated import EmulatedEngine, EmulatedHead
from distredge.errors import RunError
from distredge.geometry.interval import Interval
from distredge.geometry.split import Volume
from distredge.model.graph import LayerGraph
from distredge.runtime.message import Emulation, Setup, Stage

if TYPE_CHECKING:
    from distredge.engine.subgraph import OnnxSource

Engines = Mapping[int, Engine | HeadEngine]
"""Engines by boundary."""

_Key = tuple[int, int] | None
"""Which layers an engine runs; None: the head."""


def emulated_engines(setup: Setup, emulation: Emulation) -> Engines:
    """An engine for each stage that holds it for its profiled time."""
    return {
        stage.boundary: EmulatedEngine([(1, *piece.shape) for piece in stage.outputs], hold_ms)
        if stage.layers
        else EmulatedHead(setup.outputs, hold_ms)
        for stage, hold_ms in zip(setup.stages, emulation.hold_ms, strict=True)
    }


class Shelf:
    """The ONNX Runtime engines of a session, by what they run. Used by one thread.

    An engine computes any rows of its volume: a new split of the same volumes builds nothing. What no live epoch needs
    is put away with `keep`.
    """

    def __init__(self) -> None:
        self._graph: LayerGraph | None = None
        self._source: OnnxSource | None = None
        self._engines: dict[_Key, Engine | HeadEngine] = {}

    def engines(self, setup: Setup, path: Path) -> Engines:
        """An engine for each stage of the model at `path`; raises `RunError` if a stage does not fit it."""
        return {stage.boundary: self._engine(setup, path, stage) for stage in setup.stages}

    def keep(self, setups: list[Setup]) -> None:
        """Free the engines that none of these needs."""
        wanted = {stage.layers for setup in setups for stage in setup.stages}
        for key in self._engines.keys() - wanted:
            del self._engines[key]

    def _engine(self, setup: Setup, path: Path, stage: Stage) -> Engine | HeadEngine:
        from distredge.engine.onnxruntime import OrtHead, RuntimeEngine

        graph, source = self._model(setup, path)
        engine = self._engines.get(stage.layers)
        if stage.layers is None:
            engine = engine or OrtHead(graph, threads=_threads(setup), source=source)
        else:
            volume = Volume(graph, *stage.layers)
            _check(graph, volume, stage)
            if not isinstance(engine, Engine):
                engine = RuntimeEngine(volume, threads=_threads(setup), source=source)
            engine.prepare(Interval(*stage.out))
        self._engines[stage.layers] = engine
        return engine

    def _model(self, setup: Setup, path: Path) -> tuple[LayerGraph, OnnxSource]:
        """The model, read once."""
        from distredge.engine.subgraph import OnnxSource
        from distredge.model.onnx_import import import_onnx

        if self._graph is None or self._source is None:
            self._graph = import_onnx(path, path.stem, setup.model_sha256, input_shape=setup.input_shape)
            self._source = OnnxSource.of(self._graph)
        return self._graph, self._source


def _threads(setup: Setup) -> int:
    """What the requester asks for, and no more than there are processors."""
    return min(setup.threads, os.cpu_count() or 1)


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
