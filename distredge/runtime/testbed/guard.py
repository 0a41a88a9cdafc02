"""Cleans up behind a test-bed, however that ends, by a process that outlives it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Literal

from distredge.errors import RunError
from distredge.runtime.testbed import guard_process

Kind = Literal["process", "cgroup", "folder"]


class Guard:
    """The process, seen from the test-bed; a context manager. Leaving it cleans up and waits for that."""

    def __enter__(self) -> Guard:
        """Start it, out of reach of Ctrl-C."""
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", guard_process.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._lock = Lock()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let it clean up; raises `RunError` if something would not go."""
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        left = process.stdout.read().split()
        process.wait()
        process.stdout.close()
        if left and error is None:
            raise RunError(f"could not be removed: {', '.join(left)}")

    def watch(self, kind: Kind, what: int | Path) -> None:
        """Have a process killed, or a folder or cgroup removed, at the end. Returns when the guard knows.

        For any thread. Raises `RunError` if the guard is gone.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._lock:
            try:
                self._process.stdin.write(f"{kind} {what}\n")
                self._process.stdin.flush()
                answer = self._process.stdout.readline()
            except BrokenPipeError:
                answer = ""
        if not answer:
            raise RunError("the process that cleans up behind the test-bed has ended: start the test-bed again")
