"""What cannot be planned is refused in one line that names what is wrong."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from distredge.errors import ModelError, UnsupportedOperatorError
from distredge.model.load import load_model
from distredge.testing.random_models import random_model
from distredge.testing.toy_models import Feature, ToyModel, chain, save_model

SAME = (1, 1, 1, 1)


def _toy() -> ToyModel:
    return ToyModel(np.random.default_rng(0), channels=3, height=12, width=8)


def _with_input(*shape: int | str, kind: int = onnx.TensorProto.FLOAT) -> onnx.ModelProto:
    model = chain(np.random.default_rng(0))
    del model.graph.input[:]
    model.graph.input.append(helper.make_tensor_value_info("image", kind, shape))
    return model


def _two_inputs() -> onnx.ModelProto:
    model = chain(np.random.default_rng(0))
    model.graph.input.append(helper.make_tensor_value_info("mask", onnx.TensorProto.FLOAT, [1, 3, 24, 10]))
    return model


def _no_convolution() -> onnx.ModelProto:
    toy = _toy()
    return toy.finish(toy.classifier(toy.pool(toy.image)))


def _custom_domain() -> onnx.ModelProto:
    toy = _toy()
    x = toy.conv(toy.image, 4)
    model = toy.finish(toy.node("FancyPool", [x.tensor], "fancy", domain="com.example"))
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    return model


def _unknown_operator() -> onnx.ModelProto:
    toy = _toy()
    return toy.finish(toy.node("Convolve", [toy.conv(toy.image, 4).tensor], "odd"))


def _random() -> onnx.ModelProto:
    toy = _toy()
    noise = toy.node("RandomUniformLike", [toy.conv(toy.image, 4).tensor], "noise")
    return toy.finish(noise)


def _places_of_a_maximum() -> onnx.ModelProto:
    toy = _toy()
    x = toy.conv(toy.image, 4, pads=SAME)
    toy.nodes.append(helper.make_node("MaxPool", [x.tensor], ["most", "where"], "pool", kernel_shape=[2, 2]))
    model = toy.finish(toy.conv(Feature("most", 4, 11, 7), 2), "where")
    model.graph.output[1].type.tensor_type.elem_type = onnx.TensorProto.INT64
    return model


def _head_reads_the_image() -> onnx.ModelProto:
    toy = _toy()
    pooled = [toy.node("GlobalMaxPool", [x.tensor]) for x in (toy.image, toy.conv(toy.image, 4))]
    return toy.finish(toy.node("Concat", pooled, axis=1))


def _control_flow() -> onnx.ModelProto:
    toy = _toy()
    x = toy.conv(toy.image, 4)
    branch = helper.make_graph(
        [helper.make_node("Identity", [x.tensor], ["same"])],
        "branch",
        [],
        [helper.make_tensor_value_info("same", onnx.TensorProto.FLOAT, None)],
    )
    toy.weights.append(numpy_helper.from_array(np.array(True), "flag"))
    return toy.finish(toy.node("If", ["flag"], "choose", then_branch=branch, else_branch=branch))


def _shapes_disagree() -> onnx.ModelProto:
    toy = _toy()
    wrong = Feature(toy.conv(toy.image, 4).tensor, channels=9, height=10, width=6)
    return toy.finish(toy.classifier(wrong))


def _kernel_too_large() -> onnx.ModelProto:
    toy = _toy()
    return toy.finish(toy.conv(toy.image, 4, kernel=(13, 1)))


def _stride_zero() -> onnx.ModelProto:
    toy = _toy()
    weight = toy.constant((4, 3, 3, 3))
    return toy.finish(toy.node("Conv", [toy.image.tensor, weight], "conv", strides=[0, 1], auto_pad="SAME_UPPER"))


def _pads_of_one_axis() -> onnx.ModelProto:
    toy = _toy()
    return toy.finish(toy.node("MaxPool", [toy.conv(toy.image, 4).tensor], "pool", kernel_shape=[2, 2], pads=[1, 1]))


def _line_break_in_a_name() -> onnx.ModelProto:
    toy = _toy()
    return toy.finish(toy.conv(toy.image, 4, name="one\ntwo"))


def _weights_for_other_channels() -> onnx.ModelProto:
    toy = _toy()
    weight = toy.constant((4, 5, 3, 3))
    return toy.finish(toy.node("Conv", [toy.image.tensor, weight], "conv"))


CASES: dict[str, tuple[Callable[[], onnx.ModelProto], str]] = {
    "rank": (lambda: _with_input(1, 3, 24), "is no CNN: its input 'image' has 3 dimensions"),
    "free height": (
        lambda: _with_input(1, 3, "H", 10),
        r"has the shape \(1, 3, H, 10\): give its sizes \(--input-shape",
    ),
    "integers": (
        lambda: _with_input(1, 3, 24, 10, kind=onnx.TensorProto.UINT8),
        "is not float32: export it with a float32",
    ),
    "channels": (_weights_for_other_channels, r"Conv \(node 'conv'\) has weights for 5 channels, its input has 3"),
    "batch": (lambda: _with_input(2, 3, 24, 10), "for 2 images at a time: export it for one"),
    "two inputs": (_two_inputs, r"should have one input, the image, but has 2 \(image, mask\)"),
    "no convolution": (_no_convolution, "is no CNN: it has no convolution"),
    "shapes disagree": (_shapes_disagree, "the shapes of .* do not fit together"),
    "stride 0": (_stride_zero, r"Conv \(node 'conv'\) states impossible"),
    "pads": (_pads_of_one_axis, r"MaxPool \(node 'pool'\) states impossible"),
    "line break": (_line_break_in_a_name, "is not an ONNX file"),
    "second output": (_places_of_a_maximum, "'where' of .* is a second output of a node in mid-network"),
    "image in the head": (_head_reads_the_image, "the head of 'toy' reads the image itself"),
    "kernel too large": (_kernel_too_large, "nothing is left at layer 'conv0': its window"),
}

OPERATORS: dict[str, tuple[Callable[[], onnx.ModelProto], str]] = {
    "custom": (_custom_domain, r"com\.example\.FancyPool \(node 'fancy'\)"),
    "unknown": (_unknown_operator, r"Convolve \(node 'odd'\)"),
    "random": (_random, r"RandomUniformLike \(node 'noise'\) of .* is random"),
    "control flow": (_control_flow, r"If \(node 'choose'\)"),
}


@pytest.mark.parametrize("case", CASES)
def test_models_that_cannot_be_planned(tmp_path: Path, case: str) -> None:
    make, message = CASES[case]
    with pytest.raises(ModelError, match=message) as caught:
        load_model(save_model(make(), tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("case", OPERATORS)
def test_operators_that_cannot_be_split_are_named(tmp_path: Path, case: str) -> None:
    make, message = OPERATORS[case]
    with pytest.raises(UnsupportedOperatorError, match=message) as caught:
        load_model(save_model(make(), tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\x08\x07", b"no model at all", b"\x00\xff" * 40, b"{}"])
def test_files_that_are_not_onnx(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match="is not an ONNX file"):
        load_model(path)


def test_a_cut_off_file(tmp_path: Path) -> None:
    path = save_model(chain(np.random.default_rng(0)), tmp_path)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(ModelError, match="is not an ONNX file"):
        load_model(path)


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=150)
def test_a_damaged_file_is_refused_in_one_line_or_still_a_model(seed: int) -> None:
    rng = np.random.default_rng(seed)
    data = bytearray(random_model(rng).SerializeToString())
    for _ in range(int(rng.integers(1, 4))):
        at = int(rng.integers(len(data)))
        if rng.random() < 0.3:
            del data[at : at + int(rng.integers(1, 40))]
        else:
            data[at % len(data)] = int(rng.integers(256))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "damaged.onnx"
        path.write_bytes(data)
        try:
            load_model(path)
        except ModelError as error:
            assert "\n" not in str(error)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="there is no file"):
        load_model(tmp_path / "nothing.onnx")
    with pytest.raises(ModelError, match="there is no file"):
        load_model(str(tmp_path))


def _external(folder: Path) -> Path:
    path = folder / "model.onnx"
    model = chain(np.random.default_rng(0))
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    return path


def test_external_weights_are_part_of_the_hash(tmp_path: Path) -> None:
    path = _external(tmp_path)
    before = load_model(path)
    assert [layer.name for layer in before.layers] == ["conv1", "conv2", "pool1", "conv3", "pool2"]
    weights = tmp_path / "weights.bin"
    content = bytearray(weights.read_bytes())
    content[5] ^= 1
    weights.write_bytes(content)
    assert load_model(path).sha256 != before.sha256


def test_missing_external_weights(tmp_path: Path) -> None:
    path = _external(tmp_path)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(ModelError, match=r"keeps weights in 'weights\.bin', which is not beside it"):
        load_model(path)


def test_cut_off_external_weights(tmp_path: Path) -> None:
    path = _external(tmp_path)
    weights = tmp_path / "weights.bin"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(ModelError, match="cannot be read"):
        load_model(path)
