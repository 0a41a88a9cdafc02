"""Cases on a Ray, one started here or a cluster's, with token authentication always on.

https://docs.ray.io/en/latest/ray-security/token-auth.html
"""

from __future__ import annotations

import os
import secrets
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from distredge import __version__
from distredge.errors import DependencyError, InputError, RunError
from distredge.experiments.base import Effort, Row
from distredge.experiments.engines import ONE_THREAD, Job, Outcomes, Work, one_line, timed

CLIENT = "ray://"
"""Before the address of a cluster that this machine is no node of."""

KNOWS_TOKENS = (2, 52)
"""The first version that does; an older one would be open to everybody."""

STORE_BYTES = 80_000_000
"""Of a local Ray's object store, about the least that Ray accepts: what a case needs are kilobytes."""

CONNECT_S = 5.0
"""After which nobody answers."""

ENVIRONMENT = {
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_NUM_REDIS_GET_RETRIES": "5",  # a second each, for a refused token as well
}
"""Of this process, before Ray is imported."""

JOIN = "its nodes and this command need the same token, in ~/.ray/auth_token or a file that RAY_AUTH_TOKEN_PATH names"


@dataclass(frozen=True)
class RayEngine:
    """A Ray that is connected; each case takes one CPU. If a node is lost, its cases are done by others."""

    workers: int
    ray: Any

    def outcomes(self, jobs: Sequence[Job], effort: Effort) -> Outcomes:
        """Each job with its outcome, as soon as it is there."""
        do = self.ray.remote(num_cpus=1)(_timed_there)
        works = {id(job.experiment): self.ray.put(job.experiment.run) for job in jobs}
        waiting = {do.remote(works[id(job.experiment)], job.case, effort, __version__): job for job in jobs}
        while waiting:
            for done in self.ray.wait(list(waiting), num_returns=1)[0]:
                yield waiting.pop(done), partial(self._fetched, done)

    def _fetched(self, done: Any) -> tuple[list[Row], float]:
        try:
            found: tuple[list[Row], float] = self.ray.get(done)
        except self.ray.exceptions.RayTaskError as exc:
            raise exc.cause from exc
        return found


@contextmanager
def ray_engine(address: str | None, processes: int) -> Iterator[RayEngine]:
    """A Ray to do cases on, until the end of the block.

    `address` is a cluster's: `auto`, HOST:PORT on one of its nodes, or ray://HOST:PORT. None starts one on this
    machine, of so many processes and for this one alone: on loopback, with a token of its own.

    Raises `DependencyError` without Ray, `InputError` without a token for a cluster, `RunError` if the cluster is not
    there, refuses the token, asks for none, or has another DistrEdge.
    """
    os.environ.update(ENVIRONMENT)
    if address is None:
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # by which Ray means: on loopback only
    else:
        _check_token(address)
        _check_reachable(address)
    ray = _ray()
    handler = signal.getsignal(signal.SIGTERM)
    with (
        redirect_stdout(sys.stderr),  # Ray prints what becomes of lost nodes
        tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder,
    ):
        try:
            _connect(ray, address, processes, folder)
            signal.signal(signal.SIGTERM, handler)  # Ray has set its own
            yield RayEngine(max(1, int(ray.cluster_resources().get("CPU", 1))), ray)
        finally:
            ray.shutdown()


def _ray() -> Any:
    try:
        import ray
        import ray.exceptions
    except ImportError as exc:
        raise DependencyError("the engine 'ray'", "Ray", "ray") from exc
    if tuple(int(part) for part in ray.__version__.split(".")[:2]) < KNOWS_TOKENS:
        raise DependencyError("the engine 'ray'", "Ray 2.52 or newer", "ray")
    return ray


def _check_token(address: str) -> None:
    """Ray itself would end this process over a file that it cannot read."""
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    try:
        known = os.environ.get("RAY_AUTH_TOKEN") or path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        known = ""
    if not known:
        raise InputError(f"there is no token for the Ray at {address} in '{path}': {JOIN}")


def _check_reachable(address: str) -> None:
    """Ray itself would try for most of a minute."""
    if address == "auto":
        return
    host, _, port = address.removeprefix(CLIENT).rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise InputError(f"--address '{address}': give auto, HOST:PORT or ray://HOST:PORT")
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_S).close()
    except OSError as exc:
        raise RunError(f"there is no Ray at {address}: {exc.strerror or exc}") from exc


def _connect(ray: Any, address: str | None, processes: int, folder: str) -> None:
    local = {
        "num_cpus": processes,
        "object_store_memory": STORE_BYTES,
        "include_dashboard": False,
        "_temp_dir": folder,
    }
    where = f"the Ray at {address}" if address else "the local Ray"
    try:
        ray.init(
            address or "local", logging_level="ERROR", log_to_driver=False, runtime_env={"env_vars": ONE_THREAD},
            **({} if address else local),
        )  # fmt: skip
    except (ConnectionError, ray.exceptions.AuthenticationError) as exc:
        raise RunError(f"{where} is not there or refuses the token: {JOIN}") from exc
    except (RuntimeError, ray.exceptions.RayError) as exc:  # as of versions that differ
        raise RunError(f"{where} cannot be used: {one_line(exc)}") from exc
    try:
        mode = ray.get(ray.remote(num_cpus=0)(_auth_mode).remote())
    except ray.exceptions.RayError as exc:
        raise RunError(
            f"{where} cannot run DistrEdge {__version__}: install it on every node ({one_line(exc)})"
        ) from exc
    if mode != "token":
        raise RunError(f"{where} asks for no token, anybody could run code on it: start it with RAY_AUTH_MODE=token")


def _auth_mode() -> str | None:
    """Of a node: how it knows who may ask."""
    return os.environ.get("RAY_AUTH_MODE")


def _timed_there(work: Work, case: Row, effort: Effort, version: str) -> tuple[list[Row], float]:
    if version != __version__:
        raise RunError(f"node '{socket.gethostname()}' has DistrEdge {__version__}, not {version}")
    return timed(work, case, effort)
