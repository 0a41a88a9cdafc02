"""Border cases of cutting split-parts out of a model, by hand; random ones are in `test_conformance.py`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest

from distredge.engine.onnxruntime import Undivided
from distredge.engine.slicing import part_model
from distredge.engine.subgraph import OnnxSource
from distredge.geometry.interval import Interval
from distredge.geometry.split import Volume
from distredge.model.graph import LayerGraph
from distredge.model.load import load_model
from distredge.testing.stitching import Stitched, difference
from distredge.testing.toy_models import ToyModel, chain, save_model

TOLERANCE = 1e-5
"""Of the output's largest absolute value: sums of other order in float32."""


def load(model: onnx.ModelProto, folder: Path) -> LayerGraph:
    return load_model(save_model(model, folder))


def image(graph: LayerGraph, seed: int = 0) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(graph.input_shape).astype(np.float32)


def one_row_each(graph: LayerGraph) -> dict[str, npt.NDArray[np.generic]]:
    """The whole model as one volume, one row a provider: every border case occurs."""
    cuts = [list(range(graph.layers[-1].height + 1))]
    return Stitched(graph, [0, len(graph.layers)]).run(cuts, image(graph))


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_output_rows_that_lie_wholly_in_padding(tmp_path: Path, stride: int) -> None:
    toy = ToyModel(np.random.default_rng(0), 2, 7, 5)
    x = toy.conv(toy.image, 3, kernel=(2, 1), stride=stride, pads=(5, 0, 6, 0))
    graph = load(toy.finish(toy.conv(x, 2, kernel=(3, 3), pads=(1, 1, 1, 1))), tmp_path)
    assert difference(one_row_each(graph), Undivided(graph).run(image(graph))) <= TOLERANCE


@pytest.mark.parametrize("include", [0, 1])
def test_a_mean_at_the_border_counts_what_the_undivided_one_counts(tmp_path: Path, include: int) -> None:
    toy = ToyModel(np.random.default_rng(1), 2, 9, 5)
    x = toy.conv(toy.image, 3, pads=(1, 1, 1, 1))
    x = toy.pool(x, "AveragePool", (3, 2), 2, (1, 0, 2, 0), count_include_pad=include)
    graph = load(toy.finish(x), tmp_path)
    assert difference(one_row_each(graph), Undivided(graph).run(image(graph))) <= TOLERANCE


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
def test_the_last_row_that_ceil_mode_adds(tmp_path: Path, op: str) -> None:
    toy = ToyModel(np.random.default_rng(2), 2, 10, 6)
    x = toy.pool(toy.conv(toy.image, 3, pads=(1, 1, 1, 1)), op, (3, 3), 2, ceil=True)
    graph = load(toy.finish(x), tmp_path)
    assert graph.layers[-1].height == 5
    assert difference(one_row_each(graph), Undivided(graph).run(image(graph))) <= TOLERANCE


def test_ceil_mode_with_a_dilated_window_that_passes_the_end_by_more_than_its_kernel(tmp_path: Path) -> None:
    toy = ToyModel(np.random.default_rng(2), 2, 7, 6)
    x = toy.conv(toy.image, 3, pads=(1, 1, 1, 1))
    graph = load(toy.finish(toy.node("MaxPool", [x.tensor], kernel_shape=(2, 1), strides=(4, 1), dilations=(4, 1),
                                     ceil_mode=1)), tmp_path)  # fmt: skip
    assert graph.layers[-1].height == 2
    assert difference(one_row_each(graph), Undivided(graph).run(image(graph))) <= TOLERANCE


def test_a_model_of_an_old_operator_set(tmp_path: Path) -> None:
    toy = ToyModel(np.random.default_rng(6), 2, 12, 6)
    x = toy.conv(toy.image, 3, pads=(1, 1, 1, 1))
    model = toy.finish(toy.binary(x, toy.conv(x, 3, pads=(1, 1, 1, 1))))
    del model.opset_import[:]
    model.opset_import.append(onnx.helper.make_opsetid("", 8))
    graph = load(model, tmp_path)
    assert difference(one_row_each(graph), Undivided(graph).run(image(graph))) <= TOLERANCE


def test_rows_that_a_stride_skips_are_not_read(tmp_path: Path) -> None:
    toy = ToyModel(np.random.default_rng(3), 2, 12, 4)
    graph = load(toy.finish(toy.conv(toy.image, 2, kernel=(1, 1), stride=3)), tmp_path)
    x = image(graph)
    want = Undivided(graph).run(x)
    x[:, :, [1, 2, 4, 5, 7, 8]] = np.nan
    assert difference(Stitched(graph, [0, 1]).run([(0, 1, 2, 4)], x), want) <= TOLERANCE


def test_a_part_holds_only_the_weights_that_it_uses(tmp_path: Path) -> None:
    graph = load(chain(np.random.default_rng(4)), tmp_path)
    volume = Volume(graph, 0, 1)
    model = part_model(OnnxSource(graph.path), volume, Interval(0, 3))
    onnx.checker.check_model(model, full_check=True)
    assert sum(int(np.prod(t.dims)) for t in model.graph.initializer) == graph.layers[0].params


def test_a_part_with_weights_beside_the_file_refers_to_them(tmp_path: Path) -> None:
    toy = ToyModel(np.random.default_rng(5), 32, 8, 4)
    model = toy.finish(toy.conv(toy.conv(toy.image, 64, pads=(1, 1, 1, 1)), 32, pads=(1, 1, 1, 1)))
    path = tmp_path / "toy.onnx"
    onnx.save(model, path, save_as_external_data=True, location="toy.data", size_threshold=0)
    graph = load_model(path)
    volume = Volume(graph, 0, 2)
    assert part_model(OnnxSource(path), volume, Interval(0, 4)).ByteSize() < 4096
    assert difference(one_row_each(graph), Undivided(graph).run(image(graph))) <= TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vgg16", "resnet50"])
@pytest.mark.parametrize("volumes", [1, 5])
def test_full_size_models(name: str, volumes: int) -> None:
    graph = load_model(name)
    points = graph.partition_points
    bounds = [*(points[i * len(points) // volumes] for i in range(volumes)), len(graph.layers)]
    heights = [graph.layers[stop - 1].height for stop in bounds[1:]]
    cuts = [(0, h // 5, h // 2, h // 2, h - h // 4, h) for h in heights]
    x = image(graph)
    assert difference(Stitched(graph, bounds).run(cuts, x), Undivided(graph).run(x)) <= TOLERANCE
