"""Fuzzing nodes over real sockets: providers as processes, an honest stream beside the attack, all on loopback."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Event, Thread

import numpy as np
import zmq

from distredge.engine.onnxruntime import Undivided
from distredge.errors import DistrEdgeError
from distredge.plans.plan import BoundPlan
from distredge.runtime.keys import Keys
from distredge.runtime.requester import Requester
from distredge.testing.fuzzing import Fuzzer
from distredge.testing.providers import random_images

PATIENCE_MS = 10_000
"""A node that takes no message for so long has stalled."""

STALL_S = 10.0
"""An honest stream never waits for so long, however busy the machine is."""

MAX_DIFFERENCE = 1e-4

GROWTH_KB = 20 * 1024
"""A process may grow by so much in the second half of an attack: the allocator's fragments."""

GROWTH_FILES = 4

_PAGE_KB = os.sysconf("SC_PAGE_SIZE") // 1024


@dataclass(frozen=True)
class Size:
    """What a process holds: resident memory in KB, and open files."""

    memory_kb: int
    files: int

    @classmethod
    def of(cls, pid: int | str) -> Size:
        """Read it, of this process for "self"; raises `OSError` if the process is gone."""
        with open(f"/proc/{pid}/statm") as file:
            pages = int(file.read().split()[1])
        if not pages:
            raise ProcessLookupError(f"process {pid} has ended")
        return cls(pages * _PAGE_KB, len(os.listdir(f"/proc/{pid}/fd")))


