"""A controller served by uvicorn on loopback, in a thread of the test, with a re-planner that is answered by hand."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import uvicorn

from distredge.control.schema import Role
from distredge.controller.auth import new_token
from distredge.controller.core import Core
from distredge.controller.decisions import Decider
from distredge.controller.models import Models
from distredge.controller.serve import Service, configured
from distredge.controller.store import Store
from distredge.testing.controlling import FakeReplanner

PATIENCE_S = 30.0


@dataclass(frozen=True)
class Served:
    """What a test may look at; `http` is a client that has no token."""

    url: str
    core: Core
    service: Service
    replanner: FakeReplanner
    http: httpx.Client

    def as_role(self, role: Role) -> httpx.Client:
        """A client with a new token of a role; the service knows it at once."""
        secret = new_token(self.core.store, f"the-{role}", role)
        self.service.auth.refresh()
        return client(self.url, secret)


def client(url: str, token: str | None = None) -> httpx.Client:
    """A client of the service at an address."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return httpx.Client(base_url=url, headers=headers, timeout=PATIENCE_S, trust_env=False)


@contextmanager
def served(state: Path, loopback: bool = True) -> Iterator[Served]:
    """Serve a state file while the block runs. Nothing ticks: a test calls `service.tick` when it wants to."""
    with closing(Store(state)) as store:
        replanner = FakeReplanner()
        core = Core(store, replanner)
        service = Service(core, Decider(Models().graph), loopback)
        listener = socket.create_server(("127.0.0.1", 0))
        server = uvicorn.Server(configured(service))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        try:
            with client(url) as http:
                yield Served(url, core, service, replanner, http)
        finally:
            server.should_exit = True
            thread.join(PATIENCE_S)
            listener.close()
