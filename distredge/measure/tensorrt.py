"""Back end `tensorrt`: times pieces on TensorRT in this process, with PyCUDA for memory and clocks.

What differs between TensorRT 8.0 and 11 is in `Api` and `prepared`, nowhere else. `docs/tensorrt.md` says how to
install both libraries on a Jetson and what of this has never run on one.
"""

from __future__ import annotations

import math
import platform
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from traceback import clear_frames
from typing import Any

import numpy as np
from onnx import ModelProto, version_converter

from distredge.errors import DependencyError, InputError, RunError
from distredge.measure.bench import Bench, Piece, repeat
from distredge.measure.conditions import local_conditions
from distredge.profiles.measured import Conditions, Precision, Subject

WORKSPACE_BYTES = 1 << 30
"""What a kernel may use for itself while it runs; TensorRT before 8.4 allows 16 MiB if not asked."""

PROFILED_RUNS = 20
"""Runs over which `breakdown_ms` takes medians, after one that warms up."""

OLD_OPSET = 17
"""The newest operator set that the ONNX parser of every TensorRT before 10 is given."""


class TensorRtBench(Bench):
    """TensorRT on the first GPU. FP16 or FP32 (TF32 where the GPU has it); inputs and outputs are FP32 in both.

    A run is timed by CUDA events around its kernels: time on the GPU, without transfers and without Python.
    """

    caches = "the GPU's second-level cache swept before each run, inputs written anew"

    def __init__(self, *, precision: Precision = "FP16") -> None:
        if precision == "INT8":
            raise InputError("TensorRT needs calibration data for INT8, which is not supported: use FP16 or FP32")
        trt, cuda = _libraries()
        self._api = Api(trt)
        self._gpu = _Gpu(cuda)
        self._log = _log(trt)
        try:
            self._builder, self._runtime = trt.Builder(self._log), trt.Runtime(self._log)
        except TypeError as error:  # pybind11's answer to a null pointer
            self._gpu.close()
            raise RunError(f"TensorRT does not start: {'; '.join(self._log.messages) or error}") from error
        self._half = precision == "FP16"
        self.subject = Subject(
            backend="tensorrt",
            host=platform.node(),
            device=self._gpu.name,
            runtime="TensorRT",
            runtime_version=trt.__version__,
            precision=precision,
            threads=0,
        )

    def close(self) -> None:
        """Free the GPU. May be called twice."""
        # They free memory of the GPU's context when they go, so they must go before it.
        self._builder = self._runtime = None
        self._gpu.close()

    def time_ms(self, piece: Piece, warm_up_s: float, seconds: float) -> list[float]:
        """See `Bench`."""
        with self._loaded(piece) as loaded:
            on_gpu: list[float] = []
            runs = repeat(lambda: on_gpu.append(loaded.run_ms()), loaded.prepare, warm_up_s, seconds)
            return on_gpu[-len(runs) :]

    def breakdown_ms(self, piece: Piece) -> dict[str, float]:
        """Median over several runs by kernel; a name that a run reports twice counts with the sum."""
        with self._loaded(piece) as loaded:
            runs = [loaded.profile() for _ in range(1 + PROFILED_RUNS)][1:]
        return {name: statistics.median(run.get(name, 0.0) for run in runs) for name in runs[0]}

    def conditions(self) -> Conditions:
        """See `Bench`."""
        return local_conditions()

    @contextmanager
    def _loaded(self, piece: Piece) -> Iterator[_Loaded]:
        """The engine of a piece, ready to run; failures of TensorRT and CUDA become a `RunError`."""
        loaded = None
        try:
            loaded = _Loaded(self._api, self._gpu, self._build(piece))
            yield loaded
        except version_converter.ConvertError as error:
            raise RunError(f"{piece.title} cannot be written for TensorRT {self._api.version[0]}: {error}") from error
        except self._gpu.cuda.Error as error:
            clear_frames(error.__traceback__)  # they hold an engine, which must go before the GPU's context
            raise RunError(f"{piece.title} failed on {self._gpu.name}: {error}") from error
        finally:
            if loaded is not None:
                loaded.free()

    def _build(self, piece: Piece) -> Any:
        self._log.messages.clear()
        engine, refusal = self._attempt(prepared(piece.whole(), self._api.version, self._half))
        if engine is None:
            reasons = "; ".join(" ".join(reason.split()) for reason in refusal + self._log.messages)
            version = self._api.trt.__version__
            raise RunError(f"{piece.title}: TensorRT {version} builds no engine: {reasons or 'it gives no reason'}")
        return engine

    def _attempt(self, model: ModelProto) -> tuple[Any, list[str]]:
        """The engine of a model, or None and what the parser says.

        It does not raise, since a traceback would keep its objects past the GPU's context, which they need to go.
        """
        network = self._builder.create_network(self._api.network_flags())
        parser = self._api.trt.OnnxParser(network, self._log)
        if not parser.parse(model.SerializeToString()):
            return None, [str(parser.get_error(i)) for i in range(parser.num_errors)]
        config = self._builder.create_builder_config()
        self._api.set_up(config, self._half)
        plan = self._builder.build_serialized_network(network, config)
        return (None if plan is None else self._runtime.deserialize_cuda_engine(plan)), []


