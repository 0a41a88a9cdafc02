"""TensorRT in process, on a stand-in: no board and no GPU has ever run this."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

import numpy as np
import onnx
import pytest

from distredge.engine.onnxruntime import session
from distredge.engine.subgraph import OnnxSource
from distredge.errors import DependencyError, InputError, RunError
from distredge.geometry.interval import Interval
from distredge.geometry.split import Volume
from distredge.measure.bench import MAX_RUNS, MIN_RUNS, Piece
from distredge.measure.points import head_point, layer_point, part_point, piece_of
from distredge.measure.tensorrt import OLD_OPSET, TensorRtBench, prepared
from distredge.model.graph import LayerGraph
from distredge.model.load import load_model
from distredge.profiles.measured import Precision, head_signature
from distredge.testing.pycuda import WRITE_MS, LogicError, Machine
from distredge.testing.tensorrt import PROFILING, stand_in
from distredge.testing.toy_models import residual, save_model

VERSIONS = ("8.0.1.6", "8.2.5.1", "8.4.3.1", "8.5.2.2", "8.6.1", "10.3.0", "10.14.1", "11.4.0")


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> LayerGraph:
    return load_model(save_model(residual(np.random.default_rng(0)), tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def piece(graph: LayerGraph) -> Piece:
    return pieces(graph)[1]


def pieces(graph: LayerGraph) -> list[Piece]:
    """A layer, a split-part with uneven padding and a slice, and the head."""
    source, volume = OnnxSource.of(graph), Volume(graph, 0, len(graph.layers))
    layer = graph.layers[0]
    points = [layer_point(layer, layer.height // 2), part_point(volume, Interval(0, volume.height // 2))]
    if graph.head.nodes:
        points.append(head_point(head_signature(graph.head)))
    return [piece_of(source, graph, point) for point in points]


Install = Callable[[str, Machine], Machine]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Puts a TensorRT on a machine, and sees at the end that nothing is left on it."""
    machines = []

    def put(version: str, machine: Machine) -> Machine:
        for name, module in stand_in(version, machine).items():
            monkeypatch.setitem(sys.modules, name, module)
        machines.append(machine)
        return machine

    yield put
    for machine in machines:
        assert machine.faults == []
        assert machine.memory == {}
        assert sum(machine.alive.values()) == 0
        assert machine.contexts == []


@pytest.mark.parametrize("precision", ["FP16", "FP32"])
@pytest.mark.parametrize("version", VERSIONS)
def test_each_version_times_the_kernels_and_nothing_else(
    install: Install, version: str, precision: Precision, piece: Piece
) -> None:
    install(version, Machine())
    nodes = kernels(version, precision, piece)
    each = 0.05 if precision == "FP16" else 0.1
    total = sum((i + 1) * each for i in range(len(nodes)))
    with TensorRtBench(precision=precision) as bench:
        times = bench.time_ms(piece, warm_up_s=0.0, seconds=0.0)
        assert times == pytest.approx([total] * MIN_RUNS)
        assert len(bench.time_ms(piece, warm_up_s=10.0, seconds=10.0)) == MAX_RUNS
        breakdown = bench.breakdown_ms(piece)
        assert list(breakdown) == nodes
        assert sum(breakdown.values()) == pytest.approx(total)
        subject = bench.subject
    assert (subject.backend, subject.runtime, subject.runtime_version) == ("tensorrt", "TensorRT", version)
    assert subject.device == "Stand-in GPU (compute capability 8.7)"
    assert (subject.precision, subject.threads) == (precision, 0)


def kernels(version: str, precision: Precision, piece: Piece) -> list[str]:
    number = tuple(int(part) for part in version.split(".")[:2])
    return [node.name for node in prepared(piece.whole(), number, precision == "FP16").graph.node]


def test_everything_is_freed_after_each_piece_and_at_the_end(install: Install, graph: LayerGraph) -> None:
    machine = install("10.3.0", Machine())
    with TensorRtBench() as bench:
        idle = dict(machine.memory), +machine.alive
        for piece in pieces(graph):
            bench.time_ms(piece, 0.0, 0.0)
            bench.breakdown_ms(piece)
            assert (dict(machine.memory), +machine.alive) == idle
    bench.close()


