"""Real architectures written by others: those that the onnx package ships for its tests (Caffe2, operator set 9)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from distredge.engine.onnxruntime import Undivided
from distredge.model.load import load_model
from distredge.testing.engine_suite import image
from distredge.testing.stitching import Stitched, difference, random_bounds, random_cuts

FOLDER = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"

# Numbers of partition points: places where a single tensor crosses.
MODELS = {
    "light_bvlc_alexnet": 8,
    "light_densenet121": 66,
    "light_inception_v1": 17,
    "light_inception_v2": 16,
    "light_resnet50": 19,
    "light_shufflenet": 19,
    "light_squeezenet": 21,
    "light_vgg19": 21,
    "light_zfnet512": 8,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_models_that_the_onnx_package_ships(name: str) -> None:
    path = FOLDER / f"{name}.onnx"
    if not path.is_file():
        pytest.skip("this release of onnx does not ship it")
    graph = load_model(path)
    assert len(graph.partition_points) == MODELS[name]
    rng = np.random.default_rng(0)
    x = image(graph, rng)
    want = Undivided(graph).run(x)
    for _ in range(2):
        bounds = random_bounds(rng, graph)
        cuts = random_cuts(rng, graph, bounds, providers=4)
        assert difference(Stitched(graph, bounds).run(cuts, x), want) <= 1e-5, (bounds, cuts)
