"""The interface over a real socket: what a provider, a requester and an operator would notice, and what is wrong."""

from __future__ import annotations

import json
import math
import re
import socket
import sqlite3
import time
from collections.abc import Iterator
from functools import reduce
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import pytest

from distredge.agents.actor_file import load_agent
from distredge.control.schema import Orders, StreamOpening, Telemetry, plan_sha256
from distredge.controller import limits
from distredge.controller.core import Core
from distredge.plans.plan import Prediction
from distredge.resources import data_dir
from distredge.scenario import load_scenario
from distredge.testing.controlling import change, opening, registration, some_plan, telemetry
from distredge.testing.served import PATIENCE_S, Served, client, served

JSON = {"Content-Type": "application/json"}
BINARY = {"Content-Type": "application/octet-stream"}
POLICY = data_dir("agents") / "vgg16" / "db-50.safetensors"


@pytest.fixture
def controller(tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path / "state.sqlite") as found:
        yield found


def put(http: httpx.Client, path: str, value: Any) -> httpx.Response:
    return http.put(path, content=value.model_dump_json(), headers=JSON)


def opened(controller: Served, start: StreamOpening | None = None) -> str:
    body = (start or opening()).model_dump_json()
    answer = controller.http.post("/v1/streams", content=body, headers=JSON)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["stream"])


def tell(controller: Served, stream: str, message: Telemetry) -> httpx.Response:
    path = f"/v1/streams/{stream}/telemetry"
    return controller.http.post(path, content=message.model_dump_json(), headers=JSON)


def beat(**values: Any) -> dict[str, Any]:
    return {"at_s": time.time(), "serving": False, **values}


def one_line(answer: httpx.Response, status: int) -> str:
    assert answer.status_code == status, answer.text
    assert set(answer.json()) == {"detail"}
    detail = str(answer.json()["detail"])
    assert detail and "\n" not in detail and "Traceback" not in detail
    return detail


def serves(controller: Served) -> bool:
    """Whether a device can register and a stream be opened and told of, as if nothing had been."""
    assert put(controller.http, "/v1/devices/late", registration()).status_code == 200
    stream = opened(controller)
    return tell(controller, stream, telemetry(1, time.time())).status_code == 200


# What it is for.


def test_a_provider_registers_gives_signs_of_life_and_is_forgotten(controller: Served) -> None:
    http = controller.http
    assert put(http, "/v1/devices/nano-0", registration(memory_mb=4000.0)).json()["health"] == "up"
    assert http.post("/v1/devices/nano-0/beat", json=beat(serving=True, memory_free_mb=100.0)).status_code == 204
    (device,) = http.get("/v1/devices").json()
    assert (device["name"], device["serving"], device["memory_free_mb"]) == ("nano-0", True, 100.0)
    assert http.delete("/v1/devices/nano-0").status_code == 204
    assert http.get("/v1/devices").json() == []
    assert "register it first" in one_line(http.post("/v1/devices/nano-0/beat", json=beat()), 404)


def test_a_stream_is_told_of_pinned_and_ended(controller: Served) -> None:
    http, stream = controller.http, opened(controller)
    assert Orders.model_validate(tell(controller, stream, telemetry(1, time.time())).json()) == Orders()
    pinned = http.post(f"/v1/streams/{stream}/pin", json={"reason": "a fair"}).json()
    assert (pinned["pinned"], pinned["plan_sha256"]) == (True, plan_sha256(some_plan(0)))
    assert tell(controller, stream, telemetry(2, time.time())).json() == pinned
    assert "already" in one_line(http.post(f"/v1/streams/{stream}/pin", json={"reason": ""}), 409)
    assert http.post(f"/v1/streams/{stream}/unpin", json={"reason": ""}).json()["pinned"] is False
    one_line(http.post(f"/v1/streams/{stream}/rollback", json={"reason": ""}), 409)
    assert http.delete(f"/v1/streams/{stream}").status_code == 204
    one_line(tell(controller, stream, telemetry(3, time.time())), 404)
    kinds = [e["kind"] for e in http.get("/v1/events", params={"stream": stream}).json()]
    assert kinds[0] == "stream_opened" and kinds[-1] == "stream_closed" and "pinned" in kinds


def test_an_operator_rolls_back_to_the_plan_before(controller: Served) -> None:
    stream, now = opened(controller), time.time()
    plan = some_plan(1)
    message = telemetry(1, now, plan, epoch=1, plans=(plan,), plan_changes=(change(plan, 1, now, "policy"),))
    assert tell(controller, stream, message).status_code == 200
    orders = controller.http.post(f"/v1/streams/{stream}/rollback", json={"reason": "worse"}).json()
    assert orders["plan_sha256"] == plan_sha256(some_plan(0))
    found = controller.http.get(f"/v1/plans/{orders['plan_sha256']}")
    assert found.json() == some_plan(0).model_dump(mode="json")


