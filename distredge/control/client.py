"""Calls of the controller's HTTP interface, by the standard library alone: providers, which stay small, use it too."""

from __future__ import annotations

import json
import ssl
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from urllib.parse import urlsplit

from distredge.errors import InputError, RunError

TIMEOUT_S = 2.0

MAX_ANSWER_BYTES = 64 * 1024 * 1024


class UnreachableError(RunError):
    """The controller does not answer, or not as one."""


class RefusedError(RunError):
    """The controller has answered no; `status` is HTTP's."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status


class Api:
    """One connection to a controller, kept open from call to call; for one thread.

    `token` is the file that holds the token; `ca` a file of the certificates that are trusted besides the system's.
    Raises `InputError` for an address, a token or certificates that cannot be used.
    """

    def __init__(
        self, url: str, token: Path | None = None, ca: Path | None = None, timeout_s: float = TIMEOUT_S
    ) -> None:
        self.url = url
        parts = urlsplit(url)
        try:
            host, port = parts.hostname, parts.port
        except ValueError:
            host = None
        if parts.scheme not in ("http", "https") or not host or parts.path.strip("/") or parts.query:
            raise InputError(f"'{url}' is no controller's address: give http://HOST:PORT or https://HOST:PORT")
        self._headers = {"Accept": "application/json"}
        if token is not None:
            self._headers["Authorization"] = f"Bearer {_word(token)}"
        if parts.scheme == "https":
            self._connection: HTTPConnection = HTTPSConnection(host, port, timeout=timeout_s, context=_trust(ca))
        else:
            self._connection = HTTPConnection(host, port, timeout=timeout_s)

    def call(self, method: str, path: str, body: bytes | None = None, kind: str = "application/json") -> bytes:
        """The body of the answer; raises `UnreachableError` or `RefusedError`.

        A connection that was closed meanwhile is made anew, once: nothing of the call can have been done then.
        """
        headers = self._headers if body is None else {**self._headers, "Content-Type": kind}
        kept = self._connection.sock is not None
        try:
            return self._call(method, path, body, headers)
        except (ConnectionError, HTTPException) as exc:
            self._connection.close()
            if not kept:
                raise UnreachableError(f"the controller at {self.url} does not answer: {exc}") from exc
        except OSError as exc:
            self._connection.close()
            raise UnreachableError(f"the controller at {self.url} does not answer: {exc}") from exc
        try:
            return self._call(method, path, body, headers)
        except (OSError, HTTPException) as exc:
            self._connection.close()
            raise UnreachableError(f"the controller at {self.url} does not answer: {exc}") from exc

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _call(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> bytes:
        self._connection.request(method, path, body, headers)
        answer = self._connection.getresponse()
        content = answer.read(MAX_ANSWER_BYTES + 1)
        if len(content) > MAX_ANSWER_BYTES:
            raise HTTPException(f"an answer of more than {MAX_ANSWER_BYTES} bytes")
        if answer.status >= 400:
            raise RefusedError(answer.status, _detail(content, answer.status))
        return content


def _detail(content: bytes, status: int) -> str:
    """What the controller says that is wrong."""
    try:
        return str(json.loads(content)["detail"])
    except (ValueError, KeyError, TypeError):
        return f"the answer was {status}"


def _word(path: Path) -> str:
    try:
        word = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as exc:
        raise InputError(f"cannot read the token '{path}': {exc}") from exc
    if not word or not word.isascii() or not word.isprintable() or " " in word:
        raise InputError(f"'{path}' holds no token: write what `distredge token add` printed into it")
    return word


def _trust(ca: Path | None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if ca is not None:
        try:
            context.load_verify_locations(ca)
        except (OSError, ssl.SSLError) as exc:
            raise InputError(f"cannot use the certificates '{ca}': {exc}") from exc
    return context
