"""Random CNNs: the import agrees with what ONNX Runtime computes."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from distredge.model.layer import INPUT
from distredge.model.load import load_model
from distredge.model.onnx_file import read_model
from distredge.testing.random_models import random_model
from distredge.testing.toy_models import save_model

seeds = st.integers(0, 2**32 - 1)


def run(model: onnx.ModelProto, image: npt.NDArray[np.float32], tensors: list[str]) -> list[npt.NDArray[np.float32]]:
    """What ONNX Runtime computes for any tensors of a model."""
    asked = onnx.ModelProto.FromString(model.SerializeToString())
    del asked.graph.output[:]
    asked.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in tensors)
    session = onnxruntime.InferenceSession(asked.SerializeToString())
    return list(session.run(None, {"image": image}))


@given(seeds)
def test_shapes_are_those_that_onnx_runtime_computes(seed: int) -> None:
    rng = np.random.default_rng(seed)
    model = random_model(rng)
    with tempfile.TemporaryDirectory() as folder:
        path = save_model(model, Path(folder))
        graph, (normal, weights) = load_model(path), read_model(path)
    for tensor in normal.graph.initializer:
        tensor.CopyFrom(weights.get(tensor.name, tensor))
    image = rng.standard_normal(graph.input_shape).astype(np.float32)
    outputs = [output.name for output in graph.head.outputs if output.layer is None]
    tensors = [layer.tensor for layer in graph.layers] + outputs
    values = run(model, image, tensors)
    for layer, value in zip(graph.layers, values, strict=False):
        channels, height, width = layer.out_shape
        assert value.size == channels * height * width and height in value.shape, layer.name
    for value, same in zip(values, run(normal, image, tensors), strict=True):
        np.testing.assert_allclose(value, same, rtol=1e-5, atol=1e-6)


@given(seeds)
def test_layers_stand_in_order_and_hold_every_node_once(seed: int) -> None:
    model = random_model(np.random.default_rng(seed))
    with tempfile.TemporaryDirectory() as folder:
        graph = load_model(save_model(model, Path(folder)))
    known = {INPUT}
    for layer in graph.layers:
        assert known.issuperset(source.source for source in layer.inputs)
        known.add(layer.name)
    nodes = [node for layer in graph.layers for node in layer.nodes] + list(graph.head.nodes)
    assert len(nodes) == len(set(nodes))
    with tempfile.TemporaryDirectory() as folder:
        normal, _ = read_model(save_model(model, Path(folder)))
    assert sorted(nodes) == sorted(node.name for node in normal.graph.node)


@given(seeds)
def test_the_same_seed_gives_the_same_model(seed: int) -> None:
    first, second = (random_model(np.random.default_rng(seed)).SerializeToString(deterministic=True) for _ in range(2))
    assert first == second
