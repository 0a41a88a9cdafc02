"""A stand-in for the modules `tensorrt` and `pycuda.driver`, for tests where there is no GPU. It computes nothing.

It is strict: of what a benchmark may want, each version has exactly the methods, arguments and enumerators that the
real one has; arguments of wrong types, calls in a wrong order and uses of freed memory raise. Time is a virtual clock,
so that equal runs take equal times, and what is alive is counted.

Signatures are from `python/src/infer/pyCore.cpp`, `python/src/parsers/pyOnnx.cpp` and `tensorrt/__init__.py` of
github.com/NVIDIA/TensorRT at its states for 8.2, 8.5/8.6 and 10; those of 8.0, 8.4 and 11 from the API reference and
the migration guide on docs.nvidia.com; PyCUDA's from `src/wrapper/wrap_cudadrv.cpp` of github.com/inducer/pycuda. Those
of 8.6.1, 10.3.0 and 11.4.0 were compared with NVIDIA's own modules: see `docs/tensorrt.md`.
"""

from __future__ import annotations

import enum
import math
import warnings
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

import onnx
from onnx import ModelProto, TensorProto

from distredge.model.operators import static_shape
from distredge.testing.pycuda import Machine, Native, cuda_driver, takes

Versions = tuple[tuple[int, int], tuple[int, int]]
"""The first and the last version that have something."""

_ALWAYS: Versions = ((8, 0), (99, 0))
_OLD: Versions = ((8, 0), (8, 6))
_NAMED: Versions = ((8, 5), (99, 0))

PROFILING = 1.1
"""By how much a profiler slows a run down."""

_VERSIONS: dict[str, Versions] = {
    **dict.fromkeys(("max_workspace_size", "execute_async_v2", "num_bindings", "get_binding_name"), _OLD),
    **dict.fromkeys(("binding_is_input", "get_binding_shape", "get_binding_dtype"), _OLD),
    **dict.fromkeys(("enqueue_emits_profile", "report_to_profiler"), ((8, 2), (99, 0))),
    "set_memory_pool_limit": ((8, 4), (99, 0)),
    **dict.fromkeys(("num_io_tensors", "get_tensor_name", "get_tensor_mode", "get_tensor_shape"), _NAMED),
    **dict.fromkeys(("get_tensor_dtype", "set_tensor_address", "execute_async_v3"), _NAMED),
}
"""Methods and properties that not every version has."""

_ENUMERATORS: dict[str, dict[str, Versions]] = {
    "BuilderFlag": {"FP16": ((8, 0), (10, 99)), "INT8": ((8, 0), (10, 99)), "DEBUG": _ALWAYS, "TF32": _ALWAYS},
    "NetworkDefinitionCreationFlag": {"EXPLICIT_BATCH": ((8, 0), (10, 99)), "STRONGLY_TYPED": ((10, 0), (99, 0))},
    "MemoryPoolType": {"WORKSPACE": ((8, 4), (99, 0)), "DLA_MANAGED_SRAM": ((8, 4), (99, 0))},
    "TensorIOMode": dict.fromkeys(("NONE", "INPUT", "OUTPUT"), _NAMED),
    "DataType": dict.fromkeys(("FLOAT", "HALF", "INT8", "INT32", "BOOL"), _ALWAYS),
    "Severity": dict.fromkeys(("INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE"), _ALWAYS),
}


