"""What protects the service from strangers and from mistakes: sizes, times, numbers, and which host it answers as.

The head of a request: at most 16 KB, within 10 s; its body within 60 s more (`Connection`). The body: at most what the
path allows, of the type that the path takes, and only from who may ask for that at all. At most 64 requests at a time,
and only under the controller's own names: a page from elsewhere, whose name was made to point here, cannot speak to it
by DNS rebinding (`Gate`).
"""

from __future__ import annotations

import ipaddress
import re
import socket
from asyncio import TimerHandle, Transport
from collections.abc import Callable, Iterable

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from distredge.controller.auth import Auth

HEAD_BYTES = 16 * 1024
HEAD_S = 10.0
BODY_S = 60.0

KB, MB = 1024, 1024 * 1024

AT_ONCE = 64
"""Requests that are worked on; those beyond are asked to come back."""

CONNECTIONS = 2000
"""That may be open; those beyond are told 503."""

_LATER = {"Retry-After": "1"}

PROTECTION = [
    (b"content-security-policy", b"default-src 'self'; frame-ancestors 'none'; base-uri 'none'"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-cache"),
]
"""Headers of every answer: a browser loads nothing from elsewhere, and shows the page in no other one."""

JSON, BINARY, YAML = "application/json", "application/octet-stream", "application/yaml"

BODIES: tuple[tuple[str, re.Pattern[str], int, tuple[str, ...]], ...] = (
    ("POST", re.compile(r"/v1/decisions"), 64 * KB, (JSON,)),
    ("POST", re.compile(r"/v1/streams/[^/]+/telemetry"), 1 * MB, (JSON,)),
    ("POST", re.compile(r"/v1/streams"), 4 * MB, (JSON,)),
    ("POST", re.compile(r"/v1/devices/[^/]+/beat|/v1/streams/[^/]+/(pin|unpin|rollback)"), 64 * KB, (JSON,)),
    ("PUT", re.compile(r"/v1/devices/[^/]+"), 64 * KB, (JSON,)),
    ("PUT", re.compile(r"/v1/plans"), 4 * MB, (JSON,)),
    ("PUT", re.compile(r"/v1/policies"), 64 * MB, (BINARY,)),
    ("PUT", re.compile(r"/v1/profiles/[^/]+"), 16 * MB, (JSON, YAML)),
    ("PUT", re.compile(r"/v1/scenarios/[^/]+"), 1 * MB, (JSON,)),
)
"""Method, path, bytes that a body may have, its media types. What is not here has none: one that comes is not read."""


class Gate:
    """Stands before the application and lets in what may: see the module, and `Auth` for who may.

    `hosts` are names that it answers as besides `localhost`, this machine's own and any address; `failed` is told the
    status of each answer from 400 up. The role of who asks is the application's `scope["state"]["role"]`.
    """

    def __init__(
        self, app: ASGIApp, auth: Auth, hosts: Iterable[str] = (), failed: Callable[[int], None] | None = None
    ) -> None:
        self._app, self._auth, self._failed = app, auth, failed or (lambda _: None)
        self._hosts = {name.lower() for name in (*hosts, "localhost", socket.gethostname())}
        self._under_way = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        sending = self._protecting(send)
        self._under_way += 1
        try:
            body = await self._admitted(scope, receive)
        except HTTPException as exc:
            await JSONResponse({"detail": exc.detail}, exc.status_code, exc.headers)(scope, receive, sending)
        else:
            await self._app(scope, _replaying(body, receive), sending)
        finally:
            self._under_way -= 1

    async def _admitted(self, scope: Scope, receive: Receive) -> bytes:
        """The body; raises `HTTPException` with why it may not be let in."""
        headers = Headers(scope=scope)
        if not self._is_own(headers.get("host", "")):
            raise HTTPException(
                400, "this controller does not answer under that host name: start it with --host-name to allow it"
            )
        if self._under_way > AT_ONCE:
            raise HTTPException(503, f"{AT_ONCE} requests are being answered: try again in a second", _LATER)
        role = self._auth.check(scope["method"], scope["path"], headers.get("authorization"))
        scope.setdefault("state", {})["role"] = role
        fits = (b for b in BODIES if b[0] == scope["method"] and b[1].fullmatch(scope["path"]))
        _, _, limit, kinds = next(fits, (None, None, 0, None))
        if kinds is None:
            return b""
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind not in kinds:  # which also keeps out what forms of other sites' pages can send
            raise HTTPException(415, f"the body must be of the type {' or '.join(kinds)} (Content-Type)")
        return await _body(headers, receive, limit)

    def _is_own(self, host: str) -> bool:
        """Whether a `Host` is a name of this controller; an address cannot be made to point elsewhere, a name can."""
        name, _, port = host.rpartition(":")
        name = (name if name and port.isdecimal() else host).strip("[]").lower()
        if name in self._hosts:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    def _protecting(self, send: Send) -> Send:
        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *PROTECTION]
                if message["status"] >= 400:
                    self._failed(message["status"])
            await send(message)

        return sending


async def _body(headers: Headers, receive: Receive, limit: int) -> bytes:
    """The whole body; raises 413 for one of more than `limit` bytes."""
    declared = headers.get("content-length", "")
    if declared.isdecimal() and (len(declared) > 18 or int(declared) > limit):
        raise _too_large(limit)
    found = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise HTTPException(400, "the body ended early")
        found += message.get("body", b"")
        if len(found) > limit:
            raise _too_large(limit)
        if not message.get("more_body", False):
            return bytes(found)


def _too_large(limit: int) -> HTTPException:
    return HTTPException(413, f"the body has more than {limit // KB} KB, which is the most here")


def _replaying(body: bytes, receive: Receive) -> Receive:
    """What the application receives: the body at once, then whatever else comes."""
    parts = [body]

    async def receiving() -> Message:
        if parts:
            return {"type": "http.request", "body": parts.pop(), "more_body": False}
        return await receive()

    return receiving


class Connection(HttpToolsProtocol):
    """A connection that ends if a request is late, or its head too large, for which uvicorn has no limit.

    While nothing is under way uvicorn's `timeout_keep_alive` ends it.
    """

    _patience: TimerHandle | None = None
    _head_bytes: int | None = 0
    """That have come; None: the head is complete."""

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        """See `asyncio.Protocol`."""
        super().connection_made(transport)
        self._wait(HEAD_S)

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._wait(None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        super().data_received(data)
        if self._head_bytes is not None:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES:
                self.send_400_response("The head of the request is too large.")

    def on_message_begin(self) -> None:
        """A request's first byte is there."""
        super().on_message_begin()
        self._head_bytes = 0
        self._wait(HEAD_S)

    def on_headers_complete(self) -> None:
        """Its head is."""
        super().on_headers_complete()
        self._head_bytes = None
        self._wait(BODY_S)

    def on_message_complete(self) -> None:
        """All of it is."""
        self._wait(None)
        super().on_message_complete()

    def _wait(self, seconds: float | None) -> None:
        """Close the connection after so long; None: no more."""
        if self._patience is not None:
            self._patience.cancel()
        self._patience = None if seconds is None else self.loop.call_later(seconds, self.timeout_keep_alive_handler)
