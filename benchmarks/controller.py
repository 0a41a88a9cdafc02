"""Split decisions served: in process, and over HTTP on loopback at a constant rate beside a bare FastAPI endpoint.

The bare endpoint returns a constant, from the same server with the same settings. Requests leave by the clock, whether
or not earlier ones were answered, and a latency counts from when its request was due. Server and client share the
machine's cores: the client is one process of its own that sleeps between requests.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import numpy as np
import uvicorn
from fastapi import FastAPI

import distredge
from distredge.agents.moving.file import save_agent
from distredge.agents.moving.settings import load_moving_settings
from distredge.api import make_task
from distredge.control.schema import DecisionRequest
from distredge.controller.decisions import Decider
from distredge.controller.limits import Connection
from distredge.controller.models import Models
from distredge.planners.moving import pretrain
from distredge.resources import data_dir

RATE = 500
SECONDS = 10.0
CONNECTIONS = 16
"""Each sends every 32 ms; what is answered later than that delays the next one, which counts as its latency."""

IN_PROCESS = 20_000
PRETRAIN_S = 20.0
PATH = "/v1/decisions"


def main() -> None:
    print(f"{os.cpu_count()} cores for server and client together; {RATE} requests/s for {SECONDS:.0f} s each")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        policies = {"moving": _moving(folder), "osds": data_dir("agents") / "vgg16" / "db-50.safetensors"}
        for kind, policy in policies.items():
            _show(f"in process, {kind}", _in_process(policy), "")
        with _bare() as bare_url, _controller(folder) as url:
            constant = _over_http(bare_url, b"{}")
            _show("over HTTP, bare FastAPI", constant, "")
            for kind, policy in policies.items():
                httpx.put(f"{url}/v1/policies", content=policy.read_bytes(), headers=_BINARY, timeout=60)
                ours = _over_http(url, _request().model_dump_json(exclude_none=True).encode())
                ratios = (np.percentile(ours, q) / np.percentile(constant, q) for q in (50, 99))
                _show(f"over HTTP, {kind}", ours, "; {:.2f} and {:.2f} of the bare one's".format(*ratios))


_BINARY = {"Content-Type": "application/octet-stream"}


def _show(what: str, seconds: list[float], more: str) -> None:
    p50, p99 = np.percentile(seconds, [50, 99]) * 1e3
    print(f"{what}: p50 {p50:.3f} ms, p99 {p99:.3f} ms{more}", flush=True)


def _request() -> DecisionRequest:
    rates = {name: 40.0 for name in distredge.load_scenario("db-50").provider_names}
    return DecisionRequest(model="vgg16", scenario="db-50", mbps=rates)


def _moving(folder: Path) -> Path:
    """An agent for a moving network after a short training: a decision takes as long as after a long one."""
    graph, scenario = distredge.load_model("vgg16"), distredge.load_scenario("db-50")
    task = make_task(graph, scenario, 0, PRETRAIN_S, lambda share, best: None)
    path = folder / "moving.safetensors"
    save_agent(pretrain(task, load_moving_settings("default"), None), path)
    return path


def _in_process(policy: Path) -> list[float]:
    decider = Decider(Models().graph)
    decider.add(policy.read_bytes(), distredge.load_scenario("db-50"))
    request = _request()
    found = []
    for _ in range(IN_PROCESS):
        began = time.perf_counter()
        decider.decide(request)
        found.append(time.perf_counter() - began)
    return found


@contextmanager
def _controller(folder: Path) -> Iterator[str]:
    command = [sys.executable, "-m", "distredge", "controller", "--listen", "127.0.0.1:0", "--json"]
    state = ["--state", str(folder / "state.sqlite"), "--log-level", "warning"]
    with subprocess.Popen([*command, *state], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield str(json.loads(process.stdout.readline())["url"])
        finally:
            process.terminate()


@contextmanager
def _bare() -> Iterator[str]:
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    process = multiprocessing.get_context("fork").Process(target=_serve_constant, args=(listener,), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        process.terminate()
        process.join()


def _serve_constant(listener: socket.socket) -> None:
    app = FastAPI()

    @app.post(PATH)
    async def constant() -> dict[str, int]:
        return {"decision": 0}

    config = uvicorn.Config(app, loop="uvloop", http=Connection, ws="none", lifespan="off", access_log=False)
    uvicorn.Server(config).run(sockets=[listener])


def _over_http(url: str, body: bytes) -> list[float]:
    """Latencies in s, from a process of its own; the first second warms up."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_load, (urlsplit(url).port, body))


def _load(port: int, body: bytes) -> list[float]:
    head = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    message = f"{head}\r\n\r\n".encode() + body
    found: list[float] = []
    began_s = time.perf_counter() + 0.2
    threads = [
        threading.Thread(target=_connection, args=(port, message, began_s + i / RATE, found))
        for i in range(CONNECTIONS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def _connection(port: int, message: bytes, due_s: float, found: list[float]) -> None:
    """Every `CONNECTIONS` / `RATE` seconds a request, which takes from when it is due until its answer is whole."""
    end_s = due_s + 1.0 + SECONDS
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for k in range(round((1.0 + SECONDS) * RATE / CONNECTIONS)):
            at_s = due_s + k * CONNECTIONS / RATE
            time.sleep(max(0.0, at_s - time.perf_counter()))
            connection.sendall(message)
            _receive(connection)
            if at_s > end_s - SECONDS:
                found.append(time.perf_counter() - at_s)


def _receive(connection: socket.socket) -> None:
    answer = connection.recv(65536)
    head, _, body = answer.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        raise OSError(f"the answer was {answer[:300]!r}")
    length = int(head.lower().partition(b"content-length:")[2].split()[0])
    while len(body) < length:
        body += connection.recv(65536)
