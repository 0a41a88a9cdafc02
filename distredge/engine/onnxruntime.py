"""Runs split-parts, heads and whole models on ONNX Runtime (CPU)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from distredge.engine.base import Engine, FloatRows, HeadEngine
from distredge.engine.row_graph import UnsteadyGeometryError
from distredge.engine.slicing import has_all_rows, part_model, volume_model
from distredge.engine.subgraph import OnnxSource, head_model
from distredge.errors import RunError
from distredge.geometry.interval import Interval
from distredge.geometry.split import Volume
from distredge.model.graph import LayerGraph

_WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"

KEPT_SESSIONS = 4
"""Parts of a volume whose sessions are kept; each holds its own copy of the weights."""

KEPT_GEOMETRIES = 1000


class FixedEngine(Engine):
    """A session for each part that is asked for: the fastest to run, the slowest to change.

    `source` saves parsing the model's file again when several volumes of it are run.
    """

    def __init__(self, volume: Volume, *, threads: int = 1, source: OnnxSource | None = None) -> None:
        self._volume, self._threads = volume, threads
        self._source = source or OnnxSource.of(volume.graph)
        self._sessions: dict[Interval, ort.InferenceSession] = {}

    def prepare(self, out: Interval) -> None:
        """Build the part's session."""
        if out not in self._sessions:
            while len(self._sessions) >= KEPT_SESSIONS:
                del self._sessions[next(iter(self._sessions))]  # the oldest
            model = part_model(self._source, self._volume, out)
            self._sessions[out] = session(model.SerializeToString(), self._threads, self._source.folder)

    def run(self, out: Interval, inputs: Sequence[FloatRows]) -> list[FloatRows]:
        """See `Engine`."""
        self.prepare(out)
        chosen = self._sessions[out]
        made = chosen.run(None, dict(zip((i.name for i in chosen.get_inputs()), inputs, strict=True)))
        by_name = dict(zip((o.name for o in chosen.get_outputs()), made, strict=True))
        return [by_name.get(f"{tensor}§out", none) for tensor, none in _leaving(self._volume)]


class RuntimeEngine(Engine):
    """One session for all parts of a volume: pads and slices are inputs, so that a new split builds nothing.

    It is built for the first part that needs it. The whole volume as one part, parts that leave a side branch without
    rows, and volumes with operators that fix their geometry are run by a `FixedEngine`: the first is faster without
    pads and slices, the others need it.
    """

    def __init__(self, volume: Volume, *, threads: int = 1, source: OnnxSource | None = None) -> None:
        self._volume, self._threads = volume, threads
        self._source = source or OnnxSource.of(volume.graph)
        self._fixed = FixedEngine(volume, threads=threads, source=self._source)
        self._geometry: dict[Interval, dict[str, npt.NDArray[Any]]] = {}
        self._session: ort.InferenceSession | None = None
        self._is_steady = True

    def prepare(self, out: Interval) -> None:
        """Work out the part's pads and slices."""
        if out in self._geometry:
            return
        whole = out == Interval(0, self._volume.height)
        if whole or not has_all_rows(self._volume.part(out)) or not self._build():
            self._fixed.prepare(out)
            return
        if len(self._geometry) >= KEPT_GEOMETRIES:
            self._geometry.clear()
        known = self._cut.geometry(out)
        self._geometry[out] = {name: known[name] for name in self._formulas}

    def _build(self) -> bool:
        """Whether there is a session for any part; the first time it is built, if there can be one."""
        if self._session is None and self._is_steady:
            try:
                self._cut = volume_model(self._source, self._volume)
            except UnsteadyGeometryError:
                self._is_steady = False
                return False
            self._session = session(self._cut.model.SerializeToString(), self._threads, self._source.folder)
            names = {value.name for value in self._session.get_inputs()}
            self._formulas = [name for name in self._cut.formulas if name in names]
            self._inputs = [value.name for value in self._session.get_inputs() if value.name not in self._cut.formulas]
        return self._is_steady

    def run(self, out: Interval, inputs: Sequence[FloatRows]) -> list[FloatRows]:
        """See `Engine`."""
        self.prepare(out)
        if self._session is None or out not in self._geometry:
            return self._fixed.run(out, inputs)
        feeds = dict(zip(self._inputs, inputs, strict=True)) | self._geometry[out]
        return cast(list[FloatRows], self._session.run(None, feeds))


def _leaving(volume: Volume) -> list[tuple[str, FloatRows]]:
    """Each leaving tensor's name and its array of no rows."""
    layers = [volume.graph.layers[i] for i in volume.leaving]
    return [(x.tensor, np.empty((1, x.out_shape[0], 0, x.out_shape[2]), dtype=np.float32)) for x in layers]


class OrtHead(HeadEngine):
    """A model's head as an ONNX Runtime session; the head must have nodes."""

    def __init__(self, graph: LayerGraph, *, threads: int = 1, source: OnnxSource | None = None) -> None:
        source = source or OnnxSource.of(graph)
        self._session = session(head_model(source, graph).SerializeToString(), threads, source.folder)
        self._inputs = [value.name for value in self._session.get_inputs()]
        self._outputs = [value.name for value in self._session.get_outputs()]

    def run(self, inputs: Sequence[FloatRows]) -> dict[str, npt.NDArray[np.generic]]:
        """See `HeadEngine`."""
        made = self._session.run(self._outputs, dict(zip(self._inputs, inputs, strict=True)))
        return dict(zip(self._outputs, made, strict=True))


class Undivided:
    """The whole model in one session: what distributed results are compared with."""

    def __init__(self, graph: LayerGraph, *, threads: int = 1) -> None:
        self._session = session(str(graph.path), threads)
        self._input = graph.input_tensor
        kinds = {value.name: value.type for value in self._session.get_inputs()}
        self._dtype = np.float16 if kinds[self._input] == "tensor(float16)" else np.float32
        self._outputs = [output.name for output in graph.head.outputs]

    def run(self, x: FloatRows) -> dict[str, npt.NDArray[np.generic]]:
        """The model's outputs for an image of its input shape."""
        made = self._session.run(self._outputs, {self._input: x.astype(self._dtype, copy=False)})
        return dict(zip(self._outputs, made, strict=True))


def session(model: str | bytes, threads: int, weights_folder: Path | None = None) -> ort.InferenceSession:
    """A session of a model's file or bytes; in bytes, external weights are looked for in `weights_folder`.

    Raises `RunError` if ONNX Runtime refuses the model.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if weights_folder is not None:
        options.add_session_config_entry(_WEIGHTS_FOLDER, str(weights_folder.resolve()))
    try:
        return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"], enable_fallback=0)
    except Exception as exc:  # its errors have no common base of their own
        raise RunError(f"ONNX Runtime refuses the model: {' '.join(str(exc).split())[:300]}") from exc
