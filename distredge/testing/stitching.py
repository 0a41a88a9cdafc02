"""Computes models part by part in one process, to compare with the undivided model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from distredge.engine.base import Engine, FloatRows
from distredge.engine.onnxruntime import FixedEngine, OrtHead
from distredge.engine.subgraph import OnnxSource
from distredge.geometry.interval import Interval
from distredge.geometry.split import Volume
from distredge.model.graph import IMAGE, LayerGraph

MakeEngine = Callable[[Volume, OnnxSource], Engine]


class Stitched:
    """A model cut into volumes, whose engines are kept while the cuts change.

    `bounds` are the volumes' locations and the number of layers; `source` saves reading the model's file again.
    """

    def __init__(
        self,
        graph: LayerGraph,
        bounds: Sequence[int],
        make: MakeEngine | None = None,
        source: OnnxSource | None = None,
    ) -> None:
        self.graph = graph
        source = source or OnnxSource.of(graph)
        make = make or (lambda volume, source: FixedEngine(volume, source=source))
        self.volumes = [Volume(graph, a, b) for a, b in pairwise(bounds)]
        self._engines = [make(volume, source) for volume in self.volumes]
        self._head = OrtHead(graph, source=source) if graph.head.nodes else None

    def run(self, cuts: Sequence[Sequence[int]], image: FloatRows) -> dict[str, npt.NDArray[np.generic]]:
        """The model's outputs, each volume computed by parts between its cuts."""
        whole: dict[int, FloatRows] = {IMAGE: image.reshape(1, *self.graph.image)}
        for volume, engine, cut in zip(self.volumes, self._engines, cuts, strict=True):
            parts = [_run_part(volume, engine, Interval(a, b), whole) for a, b in pairwise(cut) if b > a]
            for k, layer in enumerate(volume.leaving):
                whole[layer] = np.concatenate([part[k] for part in parts], axis=2)
                assert whole[layer].shape[1:] == self.graph.shape(layer)
        index = self.graph.index
        outputs: dict[str, npt.NDArray[np.generic]] = {
            o.name: whole[index[o.layer]].reshape(o.shape) for o in self.graph.head.outputs if o.layer is not None
        }
        if self._head:
            outputs |= self._head.run([whole[index[name]] for name in self.graph.head.inputs])
        return outputs


def _run_part(volume: Volume, engine: Engine, out: Interval, whole: Mapping[int, FloatRows]) -> list[FloatRows]:
    part = volume.part(out)
    inputs = [
        np.ascontiguousarray(whole[i][:, :, rows.start : rows.stop])
        for i, rows in zip(volume.entering, part.inputs, strict=True)
    ]
    made = engine.run(out, inputs)
    for rows, owned in zip(made, part.outputs, strict=True):
        assert rows.shape[2] == owned.size
    return made


def random_bounds(rng: np.random.Generator, graph: LayerGraph, most: int = 6) -> list[int]:
    """The bounds of up to `most` volumes."""
    inner = graph.cut_points[1:]
    count = min(len(inner), int(rng.integers(0, most)))
    return [0, *sorted(int(p) for p in rng.choice(inner, count, replace=False)), len(graph.layers)]


def random_cuts(rng: np.random.Generator, graph: LayerGraph, bounds: Sequence[int], providers: int) -> list[list[int]]:
    """Cuts of each volume, empty parts among them."""
    heights = [graph.layers[stop - 1].height for stop in bounds[1:]]
    return [[0, *sorted(int(c) for c in rng.integers(0, h + 1, providers - 1)), h] for h in heights]


def difference(got: Mapping[str, npt.NDArray[np.generic]], want: Mapping[str, npt.NDArray[np.generic]]) -> float:
    """Largest absolute difference, of the largest absolute value of the same output."""
    assert got.keys() == want.keys()
    largest = 0.0
    for name, wanted in want.items():
        assert got[name].shape == wanted.shape
        a, b = got[name].astype(np.float64), wanted.astype(np.float64)
        largest = max(largest, float(np.abs(a - b).max(initial=0.0) / (np.abs(b).max(initial=0.0) or 1.0)))
    return largest