def test_the_view_of_a_stream_has_its_history(controller: Served) -> None:
    stream = opened(controller)
    for k in range(1, 4):
        tell(controller, stream, telemetry(k, time.time()))
    view = controller.http.get(f"/v1/streams/{stream}").json()
    assert len(view["history"]) == 3 and view["summary"]["live"]
    assert [s["stream"] for s in controller.http.get("/v1/overview").json()["streams"]] == [stream]


def test_scenarios_profiles_and_plans_are_kept(controller: Served) -> None:
    http = controller.http
    board = (data_dir("profiles") / "jetson-nano.yaml").read_bytes()
    assert http.put("/v1/profiles/mine", content=board, headers={"Content-Type": "application/yaml"}).status_code == 204
    assert http.get("/v1/profiles").json() == ["mine"]
    assert http.get("/v1/profiles/mine").content == board
    scenario = opening().scenario
    assert put(http, "/v1/scenarios/hall", scenario).status_code == 204
    assert http.get("/v1/scenarios").json() == ["hall"]
    assert http.get("/v1/scenarios/hall").json() == scenario.model_dump(mode="json")
    sha = put(http, "/v1/plans", some_plan(5)).json()["sha256"]
    assert sha == plan_sha256(some_plan(5))
    assert http.get(f"/v1/plans/{sha}").json()["seed"] == 5


def test_a_policy_that_is_stored_decides_at_once_and_after_a_restart(tmp_path: Path) -> None:
    providers = load_agent(POLICY).card.providers
    request = {"model": "vgg16", "scenario": "db-50", "volume": 0, "accumulated_ms": dict.fromkeys(providers, 0.0)}
    with served(tmp_path / "state.sqlite") as controller:
        assert "PUT /v1/policies" in one_line(controller.http.post("/v1/decisions", json=request), 404)
        entry = controller.http.put("/v1/policies", content=POLICY.read_bytes(), headers=BINARY).json()
        first = controller.http.post("/v1/decisions", json=request).json()
        assert first["policy_sha256"] == entry["sha256"] and first["providers"] == list(providers)
        (volume,) = first["volumes"]
        assert volume["cuts"][0] == 0 and sorted(volume["cuts"]) == volume["cuts"]
    with served(tmp_path / "state.sqlite") as controller:
        assert controller.http.get("/v1/policies").json() == [entry]
        assert controller.http.get(f"/v1/policies/{entry['sha256']}").content == POLICY.read_bytes()
        assert controller.http.post("/v1/decisions", json=request).json() == first


def test_a_shipped_scenario_is_what_is_usual_for_its_policies(controller: Served) -> None:
    controller.http.put("/v1/policies", content=POLICY.read_bytes(), headers=BINARY)
    usual = {p.name: p.bandwidth_mbps for p in load_scenario("db-50").providers}
    request = {"model": "vgg16", "scenario": "db-50"}
    implied = controller.http.post("/v1/decisions", json=request).json()
    said = controller.http.post("/v1/decisions", json={**request, "mbps": usual}).json()
    assert implied == said and implied["expected_ms"] > 0.0


def test_a_policy_that_re_planning_has_made_decides_after_the_next_look(controller: Served) -> None:
    entry = controller.core.add_policy(POLICY.read_bytes())
    request = {"model": "vgg16", "scenario": "db-50", "policy_sha256": entry.sha256}
    one_line(controller.http.post("/v1/decisions", json=request), 404)
    controller.service.tick()
    assert controller.http.post("/v1/decisions", json=request).status_code == 200


# What is wrong.