@dataclass(frozen=True)
class Binding:
    """An input or output of an engine and its size in the GPU's memory."""

    name: str
    is_input: bool
    size_bytes: int


class Api:
    """What the installed TensorRT offers: every difference between versions that the bench meets.

    `trt` is the module `tensorrt`, `version` its major and minor number.
    """

    def __init__(self, trt: Any) -> None:
        self.trt = trt
        self.version = tuple(int(part) for part in trt.__version__.split(".")[:2])
        # 8.5 began to call tensors by name, 10 ended numbered bindings.
        self._named = hasattr(trt.ICudaEngine, "num_io_tensors")
        # Before 8.2 a profiler works with synchronous runs only.
        self._reports = hasattr(trt.IExecutionContext, "report_to_profiler")

    def network_flags(self) -> int:
        """For a network whose tensors have a batch dimension: to be asked for before 10, always so since."""
        return 1 << int(self.trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH) if self.version < (10, 0) else 0

    def set_up(self, config: Any, half: bool) -> None:
        """Allow a workspace, and FP16 where that is a flag: from 11 on the model's own types decide."""
        if hasattr(config, "set_memory_pool_limit"):  # 8.4
            config.set_memory_pool_limit(self.trt.MemoryPoolType.WORKSPACE, WORKSPACE_BYTES)
        else:
            config.max_workspace_size = WORKSPACE_BYTES
        if half and hasattr(self.trt.BuilderFlag, "FP16"):
            config.set_flag(self.trt.BuilderFlag.FP16)

    def bindings(self, engine: Any) -> list[Binding]:
        """Inputs and outputs, in the engine's order."""
        if self._named:
            names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
            entering = self.trt.TensorIOMode.INPUT
            return [
                Binding(
                    name,
                    engine.get_tensor_mode(name) == entering,
                    _bytes(engine.get_tensor_shape(name), engine.get_tensor_dtype(name)),
                )
                for name in names
            ]
        return [
            Binding(
                engine.get_binding_name(i),
                engine.binding_is_input(i),
                _bytes(engine.get_binding_shape(i), engine.get_binding_dtype(i)),
            )
            for i in range(engine.num_bindings)
        ]

    def launcher(self, context: Any, addresses: dict[str, int]) -> Callable[[int], bool]:
        """What starts a run on a stream, given by its handle, with tensors at `addresses`; False if it does not."""
        if self._named:
            for name, address in addresses.items():
                if not context.set_tensor_address(name, address):
                    raise RunError(f"TensorRT does not take memory for '{name}'")
            return lambda stream: bool(context.execute_async_v3(stream))
        bindings = list(addresses.values())
        return lambda stream: bool(context.execute_async_v2(bindings, stream))

    def profiled(self, context: Any, profiler: Any) -> None:
        """Attach a profiler."""
        context.profiler = profiler
        if self._reports:
            context.enqueue_emits_profile = False

    def run_profiled(self, context: Any, addresses: dict[str, int], launch: Callable[[], None]) -> None:
        """One run of which the profiler is told before this returns; `launch` runs and waits."""
        if not self._reports:
            context.execute_v2(list(addresses.values()))
            return
        launch()
        context.report_to_profiler()


def prepared(model: ModelProto, version: tuple[int, ...], half: bool) -> ModelProto:
    """A model, with its weights inside, as the TensorRT of a version takes it; its inputs and outputs stay FP32.

    From 11 on tensors have the types that the model states, so that half precision must be written into it: done by
    ONNX Runtime's converter, which knows what must stay FP32. The parsers before 10 know no newer operator set than
    `OLD_OPSET`.
    """
    if version < (10, 0) and model.opset_import[0].version > OLD_OPSET:
        for node in model.graph.node:
            stays = [a for a in node.attribute if a.name != "noop_with_empty_axes"]  # the converter would keep it
            del node.attribute[:]
            node.attribute.extend(stays)
        return version_converter.convert_version(model, OLD_OPSET)
    if version >= (11, 0) and half:
        converter = import_module("onnxruntime.transformers.onnx_model").OnnxModel(model)
        converter.convert_float_to_float16(keep_io_types=True, use_symbolic_shape_infer=False)
        converter.topological_sort()  # it appends the casts of inputs at the end
        converted: ModelProto = converter.model
        return converted
    return model


