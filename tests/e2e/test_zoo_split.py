"""Every model of the zoo, on small images: the stitched result is the undivided one, whatever the scheme and cuts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from distredge.engine.onnxruntime import FixedEngine, RuntimeEngine, Undivided
from distredge.engine.subgraph import OnnxSource
from distredge.model import zoo
from distredge.model.export import export
from distredge.model.graph import LayerGraph
from distredge.model.load import load_model
from distredge.testing.stitching import MakeEngine, Stitched, difference, random_bounds, random_cuts

torch = pytest.importorskip("torch")

TOLERANCE = 1e-4
"""Of the output's scale; deep networks with random weights amplify what another order of summation changes."""

SMALL = {
    "inception_v3": (1, 3, 107, 91),
    "openpose": (1, 3, 72, 40),
    "ssd_resnet50": (1, 3, 264, 264),  # smaller images leave nothing for the last scales
    "ssd_vgg16": (1, 3, 280, 280),
    "voxelnet": (1, 128, 10, 48, 24),
    "yolov2": (1, 3, 160, 96),
}
"""Heights that give the deepest layers more than one row, and odd ones where the architecture allows it."""

ENGINES: dict[str, tuple[MakeEngine, int, int]] = {
    "fixed": (lambda volume, source: FixedEngine(volume, source=source), 5, 1),
    "runtime": (lambda volume, source: RuntimeEngine(volume, source=source), 40, 5),
}
"""An engine, the number of schemes, and of cuts for each of them."""


def small_graph(name: str, folder: Path) -> LayerGraph:
    """The zoo's module exported for a small image."""
    entry = zoo.zoo_entry(name)
    shape = SMALL.get(name, (1, 3, 97, 65))
    build: Callable[[], torch.nn.Module] = entry.build
    if name.startswith("vgg"):

        def build() -> torch.nn.Module:  # its fully connected layers are made for one size of image
            module = entry.build()
            module.fc6 = torch.nn.Linear(512 * (shape[2] // 32) * (shape[3] // 32), 4096)
            return module

    path = export(replace(entry, input_shape=shape, build=build), folder / f"{name}.onnx")
    return load_model(path)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", zoo.NAMES)
def test_two_hundred_random_splits(name: str, tmp_path: Path) -> None:
    graph = small_graph(name, tmp_path)
    source, rng = OnnxSource.of(graph), np.random.default_rng(0)
    image = rng.standard_normal(graph.input_shape, dtype=np.float32)
    want = Undivided(graph).run(image)
    for make, schemes, cuts_each in ENGINES.values():
        for _ in range(schemes):
            bounds = random_bounds(rng, graph)
            stitched = Stitched(graph, bounds, make, source)
            for _ in range(cuts_each):
                cuts = random_cuts(rng, graph, bounds, providers=4)
                assert difference(stitched.run(cuts, image), want) <= TOLERANCE, (bounds, cuts)
