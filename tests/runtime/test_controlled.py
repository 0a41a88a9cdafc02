"""A stream's tie to a controller: opened, told, obeyed once; what is not what was ordered is not taken."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from distredge.control.client import RefusedError, UnreachableError
from distredge.control.schema import Latencies, Orders, Telemetry, plan_sha256
from distredge.model.load import load_model
from distredge.plans.plan import Plan
from distredge.runtime.controlled import Controlled, upload_profiles
from distredge.scenario import load_scenario
from distredge.testing.providers import equal_plan

NAMES = ["xavier-0", "xavier-1", "nano-0", "nano-1"]


class Scripted:
    """Stands in for the HTTP client: answers, or fails, as it is told, and keeps what was said."""

    def __init__(self) -> None:
        self.orders = Orders()
        self.plans: dict[str, bytes] = {}
        self.said: list[tuple[str, str, Any]] = []
        self.problem: Exception | None = None

    def call(self, method: str, path: str, body: bytes | None = None, kind: str = "application/json") -> bytes:
        if self.problem:
            raise self.problem
        self.said.append((method, path, json.loads(body) if body and kind == "application/json" else body))
        if (method, path) == ("POST", "/v1/streams"):
            return json.dumps({"stream": f"s{len(self.said)}", "orders": self.orders.model_dump()}).encode()
        if path.startswith("/v1/plans/"):
            return self.plans[path.rpartition("/")[2]]
        return self.orders.model_dump_json().encode() if method == "POST" else b""

    def close(self) -> None:
        """Nothing to close."""


class Stream:
    """Stands in for the requester: counts messages, keeps what it is ordered."""

    def __init__(self) -> None:
        self.bound = equal_plan(load_model("squeezenet1_1"), NAMES)
        self.plan = self.bound.plan
        self.sequence = 0
        self.obeyed: list[tuple[int, Plan | None]] = []

    def telemetry(self) -> Telemetry:
        self.sequence += 1
        latency = Latencies(frames=1, p50=1.0, p90=1.0, p99=1.0, ips=1.0)
        return Telemetry(
            sequence=self.sequence, at_s=1.0, span_s=0.5, epoch=1, plan_sha256=plan_sha256(self.plan),
            order_version=0, latency=latency, present=tuple(NAMES),
        )  # fmt: skip

    def obey(self, orders: Orders, plan: Plan | None, policy: object) -> None:
        self.obeyed.append((orders.version, plan))


@pytest.fixture
def tie() -> Iterator[tuple[Controlled, Scripted, Stream]]:
    api, stream = Scripted(), Stream()
    tied = Controlled(api, stream, "camera", load_scenario("db-50"), None)  # type: ignore[arg-type]
    tied._open()
    yield tied, api, stream


Tie = tuple[Controlled, Scripted, Stream]


def sequences(api: Scripted) -> list[int]:
    return [body["sequence"] for _, path, body in api.said if path.endswith("telemetry")]


def test_orders_are_carried_out_once_for_each_version(tie: Tie) -> None:
    tied, api, stream = tie
    sha = plan_sha256(stream.plan)
    api.plans[sha] = stream.plan.model_dump_json().encode()
    tied._tell()
    api.orders = Orders(version=1, plan_sha256=sha, reason="try it")
    for _ in range(3):
        tied._tell()
    assert stream.obeyed == [(0, None), (1, stream.plan)]
    assert sequences(api) == [1, 2, 3, 4]


def test_a_plan_that_is_not_the_ordered_one_is_not_taken(tie: Tie) -> None:
    tied, api, stream = tie
    sha = plan_sha256(stream.plan)
    api.plans[sha] = stream.plan.model_copy(update={"head_provider": "nano-1"}).model_dump_json().encode()
    api.orders = Orders(version=1, plan_sha256=sha)
    tied._attempt(tied._tell)
    assert stream.obeyed == [(0, None)]
    assert "another plan" in tied._problem
    api.plans[sha] = stream.plan.model_dump_json().encode()
    tied._attempt(tied._tell)  # asked for again
    assert stream.obeyed[-1] == (1, stream.plan)


def test_what_was_not_taken_is_told_again_word_for_word(tie: Tie) -> None:
    tied, api, stream = tie
    tied._tell()
    for problem in (UnreachableError("away"), RefusedError(503, "the disk is full")):
        api.problem = problem
        tied._attempt(tied._tell)
        tied._attempt(tied._tell)
    api.problem = None
    tied._attempt(tied._tell)
    tied._attempt(tied._tell)
    assert sequences(api) == [1, 2, 3]


def test_a_controller_that_has_forgotten_the_stream_is_told_of_it_again_and_its_orders_count_anew(tie: Tie) -> None:
    tied, api, stream = tie
    api.orders = Orders(version=5, pinned=True)
    tied._tell()
    assert stream.obeyed[-1][0] == 5
    call = api.call

    def forgets(method: str, path: str, body: bytes | None = None, kind: str = "") -> bytes:
        if path.endswith("telemetry"):
            api.call = call  # type: ignore[method-assign]
            api.orders = Orders()
            raise RefusedError(404, "there is no open stream here")
        return call(method, path, body)

    api.call = forgets  # type: ignore[method-assign]
    tied._attempt(tied._tell)
    assert api.said[-1][:2] == ("POST", "/v1/streams")
    assert stream.obeyed[-1] == (0, None)
    tied._tell()
    assert api.said[-1][1].startswith("/v1/streams/s")


def test_profiles_that_are_files_here_go_to_the_controller_first(tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text('{"a": 1}')
    (tmp_path / "board.yaml").write_text("b: 2")
    (tmp_path / "lab.yaml").write_text(
        "schema_version: 1\nname: lab\nproviders:\n"
        "  - {name: a, profile: mine.json, bandwidth_mbps: 50}\n"
        "  - {name: b, profile: jetson-nano, bandwidth_mbps: 50}\n"
        "  - {name: c, profile: board.yaml, bandwidth_mbps: 50}\n"
        "  - {name: d, profile: mine.json, bandwidth_mbps: 50}\n"
    )
    api = Scripted()
    upload_profiles(api, load_scenario(tmp_path / "lab.yaml"))  # type: ignore[arg-type]
    assert api.said == [("PUT", "/v1/profiles/mine", {"a": 1}), ("PUT", "/v1/profiles/board", b"b: 2")]
