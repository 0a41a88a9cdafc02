"""PyTorch as a back end: it computes what ONNX Runtime computes, and times it."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

torch = pytest.importorskip("torch")

from distredge.engine.onnxruntime import session  # noqa: E402
from distredge.engine.subgraph import OnnxSource  # noqa: E402
from distredge.errors import DependencyError, InputError, RunError  # noqa: E402
from distredge.measure.bench import MIN_RUNS, Piece  # noqa: E402
from distredge.measure.points import Point, head_point, layer_point, piece_of, random_parts  # noqa: E402
from distredge.measure.torch_bench import TorchBench  # noqa: E402
from distredge.measure.torch_piece import TorchPiece  # noqa: E402
from distredge.model.graph import LayerGraph  # noqa: E402
from distredge.model.load import load_model  # noqa: E402
from distredge.profiles.measured import head_signature  # noqa: E402
from distredge.testing.random_models import random_model  # noqa: E402
from distredge.testing.toy_models import residual, save_model  # noqa: E402

CPU = torch.device("cpu")


def pieces(graph: LayerGraph, layers: int, parts: int, rng: np.random.Generator) -> list[Piece]:
    source, step = OnnxSource.of(graph), max(1, len(graph.layers) // layers)
    points: list[Point] = [layer_point(layer, max(1, layer.height // 3)) for layer in graph.layers[::step]]
    points += random_parts(graph, parts, rng)
    if graph.head.nodes:
        points.append(head_point(head_signature(graph.head)))
    return [piece_of(source, graph, point) for point in points]


def difference(model: ModelProto, dtype: Any = torch.float32) -> float:
    """Largest difference between PyTorch's and ONNX Runtime's outputs, relative to the largest value."""
    runner, rng = session(model.SerializeToString(), 1), np.random.default_rng(0)
    feeds = {i.name: rng.random(i.shape, dtype=np.float32) for i in runner.get_inputs()}
    with torch.inference_mode():
        made = TorchPiece(model, CPU, dtype)(*[torch.from_numpy(feeds[i.name]) for i in model.graph.input])
    worst = 0.0
    for ours, theirs in zip(made, runner.run(None, feeds), strict=True):
        assert ours.shape == theirs.shape
        worst = max(worst, float(np.abs(ours.numpy() - theirs).max() / (np.abs(theirs).max() + 1e-9)))
    return worst


@pytest.mark.parametrize("name", ["squeezenet1_1", "mobilenet_v2"])
def test_pieces_of_the_zoo_compute_what_onnx_runtime_computes(name: str) -> None:
    for piece in pieces(load_model(name), layers=4, parts=3, rng=np.random.default_rng(0)):
        assert difference(piece.whole()) < 1e-5, piece.title


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["densenet121", "inception_v1", "inception_v3", "openpose", "resnet50", "ssd_vgg16", "vgg16", "voxelnet", "yolov2"],
)
def test_pieces_of_large_models_compute_what_onnx_runtime_computes(name: str) -> None:
    for piece in pieces(load_model(name), layers=6, parts=6, rng=np.random.default_rng(0)):
        assert difference(piece.whole()) < 1e-5, piece.title


def test_pieces_of_random_models_compute_the_same_or_are_refused(tmp_path: Path) -> None:
    known = refused = 0
    for seed in range(8):
        rng = np.random.default_rng(seed)
        (tmp_path / str(seed)).mkdir()
        graph = load_model(save_model(random_model(rng), tmp_path / str(seed)))
        for piece in pieces(graph, layers=6, parts=4, rng=rng):
            try:
                assert difference(piece.whole()) < 1e-4, piece.title
                known += 1
            except RunError as error:
                assert "does not know the" in str(error)
                refused += 1
    assert known > 3 * refused


def test_half_precision_is_close(tmp_path: Path) -> None:
    graph = load_model(save_model(residual(np.random.default_rng(0)), tmp_path))
    for piece in pieces(graph, layers=4, parts=4, rng=np.random.default_rng(0)):
        assert 1e-7 < difference(piece.whole(), torch.float16) < 1e-2, piece.title


# Single operators, with what no model of the zoo has


def one_node(
    op: str, inputs: list[tuple[int, ...] | list[int] | float], outputs: int = 1, **attributes: Any
) -> ModelProto:
    """A model of one node: tuples are shapes of inputs (the first) and weights, lists are integers, numbers scalars."""
    rng, weights = np.random.default_rng(0), []
    for i, given in enumerate(inputs[1:], 1):
        if isinstance(given, tuple):
            values: Any = rng.uniform(0.1, 1.0, given).astype(np.float32)
        else:
            values = np.array(given, dtype=np.int64 if isinstance(given, list) else np.float32)
        weights.append(numpy_helper.from_array(values, f"w{i}"))
    names = ["x", *(weight.name for weight in weights)]
    node = helper.make_node(op, names, [f"y{i}" for i in range(outputs)], name="node", **attributes)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, inputs[0])
    y = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in node.output]
    graph = helper.make_graph([node], "one", [x], y, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


@pytest.mark.parametrize(
    "model",
    [
        one_node("Conv", [(1, 4, 9, 8), (6, 2, 3, 3), (6,)], pads=[2, 0, 1, 1], group=2, strides=[2, 1]),
        one_node("Conv", [(1, 4, 9, 8), (6, 4, 3, 2)], pads=[2, 2, 2, 2], dilations=[2, 1]),
        one_node("Conv", [(1, 2, 5, 9, 8), (6, 2, 3, 3, 3)], pads=[1, 0, 1, 1, 1, 1]),
        one_node("ConvTranspose", [(1, 4, 5, 6), (4, 3, 4, 4), (3,)], pads=[2, 1, 0, 1], strides=[2, 2]),
        one_node("ConvTranspose", [(1, 4, 5, 6), (4, 3, 3, 3)],
                 pads=[0, 1, 1, 2], strides=[2, 3], output_padding=[1, 2]),
        one_node("MaxPool", [(1, 4, 9, 8)], kernel_shape=[3, 3], pads=[0, 1, 1, 0], strides=[2, 2]),
        one_node("MaxPool", [(1, 4, 9, 8)], kernel_shape=[2, 3], ceil_mode=1, strides=[2, 2]),
        one_node("AveragePool", [(1, 4, 9, 8)], kernel_shape=[3, 3], pads=[0, 1, 1, 1]),
        one_node("AveragePool", [(1, 4, 9, 8)], kernel_shape=[3, 3], pads=[0, 1, 1, 1], count_include_pad=1),
        one_node("AveragePool", [(1, 4, 9, 8)], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        one_node("Gemm", [(2, 3), (3, 4), (4,)], alpha=0.5, beta=2.0),
        one_node("Gemm", [(3, 2), (4, 3)], transA=1, transB=1),
        one_node("Clip", [(1, 4, 9, 8), 0.2]),
        one_node("Slice", [(1, 4, 9, 8), [1, 2], [-1, 99], [-2, 1], [2, 1]]),
        one_node("Pad", [(1, 4, 9, 8), [0, 0, 1, 2, 0, 0, 3, 4], 0.5]),
        one_node("Reshape", [(2, 4, 9, 8), [0, -1, 8]]),
        one_node("ReduceMean", [(1, 4, 9, 8), [2, 3]], keepdims=0),
        one_node("ReduceL2", [(1, 4, 9, 8), [1]]),
        one_node("Unsqueeze", [(4, 9), [0, 3]]),
        one_node("Squeeze", [(1, 4, 1, 9), [2]]),
        one_node("Expand", [(4, 1), [2, 1, 3]]),
        one_node("Flatten", [(2, 4, 9)], axis=2),
        one_node("GlobalAveragePool", [(1, 4, 9, 8)]),
        one_node("HardSigmoid", [(1, 4, 9)], alpha=0.3),
        one_node("HardSwish", [(1, 4, 9)]),
        one_node("Softmax", [(1, 4, 9)], axis=1),
        one_node("Transpose", [(2, 4, 9)]),
    ],
    ids=lambda model: model.graph.node[0].op_type,
)  # fmt: skip
def test_an_operator_computes_what_onnx_runtime_computes(model: ModelProto) -> None:
    assert difference(model) < 1e-5


@pytest.mark.parametrize(
    "model",
    [
        one_node("Resize", [(1, 4, 9, 8), 2.0]),
        one_node("MaxPool", [(1, 4, 9, 8)], kernel_shape=[3, 3], auto_pad="SAME_UPPER"),
        one_node("MaxPool", [(1, 4, 9, 8)], kernel_shape=[3, 3], pads=[0, 0, 1, 0], ceil_mode=1),
        one_node("MaxPool", [(1, 4, 9, 8)], kernel_shape=[3, 3], outputs=2),
        one_node("Slice", [(1, 4, 9, 8), [8], [0], [2], [-1]]),
    ],
    ids=lambda model: model.graph.node[0].op_type,
)
def test_what_it_does_not_know_is_refused_by_name(model: ModelProto) -> None:
    op = model.graph.node[0].op_type
    with pytest.raises(RunError, match=rf"does not know the .*{op} \('node'\): use `--backend ort`"):
        TorchPiece(model, CPU, torch.float32)


# The bench


@pytest.fixture(scope="module")
def piece(tmp_path_factory: pytest.TempPathFactory) -> Piece:
    graph = load_model(save_model(residual(np.random.default_rng(0)), tmp_path_factory.mktemp("model")))
    return pieces(graph, 1, 0, np.random.default_rng(0))[0]


def test_it_times_a_piece_on_the_processor(piece: Piece) -> None:
    before = torch.get_num_threads()
    with TorchBench("cpu", np.random.default_rng(0), threads=before + 1) as bench:
        assert torch.get_num_threads() == before + 1
        times = bench.time_ms(piece, warm_up_s=0.0, seconds=0.0)
        subject = bench.subject
        assert bench.breakdown_ms(piece) is None
    assert torch.get_num_threads() == before
    assert len(times) == MIN_RUNS
    assert min(times) > 0
    assert (subject.backend, subject.runtime, subject.runtime_version) == ("torch", "torch", torch.__version__)
    assert (subject.precision, subject.threads) == ("FP32", before + 1)


def test_on_a_gpu_cuda_events_are_what_counts(piece: Piece, monkeypatch: pytest.MonkeyPatch) -> None:
    """The GPU's part runs on the processor here, with made-up events: no GPU has been at hand."""

    class Event:
        clock = 0.0

        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            Event.clock += 1.5
            self.at = Event.clock

        def synchronize(self) -> None:
            self.waited = True

        def elapsed_time(self, end: Event) -> float:
            assert end.waited
            return end.at - self.at

    monkeypatch.setattr(torch, "device", lambda name: CPU)
    for name, value in {
        "is_available": lambda: True, "get_device_name": lambda: "GPU", "get_device_capability": lambda: (8, 7),
        "get_device_properties": lambda device: SimpleNamespace(L2_cache_size=1 << 20), "Event": Event,
    }.items():  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, value)
    with TorchBench("cuda", np.random.default_rng(0), precision="FP16") as bench:
        assert bench.time_ms(piece, 0.0, 0.0) == [1.5] * MIN_RUNS
        assert bench.subject.device == "GPU (compute capability 8.7)"
        assert (bench.subject.precision, bench.subject.threads) == ("FP16", 0)


def test_what_it_cannot_do_is_told(piece: Piece, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(InputError, match="not in FP16 on cpu"):
        TorchBench("cpu", rng, precision="FP16")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="finds no CUDA GPU here"):
        TorchBench("cuda", rng)

    def fail(*_: object) -> None:
        raise RuntimeError("out of memory\nTried to allocate")

    with TorchBench("cpu", rng) as bench:
        monkeypatch.setattr(TorchPiece, "__call__", fail)
        with pytest.raises(RunError, match="failed in PyTorch on .*: out of memory$"):
            bench.time_ms(piece, 0.0, 0.0)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(DependencyError, match=r"measuring with PyTorch needs torch: pip install 'distredge\[torch\]'"):
        TorchBench("cpu", rng)
