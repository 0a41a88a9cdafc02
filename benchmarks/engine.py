"""Split-parts against the undivided ONNX Runtime session, one thread: volumes whole, and cut in four equal parts."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import pairwise

import numpy as np

import distredge
from distredge.engine.onnxruntime import OrtEngine, OrtHead, Undivided
from distredge.engine.slicing import OnnxSource
from distredge.geometry.interval import Interval
from distredge.geometry.split import Volume, parts
from distredge.model.graph import LayerGraph

ROUNDS = 9


def main() -> None:
    for name in ("vgg16", "resnet50"):
        graph = distredge.load_model(name)
        scheme = distredge.partition(graph, distredge.load_scenario("db-50"))
        image = np.random.default_rng(0).standard_normal(graph.input_shape).astype(np.float32)
        undivided = Undivided(graph)
        variants: dict[str, Callable[[], object]] = {"undivided": lambda u=undivided, x=image: u.run(x)}
        for count in (1, 4):
            variants[f"{count} a volume"] = _pipeline(graph, scheme.parts, count, image)
        times: dict[str, list[float]] = {key: [] for key in variants}
        for _ in range(ROUNDS + 1):  # in turn, so that a drift of the machine touches all alike
            for key, work in variants.items():
                started = time.perf_counter()
                work()
                times[key].append(time.perf_counter() - started)
        median = {key: float(np.median(values[1:])) for key, values in times.items()}
        shown = ", ".join(f"{k}: {v * 1e3:.0f} ms ({v / median['undivided']:.2f})" for k, v in median.items())
        print(f"{name}, {len(scheme.parts)} volumes, sum over parts: {shown}")


def _pipeline(
    graph: LayerGraph, volumes: tuple[Volume, ...], count: int, image: np.ndarray
) -> Callable[[], dict[str, np.ndarray]]:
    """Runs all parts of all volumes, one after the other, and the head."""
    source = OnnxSource(graph.path)
    engines: list[list[tuple[Interval, OrtEngine]]] = []
    for volume in volumes:
        cuts = tuple(round(k * volume.height / count) for k in range(count + 1))
        made = [part for (a, b), part in zip(pairwise(cuts), parts(volume, cuts), strict=True) if b > a and part]
        engines.append([(part.input, OrtEngine(graph, volume, part, source=source)) for part in made])
    head = OrtHead(graph, source=source)

    def run() -> dict[str, np.ndarray]:
        x = image
        for row in engines:
            x = np.concatenate([e.run(np.ascontiguousarray(x[:, :, i.start : i.stop])) for i, e in row], axis=2)
        return head.run(x)

    return run
