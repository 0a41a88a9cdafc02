"""Times a layer, or a head, of a model on ONNX Runtime, in a session of its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnxruntime as ort
from onnx import ModelProto

from distredge.engine.onnxruntime import session
from distredge.engine.slicing import part_model
from distredge.engine.subgraph import OnnxSource, head_model
from distredge.geometry.interval import Interval
from distredge.geometry.split import Volume
from distredge.model.graph import LayerGraph
from distredge.model.layer import Layer
from distredge.model.operators import static_shape
from distredge.profiles.table import Timing

MIN_REPEATS, MAX_REPEATS = 3, 100


class OrtBench:
    """Measures the layers of one model on ONNX Runtime (CPU).

    Before each repeat the caches are swept, so that weights come from memory as they do in a whole model (where other
    layers ran in between), and the inputs are written anew, as the layer before would have just done.
    """

    engine = "onnxruntime"
    engine_version: str = ort.__version__

    def __init__(self, graph: LayerGraph, rng: np.random.Generator, threads: int) -> None:
        self._graph = graph
        self._source = OnnxSource.of(graph)
        self._rng = rng
        self._threads = threads
        self._sweep = np.zeros(max(2 * last_level_cache_bytes(), 1 << 20) // 8)

    def layer(self, layer: Layer, rows: int, warm_up_s: float, seconds: float) -> Timing:
        """Timing of `rows` output rows of a layer, in about `warm_up_s + seconds`."""
        return self._time(layer_model(self._source, self._graph, layer, rows), warm_up_s, seconds)

    def head(self, warm_up_s: float, seconds: float) -> Timing:
        """Timing of the model's head, which must have nodes."""
        return self._time(head_model(self._source, self._graph), warm_up_s, seconds)

    def _time(self, model: ModelProto, warm_up_s: float, seconds: float) -> Timing:
        runner = session(model.SerializeToString(), self._threads, self._source.folder)
        fresh = {
            value.name: self._rng.random(static_shape(value) or (), dtype=np.float32) for value in model.graph.input
        }
        inputs = {name: values.copy() for name, values in fresh.items()}
        binding = runner.io_binding()
        for name, values in inputs.items():
            binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(values))
        for output in runner.get_outputs():
            binding.bind_output(output.name)

        def prepare() -> None:
            self._sweep.sum()
            for name, values in inputs.items():
                np.copyto(values, fresh[name])

        return summary(repeat(lambda: runner.run_with_iobinding(binding), prepare, warm_up_s, seconds))


def layer_model(source: OnnxSource, graph: LayerGraph, layer: Layer, rows: int) -> ModelProto:
    """An ONNX model of one layer that makes `rows` rows from the middle of its height."""
    at = graph.index[layer.name]
    first = (layer.height - rows) // 2
    return part_model(source, Volume(graph, at, at + 1), Interval(first, first + rows))


def repeat(run: Callable[[], object], prepare: Callable[[], None], warm_up_s: float, seconds: float) -> list[float]:
    """Milliseconds of each of `MIN_REPEATS` to `MAX_REPEATS` runs, in about `seconds` with what prepares them."""
    for _ in _until(warm_up_s, 1, MAX_REPEATS):
        run()
    times = []
    for _ in _until(seconds, MIN_REPEATS, MAX_REPEATS):
        prepare()
        start = time.perf_counter()
        run()
        times.append((time.perf_counter() - start) * 1e3)
    return times


def _until(seconds: float, least: int, most: int) -> Iterator[int]:
    """Count from 0: at least `least` times, at most `most` times, no further than `seconds`."""
    end = time.perf_counter() + seconds
    for i in range(most):
        if i >= least and time.perf_counter() >= end:
            return
        yield i


def summary(times_ms: list[float]) -> Timing:
    """Median, 10th and 90th percentile and coefficient of variation."""
    values = np.array(times_ms)
    p10, median, p90 = np.quantile(values, [0.1, 0.5, 0.9])
    cv = values.std() / values.mean()
    return Timing(
        median_ms=round(float(median), 6),
        p10_ms=round(float(p10), 6),
        p90_ms=round(float(p90), 6),
        cv=round(float(cv), 4),
        repeats=len(times_ms),
    )


def last_level_cache_bytes() -> int:
    """Size of the first processor's largest cache, at most 64 MiB; 16 MiB where the system does not tell."""
    sizes = [16 << 20]
    for file in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = file.read_text().strip()
        if text.endswith("K") and text[:-1].isdigit():
            sizes.append(int(text[:-1]) << 10)
    return min(max(sizes), 64 << 20)