WRONG = [
    ("PUT", "/v1/devices/nano-0", b'{"protocol": 3}', "'version'"),
    ("PUT", "/v1/devices/nano-0", b'{"protocol": "3", "version": "1"}', "'protocol'"),
    ("PUT", "/v1/devices/nano-0", b'{"protocol": -3, "version": "1"}', "'protocol'"),
    ("PUT", "/v1/devices/nano-0", b'{"protocol": 3, "version": "1", "memory_mb": NaN}', "JSON"),
    ("PUT", "/v1/devices/nano-0", b'{"protocol": 3, "version": "1", "memory_mb": 1e999}', "'memory_mb'"),
    ("PUT", "/v1/devices/nano-0", b'{"protocol": 3, "version": "1", "colour": 1}', "'colour'"),
    ("PUT", "/v1/devices/nano-0", b"[]", "the body"),
    ("PUT", "/v1/devices/nano-0", b"", "JSON"),
    ("PUT", "/v1/devices/nano-0", b"\xff\xfe", "JSON"),
    ("PUT", "/v1/devices/nano-0", b"[" * 60_000, "JSON"),
    ("PUT", "/v1/devices/requester", registration().model_dump_json().encode(), "requester"),
    ("PUT", "/v1/devices/a%20b", registration().model_dump_json().encode(), "path.name"),
    ("PUT", "/v1/profiles/mine", b'{"what": 1}', "profile"),
    ("PUT", "/v1/profiles/mine", b"\xff", "text"),
    ("PUT", "/v1/plans", some_plan(0).model_dump_json().replace("[0,8,", "[0,-8,").encode(), "cuts"),
    ("GET", "/v1/events?limit=0", None, "query.limit"),
    ("GET", "/v1/events?after=99999999999999999999", None, "query.after"),
    ("GET", "/v1/plans/abc", None, "path.sha256"),
]


@pytest.mark.parametrize(("method", "path", "body", "word"), WRONG)
def test_bad_input_is_refused_in_one_line_that_names_it(
    controller: Served, method: str, path: str, body: bytes | None, word: str
) -> None:
    assert word in one_line(controller.http.request(method, path, content=body, headers=JSON), 422)


@pytest.mark.parametrize(
    "where",
    [
        *(("at_s",), ("span_s",), ("expected_ms",), ("sequence",), ("latency", "p50"), ("latency", "frames")),
        *(
            ("mbps", "nano-0"),
            ("slowdown", "nano-0"),
            ("frame_ms", 0),
            ("plans", 0, "predicted", "compute_ms", "nano-0"),
        ),
    ],
    ids=str,
)
def test_nonsense_telemetry_is_refused_and_changes_nothing(controller: Served, where: tuple[str | int, ...]) -> None:
    stream = opened(controller)
    prediction = Prediction(latency_ms=1.0, ips=1.0, compute_ms={"nano-0": 1.0}, transfer_ms={})
    plan = some_plan(1).model_copy(update={"predicted": prediction})
    rates: dict[str, Any] = {"mbps": {"nano-0": 7.5}, "slowdown": {"nano-0": 1.5}, "frame_ms": (7.5,)}
    message = telemetry(5, time.time(), expected_ms=7.5, plans=(plan,), **rates).model_dump(mode="json")
    inner = reduce(lambda value, key: value[key], where[:-1], message)
    inner[where[-1]] = "HERE"
    signed = where[0] == "plans"
    for value in ("NaN", "Infinity", "-Infinity", '"1.0"', "true", "[]", *(() if signed else ("-1.0", "1e999"))):
        text = json.dumps(message).replace('"HERE"', value)
        one_line(controller.http.post(f"/v1/streams/{stream}/telemetry", content=text, headers=JSON), 422)
    assert controller.core.store.latest(stream) is None
    assert tell(controller, stream, telemetry(5, time.time())).status_code == 200


def test_telemetry_from_the_future_of_strange_nodes_or_stale_is_refused_and_the_stream_goes_on(
    controller: Served,
) -> None:
    stream, now = opened(controller), time.time()
    assert "clock" in one_line(tell(controller, stream, telemetry(1, now + 3600)), 422)
    assert "nano-9" in one_line(tell(controller, stream, telemetry(1, now, present=("nano-9",))), 422)
    assert tell(controller, stream, telemetry(5, now, epoch=3)).status_code == 200
    assert "stale" in one_line(tell(controller, stream, telemetry(4, now, epoch=3)), 409)
    assert "epoch 2 is stale" in one_line(tell(controller, stream, telemetry(6, now, epoch=2)), 409)
    assert "never given" in one_line(tell(controller, stream, telemetry(6, now, epoch=3, order_version=9)), 409)
    assert tell(controller, stream, telemetry(6, now, epoch=3)).status_code == 200


def test_what_is_not_known_is_404_with_what_to_do(controller: Served) -> None:
    http = controller.http
    for path in (f"/v1/plans/{'0' * 64}", f"/v1/policies/{'0' * 64}", "/v1/profiles/x", "/v1/scenarios/x"):
        assert "PUT /v1/" in one_line(http.get(path), 404)
    assert "open a new one" in one_line(tell(controller, "nobody", telemetry(1, time.time())), 404)
    one_line(http.get("/v1/nothing"), 404)
    one_line(http.get("/web/nothing.js"), 404)
    one_line(http.get("/web/../../service.py"), 404)
    one_line(http.get("/web/%2e%2e/service.py"), 404)


