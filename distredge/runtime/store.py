"""The model files of this machine by their hash: what is here need not be sent."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from distredge.errors import InputError
from distredge.resources import cache_dir, write_atomically
from distredge.runtime.message import MessageError, ModelChunk

if TYPE_CHECKING:
    from distredge.model.graph import LayerGraph

MAX_MODEL_BYTES = 16 * 1024**3

log = logging.getLogger(__name__)


class ModelStore:
    """Models under the user's cache folder: received ones, and notes of where local ones lie."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or cache_dir() / "by-hash"

    def find(self, sha256: str) -> Path | None:
        """The ONNX file of a model, None if it is not here or has changed since."""
        received = sorted((self.folder / sha256).glob("*.onnx"))
        if received:
            return received[0]
        try:
            note = json.loads((self.folder / f"{sha256}.json").read_text())
            return Path(note["path"]) if _stamps(map(Path, note["files"])) == note["files"] else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def offer(self, graph: LayerGraph) -> None:
        """Note where a model lies, so that providers on this machine find it."""
        from distredge.model.onnx_file import model_files  # not when a provider starts: onnx is slow to load

        path = graph.path.resolve()
        note = {"path": str(path), "files": _stamps(model_files(path))}
        write_atomically(self.folder / f"{graph.sha256}.json", json.dumps(note))


class ModelDownload:
    """A model on its way here; it appears in the store whole and with the right hash, or not at all."""

    def __init__(self, store: ModelStore, sha256: str) -> None:
        self._target = store.folder / sha256
        self._sha256 = sha256
        self._target.parent.mkdir(parents=True, exist_ok=True)
        self._part = Path(tempfile.mkdtemp(prefix=".part-", dir=self._target.parent))
        self._next = (0, 0)
        self._digest = hashlib.sha256()  # as `model_sha256`: over the files in their order

    def add(self, chunk: ModelChunk, payload: bytes) -> bool:
        """Append a chunk, in order; True once the model is in the store. Raises `MessageError` if it does not fit."""
        self._check(chunk, payload)
        name, size = chunk.files[chunk.file]
        with (self._part / name).open("ab") as file:
            file.write(payload)
        self._digest.update(payload)
        end = chunk.offset + len(payload)
        self._next = (chunk.file, end) if end < size else (chunk.file + 1, 0)
        if self._next[0] < len(chunk.files):
            return False
        if self._digest.hexdigest() != self._sha256:
            raise MessageError("the model that came has another hash than the one that was announced")
        try:
            self._part.rename(self._target)
        except OSError:  # another provider of this machine was quicker
            log.info("model %s is in the store already", self._sha256[:12])
        return True

    def discard(self) -> None:
        """Remove what has come so far."""
        shutil.rmtree(self._part, ignore_errors=True)

    def _check(self, chunk: ModelChunk, payload: bytes) -> None:
        names = [name for name, _ in chunk.files]
        if (
            chunk.sha256 != self._sha256
            or any(Path(name).name != name or name in {"", ".", ".."} for name in names)
            or any(len(name) > 200 or not name.isprintable() for name in names)
            or not names
            or not names[0].endswith(".onnx")
            or len(set(names)) != len(names)
            or sum(size for _, size in chunk.files) > MAX_MODEL_BYTES
            or chunk.file >= len(names)
            or (chunk.file, chunk.offset) != self._next
            or chunk.offset + len(payload) > chunk.files[chunk.file][1]
        ):
            raise MessageError("a model's chunk out of order or with impossible names or sizes")


def described(path: Path) -> tuple[tuple[str, int], ...]:
    """Names and sizes of a model's files, as `ModelChunk` states them; raises `InputError` for one in a subfolder."""
    from distredge.model.onnx_file import model_files

    files = model_files(path)
    if astray := [file for file in files if file.parent != path.parent]:
        raise InputError(
            f"'{astray[0]}' does not lie beside '{path.name}', so it cannot be sent: put both in one folder"
        )
    return tuple((file.name, file.stat().st_size) for file in files)


def _stamps(files: Iterable[Path]) -> dict[str, list[int]]:
    """Size and time of change of each file: equal stamps, equal files."""
    return {str(file): [file.stat().st_size, file.stat().st_mtime_ns] for file in files}
