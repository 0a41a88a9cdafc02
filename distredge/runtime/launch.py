"""Starts service providers as processes of this machine, watches them, and leaves none behind."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from distredge.errors import ProviderLostError, RunError

START_S = 30.0
"""How long a process may take until it listens."""

STOP_S = 3.0


@dataclass(frozen=True)
class Place:
    """Where a provider runs: what its command is preceded by, and HOST:PORT at which it listens, port 0 any free one.

    What precedes the command must become the provider by `exec`, so that the process id stays its own.
    """

    prefix: tuple[str, ...] = ()
    listen: str = "127.0.0.1:0"


class Launcher:
    """One provider process for each name; a context manager.

    Entering returns when all listen; their `addresses` are known then. Each holds the other end of a pipe to this
    process and ends when it closes, however this process ends. `keys` is the folder of their keys. `places` are where
    they run, by default on loopback. `started` is called with the name and id of each process as soon as it is there.
    Logs are kept in `folder`, by default the system's for temporary files, while the providers run.
    """

    def __init__(
        self,
        names: Iterable[str],
        keys: Path,
        *,
        places: Mapping[str, Place] | None = None,
        started: Callable[[str, int], None] = lambda name, pid: None,
        folder: Path | None = None,
    ) -> None:
        self.addresses: dict[str, str] = {}
        self._names, self._keys = tuple(names), keys
        self._places, self._started = places or {}, started
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._logs = tempfile.TemporaryDirectory(prefix="distredge-", dir=folder)

    def __enter__(self) -> Launcher:
        """Start the processes and wait until they listen."""
        try:
            for name in self._names:
                self._start(name)
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

    def restart(self, name: str) -> None:
        """End a provider's process at once if it is still there, and start another one at the same address."""
        _end(self._processes[name], patience_s=0.0)
        self._start(name)
        self.addresses[name] = self._address(name, time.monotonic() + START_S)

    def _start(self, name: str) -> None:
        place = self._places.get(name, Place())
        command = [*place.prefix, sys.executable, "-m", "distredge", "provider", "--json", "--until-stdin-closes"]
        command += ["--name", name, "--listen", self.addresses.get(name, place.listen), "--keys", str(self._keys)]
        with (Path(self._logs.name) / name).open("wb") as log:
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log)
        self._processes[name] = process
        self._started(name, process.pid)

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
            _end(process, patience_s=max(0.0, deadline - time.monotonic()))
        self._processes.clear()
        self._logs.cleanup()


def _end(process: subprocess.Popen[bytes], patience_s: float) -> None:
    """Wait so long for a process to end, then make it; close the pipes to it."""
    try:
        process.wait(patience_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe:
            pipe.close()


def _ending(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"