def stand_in(version: str, machine: Machine) -> dict[str, ModuleType]:
    """Modules by the names under which they are imported, as with a TensorRT ("8.5.2") on a machine."""
    package, driver, trt = ModuleType("pycuda"), cuda_driver(machine), ModuleType("tensorrt")
    number = (int(version.split(".")[0]), int(version.split(".")[1]))
    shared = {"_machine": machine, "_cuda": driver, "_trt": trt, "_version": number}
    trt.__dict__.update({of.__name__.lstrip("_"): _of_version(of, shared) for of in _CLASSES}, __version__=version)
    for name, members in _ENUMERATORS.items():
        there = [member for member, (first, last) in members.items() if first <= number <= last]
        if there:
            trt.__dict__[name] = _enumerator(name, there)
    severities = trt.__dict__.pop("Severity")
    trt.__dict__["ILogger"].Severity = severities
    for severity in severities:
        setattr(trt.__dict__["ILogger"], severity.name, severity)
    package.__dict__["driver"] = driver
    return {"tensorrt": trt, "pycuda": package, "pycuda.driver": driver}


def _of_version(of: type, shared: dict[str, Any]) -> type:
    """A copy of a class with what exists in a version."""
    kept = {}
    for name, thing in vars(of).items():
        first, last = _VERSIONS.get(name, _ALWAYS)
        if name not in ("__dict__", "__weakref__") and first <= shared["_version"] <= last:
            kept[name] = thing
    return type(of.__name__.lstrip("_"), of.__bases__, kept | shared)


def _enumerator(name: str, members: Sequence[str]) -> Any:
    kind: Any = _DataType if name == "DataType" else enum.IntEnum
    return kind(name, {member: i for i, member in enumerate(members)})


class _DataType(enum.IntEnum):
    itemsize = property(lambda self: {"FLOAT": 4, "HALF": 2, "INT32": 4, "INT8": 1, "BOOL": 1}[self.name])


def _implements(value: Any, base: type) -> None:
    takes(value, base)
    if not getattr(value, "_ready", False):
        raise TypeError(f"{base.__name__}.__init__() must be called when overriding __init__")


def _old_way(what: str) -> None:
    warnings.warn(f"Use {what} instead.", DeprecationWarning, stacklevel=3)


class _Object(Native):
    """One of TensorRT's objects."""

    _trt: Any
    _version: tuple[int, int]


class _ILogger(Native):
    """`tensorrt.ILogger`."""

    ERROR: Any

    def __init__(self) -> None:
        self._ready = True

    def log(self, severity: Any, msg: str) -> None:
        raise NotImplementedError


class _IProfiler(Native):
    """`tensorrt.IProfiler`."""

    def __init__(self) -> None:
        self._ready = True

    def report_layer_time(self, layer_name: str, ms: float) -> None:
        raise NotImplementedError


class _Builder(_Object):
    """`tensorrt.Builder`."""

    def __init__(self, logger: Any) -> None:
        _implements(logger, self._trt.ILogger)
        if not self._machine.starts:
            logger.log(self._trt.ILogger.INTERNAL_ERROR, "CUDA initialization failure with error: 35")
            raise TypeError("pybind11::init(): factory function returned nullptr")
        self._logger = logger
        self._born()

    def create_network(self, flags: int = 0) -> Any:
        takes(flags, int)
        return self._trt.INetworkDefinition._make(_flags=flags, _builder=self)

    def create_builder_config(self) -> Any:
        return self._trt.IBuilderConfig._make(_flags=set(), _workspace=0)

    def build_serialized_network(self, network: Any, config: Any) -> Any:
        """The engine as bytes, or None."""
        takes(network, self._trt.INetworkDefinition)
        takes(config, self._trt.IBuilderConfig)
        model: Any = getattr(network, "_model", None)
        refused = "the network is empty" if model is None else ""
        for node in model.graph.node if model else ():
            if node.op_type in self._machine.unbuildable:
                refused = f"Could not find any implementation for node {node.name}."
        if not config._workspace:
            refused = "no workspace was allowed"  # stricter than the real one
        if refused:
            self._logger.log(self._trt.ILogger.ERROR, refused)
            return None
        return _IHostMemory(bytes(["FP16" in config._flags]) + model.SerializeToString())


class _IHostMemory(bytes):
    """`tensorrt.IHostMemory`, a buffer."""


