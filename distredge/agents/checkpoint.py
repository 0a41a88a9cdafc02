"""What a training leaves on disk, in the folder that it is given.

    best.json        the best plan so far: written whenever a better one is found
    checkpoint.npz   everything needed to go on; its member `agent` is an archive in stable-baselines3's own format
    agent.zip        at the end: the agent whose greedy policy is reported; `stable_baselines3.DDPG.load` reads it
    plan.png         a picture of the best plan, if whoever trains can draw one
    events.out.*     TensorBoard's log

`distredge train` adds `plan.json` and `policy.safetensors` (see `actor_file.py`).

Each file appears whole or not at all. Nothing is unpickled when a training is resumed.
"""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from distredge.config import Frozen, read_json
from distredge.errors import InputError
from distredge.resources import write_atomically

CHECKPOINT = "checkpoint.npz"
BEST = "best.json"
AGENT = "agent.zip"


class BestPlan(Frozen):
    """The best plan of a training: partition locations, providers in their order along the height, cuts."""

    model: str
    model_sha256: str
    providers: tuple[str, ...] = Field(min_length=2)
    locations: tuple[int, ...] = Field(min_length=1, description="indices of the layers at which volumes begin")
    cuts: tuple[tuple[int, ...], ...] = Field(description="(volumes, providers + 1)")
    latency_ms: float = Field(gt=0)

    def save(self, folder: Path) -> None:
        """Write `best.json`."""
        write_atomically(folder / BEST, self.model_dump_json(indent=1) + "\n")


def read_best(folder: Path) -> BestPlan:
    """The best plan in a training's folder; raises `InputError` if there is none, or it is damaged."""
    if not (folder / CHECKPOINT).is_file():
        raise _absent(folder)
    return read_json(folder / BEST, BestPlan, InputError)


def save_checkpoint(folder: Path, meta: dict[str, Any], arrays: dict[str, npt.NDArray[Any]], agent: bytes) -> None:
    """Write `checkpoint.npz`: `meta` must be JSON-ready."""
    packed = io.BytesIO()
    np.savez(
        packed,
        allow_pickle=False,
        meta=np.array(json.dumps(meta)),
        agent=np.frombuffer(agent, dtype=np.uint8),
        **arrays,
    )
    write_atomically(folder / CHECKPOINT, packed.getvalue())


def load_checkpoint(folder: Path) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]], bytes]:
    """What `save_checkpoint` wrote; raises `InputError` with one line if it is absent or damaged."""
    path = folder / CHECKPOINT
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        return json.loads(str(arrays.pop("meta"))), arrays, arrays.pop("agent").tobytes()
    except FileNotFoundError:
        raise _absent(folder) from None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as exc:
        raise damaged(folder, exc) from exc


def damaged(folder: Path, cause: Exception) -> InputError:
    """The error for a checkpoint that cannot be used."""
    return InputError(
        f"'{folder / CHECKPOINT}' is damaged ({type(cause).__name__}): train without --resume to begin anew"
    )


def _absent(folder: Path) -> InputError:
    return InputError(f"nothing to resume in '{folder}': there is no {CHECKPOINT}; train without --resume first")
