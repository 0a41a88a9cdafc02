"""Back end `torch`: times pieces on PyTorch, on this machine's processor or on an NVIDIA GPU."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

from distredge.errors import InputError, RunError
from distredge.measure.bench import Bench, Piece, repeat
from distredge.measure.conditions import local_conditions
from distredge.measure.ort import CacheSweep, cpu_name
from distredge.measure.torch_piece import TorchPiece, channels_last, import_torch
from distredge.model.operators import static_shape
from distredge.profiles.measured import Conditions, Precision, Subject


class TorchBench(Bench):
    """PyTorch, eager: on a processor in FP32, on a GPU in FP32 (as PyTorch understands it, TF32 included) or FP16.

    Images are laid out channels last. On a GPU a run is timed by CUDA events: between them is also what Python takes to
    start kernels, where that is longer than they run. Before each run the caches are swept and the inputs written anew,
    as by `OrtBench`.
    """

    caches = "swept before each run, inputs written anew"
    looks = 3

    def __init__(
        self,
        device: Literal["cpu", "cuda"],
        rng: np.random.Generator,
        *,
        threads: int = 1,
        precision: Precision = "FP32",
    ) -> None:
        self._torch = torch = import_torch()
        self._on_gpu = on_gpu = device == "cuda"
        if precision not in (("FP32", "FP16") if on_gpu else ("FP32",)):
            raise InputError(
                f"PyTorch computes in FP32 here, and on a GPU in FP16, too; not in {precision} on {device}"
            )
        if on_gpu and not torch.cuda.is_available():
            raise InputError(f"PyTorch {torch.__version__} finds no CUDA GPU here: use --device cpu")
        self._rng, self._device = rng, torch.device(device)
        self._dtype = torch.float16 if precision == "FP16" else torch.float32
        self._threads_before = torch.get_num_threads()
        torch.set_num_threads(threads)
        self._sweep = self._gpu_sweep() if on_gpu else CacheSweep()
        self.subject = Subject(
            backend="torch",
            host=platform.node(),
            device=_gpu_name(torch) if on_gpu else cpu_name(),
            runtime="torch",
            runtime_version=torch.__version__,
            precision=precision,
            threads=0 if on_gpu else threads,
        )

    def close(self) -> None:
        """Give PyTorch back the number of threads that it had, and the GPU its memory."""
        self._torch.set_num_threads(self._threads_before)
        self._sweep = _nothing
        if self._on_gpu:
            self._torch.cuda.empty_cache()

    def time_ms(self, piece: Piece, warm_up_s: float, seconds: float) -> list[float]:
        """See `Bench`."""
        try:
            with self._torch.inference_mode():
                return self._time(piece, warm_up_s, seconds)
        except RuntimeError as error:  # also what PyTorch raises when memory runs out
            reason = str(error).partition("\n")[0]
            raise RunError(f"{piece.title} failed in PyTorch on {self.subject.device}: {reason}") from error

    def conditions(self) -> Conditions:
        """See `Bench`."""
        return local_conditions()

    def _time(self, piece: Piece, warm_up_s: float, seconds: float) -> list[float]:
        loaded = TorchPiece(piece.whole(), self._device, self._dtype)
        shapes = [static_shape(value) or () for value in piece.model.graph.input]
        drawn = [self._torch.from_numpy(self._rng.random(shape, dtype=np.float32)) for shape in shapes]
        fresh = [channels_last(values.to(self._device)) for values in drawn]
        inputs = [values.clone() for values in fresh]  # laid out alike

        def prepare() -> None:
            self._sweep()
            for values, new in zip(inputs, fresh, strict=True):
                values.copy_(new)

        if not self._on_gpu:
            return repeat(lambda: loaded(*inputs), prepare, warm_up_s, seconds)
        on_gpu: list[float] = []
        runs = repeat(lambda: on_gpu.append(self._gpu_ms(loaded, inputs)), prepare, warm_up_s, seconds)
        return on_gpu[-len(runs) :]

    def _gpu_ms(self, loaded: TorchPiece, inputs: Sequence[Any]) -> float:
        begin, end = (self._torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        loaded(*inputs)
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end))

    def _gpu_sweep(self) -> Callable[[], object]:
        cache = int(getattr(self._torch.cuda.get_device_properties(self._device), "L2_cache_size", 0)) or 64 << 20
        swept = self._torch.empty(2 * cache, dtype=self._torch.uint8, device=self._device)
        return lambda: swept.zero_()


def _gpu_name(torch: Any) -> str:
    major, minor = torch.cuda.get_device_capability()
    return f"{torch.cuda.get_device_name()} (compute capability {major}.{minor})"


def _nothing() -> None:
    pass
