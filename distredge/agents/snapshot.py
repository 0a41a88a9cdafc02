"""The state of a training as a checkpoint, and back."""

from __future__ import annotations

import io
import math
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy.typing as npt
import torch

from distredge.agents.checkpoint import damaged, load_checkpoint, save_checkpoint
from distredge.agents.ddpg import SplitDdpg
from distredge.agents.settings import Settings
from distredge.errors import InputError

if TYPE_CHECKING:
    from distredge.agents.training import Training

_BUFFER = ("observations", "actions", "next_observations", "dones", "rewards")


def packed_agent(agent: SplitDdpg) -> bytes:
    """An archive in stable-baselines3's own format."""
    packed = io.BytesIO()
    agent.save(packed)
    return packed.getvalue()


def save_state(training: Training, folder: Path) -> None:
    """Write everything that is needed to go on as if nothing had happened."""
    assert training.best_cuts is not None
    buffer = training.agent.replay_buffer
    assert buffer is not None
    meta: dict[str, Any] = {
        "settings": training.settings.model_dump(mode="json"),
        "model_sha256": training.simulator.graph.sha256,
        "best_latency_ms": training.best_latency_ms,
        "episodes": training.episodes,
        "batches": training.batches,
        "timesteps": training.agent.num_timesteps,
        "buffer": [buffer.pos, buffer.full],
        "rng": training.rng.bit_generator.state,
    }
    rows = buffer.size()
    arrays: dict[str, npt.NDArray[Any]] = {f"buffer_{name}": getattr(buffer, name)[:rows] for name in _BUFFER}
    arrays["best_cuts"] = training.best_cuts
    if training.elites is not None:
        arrays |= {"elite_cuts": training.elites.cuts, "elite_latency_ms": training.elites.latency_ms}
    arrays |= {f"best_policy_{name}": value.numpy() for name, value in training.best_policy.items()}
    save_checkpoint(folder, meta, arrays, packed_agent(training.agent))


def restore_state(training: Training, folder: Path) -> None:
    """Go on from the checkpoint in the folder; raises `InputError` if it is damaged or of another training."""
    meta, arrays, agent = load_checkpoint(folder)
    try:
        if not _fits(training, meta, arrays):
            raise InputError(
                f"the training in '{folder}' is of another model, scenario or preset: give those, or another folder"
            )
        _restore_agent(training.agent, meta, arrays, agent)
        if training.elites is not None:
            training.elites.offer(arrays["elite_cuts"], arrays["elite_latency_ms"])
        training.best_cuts, training.best_latency_ms = arrays["best_cuts"], float(meta["best_latency_ms"])
        if training.keeps_policy:
            names = training.agent.policy.state_dict()
            training.best_policy = {name: torch.from_numpy(arrays[f"best_policy_{name}"]) for name in names}
        training.episodes, training.batches = int(meta["episodes"]), int(meta["batches"])
        training.rng.bit_generator.state = meta["rng"]
    except (KeyError, IndexError, TypeError, ValueError, RuntimeError, zipfile.BadZipFile) as exc:
        raise damaged(folder, exc) from exc


def _fits(training: Training, meta: dict[str, Any], arrays: dict[str, npt.NDArray[Any]]) -> bool:
    """Whether the checkpoint is of this model, scenario, scheme and these settings (their length aside)."""
    length = {"episodes": 1, "until_budget": False}
    simulator, best = training.simulator, arrays["best_cuts"]
    return (
        Settings.model_validate(meta["settings"]).model_copy(update=length)
        == training.settings.model_copy(update=length)
        and meta["model_sha256"] == simulator.graph.sha256
        and best.shape == (len(simulator.heights), simulator.providers + 1)
        and math.isclose(simulator.evaluate(best[None])[0], meta["best_latency_ms"], rel_tol=1e-9)
    )


def _restore_agent(agent: SplitDdpg, meta: dict[str, Any], arrays: dict[str, npt.NDArray[Any]], packed: bytes) -> None:
    agent.set_parameters(io.BytesIO(packed), device="cpu")  # type: ignore[arg-type]
    agent.num_timesteps = int(meta["timesteps"])
    buffer = agent.replay_buffer
    assert buffer is not None
    for name in _BUFFER:
        stored = arrays[f"buffer_{name}"]
        getattr(buffer, name)[: len(stored)] = stored
    buffer.pos, buffer.full = int(meta["buffer"][0]), bool(meta["buffer"][1])
