"""Runs split-parts, heads and whole models on ONNX Runtime (CPU)."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from distredge.engine.base import Engine, FloatRows, HeadEngine
from distredge.engine.slicing import OnnxSource, head_model, part_model
from distredge.geometry.split import SplitPart, Volume
from distredge.model.graph import LayerGraph

_WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"


class OrtEngine(Engine):
    """A split-part as an ONNX Runtime session.

    `source` saves parsing the model's file again when several parts of it are built.
    """

    def __init__(
        self, graph: LayerGraph, volume: Volume, part: SplitPart, *, threads: int = 1, source: OnnxSource | None = None
    ) -> None:
        source = source or OnnxSource(graph.path)
        self._session = session(part_model(source, volume, part).SerializeToString(), threads, source.folder)
        self._input = self._session.get_inputs()[0].name

    def run(self, x: FloatRows) -> FloatRows:
        """The part's rows."""
        return cast(FloatRows, self._session.run(None, {self._input: x})[0])


class OrtHead(HeadEngine):
    """A model's head as an ONNX Runtime session; a model without one hands its last tensor over as it is."""

    def __init__(self, graph: LayerGraph, *, threads: int = 1, source: OnnxSource | None = None) -> None:
        self._outputs = [name for name, _ in graph.head.outputs]
        self._session = None
        if graph.head.nodes:
            source = source or OnnxSource(graph.path)
            self._session = session(head_model(source, graph).SerializeToString(), threads, source.folder)
            self._input = self._session.get_inputs()[0].name

    def run(self, x: FloatRows) -> dict[str, npt.NDArray[np.float32]]:
        """The model's outputs."""
        if self._session is None:
            return {self._outputs[0]: x.copy()}
        return dict(zip(self._outputs, self._session.run(self._outputs, {self._input: x}), strict=True))


class Undivided:
    """The whole model in one session: what distributed results are compared with."""

    def __init__(self, graph: LayerGraph, *, threads: int = 1) -> None:
        self._session = session(str(graph.path), threads)
        self._input = graph.input_tensor
        self._outputs = [name for name, _ in graph.head.outputs]

    def run(self, x: FloatRows) -> dict[str, npt.NDArray[np.float32]]:
        """The model's outputs for an image of its input shape."""
        return dict(zip(self._outputs, self._session.run(self._outputs, {self._input: x}), strict=True))


def session(model: str | bytes, threads: int, weights_folder: Path | None = None) -> ort.InferenceSession:
    """A session of a model's file or bytes; in bytes, external weights are looked for in `weights_folder`."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if weights_folder is not None:
        options.add_session_config_entry(_WEIGHTS_FOLDER, str(weights_folder.resolve()))
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
