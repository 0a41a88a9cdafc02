"""A stand-in for the module `pycuda.driver`, for tests where there is no GPU. See `distredge.testing.tensorrt`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from types import ModuleType, SimpleNamespace
from typing import Any

WRITE_MS = 0.05
"""How long a write to the GPU's memory takes."""


class Error(Exception):
    """`pycuda.driver.Error`, the base of CUDA's errors."""


class LogicError(Error):
    """`pycuda.driver.LogicError`: a wrong call."""


class Machine:
    """What the stand-ins share: a GPU with its clock, its memory and what is alive on it.

    `unreadable` are operators that the parser refuses, `unbuildable` those for which the builder finds no kernel; where
    `starts` is False TensorRT makes no builder. `alive` counts objects by class, `memory` has the sizes of allocations
    by address, `faults` what went wrong where nothing could be raised.
    """

    def __init__(self, devices: int = 1, unreadable: Sequence[str] = (), unbuildable: Sequence[str] = ()) -> None:
        self.devices, self.unreadable, self.unbuildable = devices, set(unreadable), set(unbuildable)
        self.free_bytes = 8 << 30
        self.starts = True
        self.initialised = False
        self.contexts: list[Any] = []
        self.memory: dict[int, int] = {}
        self.alive: Counter[str] = Counter()
        self.faults: list[str] = []
        self.clock_ms = self.waited_ms = 0.0
        self._next_address = 1 << 20

    def need_context(self) -> None:
        """Raise unless there is a current CUDA context."""
        if not self.contexts:
            raise LogicError("invalid device context")

    def spend(self, ms: float) -> None:
        """Append work to the GPU's queue."""
        self.need_context()
        self.clock_ms += ms

    def wait(self) -> None:
        """Let the host wait for the queue."""
        self.need_context()
        self.waited_ms = self.clock_ms

    def allocate(self, size: int) -> int:
        """Address of new memory."""
        self.need_context()
        if size > self.free_bytes:
            raise Error("cuMemAlloc failed: out of memory")
        address, self._next_address = self._next_address, self._next_address + size + 256
        self.memory[address] = size
        return address

    def check_memory(self, address: int, size: int) -> None:
        """Raise unless `size` bytes are allocated at an address."""
        if self.memory.get(address, -1) < size:
            raise LogicError(f"invalid value: no {size} bytes are allocated at {address:#x}")


def cuda_driver(machine: Machine) -> ModuleType:
    """The module."""
    driver = ModuleType("pycuda.driver")
    functions = _CudaFunctions(machine, driver)
    names = ("init", "mem_alloc", "memset_d8_async", "memcpy_htod", "memcpy_dtod_async")
    driver.__dict__.update({name: getattr(functions, name) for name in names})
    for of in (Device, Context, Stream, Event, DeviceAllocation):
        driver.__dict__[of.__name__] = type(of.__name__, (of,), {"_machine": machine, "_cuda": driver})
    driver.__dict__.update(Error=Error, LogicError=LogicError, device_attribute=SimpleNamespace(L2_CACHE_SIZE=38))
    return driver


class Native:
    """An object of a C++ class: it takes no attributes but its own, counts itself, and needs its context to go."""

    _machine: Machine
    _cuda: Any

    def __setattr__(self, name: str, value: Any) -> None:
        derived_in_python = "_machine" not in vars(type(self))
        if not (derived_in_python or name.startswith("_") or hasattr(type(self), name)):
            raise AttributeError(f"'{type(self).__name__}' object has no attribute '{name}'")
        object.__setattr__(self, name, value)

    @classmethod
    def _make(cls, **parts: Any) -> Any:
        """An object of a class that Python cannot construct."""
        made = cls.__new__(cls)
        made._born()
        for name, part in parts.items():
            setattr(made, name, part)
        return made

    def _born(self) -> None:
        self._machine.need_context()
        self._machine.alive[type(self).__name__] += 1
        self._counted = True

    def _uncount(self) -> None:
        self._machine.alive[type(self).__name__] -= 1
        self._counted = False

    def __del__(self) -> None:
        if getattr(self, "_counted", False):
            self._uncount()
            if not self._machine.contexts:
                self._machine.faults.append(f"{type(self).__name__} went after its CUDA context")


def takes(value: Any, *types: type) -> None:
    """Raise what pybind11 and Boost.Python raise for an argument of the wrong type."""
    if not isinstance(value, types):
        raise TypeError(f"incompatible function arguments: a {type(value).__name__} is none of {types}")