class _Loaded:
    """An engine with memory for its inputs and outputs on the GPU, and a stream to run on."""

    def __init__(self, api: Api, gpu: _Gpu, engine: Any) -> None:
        self._api, self._gpu = api, gpu
        self._memory: list[Any] = []
        self._fresh: list[tuple[Any, Any, int]] = []
        self._profiler: Any = None
        self._launch: Any = None
        self._context = engine.create_execution_context()  # keeps the engine alive
        self._stream = gpu.cuda.Stream()
        self._events: Any = (gpu.cuda.Event(), gpu.cuda.Event())
        try:
            if self._context is None:
                raise RunError(f"{gpu.name} has no memory for TensorRT's execution context")
            self._addresses = {b.name: self._allocate(b) for b in api.bindings(engine)}
            self._launch = api.launcher(self._context, self._addresses)
        except BaseException:
            self.free()
            raise

    def _allocate(self, binding: Binding) -> int:
        """Memory for a tensor, and for what an input is written anew from."""
        cuda, size = self._gpu.cuda, binding.size_bytes
        memory = cuda.mem_alloc(size)
        self._memory.append(memory)
        if binding.is_input:
            # Any values do, but zeros would draw less power, and so let clocks rise.
            values = np.random.default_rng(0).random(math.ceil(size / 4), dtype=np.float32)
            fresh = cuda.mem_alloc(values.nbytes)
            self._memory.append(fresh)
            cuda.memcpy_htod(fresh, values)
            cuda.memcpy_htod(memory, values[: size // 4])
            self._fresh.append((memory, fresh, size))
        return int(memory)

    def prepare(self) -> None:
        """Sweep the second-level cache and write the inputs, as the layer before would have just done."""
        self._gpu.sweep(self._stream)
        for memory, fresh, size in self._fresh:
            self._gpu.cuda.memcpy_dtod_async(memory, fresh, size, self._stream)

    def run_ms(self) -> float:
        """Run once; milliseconds on the GPU."""
        begin, end = self._events
        begin.record(self._stream)
        self._start()
        end.record(self._stream)
        end.synchronize()
        return float(begin.time_till(end))

    def profile(self) -> dict[str, float]:
        """Run once with a profiler; milliseconds by kernel, in order."""
        if self._profiler is None:
            self._profiler = _profiler(self._api.trt)
            self._api.profiled(self._context, self._profiler)
        self._profiler.times = {}
        self.prepare()
        self._stream.synchronize()
        self._api.run_profiled(self._context, self._addresses, self._start_and_wait)
        times: dict[str, float] = self._profiler.times
        return times

    def free(self) -> None:
        """Free all; it cannot run afterwards."""
        for memory in self._memory:
            memory.free()
        self._memory, self._fresh = [], []
        self._context = self._stream = self._events = self._profiler = self._launch = None

    def _start(self) -> None:
        if not self._launch(self._stream.handle):
            raise RunError("TensorRT could not start a run")

    def _start_and_wait(self) -> None:
        self._start()
        self._stream.synchronize()


class _Gpu:
    """The first GPU, with a CUDA context of its own."""

    def __init__(self, cuda: Any) -> None:
        self.cuda = cuda
        try:
            cuda.init()
            if not cuda.Device.count():
                raise InputError("TensorRT needs an NVIDIA GPU, and CUDA finds none here")
            device = cuda.Device(0)
            self._context = device.make_context()
        except cuda.Error as error:
            raise InputError(f"TensorRT needs an NVIDIA GPU, and CUDA cannot open one here: {error}") from error
        major, minor = device.compute_capability()
        self.name = f"{device.name()} (compute capability {major}.{minor})"
        cache = int(device.get_attribute(cuda.device_attribute.L2_CACHE_SIZE))
        self._swept_bytes = max(2 * cache, 1 << 20)
        self._swept = cuda.mem_alloc(self._swept_bytes)

    def sweep(self, stream: Any) -> None:
        """Write more memory than the second-level cache holds."""
        self.cuda.memset_d8_async(self._swept, 0, self._swept_bytes, stream)

    def close(self) -> None:
        """Free it; may be called twice."""
        if self._context is not None:
            self._swept.free()
            self._context.pop()
            self._context.detach()
            self._context = None


def _libraries() -> tuple[Any, Any]:
    """The modules `tensorrt` and `pycuda.driver`."""
    try:
        return import_module("tensorrt"), import_module("pycuda.driver")
    except ImportError as error:
        package = "tensorrt and pycuda (on a Jetson the first comes with JetPack, see docs/tensorrt.md)"
        raise DependencyError("measuring with TensorRT", package, "tensorrt") from error


def _bytes(shape: Any, dtype: Any) -> int:
    return math.prod(int(size) for size in shape) * int(dtype.itemsize)


# Subclasses of TensorRT's classes must call the base's `__init__` themselves: pybind11 refuses them otherwise.


def _profiler(trt: Any) -> Any:
    """A profiler that adds milliseconds up by kernel in `times`."""

    class Profiler(trt.IProfiler):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)
            self.times: dict[str, float] = {}

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            self.times[layer_name] = self.times.get(layer_name, 0.0) + ms

    return Profiler()


def _log(trt: Any) -> Any:
    """A logger that keeps errors in `messages`, where TensorRT says why it builds no engine."""

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.messages: list[str] = []

        def log(self, severity: Any, msg: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.messages.append(msg)

    return Log()
