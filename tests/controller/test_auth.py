"""Who may do what: every role at every path of the interface, over a real socket."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from distredge.controller.auth import Auth, new_token
from distredge.controller.limits import BODIES
from distredge.controller.store import Store
from distredge.testing.served import Served, client, served

DEVICE, READER, BOTH, NOBODY = {"device"}, {"reader"}, {"device", "reader"}, set[str]()
HASH = "0" * 64

# The operator may do all of it.
MAY = {
    "GET /v1/health": None,
    "GET /v1/overview": READER,
    "GET /v1/devices": READER,
    "PUT /v1/devices/nano-0": DEVICE,
    "POST /v1/devices/nano-0/beat": DEVICE,
    "DELETE /v1/devices/nano-0": NOBODY,
    "GET /v1/profiles": BOTH,
    "GET /v1/profiles/mine": BOTH,
    "PUT /v1/profiles/mine": DEVICE,
    "GET /v1/scenarios": BOTH,
    "GET /v1/scenarios/mine": BOTH,
    "PUT /v1/scenarios/mine": DEVICE,
    "PUT /v1/plans": DEVICE,
    f"GET /v1/plans/{HASH}": BOTH,
    "GET /v1/policies": BOTH,
    "PUT /v1/policies": DEVICE,
    f"GET /v1/policies/{HASH}": BOTH,
    "POST /v1/decisions": BOTH,
    "GET /v1/streams": READER,
    "POST /v1/streams": DEVICE,
    "GET /v1/streams/s": READER,
    "DELETE /v1/streams/s": DEVICE,
    "POST /v1/streams/s/telemetry": DEVICE,
    "POST /v1/streams/s/pin": NOBODY,
    "POST /v1/streams/s/unpin": NOBODY,
    "POST /v1/streams/s/rollback": NOBODY,
    "GET /v1/events": READER,
    "GET /metrics": READER,
}

PAGE = ("GET /", "GET /web/app.js", "GET /openapi.json")


@pytest.fixture(scope="module")
def controller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("state") / "state.sqlite") as found:
        yield found


@pytest.fixture(scope="module")
def clients(controller: Served) -> Iterator[dict[str, httpx.Client]]:
    with ExitStack() as stack:
        yield {
            role: stack.enter_context(controller.as_role(role))  # type: ignore[arg-type]
            for role in ("device", "reader", "operator")
        }


def ask(who: httpx.Client, what: str) -> httpx.Response:
    method, path = what.split()
    kind = "application/octet-stream" if what == "PUT /v1/policies" else "application/json"
    content = b"{}" if method in ("PUT", "POST") else None
    return who.request(method, path, content=content, headers={"Content-Type": kind})


def paths(controller: Served) -> dict[str, dict[str, dict[str, object]]]:
    found: dict[str, dict[str, dict[str, object]]] = controller.http.get("/openapi.json").json()["paths"]
    return found


def test_the_table_names_every_call_of_the_interface(controller: Served) -> None:
    there = {f"{method.upper()} {path}" for path, calls in paths(controller).items() for method in calls}
    patterns = {call: re.compile(re.sub(r"\{\w+\}", "[^/]+", call)) for call in there}
    assert all(any(pattern.fullmatch(call) for call in MAY) for pattern in patterns.values())
    assert len(there) == len(MAY)


@pytest.mark.parametrize("what", MAY)
@pytest.mark.parametrize("role", ["device", "reader", "operator"])
def test_a_role_may_do_what_it_may_and_nothing_else(clients: dict[str, httpx.Client], role: str, what: str) -> None:
    answer, may = ask(clients[role], what), MAY[what]
    if may is None or role in may or role == "operator":
        assert answer.status_code not in (401, 403), answer.text
    else:
        assert answer.status_code == 403
        assert "'operator'" in answer.json()["detail"] and f"'{role}'" in answer.json()["detail"]


@pytest.mark.parametrize("what", MAY)
def test_who_has_no_token_that_is_known_is_refused(
    controller: Served, clients: dict[str, httpx.Client], what: str
) -> None:
    for strange in (None, "nonsense"):
        with client(controller.url, strange) as stranger:
            answer = ask(stranger, what)
        if MAY[what] is None:
            assert answer.status_code == 200
        else:
            assert answer.status_code == 401
            assert answer.headers["WWW-Authenticate"] == "Bearer"
            assert "token" in answer.json()["detail"]


@pytest.mark.parametrize("what", PAGE)
def test_the_page_is_there_for_everybody_and_asks_for_the_token_itself(
    controller: Served, clients: dict[str, httpx.Client], what: str
) -> None:
    assert ask(controller.http, what).status_code == 200


@pytest.mark.parametrize("method", ["PATCH", "OPTIONS", "DELETE", "PUT"])
def test_what_is_nowhere_is_for_operators(clients: dict[str, httpx.Client], method: str) -> None:
    assert clients["reader"].request(method, "/v1/elsewhere").status_code == 403
    assert clients["operator"].request(method, "/v1/elsewhere").status_code == 404


def test_every_body_of_the_interface_has_its_limit(controller: Served) -> None:
    for path, calls in paths(controller).items():
        for method, call in calls.items():
            concrete = re.sub(r"\{\w+\}", "x", path)
            limited = [b for b in BODIES if b[0] == method.upper() and b[1].fullmatch(concrete)]
            assert len(limited) == (1 if "requestBody" in call else 0), f"{method} {path}"


@pytest.mark.parametrize("form", ["{}", "Basic {}", "bearer  {} x", "Bearer"])
def test_a_token_counts_only_as_a_bearer_s(controller: Served, clients: dict[str, httpx.Client], form: str) -> None:
    token = clients["operator"].headers["Authorization"].removeprefix("Bearer ")
    answer = controller.http.get("/v1/overview", headers={"Authorization": form.format(token)})
    assert answer.status_code == 401


def test_the_overview_says_which_role_one_has(clients: dict[str, httpx.Client]) -> None:
    assert {role: clients[role].get("/v1/overview").json()["role"] for role in ("reader", "operator")} == {
        "reader": "reader",
        "operator": "operator",
    }


def test_tokens_that_come_and_go_while_it_runs_count_at_the_next_look(tmp_path: Path) -> None:
    with served(tmp_path / "state.sqlite") as controller:
        assert controller.http.get("/v1/overview").json()["role"] == "operator"
        other = Store(tmp_path / "state.sqlite", alone=False)
        secret = new_token(other, "me", "reader")
        controller.service.tick()
        assert controller.http.get("/v1/overview").status_code == 401
        with client(controller.url, secret) as me:
            assert me.get("/v1/overview").json()["role"] == "reader"
            other.remove_token("me")
            new_token(other, "another", "reader")
            controller.service.tick()
            assert me.get("/v1/overview").status_code == 401
        other.close()


def test_beyond_loopback_nothing_is_open_even_when_the_last_token_is_removed(tmp_path: Path) -> None:
    with served(tmp_path / "state.sqlite", loopback=False) as controller:
        assert controller.http.get("/v1/overview").status_code == 401
        assert controller.http.get("/v1/health").status_code == 200


def test_the_state_file_holds_no_token(tmp_path: Path) -> None:
    store = Store(tmp_path / "state.sqlite")
    secret = new_token(store, "me", "operator")
    assert Auth(store, True).role(f"Bearer {secret}") == "operator"
    store.close()
    assert all(secret.encode() not in file.read_bytes() for file in tmp_path.iterdir())
