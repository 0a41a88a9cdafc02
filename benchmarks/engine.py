"""Split-parts against the undivided ONNX Runtime session, one thread: volumes whole, and cut in four equal parts.

Each with a session a part (fixed) and with one session a volume whose geometry is an input (run time); and what a new
split costs each of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

import distredge
from distredge.engine.onnxruntime import FixedEngine, RuntimeEngine, Undivided
from distredge.testing.stitching import MakeEngine, Stitched

ROUNDS = 9
ENGINES: dict[str, MakeEngine] = {
    "fixed": lambda volume, source: FixedEngine(volume, source=source),
    "run time": lambda volume, source: RuntimeEngine(volume, source=source),
}


def main() -> None:
    for name in ("vgg16", "resnet50"):
        graph = distredge.load_model(name)
        scheme = distredge.partition(graph, distredge.load_scenario("db-50"))
        bounds = [*scheme.locations, len(graph.layers)]
        image = np.random.default_rng(0).standard_normal(graph.input_shape).astype(np.float32)
        undivided = Undivided(graph)
        variants: dict[str, Callable[[], object]] = {"undivided": lambda u=undivided, x=image: u.run(x)}
        for kind, make in ENGINES.items():
            for count in (1, 4):
                stitched = Stitched(graph, bounds, make)
                cuts = [[round(k * v.height / count) for k in range(count + 1)] for v in stitched.volumes]
                variants[f"{kind}, {count} a volume"] = lambda s=stitched, c=cuts, x=image: s.run(c, x)
            seconds = _new_split(Stitched(graph, bounds, make), image)
            print(f"{name}, {kind}: a new split takes {1e3 * seconds:.1f} ms beyond computing")
        times: dict[str, list[float]] = {key: [] for key in variants}
        for _ in range(ROUNDS + 1):  # in turn, so that a drift of the machine touches all alike
            for key, work in variants.items():
                started = time.perf_counter()
                work()
                times[key].append(time.perf_counter() - started)
        median = {key: float(np.median(values[1:])) for key, values in times.items()}
        for key, value in median.items():
            ratio = value / median["undivided"]
            print(f"{name}, {len(scheme.parts)} volumes, {key:20} {value * 1e3:7.1f} ms  {ratio:.2f} of the undivided")


def _new_split(stitched: Stitched, image: np.ndarray) -> float:
    """Seconds that the first run of a split takes longer than the second: the median of five."""
    extra = []
    for shift in range(5):
        cuts = [[0, max(0, v.height // 2 - shift), v.height] for v in stitched.volumes]
        seconds = []
        for _ in range(2):
            started = time.perf_counter()
            stitched.run(cuts, image)
            seconds.append(time.perf_counter() - started)
        extra.append(seconds[0] - seconds[1])
    return max(0.0, float(np.median(extra)))
