"""What a training of the general agent leaves beside its file, to go on from."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from pydantic import Field
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from distredge.agents.general.settings import Settings
from distredge.config import Frozen, Version1, validate
from distredge.errors import InputError
from distredge.resources import write_atomically

_ABOUT = "distredge"
_MOMENTS = ("step", "exp_avg", "exp_avg_sq")
"""What AdamW keeps of every weight."""


class Progressed(Frozen):
    """What a checkpoint is of, and how far it is."""

    schema_version: Version1 = 1
    settings: Settings
    seed: int
    step: int = Field(ge=0)


def checkpoint_path(out: Path) -> Path:
    """Where the checkpoint of a training that writes `out` is kept."""
    return out.with_name(f"{out.name}.checkpoint")


def save_checkpoint(
    out: Path, settings: Settings, seed: int, step: int, network: torch.nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    """Write the checkpoint."""
    tensors = dict(network.state_dict())
    for name, weight in network.named_parameters():
        tensors |= {f"{moment}/{name}": optimizer.state[weight][moment] for moment in _MOMENTS if step}
    about = Progressed(settings=settings, seed=seed, step=step)
    write_atomically(checkpoint_path(out), save(tensors, {_ABOUT: about.model_dump_json()}))


def load_checkpoint(
    out: Path, settings: Settings, seed: int, network: torch.nn.Module, optimizer: torch.optim.Optimizer
) -> int:
    """Restore network and optimiser, and return the number of steps done.

    Raises `InputError` if there is no checkpoint, it is damaged, or of other settings (their length aside) or seed.
    """
    path = checkpoint_path(out)
    try:
        with safe_open(path, "pt") as stored:
            said = (stored.metadata() or {}).get(_ABOUT, "null")
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}
        about = validate(json.loads(said), Progressed, InputError, str(path))
        weights = {name: tensors[name] for name in network.state_dict()}
        state = [{m: tensors[f"{m}/{name}"] for m in _MOMENTS if about.step} for name, _ in network.named_parameters()]
        _check_fits(path, about, settings, seed)
        network.load_state_dict(weights)
    except FileNotFoundError:
        raise InputError(f"nothing to resume: there is no '{path}'; train without --resume first") from None
    except (OSError, SafetensorError, ValueError, KeyError, RuntimeError) as exc:
        raise InputError(f"'{path}' is damaged ({type(exc).__name__}): train without --resume to begin anew") from exc
    if about.step:
        optimizer.load_state_dict({**optimizer.state_dict(), "state": dict(enumerate(state))})
    return about.step


def _check_fits(path: Path, about: Progressed, settings: Settings, seed: int) -> None:
    length = {"steps": 1}
    if about.seed != seed or about.settings.model_copy(update=length) != settings.model_copy(update=length):
        raise InputError(f"'{path}' is of other settings or another seed: give those, or another --out")