def test_a_method_that_is_not_there_names_those_that_are(controller: Served) -> None:
    answer = controller.http.patch("/v1/streams/x")
    one_line(answer, 405)
    assert answer.headers["Allow"] == "DELETE, GET"


@pytest.mark.slow
def test_ten_thousand_registrations_are_followed(controller: Served) -> None:
    for i in range(10_000 - 100):  # past the socket: it is the number that is tried
        controller.core.register_device(f"board-{i}", registration())
    for i in range(10_000 - 100, 10_000):
        assert put(controller.http, f"/v1/devices/board-{i}", registration()).status_code == 200
    assert controller.http.post("/v1/devices/board-5/beat", json=beat()).status_code == 204
    assert len(controller.http.get("/v1/devices").json()) == 10_000
    counted = re.findall(r"^distredge_devices{.*} (\d+)", controller.http.get("/metrics").text, re.MULTILINE)
    assert sum(map(int, counted)) == 10_000
    assert serves(controller)


def test_registrations_beyond_what_is_followed_are_refused(controller: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distredge.controller.core.MAX_DEVICES", 2)
    for name in ("a", "b"):
        assert put(controller.http, f"/v1/devices/{name}", registration()).status_code == 200
    assert "remove some first" in one_line(put(controller.http, "/v1/devices/c", registration()), 422)
    assert put(controller.http, "/v1/devices/a", registration()).status_code == 200


def test_a_locked_state_file_is_503_and_passes(controller: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = opened(controller)
    other = sqlite3.connect(controller.core.store.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    answer = tell(controller, stream, telemetry(1, time.time()))
    assert "locked" in one_line(answer, 503) and answer.headers["Retry-After"] == "1"
    one_line(put(controller.http, "/v1/devices/nano-0", registration()), 503)
    assert controller.http.get("/v1/health").status_code == 200
    assert controller.http.get("/v1/overview").json()["devices"] == []
    other.execute("ROLLBACK")
    other.close()
    assert tell(controller, stream, telemetry(1, time.time())).status_code == 200
    assert serves(controller)


def test_a_full_disk_is_503_and_passes(controller: Served) -> None:
    stream, store = opened(controller), controller.core.store
    connections = (store._durable, store._quick)
    pages = connections[0].execute("PRAGMA page_count").fetchone()[0]
    for connection in connections:
        connection.execute(f"PRAGMA max_page_count = {pages}")
    large = [some_plan(k).model_copy(update={"method": "m" * 5000}) for k in range(3)]
    assert "full" in one_line(put(controller.http, "/v1/plans", large[0]), 503)
    assert controller.http.get(f"/v1/streams/{stream}").status_code == 200
    for connection in connections:
        connection.execute("PRAGMA max_page_count = 1000000")
    assert put(controller.http, "/v1/plans", large[0]).status_code == 200
    assert serves(controller)


def test_what_nobody_thought_of_is_500_without_a_word_of_the_inside(
    controller: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(self: Core) -> None:
        raise RuntimeError("a secret place")

    monkeypatch.setattr(Core, "devices", broken)
    detail = one_line(controller.http.get("/v1/devices"), 500)
    assert "secret" not in detail and "log" in detail
    end_s = time.monotonic() + PATIENCE_S
    while not any("a secret place" in str(r.exc_info) for r in caplog.records):
        assert time.monotonic() < end_s, "it was not logged"
        time.sleep(0.01)
    monkeypatch.undo()
    assert controller.http.get("/v1/devices").json() == []
    assert 'distredge_http_errors_total{status="500"} 1.0' in controller.service.metrics.text().decode()


# Limits.


@pytest.mark.parametrize(
    ("path", "limit"),
    [
        ("/v1/devices/x", 64 * 1024),
        ("/v1/plans", 4 * 1024 * 1024),
        ("/v1/scenarios/x", 1024 * 1024),
        ("/v1/profiles/x", 16 * 1024 * 1024),
    ],
)
@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_is_too_large_is_413(controller: Served, path: str, limit: int, chunked: bool) -> None:
    def parts() -> Iterator[bytes]:
        for _ in range(0, limit + 1, 65536):
            yield b"{" * 65536

    for content, status in ((b"{" * limit, 422), (parts() if chunked else b"{" * (limit + 1), 413)):
        one_line(controller.http.put(path, content=content, headers=JSON), status)
    assert serves(controller)


def test_yaml_which_takes_long_to_read_is_413_much_earlier(controller: Served) -> None:
    one_line(controller.http.put("/v1/profiles/x", content=b" " * 300_000, headers=JSON), 413)


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
def test_what_a_form_could_send_is_415(controller: Served, kind: str | None) -> None:
    headers = {"Content-Type": kind} if kind else {}
    answer = controller.http.post("/v1/streams/s/pin", content=b'{"reason": "x"}', headers=headers)
    assert "application/json" in one_line(answer, 415)


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("localhost:8780", 200),
        ("LOCALHOST", 200),
        (socket.gethostname(), 200),
        ("192.0.2.1:80", 200),
        ("[::1]:8780", 200),
        ("attacker.example", 400),
        ("localhost.attacker.example", 400),
        ("localhost:x", 400),
        ("127.0.0.1.attacker.example:8780", 400),
        ("", 400),
    ],
)
def test_only_own_host_names_are_answered(controller: Served, host: str, status: int) -> None:
    assert controller.http.get("/v1/health", headers={"Host": host}).status_code == status


def test_a_page_may_load_nothing_from_elsewhere_and_stands_in_no_other(controller: Served) -> None:
    for path in ("/", "/web/app.js", "/v1/health", "/v1/nothing"):
        headers = controller.http.get(path).headers
        assert headers["Content-Security-Policy"].startswith("default-src 'self'")
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["X-Frame-Options"] == "DENY"
        assert headers["Referrer-Policy"] == "no-referrer"
    assert controller.http.get("/docs").status_code == 404
    assert "https://" not in controller.http.get("/").text


def exchange(controller: Served, *parts: bytes) -> bytes:
    """Send parts on a connection of its own and read until the other end closes it."""
    with socket.create_connection(("127.0.0.1", httpx.URL(controller.url).port or 0), PATIENCE_S) as connection:
        for part in parts:
            connection.sendall(part)
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
        return answer


HEAD = b"PUT /v1/devices/x HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 30\r\n"


@pytest.mark.parametrize("sent", [b"", b"GET /v1/he", HEAD, HEAD + b"\r\n", HEAD + b"\r\n{"])
def test_who_does_not_finish_a_request_is_cut_off(
    controller: Served, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(limits, "HEAD_S", 0.2)
    monkeypatch.setattr(limits, "BODY_S", 0.2)
    assert b"200 OK" not in exchange(controller, sent)
    assert serves(controller)


def test_who_drips_a_body_is_cut_off(controller: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "BODY_S", 0.5)
    with socket.create_connection(("127.0.0.1", httpx.URL(controller.url).port or 0), PATIENCE_S) as connection:
        connection.sendall(HEAD + b"\r\n")
        with pytest.raises(OSError, match="(?i)reset|broken pipe"):
            for _ in range(29):
                connection.sendall(b" ")
                time.sleep(0.1)
    assert serves(controller)


def test_a_head_without_end_is_cut_off(controller: Served) -> None:
    answer = exchange(controller, b"GET / HTTP/1.1\r\nHost: localhost\r\n", b"X-Much: " + b"x" * 20_000)
    assert answer.startswith(b"HTTP/1.1 400")
    assert serves(controller)


def test_requests_beyond_what_can_be_answered_are_asked_to_come_back(
    controller: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "AT_ONCE", 0)
    answer = controller.http.get("/v1/overview")
    assert "try again" in one_line(answer, 503) and answer.headers["Retry-After"] == "1"
    monkeypatch.setattr(limits, "AT_ONCE", 64)
    assert controller.http.get("/v1/overview").status_code == 200


def test_many_at_a_time_are_all_answered(controller: Served) -> None:
    stream, statuses = opened(controller), []

    def many(k: int) -> None:
        with client(controller.url) as http:
            for i in range(10):
                statuses.append(put(http, f"/v1/devices/d-{k}-{i}", registration()).status_code)
                statuses.append(http.get(f"/v1/streams/{stream}").status_code)

    threads = [Thread(target=many, args=(k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(statuses) == {200} and len(statuses) == 160
    assert len(controller.http.get("/v1/devices").json()) == 80


def test_answers_hold_no_number_that_json_has_not(controller: Served) -> None:
    stream = opened(controller)
    tell(controller, stream, telemetry(1, time.time()))

    def check(value: object) -> None:
        if isinstance(value, float):
            assert math.isfinite(value)
        for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            check(inner)

    for path in ("/v1/overview", f"/v1/streams/{stream}", "/v1/events"):
        check(controller.http.get(path).json())
