"""Finds the data that is shipped (scenarios, profiles, agents), installed from a wheel or run from a checkout."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

from distredge.errors import InputError

_PACKAGE = Path(__file__).resolve().parent


def data_dir(folder: str) -> Path:
    """Folder of shipped data: `envs`, `profiles` or `agents`.

    A wheel holds them under `distredge/_data`; in a checkout they stand beside the package.
    """
    packed = _PACKAGE / "_data" / folder
    return packed if packed.is_dir() else _PACKAGE.parent / folder


def shipped(folder: str, suffix: str) -> dict[str, Path]:
    """Shipped files of a folder by their names without the suffix."""
    return {p.name.removesuffix(suffix): p for p in sorted(data_dir(folder).glob(f"*{suffix}"))}


def cache_dir() -> Path:
    """Where exported models and compiled kernels are kept: `$DISTREDGE_CACHE`, else the user's cache folder."""
    chosen = os.environ.get("DISTREDGE_CACHE")
    path = Path(chosen) if chosen else Path(platformdirs.user_cache_dir("distredge"))
    path.mkdir(parents=True, exist_ok=True)
    return path


def check_writable(path: Path) -> None:
    """Make the folder of a file that will be written; raises `InputError` if that, or such a file, cannot be."""
    if not path.name or path.is_dir():
        raise InputError(f"'{path}' is a folder: give the name of a file in it")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise InputError(f"cannot write '{path}': '{exc.filename}': {exc.strerror}") from exc
    if not os.access(path.parent, os.W_OK):
        raise InputError(f"cannot write '{path}': no permission in its folder")


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file so that a reader, or an interruption, never sees half of it."""
    check_writable(path)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(content if isinstance(content, bytes) else content.encode())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