def test_what_the_parser_refuses_is_told(install: Install, piece: Piece) -> None:
    for version in ("8.2.5.1", "11.4.0"):
        install(version, Machine(unreadable=["Conv"]))
        with pytest.raises(RunError, match="UNSUPPORTED_NODE: no importer for Conv") as told, TensorRtBench() as bench:
            bench.time_ms(piece, 0.0, 0.0)
        assert piece.title in str(told.value)
        assert "\n" not in str(told.value)


def test_what_the_builder_refuses_is_told(install: Install, piece: Piece) -> None:
    machine = install("8.5.2.2", Machine(unbuildable=["Conv"]))
    with TensorRtBench() as bench:
        for _ in range(2):
            with pytest.raises(RunError, match="TensorRT 8.5.2.2 builds no engine: Could not find any implementation"):
                bench.time_ms(piece, 0.0, 0.0)
        machine.unbuildable.clear()
        assert bench.time_ms(piece, 0.0, 0.0)


def test_a_failure_of_cuda_is_told_and_leaves_nothing(install: Install, piece: Piece) -> None:
    machine = install("10.3.0", Machine())
    with pytest.raises(RunError, match="failed on Stand-in GPU .*out of memory"), TensorRtBench() as bench:
        machine.free_bytes = 0
        bench.time_ms(piece, 0.0, 0.0)


def test_what_is_not_there_is_told(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DependencyError, match=r"needs tensorrt and pycuda .*docs/tensorrt.md.*distredge\[tensorrt\]"):
        TensorRtBench()
    install("10.3.0", Machine(devices=0))
    with pytest.raises(InputError, match="needs an NVIDIA GPU, and CUDA cannot open one here: cuInit failed"):
        TensorRtBench()
    install("10.3.0", Machine()).starts = False
    with pytest.raises(RunError, match="TensorRT does not start: CUDA initialization failure"):
        TensorRtBench()
    with pytest.raises(InputError, match="INT8"):
        TensorRtBench(precision="INT8")


def test_importing_the_back_end_imports_neither_library() -> None:
    import_module("distredge.measure.tensorrt")
    assert "tensorrt" not in sys.modules
    assert "pycuda" not in sys.modules


# The model that TensorRT is given


@pytest.mark.parametrize("version", [(8, 0), (8, 6), (10, 3), (11, 4)])
def test_the_prepared_model_is_valid_and_computes_the_same(graph: LayerGraph, version: tuple[int, int]) -> None:
    for piece in pieces(graph):
        model = prepared(piece.whole(), version, half=True)
        onnx.checker.check_model(model)
        halved = version >= (11, 0)
        assert (model.opset_import[0].version <= OLD_OPSET) == (version < (10, 0))
        weights = {tensor.data_type for tensor in model.graph.initializer} - {onnx.TensorProto.INT64}
        assert weights <= {onnx.TensorProto.FLOAT16 if halved else onnx.TensorProto.FLOAT}
        assert outputs(model) == pytest.approx(outputs(piece.whole()), rel=1e-2, abs=1e-2 if halved else 1e-5)


def outputs(model: onnx.ModelProto) -> np.ndarray[Any, Any]:
    rng, runner = np.random.default_rng(0), session(model.SerializeToString(), 1)
    feeds = {i.name: rng.random(i.shape, dtype=np.float32) for i in runner.get_inputs()}
    made = runner.run(None, feeds)
    assert all(output.dtype == np.float32 for output in made)
    return np.concatenate([output.ravel() for output in made])


# The stand-in is as strict as it says


def modules(version: str, machine: Machine) -> tuple[Any, Any]:
    made = stand_in(version, machine)
    return made["tensorrt"], made["pycuda.driver"]


