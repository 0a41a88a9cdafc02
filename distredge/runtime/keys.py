"""CURVE keys: a folder with one certificate a node, as pyzmq's own helpers write them.

    KEYS/public/NAME.key          given to every node: whose key is here may connect
    KEYS/private/NAME.key_secret  given to that node only

No cryptography of our own: key pairs, file format and handshake are those of ZeroMQ.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import zmq
from zmq import auth
from zmq.auth.thread import ThreadAuthenticator

from distredge.errors import InputError


def create_keys(folder: Path, names: Iterable[str]) -> None:
    """Make a key pair for each name that has none there; the private part is readable by its owner only."""
    public, private = folder / "public", folder / "private"
    public.mkdir(parents=True, exist_ok=True)
    private.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name in names:
        if (private / f"{_checked(name)}.key_secret").exists():
            continue
        made_public, made_secret = auth.create_certificates(private, name)
        Path(made_secret).chmod(0o600)
        shutil.move(made_public, public / f"{name}.key")


@dataclass(frozen=True)
class Keys:
    """The key pair of the node `name`, and the folder of the public keys of those that it trusts."""

    folder: Path
    name: str
    public: bytes = field(repr=False)
    secret: bytes = field(repr=False)

    @classmethod
    def load(cls, folder: Path, name: str) -> Keys:
        """Read them; raises `InputError` if the node has no key there."""
        path = folder / "private" / f"{_checked(name)}.key_secret"
        public, secret = _read(path)
        if secret is None:
            raise InputError(f"'{path}' holds no secret key: make keys with `distredge keys`")
        return cls(folder, name, public, secret)

    def start_gate(self, context: zmq.Context[zmq.Socket[bytes]]) -> ThreadAuthenticator:
        """Start the thread that lets in only nodes whose public key lies in the folder; stop it when done."""
        gate = ThreadAuthenticator(context)
        gate.start()
        gate.configure_curve(domain="*", location=str(self.folder / "public"))
        return gate

    def secure_listener(self, socket: zmq.Socket[bytes]) -> None:
        """Make a socket that will be bound accept encrypted connections only."""
        socket.curve_server = True
        socket.curve_publickey, socket.curve_secretkey = self.public, self.secret

    def of(self, peer: str) -> bytes:
        """The public key of another node; raises `InputError` without it."""
        return _read(self.folder / "public" / f"{_checked(peer)}.key")[0]

    def secure_caller(self, socket: zmq.Socket[bytes], peer_key: bytes) -> None:
        """Make a socket that will be connected talk only to the node with this public key."""
        socket.curve_serverkey = peer_key
        socket.curve_publickey, socket.curve_secretkey = self.public, self.secret


def _checked(name: str) -> str:
    """A name that cannot lead out of its folder: peers' names come from the network."""
    if not name or Path(name).name != name:
        raise InputError(f"'{name}' names no key: names of keys have no slashes")
    return name


def _read(path: Path) -> tuple[bytes, bytes | None]:
    try:
        return auth.load_certificate(path)
    except (OSError, ValueError) as exc:
        raise InputError(f"cannot read the key '{path}': make keys with `distredge keys`") from exc
