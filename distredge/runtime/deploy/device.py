"""Installs a provider on a device through a shell there."""

from __future__ import annotations

import io
import shlex
import tarfile
from importlib import resources
from pathlib import Path
from typing import Protocol

from distredge.errors import RunError
from distredge.runtime.deploy.inventory import Device, Inventory

INSTALL_S = 1800.0
"""That installing may take: the first time packages are fetched, maybe over a slow link."""

_SHIPPED = ("install.sh", "provider-requirements.txt", "distredge-provider@.service")

SCRIPT = """tar -xf - || { echo "error: cannot unpack what was sent"; exit 1; }
if grep -q '^SERVICE=yes' settings && [ "$(id -u)" != 0 ] && sudo -n true 2>/dev/null; then sudo -n sh install.sh
else sh install.sh; fi"""
"""What is run on a device, in a temporary folder, with a bundle as its input."""


class Outcome(Protocol):
    """How a script ended, and what it printed."""

    @property
    def code(self) -> int:
        """0: it worked."""

    @property
    def output(self) -> str:
        """On its standard output."""


class Board(Protocol):
    """A shell on a device, in a temporary folder that vanishes with it."""

    def attempt(self, script: str, data: bytes = b"", limit_s: float = ...) -> Outcome:
        """Run a script that is given `data`; raises `RunError` if the device is lost or takes too long."""


def shipped(name: str) -> str:
    """A file that goes to every device."""
    return (resources.files("distredge.runtime.deploy") / name).read_text()


def settings(device: Device, folder: str, service: bool) -> str:
    """What `install.sh` is told of a device."""
    values = {
        "NAME": device.name,
        "LISTEN": device.listen,
        "PYTHON": device.python,
        "FOLDER": folder,
        "SERVICE": "yes" if service else "no",
    }
    return "".join(f"{name}={shlex.quote(value)}\n" for name, value in values.items())


def bundle(device: Device, inventory: Inventory, wheel: Path, service: bool) -> dict[str, bytes]:
    """The files that go to a device, by their paths there: of the secret keys only its own, if it is here."""
    keys = inventory.keys_folder
    files = {name: shipped(name).encode() for name in _SHIPPED}
    files["settings"] = settings(device, inventory.folder, service).encode()
    files[wheel.name] = wheel.read_bytes()
    for path in (*sorted(keys.glob("public/*.key")), keys / "private" / f"{device.name}.key_secret"):
        if path.is_file():
            files[f"keys/{path.relative_to(keys).as_posix()}"] = path.read_bytes()
    return files


def install(board: Board, files: dict[str, bytes]) -> str:
    """Install a bundle; returns what the device says of it, raises `RunError` with what it says is wrong."""
    done = board.attempt(SCRIPT, _packed(files), INSTALL_S)
    lines = done.output.strip().splitlines() or ["it says nothing"]
    if done.code:
        raise RunError(lines[-1].removeprefix("error: "))
    return lines[-1]


def _packed(files: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o600
            archive.addfile(entry, io.BytesIO(content))
    return packed.getvalue()
