"""Settings by name: shipped in `agents/`, or a file of the user's own."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from distredge.config import Frozen, read_yaml
from distredge.errors import InputError, UnknownNameError
from distredge.resources import shipped

SUFFIX = ".yaml"

Kind = TypeVar("Kind", bound=Frozen)


def load_preset(kind: type[Kind], prefix: str, name: str | Path) -> Kind:
    """What `agents/PREFIX-NAME.yaml` or another YAML file says; raises `UnknownNameError` or `InputError`."""
    files = shipped("agents", SUFFIX)
    known = {key.removeprefix(f"{prefix}-"): path for key, path in files.items() if key.startswith(f"{prefix}-")}
    path = known.get(str(name)) or Path(name)
    if not path.is_file() and path.suffix not in {".yaml", ".yml"}:
        raise UnknownNameError("preset", str(name), known, "(or give the path of a .yaml file)")
    return read_yaml(path, kind, InputError)