@pytest.mark.parametrize(
    ("owner", "name", "there"),
    [
        ("ICudaEngine", "get_binding_shape", "8.0 8.2 8.4 8.5 8.6"),
        ("ICudaEngine", "num_io_tensors", "8.5 8.6 10.3 11.4"),
        ("IExecutionContext", "execute_async_v2", "8.0 8.2 8.4 8.5 8.6"),
        ("IExecutionContext", "execute_async_v3", "8.5 8.6 10.3 11.4"),
        ("IExecutionContext", "report_to_profiler", "8.2 8.4 8.5 8.6 10.3 11.4"),
        ("IBuilderConfig", "max_workspace_size", "8.0 8.2 8.4 8.5 8.6"),
        ("IBuilderConfig", "set_memory_pool_limit", "8.4 8.5 8.6 10.3 11.4"),
        ("BuilderFlag", "FP16", "8.0 8.2 8.4 8.5 8.6 10.3"),
        ("NetworkDefinitionCreationFlag", "EXPLICIT_BATCH", "8.0 8.2 8.4 8.5 8.6 10.3"),
    ],
)
def test_the_stand_in_has_what_each_version_has(owner: str, name: str, there: str) -> None:
    for version in ("8.0", "8.2", "8.4", "8.5", "8.6", "10.3", "11.4"):
        trt, _ = modules(version, Machine())
        assert hasattr(getattr(trt, owner), name) == (version in there.split()), version


def test_the_stand_in_refuses_misuse() -> None:
    machine = Machine()
    trt, cuda = modules("8.6.1", machine)
    with pytest.raises(LogicError):
        cuda.Device(0)
    cuda.init()
    with pytest.raises(LogicError, match="context"):
        cuda.mem_alloc(4)
    context = cuda.Device(0).make_context()
    memory = cuda.mem_alloc(4)
    memory.free()
    for use in (memory.free, lambda: int(memory), lambda: cuda.memset_d8_async(memory, 0, 4)):
        with pytest.raises(LogicError):
            use()
    begin, end, stream = cuda.Event(), cuda.Event(), cuda.Stream()
    begin.record(stream)
    scratch = cuda.mem_alloc(8)
    cuda.memset_d8_async(scratch, 0, 8, stream)
    end.record(stream)
    with pytest.raises(cuda.Error, match="not ready"):
        begin.time_till(end)
    end.synchronize()
    assert begin.time_till(end) == pytest.approx(WRITE_MS)
    for wrong in (
        lambda: cuda.mem_alloc("4"),
        lambda: begin.record(7),
        lambda: cuda.Stream("x"),
        lambda: cuda.Event(1, 2),
    ):
        with pytest.raises(TypeError):
            wrong()

    class Careless(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            pass

    with pytest.raises(TypeError, match="must be called"):
        trt.Builder(Careless())
    builder = trt.Builder(trt.ILogger())
    config = builder.create_builder_config()
    with pytest.raises(AttributeError):
        config.max_workspace_sise = 1
    with pytest.warns(DeprecationWarning):
        config.max_workspace_size = 1
    with pytest.raises(TypeError):
        config.set_flag(0)
    with pytest.raises(TypeError):
        builder.build_serialized_network(config, config)
    assert machine.memory
    context.pop()
    assert "still there" in machine.faults[0]
    context.detach()
    with pytest.raises(LogicError):
        context.detach()


def test_the_stand_in_runs_only_what_is_ready(piece: Piece) -> None:
    trt, cuda = modules("10.3.0", Machine())
    cuda.init()
    held = cuda.Device(0).make_context()
    builder = trt.Builder(trt.ILogger())
    network, config = builder.create_network(0), builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, 1 << 20)
    assert trt.OnnxParser(network, trt.ILogger()).parse(piece.whole().SerializeToString())
    plan = builder.build_serialized_network(network, config)
    context = trt.Runtime(trt.ILogger()).deserialize_cuda_engine(plan).create_execution_context()
    assert context.execute_async_v3(0) is False
    with pytest.raises(TypeError):
        context.set_tensor_address(0, 1 << 20)
    for value in (*piece.model.graph.input, *piece.model.graph.output):
        context.set_tensor_address(value.name, 12345)
    with pytest.raises(LogicError, match="allocated"):
        context.execute_async_v3(0)
    assert context.report_to_profiler() is False
    assert PROFILING > 1
    assert held is not None
