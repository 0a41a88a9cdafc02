"""What every engine has to pass: call each check with a function that makes the engine for a volume."""

from __future__ import annotations

import resource
import tempfile
from pathlib import Path

import numpy as np
import onnx

from distredge.engine.base import FloatRows
from distredge.engine.onnxruntime import Undivided
from distredge.engine.subgraph import OnnxSource
from distredge.geometry.interval import Interval
from distredge.geometry.split import Volume
from distredge.model.graph import LayerGraph
from distredge.model.load import load_model
from distredge.testing.random_models import random_model
from distredge.testing.stitching import MakeEngine, Stitched, difference, random_bounds, random_cuts
from distredge.testing.toy_models import chain, save_model

TOLERANCE = 1e-5
"""Of the output's largest absolute value: sums of other order in float32."""


def check_exact(make: MakeEngine, model: onnx.ModelProto, rng: np.random.Generator, splits: int = 2) -> None:
    """Stitched parts are the undivided model, for a random scheme and several splits on the same engines."""
    with tempfile.TemporaryDirectory() as folder:
        graph = load_model(save_model(model, Path(folder)))
        bounds = random_bounds(rng, graph)
        stitched, x = Stitched(graph, bounds, make), image(graph, rng)
        want = Undivided(graph).run(x)
        for _ in range(splits):
            cuts = random_cuts(rng, graph, bounds, providers=int(rng.integers(1, 6)))
            assert difference(stitched.run(cuts, x), want) <= TOLERANCE, (bounds, cuts)


def check_one_row_each(make: MakeEngine, model: onnx.ModelProto) -> None:
    """The whole model as one volume, one row a part: every border case occurs."""
    with tempfile.TemporaryDirectory() as folder:
        graph = load_model(save_model(model, Path(folder)))
        x = image(graph, np.random.default_rng(0))
        stitched = Stitched(graph, [0, len(graph.layers)], make)
        cuts = [list(range(graph.layers[-1].height + 1))]
        assert difference(stitched.run(cuts, x), Undivided(graph).run(x)) <= TOLERANCE


def check_random_models(make: MakeEngine, seed: int, odd: bool = False) -> None:
    """`check_exact` on a random model; `odd`: a row each."""
    rng = np.random.default_rng(seed)
    model = random_model(rng)
    if odd:
        check_one_row_each(make, model)
    else:
        check_exact(make, model, rng)


def check_inputs_and_results_are_apart(make: MakeEngine) -> None:
    """Inputs are not changed; results of one run do not change with the next."""
    with tempfile.TemporaryDirectory() as folder:
        graph = load_model(save_model(chain(np.random.default_rng(0)), Path(folder)))
        volume = Volume(graph, 0, 2)
        engine, out = make(volume, OnnxSource.of(graph)), Interval(5, 11)
        rows = volume.part(out).inputs[0]
        first, second = (image(graph, np.random.default_rng(k))[:, :, rows.start : rows.stop].copy() for k in (1, 2))
        kept = first.copy()
        made = engine.run(out, [first])
        before = made[0].copy()
        engine.run(out, [second])
        assert np.array_equal(first, kept)
        assert np.array_equal(made[0], before)
        assert not np.shares_memory(made[0], first)
        assert np.array_equal(engine.run(out, [first])[0], before)


def check_memory_stays(make: MakeEngine, splits: int = 400) -> None:
    """A split that changes all the time does not fill the memory: after a warm-up, less than 64 MB are added."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        graph = load_model(save_model(chain(rng, height=240, width=64), Path(folder)))
        bounds = [0, 2, len(graph.layers)]
        stitched, x = Stitched(graph, bounds, make), image(graph, rng)
        for i in range(splits):
            stitched.run(random_cuts(rng, graph, bounds, providers=3), x)
            if i == splits // 4:
                before = _peak_mb()
        assert _peak_mb() - before < 64


def image(graph: LayerGraph, rng: np.random.Generator) -> FloatRows:
    """An image of noise."""
    return rng.standard_normal(graph.input_shape).astype(np.float32)


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
