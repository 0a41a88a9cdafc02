"""Calls of the controller's interface, over real sockets: answers, refusals, a server that goes away and returns."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socket import SHUT_RDWR, socket
from threading import Thread

import pytest

from distredge.control.client import Api, RefusedError, UnreachableError
from distredge.errors import InputError


class Echo(BaseHTTPRequestHandler):
    """Answers what it was asked; /refused is refused."""

    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        status = 422 if self.path == "/refused" else 200
        said = {"detail": "not so"} if status == 422 else {
            "method": self.command, "body": body.decode(), "token": self.headers.get("Authorization"),
            "kind": self.headers.get("Content-Type"),
        }  # fmt: skip
        content = b"<html>" if self.path == "/html" else json.dumps(said).encode()
        if self.path == "/html":
            status = 502
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = answer  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


class Server(ThreadingHTTPServer):
    """Closes its connections when it ends, as a process that ends does."""

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", port), Echo)
        self.connections: list[socket] = []

    def process_request(self, request: socket, client_address: object) -> None:  # type: ignore[override]
        """As any other, and remembered."""
        self.connections.append(request)
        super().process_request(request, client_address)  # type: ignore[arg-type]

    def server_close(self) -> None:
        """Close the connections too."""
        super().server_close()
        for connection in self.connections:
            with suppress(OSError):
                connection.shutdown(SHUT_RDWR)


@contextmanager
def served(port: int = 0) -> Iterator[int]:
    server = Server(port)
    server.daemon_threads = True
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_call_and_its_answer(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("secret\n")
    with served() as port:
        api = Api(f"http://127.0.0.1:{port}", token)
        for _ in range(3):  # over one connection
            said = json.loads(api.call("PUT", "/x", b"hello", "text/plain"))
            assert said == {"method": "PUT", "body": "hello", "token": "Bearer secret", "kind": "text/plain"}
        assert json.loads(api.call("GET", "/x"))["kind"] is None
        api.close()


def test_a_refusal_says_why() -> None:
    with served() as port:
        api = Api(f"http://127.0.0.1:{port}")
        with pytest.raises(RefusedError, match="not so") as refusal:
            api.call("POST", "/refused", b"{}")
        assert refusal.value.status == 422
        with pytest.raises(RefusedError, match="the answer was 502"):
            api.call("GET", "/html")
        api.close()


def test_a_server_that_goes_away_and_returns() -> None:
    with served() as port:
        api = Api(f"http://127.0.0.1:{port}")
        api.call("GET", "/x")
    for _ in range(2):
        with pytest.raises(UnreachableError, match="does not answer"):
            api.call("GET", "/x")
    with served(port):
        assert json.loads(api.call("GET", "/x"))["method"] == "GET"
        api.close()


@pytest.mark.parametrize(
    "url", ["", "localhost:8780", "ftp://host", "http://", "http://host:port", "http://host/v1", "http://h?x=1"]
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(InputError, match="give http://HOST:PORT"):
        Api(url)


@pytest.mark.parametrize("content", ["", "two words", "\x00", "é"])
def test_what_is_no_token_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "token").write_text(content)
    with pytest.raises(InputError, match="holds no token"):
        Api("http://127.0.0.1:1", tmp_path / "token")
    with pytest.raises(InputError, match="cannot read the token"):
        Api("http://127.0.0.1:1", tmp_path / "none")


def test_certificates_that_are_none_are_refused(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("nothing")
    with pytest.raises(InputError, match="cannot use the certificates"):
        Api("https://127.0.0.1:1", ca=tmp_path / "ca.pem")
