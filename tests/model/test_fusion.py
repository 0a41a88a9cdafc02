"""Golden cases of the import: which nodes make a layer, through which windows, with what macs and parameters."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from distredge.errors import ModelError
from distredge.model.graph import LayerGraph
from distredge.model.layer import INPUT, Layer, LayerInput, Output
from distredge.model.load import load_model
from distredge.model.rows import EVERYTHING, ROW_BY_ROW, Listed, Spread, Window
from distredge.testing.toy_models import Feature, ToyModel, chain, residual, save_model

SAME = (1, 1, 1, 1)


@pytest.fixture
def toy() -> ToyModel:
    return ToyModel(np.random.default_rng(0), channels=3, height=12, width=8)


def graph_of(model: onnx.ModelProto, folder: Path) -> LayerGraph:
    return load_model(save_model(model, folder))


def sources(layer: Layer) -> list[str]:
    return [source.source for source in layer.inputs]


def test_chain(tmp_path: Path) -> None:
    graph = graph_of(chain(np.random.default_rng(0), height=24, width=10), tmp_path)
    assert [layer.name for layer in graph.layers] == ["conv1", "conv2", "pool1", "conv3", "pool2"]
    assert [layer.op for layer in graph.layers] == ["conv", "conv", "maxpool", "conv", "maxpool"]
    assert [len(layer.nodes) for layer in graph.layers] == [2, 2, 1, 3, 1]
    assert [layer.out_shape for layer in graph.layers] == [(4, 24, 10), (6, 24, 10), (6, 12, 5), (8, 12, 5), (8, 6, 2)]
    assert graph.layers[0].inputs == (LayerInput(INPUT, Window(3, 1, 1, 1)),)
    assert graph.layers[2].inputs == (LayerInput("conv2", Window(2, 2, 1, 0)),)
    conv1, conv2, pool1, conv3, _ = graph.layers
    assert (conv1.macs, conv1.params) == (4 * 24 * 10 * 3 * 9, 4 * 3 * 9 + 4)
    assert (conv2.macs, conv2.params) == (6 * 24 * 10 * 4 * 9, 6 * 4 * 9 + 6)
    assert (pool1.macs, pool1.params) == (0, 0)
    assert conv3.params == 8 * 6 * 9 + 8 + 2 * 8  # statistics are no parameters
    assert graph.head.ops == ("GlobalAveragePool", "Flatten", "Gemm")
    assert (graph.head.inputs, graph.head.macs, graph.head.params) == (("pool2",), 8 * 5, 8 * 5 + 5)
    assert graph.head.outputs == (Output("fc_out", (1, 5)),)
    assert graph.partition_points == (0, 1, 2, 3, 4)


def test_residual(tmp_path: Path) -> None:
    graph = graph_of(residual(np.random.default_rng(0)), tmp_path)
    assert [layer.name for layer in graph.layers] == ["stem", "a1", "a2", "b1", "b2", "b_skip"]
    assert sources(graph.layers[2]) == ["a1", "stem"]
    assert graph.layers[2].inputs[1].reads == ROW_BY_ROW
    assert sources(graph.layers[5]) == ["a2", "b2"]
    assert graph.layers[5].inputs[0].reads == Window(1, 2, 1, 0)
    assert graph.partition_points == (0, 1, 3)


def test_a_tensor_with_two_readers_ends_its_layer(toy: ToyModel, tmp_path: Path) -> None:
    x = toy.conv(toy.image, 4, pads=SAME, name="conv")
    graph = graph_of(toy.finish(toy.binary(x, toy.unary(x, name="relu"), name="add")), tmp_path)
    assert [(layer.name, layer.op, layer.nodes) for layer in graph.layers] == [
        ("conv", "conv", ("conv",)),
        ("relu", "elementwise", ("relu", "add")),
    ]
    assert sources(graph.layers[1]) == ["conv", "conv"]


def test_a_sum_whose_later_operand_is_read_again_is_a_layer_of_its_own(toy: ToyModel, tmp_path: Path) -> None:
    a, b = (toy.conv(toy.image, 4, pads=SAME, name=name) for name in ("a", "b"))
    total = toy.unary(toy.binary(a, b, name="sum"), name="relu")
    graph = graph_of(toy.finish(toy.concat([total, b], name="join")), tmp_path)
    assert [(layer.name, layer.op) for layer in graph.layers] == [
        ("a", "conv"), ("b", "conv"), ("sum", "add"), ("join", "concat"),
    ]  # fmt: skip
    assert graph.layers[2].nodes == ("sum", "relu") and sources(graph.layers[2]) == ["a", "b"]
    assert graph.layers[3].out_shape == (8, 12, 8) and graph.partition_points == (0,)


def test_the_later_operand_takes_the_sum_whichever_side_it_stands_on(toy: ToyModel, tmp_path: Path) -> None:
    a, b = (toy.conv(toy.image, 4, pads=SAME, name=name) for name in ("a", "b"))
    graph = graph_of(toy.finish(toy.binary(b, a, "Sub", name="difference")), tmp_path)
    assert [layer.nodes for layer in graph.layers] == [("a",), ("b", "difference")]
    assert sources(graph.layers[1]) == [INPUT, "a"]


def test_a_tensor_added_to_itself_is_one_input(toy: ToyModel, tmp_path: Path) -> None:
    x = toy.conv(toy.image, 4, pads=SAME, name="conv")
    graph = graph_of(toy.finish(toy.binary(x, x, name="twice")), tmp_path)
    assert graph.layers[0].nodes == ("conv", "twice") and sources(graph.layers[0]) == [INPUT]


def test_the_input_can_be_added(toy: ToyModel, tmp_path: Path) -> None:
    x = toy.conv(toy.unary(toy.image, "Tanh", name="tanh"), 3, pads=SAME, name="conv")
    graph = graph_of(toy.finish(toy.binary(toy.image, x, "Mul", name="product")), tmp_path)
    assert [(layer.name, layer.op) for layer in graph.layers] == [("tanh", "elementwise"), ("conv", "conv")]
    assert sources(graph.layers[1]) == ["tanh", INPUT] and graph.partition_points == (0,)


def test_constants_join_the_layer_if_all_rows_share_them(toy: ToyModel, tmp_path: Path) -> None:
    x = toy.conv(toy.image, 4, pads=SAME, name="conv")
    x = toy.binary(x, toy.constant((1, 4, 1, 1)), "Mul", name="scale")
    x = x._replace(tensor=toy.node("PRelu", [x.tensor, toy.constant((4, 1, 8))], "prelu"))
    x = toy.binary(x, toy.constant(()), name="shift")
    graph = graph_of(toy.finish(x), tmp_path)
    assert graph.layers[0].nodes == ("conv", "scale", "prelu", "shift")
    assert graph.layers[0].params == 4 * 27 + 4 + 4 + 4 * 8
    assert graph.head.nodes == () and graph.head.outputs == (Output("shift_out", (1, 4, 12, 8), layer="conv"),)


@pytest.mark.parametrize(
    ("auto_pad", "top", "height"), [("SAME_UPPER", 1, 6), ("SAME_LOWER", 2, 6), ("VALID", 0, 5), ("NOTSET", 0, 5)]
)
def test_auto_pad_is_worked_out(toy: ToyModel, tmp_path: Path, auto_pad: str, top: int, height: int) -> None:
    weight = toy.constant((2, 3, 5, 1))  # 12 rows, stride 2: 6 rows read 15
    tensor = toy.node("Conv", [toy.image.tensor, weight], "conv", strides=[2, 1], auto_pad=auto_pad)
    height -= auto_pad in ("VALID", "NOTSET")  # (12 - 5) // 2 + 1
    graph = graph_of(toy.finish(tensor), tmp_path)
    assert graph.layers[0].inputs[0].reads == Window(5, 2, 1, top)
    assert graph.layers[0].out_shape == (2, height, 8) and graph.layers[0].kernel == (5, 1)


def test_groups_and_dilation(toy: ToyModel, tmp_path: Path) -> None:
    x = toy.conv(toy.image, 6, groups=3, dilation=2, pads=(3, 2, 1, 2), name="depthwise")
    x = toy.conv(x, 4, groups=2, name="grouped")
    graph = graph_of(toy.finish(x), tmp_path)
    assert [(layer.op, layer.groups) for layer in graph.layers] == [("depthwise", 3), ("conv", 2)]
    assert graph.layers[0].inputs[0].reads == Window(3, 1, 2, 3) and graph.layers[0].height == 12
    assert [layer.macs for layer in graph.layers] == [6 * 12 * 8 * 9, 4 * 10 * 6 * 3 * 9]


def test_ceil_mode_counts_no_window_that_begins_in_the_padding(toy: ToyModel, tmp_path: Path) -> None:
    x = toy.conv(toy.image, 2, kernel=(2, 1), name="conv")  # 11 rows
    partial = toy.pool(x, kernel=(2, 1), stride=2, ceil=True, name="partial")
    beyond = toy.pool(partial, "AveragePool", kernel=(2, 1), stride=3, pads=(1, 0, 1, 0), ceil=True, name="beyond")
    graph = graph_of(toy.finish(toy.conv(beyond, 2, kernel=(1, 1), name="last")), tmp_path)
    # 11 rows by 2: five windows and one of a single row; 6 rows padded to 8, by 3: begin at -1, 2, 5 and no more
    assert [layer.height for layer in graph.layers] == [11, 6, 3, 3]
    five = ToyModel(np.random.default_rng(0), channels=1, height=5, width=5)
    x = five.pool(five.conv(five.image, 1, kernel=(1, 1)), kernel=(2, 2), stride=3, pads=(1, 0, 1, 0), ceil=True)
    # padded to 7, ceil gives begins -1, 2 and 5, the last of them beyond the input's 5 rows
    assert graph_of(five.finish(x), tmp_path).layers[1].height == 2


def test_what_is_made_of_constants_is_constant(toy: ToyModel, tmp_path: Path) -> None:
    half = helper.make_tensor("half", onnx.TensorProto.FLOAT, [1], [0.5])
    scale = toy.node("Neg", [toy.node("Constant", [], "half", value=half)], "minus")
    shape = toy.node("Constant", [], "sizes", value_ints=[1, -1])
    x = toy.binary(toy.conv(toy.image, 2, pads=SAME, name="conv"), scale, "Mul", name="scaled")
    graph = graph_of(toy.finish(toy.node("Reshape", [x.tensor, shape], "flat")), tmp_path)
    assert [layer.nodes for layer in graph.layers] == [("conv", "scaled")]
    assert graph.head.nodes == ("flat",) and graph.head.outputs == (Output("flat_out", (1, 2 * 12 * 8)),)


@pytest.mark.parametrize("batch", ["N", 1, None])
def test_any_batch_becomes_one(toy: ToyModel, tmp_path: Path, batch: str | int | None) -> None:
    model = toy.finish(toy.classifier(toy.conv(toy.image, 4, name="conv")))
    del model.graph.input[:]
    model.graph.input.append(helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, [batch, 3, 12, 8]))
    graph = graph_of(model, tmp_path)
    assert graph.input_shape == (1, 3, 12, 8) and graph.head.outputs == (Output("fc_out", (1, 5)),)


def test_dead_branches_are_dropped(toy: ToyModel, tmp_path: Path) -> None:
    x = toy.conv(toy.image, 4, pads=SAME, name="conv")
    toy.conv(x, 2, name="auxiliary")
    graph = graph_of(toy.finish(toy.unary(x, name="relu")), tmp_path)
    assert [layer.nodes for layer in graph.layers] == [("conv", "relu")]


def test_a_convolution_of_one_row_may_stand_in_the_head(toy: ToyModel, tmp_path: Path) -> None:
    x = toy.conv(toy.image, 4, name="conv")
    pooled = Feature(toy.node("GlobalAveragePool", [x.tensor], "gap"), 4, 1, 1)
    graph = graph_of(toy.finish(toy.conv(pooled, 7, kernel=(1, 1), name="classes")), tmp_path)
    assert graph.head.nodes == ("gap", "classes")
    assert (graph.head.macs, graph.head.params) == (28, 28 + 7)


def test_layers_get_names_of_their_own(toy: ToyModel, tmp_path: Path) -> None:
    x = toy.image
    for name in ("same", "same", "input"):
        x = toy.unary(toy.conv(x, 3, pads=SAME), name=f"relu{len(toy.nodes)}")
        toy.nodes[-2].name = name
    x = toy.pool(x)
    toy.nodes[-1].name = ""
    graph = graph_of(toy.finish(x), tmp_path)
    assert [layer.name for layer in graph.layers] == ["same", "same_1", "input_1", "MaxPool_6"]
    assert [sources(layer)[0] for layer in graph.layers] == [INPUT, "same", "same_1", "input_1"]


def test_a_gate_is_a_layer_that_reads_everything_and_is_read_whole(toy: ToyModel, tmp_path: Path) -> None:
    x = toy.conv(toy.image, 4, pads=SAME, name="conv")
    squeezed = Feature(toy.node("GlobalAveragePool", [x.tensor], "squeeze"), 4, 1, 1)
    gate = toy.unary(toy.conv(squeezed, 4, kernel=(1, 1), name="fc"), "Sigmoid", name="gate")
    graph = graph_of(
        toy.finish(toy.conv(toy.binary(x, gate, "Mul", name="excite"), 4, pads=SAME, name="after")), tmp_path
    )
    assert [(layer.name, layer.nodes, layer.whole) for layer in graph.layers] == [
        ("conv", ("conv",), False),
        ("squeeze", ("squeeze", "fc", "gate"), True),
        ("excite", ("excite",), False),
        ("after", ("after",), False),
    ]
    assert graph.layers[1].inputs == (LayerInput("conv", EVERYTHING),) and graph.layers[1].out_shape == (4, 1, 1)
    assert graph.layers[2].inputs == (LayerInput("conv"), LayerInput("squeeze", EVERYTHING))
    assert graph.partition_points == (0, 1, 3) and graph.head.nodes == ()


def test_detections_leave_from_where_they_arise(toy: ToyModel, tmp_path: Path) -> None:
    first = toy.conv(toy.image, 4, pads=SAME, name="first")
    second = toy.pool(first, name="second")
    boxes = [toy.conv(x, 2, pads=SAME, name=f"boxes{i}") for i, x in enumerate((first, second))]
    flat = [toy.node("Flatten", [toy.node("Transpose", [b.tensor], perm=[0, 2, 3, 1])]) for b in boxes]
    graph = graph_of(toy.finish(toy.node("Concat", flat, "all", axis=1), second), tmp_path)
    assert [layer.name for layer in graph.layers] == ["first", "boxes0", "second", "boxes1"]
    assert graph.head.inputs == ("boxes0", "boxes1")
    assert graph.head.ops == ("Transpose", "Flatten", "Transpose", "Flatten", "Concat")
    assert graph.head.outputs == (
        Output("all_out", (1, 2 * 12 * 8 + 2 * 6 * 4)), Output("second_out", (1, 4, 6, 4), layer="second"),
    )  # fmt: skip
    assert graph.partition_points == (0, 1, 3)


def test_a_passthrough_crosses_where_least_does(toy: ToyModel, tmp_path: Path) -> None:
    early = toy.conv(toy.image, 2, pads=SAME, name="early")
    x = toy.conv(early, 16, pads=SAME, name="wide1")
    x = toy.conv(x, 4, pads=SAME, name="narrow")
    x = toy.conv(x, 16, pads=SAME, name="wide2")
    graph = graph_of(toy.finish(toy.conv(toy.concat([x, early], name="join"), 2, name="last")), tmp_path)
    assert [layer.name for layer in graph.layers] == ["early", "wide1", "narrow", "wide2", "join", "last"]
    assert graph.partition_points == (0, 1, 5)
    assert graph.cut_points == (0, 1, 3, 5) and graph.crossing(3) == (0, 2)


def test_transposed_convolutions_and_resizing(toy: ToyModel, tmp_path: Path) -> None:
    x = toy.conv(toy.image, 4, pads=SAME, name="conv")
    up = toy.node("ConvTranspose", [x.tensor, toy.constant((4, 2, 4, 4))], "up", strides=[2, 2], pads=[1, 1, 1, 1])
    toy.weights.append(onnx.numpy_helper.from_array(np.array([1, 1, 1.5, 1], dtype=np.float32), "scales"))
    big = toy.node("Resize", [up, "", "scales"], "big", mode="nearest", coordinate_transformation_mode="asymmetric",
                   nearest_mode="floor")  # fmt: skip
    graph = graph_of(toy.finish(big), tmp_path)
    assert [(layer.op, layer.out_shape) for layer in graph.layers[1:]] == [
        ("deconv", (2, 24, 16)),
        ("resize", (2, 36, 16)),
    ]
    assert graph.layers[1].inputs[0].reads == Spread(4, 2, 1)
    assert graph.layers[1].macs == 4 * 12 * 8 * 2 * 16
    rows = tuple(o * 2 // 3 for o in range(36))
    assert graph.layers[2].inputs[0].reads == Listed(rows, rows)


def test_rows_are_followed_through_reshapes_and_transpositions(toy: ToyModel, tmp_path: Path) -> None:
    x = toy.conv(toy.image, 6, pads=SAME, name="conv")
    toy.weights += [
        onnx.numpy_helper.from_array(np.array(sizes), name)
        for name, sizes in (("apart", [1, 2, 3, 12, 8]), ("together", [1, 6, 12, 8]), ("blocks", [1, 6, 4, 3, 4, 2]))
    ]
    shuffled = toy.node("Transpose", [toy.node("Reshape", [x.tensor, "apart"], "apart")], "mix", perm=[0, 2, 1, 3, 4])
    y = x._replace(tensor=toy.node("Reshape", [shuffled, "together"], "together"))
    z = toy.node("Reshape", [toy.conv(y, 6, pads=SAME, name="next").tensor, "blocks"], "blocks")
    z = toy.node("Transpose", [z], "inward", perm=[0, 1, 3, 5, 2, 4])
    toy.weights.append(onnx.numpy_helper.from_array(np.array([1, 36, 4, 4]), "deep"))
    last = Feature(toy.node("Reshape", [z, "deep"], "deep"), 36, 4, 4)
    graph = graph_of(toy.finish(toy.conv(last, 2, kernel=(1, 1), name="last")), tmp_path)
    assert [layer.nodes for layer in graph.layers] == [
        ("conv", "apart", "mix", "together"), ("next",), ("blocks", "inward", "deep"), ("last",),
    ]  # fmt: skip
    assert graph.layers[2].inputs[0].reads == Window(3, 3) and graph.layers[2].out_shape == (36, 4, 4)


def test_images_whose_channels_come_last(tmp_path: Path) -> None:
    toy = ToyModel(np.random.default_rng(0), channels=12, height=8, width=3)  # (1, 12, 8, 3): rows, columns, channels
    x = Feature(toy.node("Transpose", [toy.image.tensor], "first", perm=[0, 3, 1, 2]), 3, 12, 8)
    graph = graph_of(toy.finish(toy.conv(x, 4, pads=SAME, name="conv")), tmp_path)
    assert graph.input_axis == 1 and graph.image == (1, 12, 24) and graph.layers[-1].out_shape == (4, 12, 8)


def test_zeros_around_a_convolution_are_its_padding(toy: ToyModel, tmp_path: Path) -> None:
    toy.weights.append(onnx.numpy_helper.from_array(np.array([0, 0, 2, 1, 0, 0, 1, 1]), "sizes"))
    padded = Feature(toy.node("Pad", [toy.image.tensor, "sizes"], "pad"), 3, 15, 10)
    graph = graph_of(toy.finish(toy.conv(padded, 4, name="conv")), tmp_path)
    assert [layer.name for layer in graph.layers] == ["conv"] and graph.layers[0].inputs[0].reads == Window(3, 1, 1, 2)


def test_sizes_that_a_file_leaves_open(toy: ToyModel, tmp_path: Path) -> None:
    model = toy.finish(toy.classifier(toy.conv(toy.image, 4, name="conv")))
    del model.graph.input[:]
    model.graph.input.append(helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, ["N", 3, "H", "W"]))
    path = save_model(model, tmp_path)
    assert load_model(path, (1, 3, 30, 20)).layers[0].out_shape == (4, 28, 18)
    with pytest.raises(ModelError, match=r"has the shape \(1, 3, H, W\), not \(1, 4, 30, 20\)"):
        load_model(path, (1, 4, 30, 20))


def test_a_convolution_of_one_row_is_the_body_if_there_is_no_other(toy: ToyModel, tmp_path: Path) -> None:
    size = (3,)
    x = toy.image._replace(
        tensor=toy.node(
            "InstanceNormalization", [toy.image.tensor, toy.constant(size, 1.0), toy.constant(size)], "norm"
        )
    )
    graph = graph_of(toy.finish(toy.conv(x, 4, kernel=(12, 3), name="all_rows")), tmp_path)
    assert [(layer.name, layer.whole) for layer in graph.layers] == [("norm", True), ("all_rows", False)]
