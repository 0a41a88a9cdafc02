"""Opens a back end by its name; what it needs is imported only then."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from distredge.errors import InputError
from distredge.measure.bench import Bench
from distredge.profiles.measured import Precision

Backend = Literal["ort", "torch", "tensorrt", "trtexec"]


@dataclass(frozen=True)
class Target:
    """On what to measure.

    `precision` None: the back end's usual one, FP32 for `ort` and for `torch` on a processor, FP16 on GPUs. `host`
    (`user@board`) and `trtexec` (its path there) are for the back end `trtexec`, `device` for `torch`.
    """

    backend: Backend = "ort"
    threads: int = 1
    precision: Precision | None = None
    device: Literal["cpu", "cuda"] = "cpu"
    host: str | None = None
    trtexec: str | None = None

    def __post_init__(self) -> None:
        if (self.host or self.trtexec) and self.backend != "trtexec":
            raise InputError(f"--host and --trtexec are for `--backend trtexec`, not for {self.backend}")
        if self.device != "cpu" and self.backend != "torch":
            raise InputError(f"--device is for `--backend torch`, not for {self.backend}")
        if self.backend == "ort" and self.precision not in (None, "FP32"):
            raise InputError(f"ONNX Runtime computes on a processor in FP32 here, not in {self.precision}")

    def open(self, rng: np.random.Generator) -> Bench:
        """The bench; `rng` makes its inputs. Raises `DependencyError` or `InputError`, see `Bench`."""
        if self.backend == "ort":
            from distredge.measure.ort import OrtBench

            return OrtBench(rng, self.threads)
        if self.backend == "torch":
            from distredge.measure.torch_bench import TorchBench

            on_gpu = self.device == "cuda"
            return TorchBench(self.device, rng, threads=self.threads, precision=self.precision or _usual(on_gpu))
        if self.backend == "tensorrt":
            from distredge.measure.tensorrt import TensorRtBench

            return TensorRtBench(precision=self.precision or _usual(True))
        from distredge.measure.trtexec import TrtexecBench

        return TrtexecBench(self.host, precision=self.precision or _usual(True), trtexec=self.trtexec)


def _usual(on_gpu: bool) -> Precision:
    return "FP16" if on_gpu else "FP32"