class _IBuilderConfig(_Object):
    """`tensorrt.IBuilderConfig`."""

    _flags: set[str]
    _workspace: int

    @property
    def max_workspace_size(self) -> int:
        return self._workspace

    @max_workspace_size.setter
    def max_workspace_size(self, value: int) -> None:
        takes(value, int)
        if self._version >= (8, 5):
            _old_way("set_memory_pool_limit")
        self._workspace = value

    def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None:
        takes(pool, self._trt.MemoryPoolType)
        takes(pool_size, int)
        if pool == self._trt.MemoryPoolType.WORKSPACE:
            self._workspace = pool_size

    def set_flag(self, flag: Any) -> None:
        takes(flag, self._trt.BuilderFlag)
        self._flags.add(flag.name)


class _INetworkDefinition(_Object):
    """`tensorrt.INetworkDefinition`."""


class _OnnxParser(_Object):
    """`tensorrt.OnnxParser`."""

    def __init__(self, network: Any, logger: Any) -> None:
        takes(network, self._trt.INetworkDefinition)
        _implements(logger, self._trt.ILogger)
        self._network = network
        self._errors: list[str] = []
        self._born()

    def parse(self, model: Any, path: str | None = None) -> bool:
        proto = onnx.load_model_from_string(bytes(memoryview(model)))
        onnx.checker.check_model(proto)
        self._errors = [
            f"In node {i} (importNode): UNSUPPORTED_NODE: no importer for {node.op_type}"
            for i, node in enumerate(proto.graph.node)
            if node.op_type in self._machine.unreadable
        ]
        if self._version < (10, 0) and not self._network._flags & 1:
            self._errors.append("the network has no explicit batch dimension")
        if self._version < (10, 0) and proto.opset_import[0].version > 17:
            self._errors.append("the operator set is too new")  # the real one warns, and may misread a node
        self._network._model = proto
        return not self._errors

    num_errors = property(lambda self: len(self._errors))

    def get_error(self, index: int) -> Any:
        """One of them, with a text."""
        takes(index, int)
        return self._errors[index]  # the real `ParserError` has such a text


class _Runtime(_Object):
    """`tensorrt.Runtime`."""

    def __init__(self, logger: Any) -> None:
        _implements(logger, self._trt.ILogger)
        self._born()

    def deserialize_cuda_engine(self, serialized_engine: Any) -> Any:
        data = bytes(memoryview(serialized_engine))
        model = onnx.load_model_from_string(data[1:])
        typed = all(tensor.data_type != TensorProto.FLOAT for tensor in model.graph.initializer)
        half = typed if self._version >= (11, 0) else bool(data[0])
        return self._trt.ICudaEngine._make(_model=model, _half=half, _runtime=self)


class _ICudaEngine(_Object):
    """`tensorrt.ICudaEngine`."""

    _model: ModelProto
    _half: bool

    num_bindings = num_io_tensors = property(lambda self: len(self._values()))

    def get_binding_name(self, index: int) -> str:
        return self._binding(index).name

    def binding_is_input(self, index: int) -> bool:
        return self._binding(index) in self._model.graph.input

    def get_binding_shape(self, index: int) -> Any:
        return list(static_shape(self._binding(index)) or ())  # the real `Dims` is a sequence, too

    def get_binding_dtype(self, index: int) -> Any:
        return self._dtype(self._binding(index))

    def get_tensor_name(self, index: int) -> str:
        takes(index, int)
        return self._values()[index].name

    def get_tensor_mode(self, name: str) -> Any:
        modes = self._trt.TensorIOMode
        return modes.INPUT if self._named(name) in self._model.graph.input else modes.OUTPUT

    def get_tensor_shape(self, name: str) -> Any:
        return list(static_shape(self._named(name)) or ())

    def get_tensor_dtype(self, name: str) -> Any:
        return self._dtype(self._named(name))

    def create_execution_context(self) -> Any:
        return self._trt.IExecutionContext._make(_engine=self, _profiler=None, _addresses={}, _report=None)

    def _values(self) -> list[onnx.ValueInfoProto]:
        return [*self._model.graph.input, *self._model.graph.output]

    def _named(self, name: str) -> onnx.ValueInfoProto:
        takes(name, str)
        return next(value for value in self._values() if value.name == name)

    def _binding(self, index: int) -> onnx.ValueInfoProto:
        takes(index, int)
        if self._version >= (8, 5):
            _old_way("get_tensor_name, ...")
        return self._values()[index]

    def _dtype(self, value: onnx.ValueInfoProto) -> Any:
        kinds: dict[int, str] = {TensorProto.FLOAT: "FLOAT", TensorProto.FLOAT16: "HALF", TensorProto.INT32: "INT32"}
        return self._trt.DataType[kinds[value.type.tensor_type.elem_type]]

    def _kernels(self) -> Iterator[tuple[str, float]]:
        """Names and milliseconds: the n-th node takes n tenths, half of that in half precision."""
        for i, node in enumerate(self._model.graph.node):
            yield node.name or node.op_type, (i + 1) * (0.05 if self._half else 0.1)


