"""What trained agents are shipped in `agents/`, and how good they are: `agents/manifest.json`."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from distredge.config import Frozen, Version1, read_json
from distredge.errors import InputError
from distredge.resources import data_dir, write_atomically

MANIFEST = "manifest.json"


class Entry(Frozen):
    """A trained agent of one case.

    `latency_ms` is predicted of the plan that its greedy policy makes, `best_latency_ms` of the best plan of its
    training; `gold_ms` is the best that was known when it was trained, if any was.
    """

    file: str = Field(description="path below agents/")
    sha256: str
    model: str
    scenario: str
    command: str = Field(description="that trained it")
    seed: int = Field(ge=0)
    latency_ms: float = Field(gt=0)
    best_latency_ms: float = Field(gt=0)
    gold_ms: float | None = Field(default=None, gt=0)


class Manifest(Frozen):
    """The file."""

    schema_version: Version1 = 1
    agents: tuple[Entry, ...] = ()

    def save(self, folder: Path) -> None:
        """Write it into `agents/`, or a folder like it."""
        write_atomically(folder / MANIFEST, self.model_dump_json(indent=1) + "\n")


def load_manifest(folder: Path | None = None) -> Manifest:
    """The manifest of `agents/`, or of a folder like it; raises `InputError` if it is absent or damaged."""
    return read_json((folder or data_dir("agents")) / MANIFEST, Manifest, InputError)
