"""Tells a controller that a provider is there, as long as it is; a provider serves whether or not it can."""

from __future__ import annotations

import json
import logging
import math
import platform
import time
from collections.abc import Callable
from importlib.metadata import version
from threading import Event, Thread
from urllib.parse import quote, urlsplit

from distredge.control.client import Api, RefusedError, UnreachableError
from distredge.runtime.message import PROTOCOL
from distredge.runtime.transport import own_host, parse_address

BEAT_S = 2.0
"""Between two signs of life; one that cannot be given is left out."""

NOT_KNOWN = 404

log = logging.getLogger(__name__)


class Registration(Thread):
    """Registers, then gives signs of life until it is stopped; registers again when the controller has forgotten it.

    `serving` and `free_mb` are asked each time. What goes wrong is logged once, until it has gone right again.
    """

    def __init__(
        self,
        api: Api,
        name: str,
        address: str,
        memory_mb: float | None,
        serving: Callable[[], bool],
        free_mb: Callable[[], float],
    ) -> None:
        super().__init__(name="controller", daemon=True)
        self._api, self._path = api, f"/v1/devices/{quote(name, safe='')}"
        self._about = {
            "address": _reachable(address, api.url),
            "memory_mb": memory_mb,
            "protocol": PROTOCOL,
            "version": version("distredge"),
            "platform": platform.platform()[:200],
        }
        self._serving, self._free_mb = serving, free_mb
        self._known = False
        self._problem = ""
        self._over = Event()

    def run(self) -> None:
        """The thread's loop."""
        while not self._over.is_set():
            self._say(self._tell)
            self._over.wait(BEAT_S)
        self._api.close()

    def stop(self) -> None:
        """End it; a call that is under way ends by its own time limit."""
        self._over.set()

    def _tell(self) -> None:
        if not self._known:
            self._api.call("PUT", self._path, json.dumps(self._about).encode())
            self._known = True
        free_mb = self._free_mb()
        beat = {"at_s": time.time(), "serving": self._serving()}
        if math.isfinite(free_mb):
            beat["memory_free_mb"] = free_mb
        self._api.call("POST", f"{self._path}/beat", json.dumps(beat).encode())

    def _say(self, what: Callable[[], None]) -> None:
        try:
            what()
        except (UnreachableError, RefusedError) as exc:
            if isinstance(exc, RefusedError) and exc.status == NOT_KNOWN:
                self._known = False
            if str(exc) != self._problem:
                log.warning("%s", exc)
            self._problem = str(exc)
        else:
            if self._problem:
                log.info("the controller answers again")
            self._problem = ""


def _reachable(address: str, controller: str) -> str:
    """Where others find this node: it may listen everywhere, and is then called as the controller sees it."""
    host, port = parse_address(address)
    if host != "0.0.0.0":
        return address
    there = urlsplit(controller)
    return f"{own_host(f'{there.hostname}:{there.port or 443}')}:{port}"
