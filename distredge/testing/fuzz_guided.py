"""Fuzzing a provider's logic by coverage, with Atheris if it is installed: `scripts/fuzz --guided SECONDS`.

The decoder itself is compiled and tells Atheris nothing. So Atheris does not make frames: it makes the decisions of the
fuzzer that does, and is told which lines of the runtime they reach.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import tempfile
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from distredge.model.load import load_model
from distredge.testing.toy_models import residual, save_model

MAX_DECISIONS = 600
"""Bytes of an input: of some twenty messages to one provider."""

MAX_MEMORY_MB = 2048


class Decisions(Random):
    """Chance that is told: from bytes as long as there are any, then seeded."""

    def __init__(self, told: bytes) -> None:
        self._told, self._at = told, 0
        super().__init__(0)

    @property
    def is_over(self) -> bool:
        """Whether all bytes have been used."""
        return self._at >= len(self._told)

    def getrandbits(self, k: int) -> int:
        """See `Random`."""
        if self.is_over:
            return super().getrandbits(k)
        size = (k + 7) // 8
        chunk = self._told[self._at : self._at + size].ljust(size, b"\0")
        self._at += size
        return int.from_bytes(chunk, "little") & ((1 << k) - 1)

    def random(self) -> float:
        """See `Random`."""
        return self.getrandbits(16) / 2**16

    def randbytes(self, n: int) -> bytes:
        """See `Random`; what payloads hold decides nothing."""
        return Random(n).randbytes(n)


def fuzz(atheris: Any, folder: Path, seconds: str) -> None:
    """Fuzz for so long; ends this process, with another code than 0 and the frames on a fault."""
    with atheris.instrument_imports(include=["distredge.runtime", "distredge.testing.fuzzing"]):
        from distredge.runtime.message import MessageError
        from distredge.runtime.store import ModelStore
        from distredge.testing.fuzz_inside import InsideProvider
        from distredge.testing.fuzzing import Fuzzer, insight
        from distredge.testing.providers import equal_plan
    graph = load_model(save_model(residual(np.random.default_rng(0)), folder))
    store = ModelStore(folder / "store")
    store.offer(graph)
    known = insight(equal_plan(graph, ["a", "b"]), dict.fromkeys(("requester", "a", "b"), "127.0.0.1:9"), "session")

    def one(told: bytes) -> None:
        rng = Decisions(told)
        fuzzer, provider = Fuzzer(rng, known), InsideProvider("a", store)
        while not rng.is_over:
            frames = fuzzer.frames()
            try:
                provider.take(frames)
            except MessageError:
                pass
            except Exception:
                print(f"FAULT after {frames!r:.2000}", file=sys.stderr, flush=True)
                raise

    limits = [f"-max_total_time={seconds}", f"-max_len={MAX_DECISIONS}", "-len_control=0", "-print_final_stats=1"]
    atheris.Setup([sys.argv[0], *limits, f"-rss_limit_mb={MAX_MEMORY_MB}", f"-artifact_prefix={folder}/"], one)
    atheris.Fuzz()


def main() -> int:
    """Fuzz for so many seconds as the command line says, in a process of its own, which Atheris ends as it likes."""
    if importlib.util.find_spec("atheris") is None:
        print("error: guided fuzzing needs Atheris: .venv/bin/python -m pip install atheris", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="distredge-fuzz-") as folder:
        child = os.fork()
        if not child:
            fuzz(importlib.import_module("atheris"), Path(folder), sys.argv[1])
            os._exit(0)
        _, status = os.waitpid(child, 0)
    return 1 if status else 0


if __name__ == "__main__":
    sys.exit(main())
