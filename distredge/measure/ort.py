"""Back end `ort`: times pieces on ONNX Runtime, on this machine's processor."""

from __future__ import annotations

import platform
from pathlib import Path

import numpy as np
import onnxruntime as ort

from distredge.engine.onnxruntime import session
from distredge.measure.bench import Bench, Piece, repeat
from distredge.measure.conditions import local_conditions
from distredge.model.operators import static_shape
from distredge.profiles.measured import Conditions, Subject


class OrtBench(Bench):
    """ONNX Runtime on the processor, FP32.

    Before each run the caches are swept, so that weights come from memory as they do in a whole model (where other
    layers ran in between), and the inputs are written anew, as the layer before would have just done.
    """

    caches = "swept before each run, inputs written anew"
    looks = 3

    def __init__(self, rng: np.random.Generator, threads: int = 1) -> None:
        self.subject = Subject(
            backend="ort",
            host=platform.node(),
            device=cpu_name(),
            runtime="onnxruntime",
            runtime_version=ort.__version__,
            precision="FP32",
            threads=threads,
        )
        self._rng = rng
        self._sweep = CacheSweep()

    def time_ms(self, piece: Piece, warm_up_s: float, seconds: float) -> list[float]:
        """See `Bench`."""
        runner = session(piece.model.SerializeToString(), self.subject.threads, piece.folder)
        fresh = {
            value.name: self._rng.random(static_shape(value) or (), dtype=np.float32)
            for value in piece.model.graph.input
        }
        inputs = {name: values.copy() for name, values in fresh.items()}
        binding = runner.io_binding()
        for name, values in inputs.items():
            binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(values))
        for output in runner.get_outputs():
            binding.bind_output(output.name)

        def prepare() -> None:
            self._sweep()
            for name, values in inputs.items():
                np.copyto(values, fresh[name])

        return repeat(lambda: runner.run_with_iobinding(binding), prepare, warm_up_s, seconds)

    def conditions(self) -> Conditions:
        """See `Bench`."""
        return local_conditions()


class CacheSweep:
    """Reads more memory than the caches hold, so that nothing of what was used before is left in them."""

    def __init__(self) -> None:
        self._memory = np.zeros(max(2 * last_level_cache_bytes(), 1 << 20) // 8)

    def __call__(self) -> None:
        """Sweep."""
        self._memory.sum()


def last_level_cache_bytes() -> int:
    """Size of the first processor's largest cache, at most 64 MiB; 16 MiB where the system does not tell."""
    sizes = [16 << 20]
    for file in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = file.read_text().strip()
        if text.endswith("K") and text[:-1].isdigit():
            sizes.append(int(text[:-1]) << 10)
    return min(max(sizes), 64 << 20)


def cpu_name() -> str:
    """The processor, as the system calls it."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith(("model name", "Model")):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