class _IExecutionContext(_Object):
    """`tensorrt.IExecutionContext`."""

    _engine: Any
    _profiler: Any
    _addresses: dict[str, int]
    _report: list[tuple[str, float]] | None
    enqueue_emits_profile = True

    def execute_v2(self, bindings: list[int]) -> bool:
        """Run and wait."""
        self._run(self._listed(bindings))
        self._machine.wait()
        self._emit()
        return True

    def execute_async_v2(self, bindings: list[int], stream_handle: int, input_consumed: Any = None) -> bool:
        """Start a run. Before 8.2 the profiler hears nothing of it."""
        takes(stream_handle, int)
        self._run(self._listed(bindings))
        if self._version < (8, 2):
            self._report = None
        elif self.enqueue_emits_profile:
            self._emit()
        return True

    def set_tensor_address(self, name: str, memory: int) -> bool:
        takes(memory, int)
        self._engine._named(name)
        self._addresses[name] = memory
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        """Start a run; False if an address was not set."""
        takes(stream_handle, int)
        if set(self._addresses) != {value.name for value in self._engine._values()}:
            return False
        self._run(self._addresses)
        if self.enqueue_emits_profile:
            self._emit()
        return True

    @property
    def profiler(self) -> Any:
        return self._profiler

    @profiler.setter
    def profiler(self, value: Any) -> None:
        _implements(value, self._trt.IProfiler)
        self._profiler = value

    def report_to_profiler(self) -> bool:
        """Tell the profiler of the last run; False if there is none to tell of."""
        if self._machine.waited_ms < self._machine.clock_ms:
            raise RuntimeError("the run is not over")  # stricter than the real one, which waits
        return self._emit()

    def _emit(self) -> bool:
        if self._report is None or self._profiler is None:
            return False
        for name, ms in self._report:
            self._profiler.report_layer_time(name, ms)
        self._report = None
        return True

    def _listed(self, bindings: list[int]) -> dict[str, int]:
        takes(bindings, list)
        return dict(zip((value.name for value in self._engine._values()), bindings, strict=True))

    def _run(self, addresses: dict[str, int]) -> None:
        for value in self._engine._values():
            takes(addresses[value.name], int)
            shape = static_shape(value) or ()
            self._machine.check_memory(addresses[value.name], math.prod(shape) * self._engine._dtype(value).itemsize)
        self._report = list(self._engine._kernels())
        total = sum(ms for _, ms in self._report)
        self._machine.spend(total * (1.0 if self._profiler is None else PROFILING))


_CLASSES = (
    _ILogger, _IProfiler, _Builder, _IBuilderConfig, _INetworkDefinition, _OnnxParser, _Runtime, _ICudaEngine,
    _IExecutionContext,
)  # fmt: skip
"""What the module holds, under these names without their underscores."""