class Growth:
    """Whether processes end or grow."""

    def __init__(self, processes: dict[str, int]) -> None:
        self._processes = processes
        self._sizes: dict[str, list[Size]] = {name: [] for name in processes}
        self._gone: list[str] = []

    def note(self) -> None:
        """Take sizes."""
        for name, pid in self._processes.items():
            try:
                self._sizes[name].append(Size.of(pid))
            except OSError:
                self._gone.append(name)

    def faults(self) -> list[str]:
        """What is not as it should be: who has ended, or is larger at the end than at any time of the first half."""
        found = [f"'{name}' has ended" for name in dict.fromkeys(self._gone)]
        for name, sizes in self._sizes.items():
            first, last = sizes[: len(sizes) // 2], sizes[-1:]
            if not first:
                continue
            memory_kb = last[0].memory_kb - max(size.memory_kb for size in first)
            files = last[0].files - max(size.files for size in first)
            if memory_kb > GROWTH_KB:
                found.append(f"'{name}' has grown by {memory_kb // 1024} MB")
            if files > GROWTH_FILES:
                found.append(f"'{name}' holds {files} more files")
        return found


@contextmanager
def plain_provider(name: str, environment: Mapping[str, str]) -> Iterator[tuple[str, int]]:
    """A provider process without keys, which ends with the block; yields its address and process id."""
    command = [sys.executable, "-m", "distredge", "provider", "--json", "--until-stdin-closes"]
    command += ["--name", name, "--listen", "127.0.0.1:0"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
    ) as process:
        assert process.stdin and process.stdout
        try:
            yield json.loads(process.stdout.readline())["address"], process.pid
        finally:
            process.stdin.close()
            try:
                process.wait(5.0)
            except subprocess.TimeoutExpired:
                process.kill()


class HonestStream(Thread):
    """Sends images and compares each result with the undivided model's, session after session, until told to stop.

    `problems` says what went wrong, `images` how many came back right; `longest_s` is the longest time without one.
    """

    def __init__(self, bound: BoundPlan, addresses: Mapping[str, str], keys: Keys | None, listen: str) -> None:
        super().__init__(name="honest", daemon=True)
        self.problems: list[str] = []
        self.images = 0
        self.longest_s = 0.0
        self.session = ""
        self._bound, self._addresses, self._keys, self._listen = bound, addresses, keys, listen
        self._last_s = time.monotonic()
        self._ended = Event()
        self._images = random_images(bound.graph, 20)
        undivided = Undivided(bound.graph)
        self._wanted = [undivided.run(image) for image in self._images]

    def run(self) -> None:
        """The thread's loop."""
        self._last_s = time.monotonic()
        while not self._ended.is_set():
            try:
                self._one_session()
            except DistrEdgeError as exc:
                self.problems.append(f"a session ended with: {exc}")
            except Exception as exc:
                self.problems.append(f"a session broke: {exc!r}")
            if not self._ended.is_set():
                self._ended.wait(0.5)

    def wait_for(self, images: int) -> None:
        """Wait until so many images have come back right, or have had long enough to."""
        deadline_s = time.monotonic() + STALL_S
        while self.images < images and time.monotonic() < deadline_s:
            time.sleep(0.05)

    def finish(self) -> None:
        """Stop when the session under way is done."""
        self._ended.set()
        self.join(STALL_S * 6)
        if self.is_alive():
            self.problems.append("a session never ended")

    def _one_session(self) -> None:
        with Requester(self._bound, self._addresses, keys=self._keys, listen=self._listen) as requester:
            self.session = requester._session
            while not self._ended.is_set():
                for result in requester.stream(self._images, inflight=2):
                    now = time.monotonic()
                    self.longest_s = max(self.longest_s, now - self._last_s)
                    self._last_s = now
                    self._compare(result.index, result.outputs)

    def _compare(self, index: int, outputs: Mapping[str, np.ndarray]) -> None:
        for name, wanted in self._wanted[index].items():
            if not np.abs(outputs[name] - wanted).max() <= MAX_DIFFERENCE * np.abs(wanted).max():
                self.problems.append(f"image {index}: wrong result")
                return
        self.images += 1


class Attacker:
    """Sends a fuzzer's frames to nodes, over one connection each; close it when done. Hears what they answer.

    With `keys` it is the node whose key pair they are.
    """

    def __init__(self, fuzzer: Fuzzer, targets: Mapping[str, str], keys: Keys | None) -> None:
        self.problems: list[str] = []
        self._fuzzer = fuzzer
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._sockets = {
            name: self._connected(address, keys.of(name) if keys else None, keys) for name, address in targets.items()
        }

    def send(self, count: int, deadline_s: float) -> int:
        """Send so many messages, until the monotonic time `deadline_s` at most; how many it were."""
        names = list(self._sockets)
        for sent in range(0 if self.problems else count):
            name = names[sent % len(names)]
            try:
                self._sockets[name].send_multipart(self._fuzzer.frames())
            except zmq.Again:
                self.problems.append(f"'{name}' takes no messages any more")
                return sent
            if time.monotonic() > deadline_s:
                return sent + 1
        return 0 if self.problems else count

    def close(self) -> None:
        """Close all connections, once what was sent has left."""
        for connection in self._sockets.values():
            connection.close(linger=2000)
        self._context.term()

    def _connected(self, address: str, key: bytes | None, keys: Keys | None) -> zmq.Socket[bytes]:
        connection = self._context.socket(zmq.PUSH)
        connection.set(zmq.SNDTIMEO, PATIENCE_MS)
        connection.set(zmq.SNDHWM, 100)
        if keys and key:
            keys.secure_caller(connection, key)
        connection.connect(f"tcp://{address}")
        return connection


def free_address() -> str:
    """An address on loopback at which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


@contextmanager
def listener(keys: Keys | None) -> Iterator[str]:
    """Somebody who listens on loopback and throws away what comes, so that nodes can answer; yields the address."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    gate = keys.start_gate(context) if keys else None
    inbox = context.socket(zmq.PULL)
    if keys:
        keys.secure_listener(inbox)
    stop = Event()
    port = inbox.bind_to_random_port("tcp://127.0.0.1")
    thread = Thread(target=_drain, args=(inbox, stop), name="listener")
    thread.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        stop.set()
        thread.join()
        if gate:
            gate.stop()
        context.term()


def _drain(inbox: zmq.Socket[bytes], stop: Event) -> None:
    while not stop.is_set():
        if inbox.poll(50):
            inbox.recv_multipart()
    inbox.close(linger=0)
