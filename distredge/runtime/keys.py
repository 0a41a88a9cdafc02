"""CURVE keys: a folder with one certificate a node, as pyzmq's own helpers write them.

    KEYS/public/NAME.key          given to every node: whose key is here may connect
    KEYS/private/NAME.key_secret  given to that node only

No cryptography of our own: key pairs, file format and handshake are those of ZeroMQ. The public folder is read again
when it changes: a node whose file is removed is a stranger from then on, also on the connections that it has.
"""

from __future__ import annotations

import logging
import os
import struct
import tempfile
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import zmq
from zmq import auth
from zmq.auth.thread import ThreadAuthenticator
from zmq.utils import z85

from distredge.errors import InputError

RECHECK_S = 1.0
"""A key that is removed is still good for so long."""

_DOMAIN = "distredge"

log = logging.getLogger(__name__)


def create_keys(folder: Path, names: Iterable[str]) -> None:
    """Make a key pair for each name that has none there; the private part is readable by its owner only."""
    public, private = folder / "public", folder / "private"
    public.mkdir(parents=True, exist_ok=True)
    private.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name in names:
        if (private / f"{_checked(name)}.key_secret").exists():
            continue
        with tempfile.TemporaryDirectory(dir=folder) as hidden:  # others cannot look into it
            made_public, made_secret = map(Path, auth.create_certificates(hidden, name))
            made_secret.chmod(0o600)
            made_public.replace(public / f"{name}.key")
            made_secret.replace(private / f"{name}.key_secret")


class AllowList:
    """Whose public keys lie in a folder, read again when it changes. For any thread; never raises."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._names: dict[str, str] = {}
        self._stamps: list[tuple[str, int, int]] | None = None
        self._checked_s = -RECHECK_S

    def name_of(self, key: str) -> str | None:
        """The node with this public key (Z85), None for a stranger's; up to `RECHECK_S` old."""
        if time.monotonic() - self._checked_s >= RECHECK_S:
            self._check()
        return self._names.get(key)

    def callback(self, domain: str, key: bytes) -> bool:
        """Whether a node with this public key (Z85) may connect: what pyzmq asks, at each handshake."""
        self._check()
        name = self._names.get(key.decode("ascii", "replace"))
        log.info("%s connects", f"'{name}'" if name else f"turned away: a key that is not in '{self._folder}'")
        return name is not None

    def _check(self) -> None:
        """Read the folder if anything in it has changed; one that cannot be read lets nobody in."""
        self._checked_s = time.monotonic()
        try:
            stamps = _stamps(self._folder)
        except OSError as exc:
            log.warning("cannot read the keys in '%s': %s", self._folder, exc.strerror)
            self._stamps, self._names = None, {}
            return
        if stamps != self._stamps:
            self._stamps, self._names = stamps, dict(self._read(file) for file, *_ in reversed(stamps))
            self._names.pop("", None)

    def _read(self, file: str) -> tuple[str, str]:
        """Key and name; one broken file keeps one node out, not all."""
        try:
            return _read(self._folder / file)[0].decode(), file.removesuffix(".key")
        except InputError as exc:
            log.warning("%s", exc)
            return "", ""


@dataclass(frozen=True)
class Keys:
    """The key pair of the node `name`, and the folder of the public keys of those that it trusts."""

    folder: Path
    name: str
    public: bytes = field(repr=False)
    secret: bytes = field(repr=False)

    @classmethod
    def load(cls, folder: Path, name: str) -> Keys:
        """Read them; raises `InputError` if the node has no key there, or one that others on its machine can read."""
        path = folder / "private" / f"{_checked(name)}.key_secret"
        public, secret = _read(path)
        if secret is None:
            raise InputError(f"'{path}' holds no secret key: make keys with `distredge keys`")
        if os.name == "posix" and path.stat().st_mode & 0o077:
            raise InputError(f"'{path}' can be read by others, so it is no secret: chmod 600 '{path}'")
        return cls(folder, name, public, secret)

    @cached_property
    def allowed(self) -> AllowList:
        """Who may connect."""
        return AllowList(self.folder / "public")

    def start_gate(self, context: zmq.Context[zmq.Socket[bytes]]) -> ThreadAuthenticator:
        """Start the thread that lets in only nodes whose public key lies in the folder; stop it when done.

        What they send carries their key as the property `User-Id`, of which `allowed.name_of` makes a name.
        """
        gate = ThreadAuthenticator(context)
        gate.configure_curve_callback(_DOMAIN, self.allowed)
        gate.start()
        return gate

    def secure_listener(self, socket: zmq.Socket[bytes]) -> None:
        """Make a socket that will be bound accept encrypted connections only, and none while no gate is there.

        Without a domain that is enforced ZeroMQ lets in everybody as long as nobody answers for the gate.
        """
        socket.set(zmq.ZAP_DOMAIN, _DOMAIN.encode())
        socket.set(zmq.ZAP_ENFORCE_DOMAIN, 1)
        socket.curve_server = True
        socket.curve_publickey, socket.curve_secretkey = self.public, self.secret

    def of(self, peer: str) -> bytes:
        """The public key of another node; raises `InputError` without it."""
        return _read(self.folder / "public" / f"{_checked(peer)}.key")[0]

    def secure_caller(self, socket: zmq.Socket[bytes], peer_key: bytes) -> None:
        """Make a socket that will be connected talk only to the node with this public key."""
        socket.curve_serverkey = peer_key
        socket.curve_publickey, socket.curve_secretkey = self.public, self.secret


def _stamps(folder: Path) -> list[tuple[str, int, int]]:
    """Name, time of change and size of each public key: equal stamps, equal keys."""
    stamps = []
    for name in sorted(os.listdir(folder)):
        if name.endswith(".key"):
            with suppress(FileNotFoundError):  # removed at this moment
                found = (folder / name).stat()
                stamps.append((name, found.st_mtime_ns, found.st_size))
    return stamps


def _checked(name: str) -> str:
    """A name that cannot lead out of its folder: peers' names come from the network."""
    if not name or Path(name).name != name:
        raise InputError(f"'{name}' names no key: names of keys have no slashes")
    return name


def _read(path: Path) -> tuple[bytes, bytes | None]:
    """Public and secret key of a file, the latter None if it holds none."""
    try:
        public, secret = auth.load_certificate(path)
        if any(len(z85.decode(key)) != 32 for key in (public, secret) if key is not None):
            raise ValueError("no key of 32 bytes")
    except (OSError, ValueError, KeyError, struct.error) as exc:
        raise InputError(f"cannot read the key '{path}': make keys with `distredge keys`") from exc
    return public, secret
