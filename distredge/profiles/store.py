"""Finds profiles: shipped by name, or in files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from distredge.errors import ProfileError, UnknownNameError
from distredge.profiles.board import BoardProfile
from distredge.profiles.profile import Profile
from distredge.profiles.table import TableProfile
from distredge.resources import shipped

_READERS: dict[str, Callable[[Path], Profile]] = {
    ".yaml": BoardProfile.load,
    ".yml": BoardProfile.load,
    ".json": TableProfile.load,
}


def load_profile(name: str, folder: Path = Path()) -> Profile:
    """A shipped profile by its name, or one from a file: `.yaml` a calibrated board, `.json` a measured table.

    A path is relative to `folder`, else to the working directory. Raises `UnknownNameError` or `ProfileError`.
    """
    known = _shipped()
    path = known.get(name) or next((p for p in (folder / name, Path(name)) if p.is_file()), Path(name))
    if not path.is_file() and path.suffix not in _READERS:
        raise UnknownNameError("profile", name, known, "(or give the path of a .yaml or .json file)")
    if not path.is_file():
        raise ProfileError(f"cannot read '{path}': no such file")
    if path.suffix not in _READERS:
        raise ProfileError(f"'{path}' is no profile: give a .yaml (calibrated) or .json (measured) file")
    return _READERS[path.suffix](path)


def list_profiles() -> list[dict[str, object]]:
    """Every shipped profile: its name, its kind and where its figures come from; JSON-ready."""
    profiles = [load_profile(name) for name in sorted(_shipped())]
    return [{"name": p.name, "kind": p.kind, "provenance": p.provenance()} for p in profiles]


def _shipped() -> dict[str, Path]:
    return shipped("profiles", ".yaml") | shipped("profiles", ".json")