class _CudaFunctions:
    """Functions of `pycuda.driver`."""

    def __init__(self, machine: Machine, cuda: Any) -> None:
        self._machine, self._cuda = machine, cuda

    def init(self, flags: int = 0) -> None:
        """Must be called first."""
        if not self._machine.devices:
            raise Error("cuInit failed: no CUDA-capable device is detected")
        self._machine.initialised = True

    def mem_alloc(self, bytes: int) -> Any:
        """New memory."""
        takes(bytes, int)
        if bytes <= 0:
            raise LogicError("cuMemAlloc failed: invalid argument")
        return self._cuda.DeviceAllocation._make(_address=self._machine.allocate(bytes))

    def memset_d8_async(self, dest: Any, data: int, size: int, stream: Any = None) -> None:
        """Fill memory with a byte."""
        takes(data, int)
        self._write(dest, size, stream)

    def memcpy_htod(self, dest: Any, src: Any) -> None:
        """Copy from the host, and wait for it."""
        self._write(dest, memoryview(src).nbytes, None)
        self._machine.wait()

    def memcpy_dtod_async(self, dest: Any, src: Any, size: int, stream: Any = None) -> None:
        """Copy within the GPU."""
        takes(src, int, self._cuda.DeviceAllocation)
        self._machine.check_memory(int(src), size)
        self._write(dest, size, stream)

    def _write(self, dest: Any, size: int, stream: Any) -> None:
        takes(dest, int, self._cuda.DeviceAllocation)
        takes(stream, type(None), self._cuda.Stream)
        self._machine.check_memory(int(dest), size)
        self._machine.spend(WRITE_MS)


class Device(Native):
    """`pycuda.driver.Device`; its static `count` is a method here, which looks alike to callers of the class."""

    def __init__(self, number: int) -> None:
        takes(number, int)
        if not self._machine.initialised or number >= self._machine.devices:
            raise LogicError("cuDeviceGet failed: initialization error or invalid device ordinal")

    @classmethod
    def count(cls) -> int:
        """Devices found."""
        if not cls._machine.initialised:
            raise LogicError("cuDeviceGetCount failed: initialization error")
        return cls._machine.devices

    def name(self) -> str:
        """What the device is called."""
        return "Stand-in GPU"

    def compute_capability(self) -> tuple[int, int]:
        """Major and minor."""
        return (8, 7)

    def get_attribute(self, attr: int) -> int:
        """The L2 cache's size is all that is known."""
        if attr != self._cuda.device_attribute.L2_CACHE_SIZE:
            raise TypeError(f"no device attribute {attr}")
        return 4 << 20

    def make_context(self, flags: int = 0) -> Any:
        """A new context, which becomes the current one."""
        takes(flags, int)
        made = self._cuda.Context.__new__(self._cuda.Context)
        self._machine.contexts.append(made)
        return made


class Context(Native):
    """`pycuda.driver.Context`."""

    @classmethod
    def pop(cls) -> None:
        """Take the current context off the stack."""
        cls._machine.need_context()
        held = {name: count for name, count in cls._machine.alive.items() if count}
        if held or cls._machine.memory:
            cls._machine.faults.append(f"still there when the CUDA context went: {held}, {cls._machine.memory}")
        cls._machine.contexts.pop()

    def detach(self) -> None:
        """Destroy it."""
        if getattr(self, "_gone", False):
            raise LogicError("context::detach failed: invalid device context - cannot detach from invalid context")
        self._gone = True


class Stream(Native):
    """`pycuda.driver.Stream`."""

    def __init__(self, flags: int = 0) -> None:
        takes(flags, int)
        self._born()

    @property
    def handle(self) -> int:
        """What CUDA libraries take."""
        return id(self)

    def synchronize(self) -> None:
        """Wait for the queue."""
        self._machine.wait()


class Event(Native):
    """`pycuda.driver.Event`."""

    def __init__(self, flags: int = 0) -> None:
        takes(flags, int)
        self._born()
        self._at: float | None = None

    def record(self, stream: Any = None) -> Any:
        """Take the time when the queue gets here."""
        takes(stream, type(None), self._cuda.Stream)
        self._machine.need_context()
        self._at = self._machine.clock_ms
        return self

    def synchronize(self) -> Any:
        """Wait until the queue gets here."""
        if self._at is None:
            raise LogicError("cuEventSynchronize failed: it was never recorded")
        self._machine.waited_ms = max(self._machine.waited_ms, self._at)
        return self

    def time_till(self, event: Any) -> float:
        """Milliseconds from this event to a later one."""
        takes(event, self._cuda.Event)
        for at in (self._at, event._at):
            if at is None or at > self._machine.waited_ms:
                raise Error("cuEventElapsedTime failed: device not ready")
        return float(event._at - self._at)


class DeviceAllocation(Native):
    """`pycuda.driver.DeviceAllocation`."""

    _address: int

    def __int__(self) -> int:
        self._machine.check_memory(self._address, 1)
        return self._address

    __index__ = __int__

    def free(self) -> None:
        """Give the memory back."""
        self._machine.check_memory(self._address, 1)
        self._machine.need_context()
        del self._machine.memory[self._address]
        self._uncount()
