"""Ties a stream to a controller: tells it what is seen, fetches what it orders. No frame ever waits for it.

It has a thread of its own. While the controller is away the stream goes on as it is; what could not be told is told
when it is back, the newest of it if it is too much. One that has forgotten the stream is told of it again.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from pathlib import Path
from threading import Event, Thread
from urllib.parse import quote

from pydantic import ValidationError

from distredge.agents.moving.file import unpack
from distredge.control.client import Api, RefusedError, UnreachableError
from distredge.control.schema import Orders, StreamOpened, StreamOpening, Telemetry, plan_sha256
from distredge.errors import InputError
from distredge.plans.plan import Plan
from distredge.runtime.policy import Policy
from distredge.runtime.requester import Requester
from distredge.scenario import Scenario

TELL_S = 0.5
"""Between two messages."""

NOT_KNOWN, UNABLE = 404, 500

log = logging.getLogger(__name__)


class Controlled(Thread):
    """A context manager: entering opens the stream at the controller, leaving tells that it is over.

    Enter it when the requester has been entered. Raises `UnreachableError` or `RefusedError` if the controller is not
    there, or does not want it, at the beginning; later it only logs.
    """

    def __init__(
        self, api: Api, requester: Requester, name: str, scenario: Scenario, policy_sha256: str | None
    ) -> None:
        super().__init__(name="controller", daemon=True)
        self._api, self._requester, self._scenario = api, requester, scenario
        self._name = name
        self._stream, self._version = "", -1
        self._untold: Telemetry | None = None
        self._policy_sha256 = policy_sha256
        self._problem = ""
        self._over = Event()

    def __enter__(self) -> Controlled:
        """Open the stream."""
        self._open()
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Tell the rest and that it is over, if the controller is there."""
        self._over.set()
        self.join()
        self._attempt(self._tell)
        self._attempt(lambda: self._api.call("DELETE", f"/v1/streams/{self._stream}"))
        self._api.close()

    def run(self) -> None:
        """The thread's loop."""
        while not self._over.wait(TELL_S):
            self._attempt(self._tell)

    def _attempt(self, what: Callable[[], object]) -> None:
        try:
            what()
        except (UnreachableError, RefusedError, InputError, ValidationError) as exc:
            if str(exc) != self._problem:
                log.warning("%s; the stream goes on", exc)
            self._problem = str(exc)
        else:
            if self._problem:
                log.info("the controller answers again")
            self._problem = ""

    def _open(self) -> None:
        opening = StreamOpening(
            requester=self._name,
            scenario=self._scenario,
            plan=self._requester.plan,
            policy_sha256=self._policy_sha256,
        )
        answer = self._api.call("POST", "/v1/streams", opening.model_dump_json().encode())
        opened = StreamOpened.model_validate_json(answer)
        self._stream, self._version = opened.stream, -1
        self._obey(opened.orders)

    def _tell(self) -> None:
        """Tell what there is; what was not taken is told again, word for word."""
        if self._untold is None:
            self._untold = self._requester.telemetry()
        try:
            path = f"/v1/streams/{self._stream}/telemetry"
            answer = self._api.call("POST", path, self._untold.model_dump_json().encode())
        except RefusedError as exc:
            if exc.status < UNABLE:
                self._untold = None  # it would be refused again
            if exc.status != NOT_KNOWN:
                raise
            self._open()
            return
        self._untold = None
        self._obey(Orders.model_validate_json(answer))

    def _obey(self, orders: Orders) -> None:
        """Fetch what was ordered and hand it to the stream; once for each version."""
        if orders.version <= self._version:
            return
        policy = None
        if orders.policy_sha256 and orders.policy_sha256 != self._policy_sha256:
            policy = self._fetch_policy(orders.policy_sha256)
        plan = None
        if orders.plan_sha256:
            plan = Plan.model_validate_json(self._api.call("GET", f"/v1/plans/{orders.plan_sha256}"))
            _check_hash("plan", plan_sha256(plan), orders.plan_sha256)
        self._requester.obey(orders, plan, policy)
        self._version = orders.version
        if policy is not None:
            self._policy_sha256 = orders.policy_sha256

    def _fetch_policy(self, sha256: str) -> Policy:
        content = self._api.call("GET", f"/v1/policies/{sha256}")
        _check_hash("policy", hashlib.sha256(content).hexdigest(), sha256)
        return Policy(unpack(content, "the ordered policy"), self._requester.bound.graph, self._scenario)


def _check_hash(what: str, found: str, ordered: str) -> None:
    if found != ordered:
        raise InputError(f"the controller sent another {what} ({found[:12]}) than it ordered ({ordered[:12]})")


def upload_profiles(api: Api, scenario: Scenario) -> None:
    """Give the controller those profiles of a scenario that are files here: it knows the shipped ones only."""
    for name in dict.fromkeys(p.profile for p in scenario.providers):
        path = next((p for p in (scenario.folder / name, Path(name)) if p.suffix and p.is_file()), None)
        if path is not None:
            kind = "application/json" if path.suffix == ".json" else "application/yaml"
            api.call("PUT", f"/v1/profiles/{quote(path.stem, safe='')}", path.read_bytes(), kind)


def upload_policy(api: Api, path: Path) -> str:
    """Give the controller a policy's file; the hash by which it is known there."""
    answer = api.call("PUT", "/v1/policies", path.read_bytes(), "application/octet-stream")
    return str(json.loads(answer)["sha256"])
