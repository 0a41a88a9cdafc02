"""`distredge controller` and `distredge token`: started, refused, interrupted, killed and started again."""

from __future__ import annotations

import datetime
import ipaddress
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from distredge.cli.main import run
from distredge.control.client import Api, RefusedError, UnreachableError
from distredge.control.schema import plan_sha256
from distredge.testing.controlling import opening, registration, some_plan, telemetry
from distredge.testing.served import PATIENCE_S, client

JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True)
class Running:
    """A controller in a process of its own."""

    url: str
    process: subprocess.Popen[str]
    log: Path

    def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        return self.process.wait(PATIENCE_S)


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "distredge", *map(str, arguments)]


@contextmanager
def started(state: Path, *more: str | Path, listen: str = "127.0.0.1:0") -> Iterator[Running]:
    log = state.with_name(f"{time.monotonic_ns()}.log")
    options = command("controller", "--json", "--log-format", "json", "--listen", listen, "--state", state, *more)
    with log.open("w") as file, subprocess.Popen(options, stdout=subprocess.PIPE, stderr=file, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, log.read_text()
            said = json.loads(line)
            assert said["state"] == str(state)
            yield Running(said["url"], process, log)
        finally:
            process.kill()


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Gives the one line with which `distredge controller` does not start."""
    monkeypatch.setattr("distredge.cli.controller.start_logging", lambda *_: None)  # this process has its own

    def refusal(state: Path, *more: str | Path) -> str:
        assert run(["controller", "--state", str(state), *map(str, more)]) == 2
        said = capsys.readouterr()
        (line,) = said.err.splitlines()
        assert said.out == "" and line.startswith("error: ")
        return line

    return refusal


def token(state: Path, name: str, role: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert run(["token", "add", name, "--role", role, "--state", str(state)]) == 0
    return capsys.readouterr().out.strip()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A self-made certificate of 127.0.0.1, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a test")])
    now = datetime.datetime.now(datetime.timezone.utc)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), True)
        .sign(key, hashes.SHA256())
    )
    cert_file, key_file = folder / "cert.pem", folder / "key.pem"
    cert_file.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    form = serialization.PrivateFormat.PKCS8
    key_file.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))
    return cert_file, key_file


# Running.


def events(http: httpx.Client) -> list[str]:
    return [e["kind"] for e in http.get("/v1/events", params={"limit": 1000}).json()]


def test_killed_and_started_again_it_knows_everything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state, plan = tmp_path / "state.sqlite", some_plan(3)
    secret = token(state, "me", "operator", capsys)
    with started(state) as first, client(first.url, secret) as http:
        put = http.put("/v1/devices/nano-0", content=registration().model_dump_json(), headers=JSON)
        assert put.status_code == 200
        assert http.put("/v1/plans", content=plan.model_dump_json(), headers=JSON).status_code == 200
        stream = http.post("/v1/streams", content=opening().model_dump_json(), headers=JSON).json()["stream"]
        path = f"/v1/streams/{stream}/telemetry"
        message = telemetry(1, time.time()).model_dump_json()
        assert http.post(path, content=message, headers=JSON).status_code == 200
        orders = http.post(f"/v1/streams/{stream}/pin", json={"reason": "a fair"}).json()
        known = events(http)
        assert first.end(signal.SIGKILL) == -signal.SIGKILL
    with started(state) as second, client(second.url, secret) as http:
        assert [d["name"] for d in http.get("/v1/devices").json()] == ["nano-0"]
        assert http.get(f"/v1/plans/{plan_sha256(plan)}").json()["seed"] == 3
        assert http.post(path, content=message, headers=JSON).json() == orders
        later = telemetry(2, time.time(), order_version=orders["version"]).model_dump_json()
        assert http.post(path, content=later, headers=JSON).json() == orders
        view = http.get(f"/v1/streams/{stream}").json()
        assert view["summary"]["orders"] == orders and len(view["history"]) == 2
        assert events(http)[: len(known)] == known
        with client(second.url) as stranger:
            assert stranger.get("/v1/overview").status_code == 401


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_ends_well_and_says_so_in_its_log(tmp_path: Path, number: signal.Signals) -> None:
    with started(tmp_path / "state.sqlite") as controller, client(controller.url) as http:
        assert http.get("/v1/health").json()["status"] == "ok"
        assert controller.end(number) == 0
        lines = controller.log.read_text().splitlines()
    records = [json.loads(line) for line in lines if line.startswith("{")]
    assert records and {"time", "level", "logger", "message"} <= set(records[-1])
    assert "Traceback" not in "".join(lines)


def test_a_token_made_while_it_runs_is_needed_from_then_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = tmp_path / "state.sqlite"
    with started(state) as controller, client(controller.url) as http:
        assert http.get("/v1/overview").json()["role"] == "operator"
        assert "no tokens" in controller.log.read_text()
        secret = token(state, "me", "reader", capsys)
        wait(lambda: http.get("/v1/overview").status_code == 401)
        with client(controller.url, secret) as me:
            assert me.get("/v1/overview").json()["role"] == "reader"
            assert run(["token", "remove", "me", "--state", str(state)]) == 0
            assert "open to everybody" in capsys.readouterr().err
            wait(lambda: me.get("/v1/overview").json()["role"] == "operator")


def wait(until: Callable[[], bool]) -> None:
    end_s = time.monotonic() + PATIENCE_S
    while not until():
        assert time.monotonic() < end_s, "it did not come"
        time.sleep(0.05)


def test_over_tls_a_client_that_trusts_it_is_served_and_no_other(
    tmp_path: Path, certificate: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    state, (cert, key) = tmp_path / "state.sqlite", certificate
    secret = tmp_path / "token"
    secret.write_text(token(state, "nano-0", "device", capsys))
    with started(state, "--tls-cert", cert, "--tls-key", key, listen="0.0.0.0:0") as controller:
        url = controller.url.replace("0.0.0.0", "127.0.0.1")
        assert url.startswith("https://")
        api = Api(url, secret, cert, timeout_s=PATIENCE_S)
        assert json.loads(api.call("GET", "/v1/health"))["status"] == "ok"
        answer = api.call("PUT", "/v1/devices/nano-0", registration().model_dump_json().encode())
        assert json.loads(answer)["health"] == "up"
        with pytest.raises(RefusedError, match="'reader'"):
            api.call("GET", "/v1/overview")
        api.close()
        with pytest.raises(UnreachableError):
            Api(url, secret, timeout_s=PATIENCE_S).call("GET", "/v1/health")


# Not started.


def test_beyond_this_machine_it_needs_tls_and_then_tokens(
    tmp_path: Path, certificate: tuple[Path, Path], refused: Callable[..., str]
) -> None:
    state, tls = tmp_path / "state.sqlite", ("--tls-cert", certificate[0], "--tls-key", certificate[1])
    first = refused(state, "--listen", "0.0.0.0:0")
    assert "--tls-cert" in first and "token" not in first
    second = refused(state, "--listen", "0.0.0.0:0", *tls)
    assert "distredge token add" in second


def test_a_port_that_is_taken_is_refused_by_a_line_and_exit_code_2(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        where = f"127.0.0.1:{other.getsockname()[1]}"
        options = command("controller", "--state", tmp_path / "state.sqlite", "--listen", where)
        done = subprocess.run(options, capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: cannot listen") and where in line


def test_bad_options_are_refused_in_a_line(
    tmp_path: Path, certificate: tuple[Path, Path], refused: Callable[..., str]
) -> None:
    state, (cert, key) = tmp_path / "state.sqlite", certificate
    assert "together" in refused(state, "--tls-cert", cert)
    assert "certificate" in refused(state, "--tls-cert", cert, "--tls-key", cert)
    assert "certificate" in refused(state, "--tls-cert", tmp_path / "nothing.pem", "--tls-key", key)
    assert "HOST:PORT" in refused(state, "--listen", "nonsense")
    assert "folder" in refused(state, "--models", tmp_path / "nothing")


def test_a_state_file_that_cannot_be_used_is_refused(tmp_path: Path, refused: Callable[..., str]) -> None:
    later = tmp_path / "later.sqlite"
    with started(later):
        assert "another controller" in refused(later)
    connection = sqlite3.connect(later)
    connection.execute("PRAGMA user_version = 999")
    connection.close()
    assert "later release" in refused(later)
    noise = tmp_path / "noise"
    noise.write_bytes(os.urandom(8192))
    assert "no state file" in refused(noise)


@pytest.mark.parametrize("missing", ["fastapi", "prometheus_client", "uvicorn"])
def test_without_its_extra_it_says_what_to_install(tmp_path: Path, missing: str) -> None:
    code = (
        f"import sys; sys.modules[{missing!r}] = None\n"
        "from distredge.cli.main import run\n"
        f"sys.exit(run(['controller', '--state', {str(tmp_path / 'x')!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert done.returncode == 2
    assert done.stderr.strip() == f"error: the controller needs {missing}: pip install 'distredge[controller]'"


# Tokens.


def test_tokens_are_listed_without_themselves_and_removed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = ["--state", str(tmp_path / "state.sqlite")]
    secrets = [
        token(tmp_path / "state.sqlite", name, role, capsys) for name, role in (("a", "device"), ("b", "reader"))
    ]
    assert len(set(secrets)) == 2 and all(len(s) >= 40 for s in secrets)
    assert run(["token", "list", "--json", *state]) == 0
    listed = capsys.readouterr().out
    assert [(t["name"], t["role"]) for t in json.loads(listed)] == [("a", "device"), ("b", "reader")]
    assert not any(s in listed for s in secrets)
    assert run(["token", "remove", "a", *state]) == 0
    assert run(["token", "remove", "a", *state]) == 2
    assert "no token named 'a'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["add", "b", "--role", "reader"], "remove it first"),
        (["add", "a b", "--role", "reader"], "letters"),
        (["add", "c", "--role", "king"], "--role"),
        (["add", "c"], "--role"),
    ],
)
def test_what_is_wrong_with_a_token_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], word: str
) -> None:
    token(tmp_path / "state.sqlite", "b", "reader", capsys)
    assert run(["token", *arguments, "--state", str(tmp_path / "state.sqlite")]) == 2
    assert word in capsys.readouterr().err


def test_the_state_file_is_nobody_else_s(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    token(tmp_path / "state.sqlite", "b", "reader", capsys)
    assert (tmp_path / "state.sqlite").stat().st_mode & 0o077 == 0
