"""Border cases of cutting split-parts out of a model, by hand; random ones are in `test_conformance.py`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest

from distredge.engine.onnxruntime import RuntimeEngine, Undivided
from distredge.engine.slicing import part_model
from distredge.engine.subgraph import OnnxSource
from distredge.geometry.interval import Interval
from distredge.geometry.split import Volume
from distredge.model.graph import LayerGraph
from distredge.model.load import load_model
from distredge.testing.stitching import Stitched, difference, random_cuts
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


def exact_however_cut(model: onnx.ModelProto, folder: Path) -> LayerGraph:
    """Both engines, every volume boundary, a row for each part, and random cuts."""
    graph = load(model, folder)
    x, rng = image(graph), np.random.default_rng(0)
    want = Undivided(graph).run(x)
    for make in (None, lambda volume, source: RuntimeEngine(volume, source=source)):
        for bounds in ([0, len(graph.layers)], [*graph.cut_points, len(graph.layers)]):
            heights = [graph.layers[stop - 1].height for stop in bounds[1:]]
            stitched = Stitched(graph, bounds, make)
            for cuts in ([range(h + 1) for h in heights], random_cuts(rng, graph, bounds, 3)):
                assert difference(stitched.run(cuts, x), want) <= TOLERANCE
    return graph


def in_operator_set(model: onnx.ModelProto, version: int) -> onnx.ModelProto:
    del model.opset_import[:]
    model.opset_import.append(onnx.helper.make_opsetid("", version))
    return model


@pytest.mark.parametrize("version", [8, 9, 10])
def test_splits_of_old_operator_sets(tmp_path: Path, version: int) -> None:
    toy = ToyModel(np.random.default_rng(0), 2, 9, 6)
    x = toy.conv(toy.image, 4, pads=(1, 1, 1, 1))
    toy.nodes.append(onnx.helper.make_node("Split", [x.tensor], ["left", "right"], "halves", axis=1, split=[1, 3]))
    left, right = x._replace(tensor="left", channels=1), x._replace(tensor="right", channels=3)
    y = toy.concat([toy.conv(right, 2, pads=(1, 1, 1, 1)), left])
    exact_however_cut(in_operator_set(toy.finish(toy.conv(y, 2, pads=(1, 1, 1, 1))), version), tmp_path)


@pytest.mark.parametrize("version", [10, 18])
def test_an_average_that_counts_its_padding_but_not_what_lies_beyond(tmp_path: Path, version: int) -> None:
    toy = ToyModel(np.random.default_rng(1), 2, 10, 7)
    x = toy.conv(toy.image, 3, pads=(1, 1, 1, 1))
    x = toy.pool(x, "AveragePool", (3, 3), 2, (1, 1, 1, 1), ceil=True, count_include_pad=1)
    exact_however_cut(in_operator_set(toy.finish(toy.conv(x, 2, kernel=(1, 1))), version), tmp_path)


def test_a_second_output_of_what_is_not_row_wise_is_read_by_rows(tmp_path: Path) -> None:
    toy = ToyModel(np.random.default_rng(2), 4, 8, 6)
    x = toy.conv(toy.image, 4, pads=(1, 1, 1, 1))
    toy.nodes.append(onnx.helper.make_node("TopK", [x.tensor, toy.numbers([4])], ["best", "places"], "top", axis=1))
    y = toy.concat([x._replace(tensor="best"), toy.unary(x._replace(tensor="places"), "Cast", to=1)])
    graph = exact_however_cut(toy.finish(toy.conv(y, 2, pads=(1, 1, 1, 1))), tmp_path)
    assert [layer.name for layer in graph.layers if layer.whole] == ["top"]


def test_convolutions_that_run_on_integers_do_so_in_every_part(tmp_path: Path) -> None:
    toy = ToyModel(np.random.default_rng(3), 3, 12, 8)
    for name, value in (("scale", np.float32(0.05)), ("zero", np.int8(3))):
        toy.weights.append(onnx.numpy_helper.from_array(np.array(value), name))

    def rounded(tensor: str, name: str) -> str:
        return toy.node("DequantizeLinear", [toy.node("QuantizeLinear", [tensor, "scale", "zero"], f"{name}q"),
                                             "scale", "zero"], f"{name}d")  # fmt: skip

    x = toy.image._replace(tensor=rounded(toy.image.tensor, "in"))
    for i in range(3):
        x = toy.unary(toy.conv(x, 4, pads=(1, 1, 1, 1)))
        x = x._replace(tensor=rounded(x.tensor, f"c{i}"))
    exact_however_cut(toy.finish(toy.pool(x)), tmp_path)


def test_names_that_look_like_ours(tmp_path: Path) -> None:
    toy = ToyModel(np.random.default_rng(4), 2, 10, 6)
    a = toy.conv(toy.image, 2, pads=(1, 1, 1, 1), name="a")
    for suffix in ("out", "rows0", "padded", "pads", "in", "with_border"):
        a = toy.unary(toy.conv(a, 2, pads=(1, 1, 1, 1), name=f"a_out/{suffix}"))
        toy.nodes[-1].output[0] = f"a_out/{suffix}"
        a = a._replace(tensor=f"a_out/{suffix}")
    exact_however_cut(toy.finish(toy.binary(a, toy.conv(a, 2, pads=(1, 1, 1, 1)))), tmp_path)


def test_group_normalisation_of_new_operator_sets(tmp_path: Path) -> None:
    toy = ToyModel(np.random.default_rng(5), 2, 9, 6)
    x = toy.conv(toy.image, 4, pads=(1, 1, 1, 1))
    terms = [toy.constant((4,), 1.0), toy.constant((4,))]
    x = x._replace(tensor=toy.node("GroupNormalization", [x.tensor, *terms], "norm", num_groups=2))
    graph = exact_however_cut(in_operator_set(toy.finish(toy.conv(toy.unary(x), 2)), 21), tmp_path)
    assert [layer.name for layer in graph.layers if layer.whole] == ["norm"]
