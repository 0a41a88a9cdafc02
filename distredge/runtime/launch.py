"""Starts service providers as processes of this machine, watches them, and leaves none behind."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

from distredge.errors import ProviderLostError, RunError

START_S = 30.0
"""How long a process may take until it listens."""

STOP_S = 3.0


class Launcher:
    """One provider process for each name, on loopback; a context manager.

    Entering returns when all listen; their `addresses` are known then. Each holds the other end of a pipe to this
    process and ends when it closes, however this process ends. `keys` is the folder of their keys.
    """

    def __init__(self, names: Iterable[str], keys: Path) -> None:
        self.addresses: dict[str, str] = {}
        self._names, self._keys = tuple(names), keys
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._logs = tempfile.TemporaryDirectory(prefix="distredge-")

    def __enter__(self) -> Launcher:
        """Start the processes and wait until they listen."""
        try:
            for name in self._names:
                self._processes[name] = self._start(name)
            deadline = time.monotonic() + START_S
            for name in self._names:
                self.addresses[name] = self._address(name, deadline)
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the processes."""
        self._stop()

    def check(self) -> None:
        """Raise `ProviderLostError` if a process has ended."""
        for name, process in self._processes.items():
            if (code := process.poll()) is not None:
                raise ProviderLostError(f"provider '{name}' at {self.addresses.get(name)} has ended ({_ending(code)})")

    def process_ids(self) -> dict[str, int]:
        """Process id of each provider."""
        return {name: process.pid for name, process in self._processes.items()}

    def _start(self, name: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "distredge", "provider", "--json", "--until-stdin-closes"]
        command += ["--name", name, "--listen", "127.0.0.1:0", "--keys", str(self._keys)]
        with (Path(self._logs.name) / name).open("wb") as log:
            return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log)

    def _address(self, name: str, deadline: float) -> str:
        """Where the process listens, which it says in its first line."""
        process = self._processes[name]
        assert process.stdout is not None
        line = b""
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while not line.endswith(b"\n"):
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise RunError(f"provider '{name}' did not start within {START_S:.0f} s")
                piece = os.read(process.stdout.fileno(), 4096)
                if not piece:
                    said = (Path(self._logs.name) / name).read_text(errors="replace").strip().splitlines()
                    raise RunError(f"provider '{name}' did not start: {said[-1] if said else 'it said nothing'}")
                line += piece
        return str(json.loads(line)["address"])

    def _stop(self) -> None:
        """Ask all to end, then make them."""
        for process in self._processes.values():
            process.terminate()
        deadline = time.monotonic() + STOP_S
        for process in self._processes.values():
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe:
                    pipe.close()
        self._processes.clear()
        self._logs.cleanup()


def _ending(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"
