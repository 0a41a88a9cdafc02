"""The general agent at work: numpy alone, loaded from a file of safetensors.

Given a plan, the network sees what the simulator makes of it, and says for every volume who should take part and with
which share. So it can be asked again about what it proposed: `propose` does, from the best proportional plans.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np
from pydantic import Field
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from distredge.agents.general import features
from distredge.agents.general.features import Float32Array, moved, observe, setting_of
from distredge.agents.general.settings import Network
from distredge.config import Frozen, Number, Version1, validate
from distredge.errors import InputError
from distredge.resources import data_dir, write_atomically
from distredge.simulate.kernel import FloatArray, IntArray
from distredge.simulate.simulator import Simulator
from distredge.simulate.starts import starts

SUFFIX = ".safetensors"

SHIPPED = f"general{SUFFIX}"
"""The trained policy in `agents/`."""

PROVIDERS = (2, 32)
"""How many the agent takes; for others there are the proportional plans."""

ROUNDS = 6
"""Times that the network is asked about a plan."""

BEGINNINGS = 3
"""Proportional plans that are improved side by side."""

ODDS = (0.15, 0.3, 0.5, 0.7)
"""A provider takes part where the network thinks that likelier than this: each gives a plan, the simulator picks."""

_ABOUT = "distredge"
"""Key of the file's metadata."""

_NORM_EPSILON = np.float32(1e-5)


class About(Frozen):
    """What a policy's file says of itself. `figures`: latency over gold on clusters and models not trained on."""

    schema_version: Version1 = 1
    features: int = Field(description="version of what it sees, see `features.VERSION`")
    network: Network
    command: str = Field(description="that trained it")
    seed: int
    steps: int = Field(ge=0, description="of the training")
    models: tuple[str, ...] = Field(description="that it was trained on")
    held_out: tuple[str, ...] = Field(description="models that it was not trained on, and judged by")
    figures: dict[str, Number] = {}


class GeneralPolicy:
    """The trained network. `weights` are named as in `network.GeneralNetwork`, which answers alike."""

    def __init__(self, weights: Mapping[str, Float32Array], about: About) -> None:
        self.weights = weights
        self.about = about

    def answers(self, tokens: Float32Array) -> FloatArray:
        """(batch, volumes, providers, 2) for tokens (batch, volumes, providers, WIDTH); meaning: `features.moved`."""
        grid = np.maximum(self._linear("enter", _with_neighbours(tokens)), 0.0)
        for n in range(self.about.network.blocks):
            block = f"blocks.{n}"
            grid = grid + self._attention(f"{block}.providers", grid)
            grid = grid + self._attention(f"{block}.volumes", grid.swapaxes(1, 2)).swapaxes(1, 2)
            inside = np.maximum(self._linear(f"{block}.rise", self._norm(f"{block}.norm", grid)), 0.0)
            grid = grid + self._linear(f"{block}.fall", inside)
        return self._linear("leave", self._norm("norm", grid)).astype(np.float64)

    def improve(self, simulator: Simulator, rounds: int = ROUNDS, beginnings: int = BEGINNINGS) -> IntArray:
        """All plans seen (n, volumes, providers + 1): the proportional ones, then four for each beginning and round.

        The best of the four is what the next round begins with.
        """
        setting, plans = setting_of(simulator), starts(simulator)
        current = plans[np.argsort(simulator.evaluate(plans), kind="stable")[:beginnings]]
        seen = [plans]
        for _ in range(rounds):
            answers = self.answers(observe(setting, current)[0])
            made = np.stack([moved(current, answers, odds) for odds in ODDS])
            latency_ms = simulator.evaluate(made.reshape(-1, *made.shape[2:])).reshape(len(ODDS), -1)
            current = made[np.argmin(latency_ms, axis=0), np.arange(made.shape[1])]
            seen.append(made.reshape(-1, *made.shape[2:]))
        return np.concatenate(seen)

    def _linear(self, name: str, x: Float32Array) -> Float32Array:
        weight = self.weights[f"{name}.weight"]
        found: Float32Array = (x.reshape(-1, x.shape[-1]) @ weight.T + self.weights[f"{name}.bias"]).reshape(
            *x.shape[:-1], len(weight)
        )
        return found

    def _norm(self, name: str, x: Float32Array) -> Float32Array:
        centred = x - x.mean(axis=-1, keepdims=True)
        spread = np.sqrt(np.mean(centred * centred, axis=-1, keepdims=True) + _NORM_EPSILON)
        found: Float32Array = centred / spread * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]
        return found

    def _attention(self, name: str, grid: Float32Array) -> Float32Array:
        """Self-attention along the last axis but one."""
        heads = self.about.network.heads
        mixed = self._linear(f"{name}.mix", self._norm(f"{name}.norm", grid))
        q, k, v = np.moveaxis(mixed.reshape(*grid.shape[:-1], 3, heads, -1), -3, 0).swapaxes(-2, -3)
        logits = q @ k.swapaxes(-1, -2) / np.float32(np.sqrt(q.shape[-1]))
        odds = np.exp(logits - logits.max(axis=-1, keepdims=True))
        found = (odds / odds.sum(axis=-1, keepdims=True)) @ v
        return self._linear(f"{name}.out", found.swapaxes(-2, -3).reshape(grid.shape))


def _with_neighbours(tokens: Float32Array) -> Float32Array:
    """As `network.with_neighbours`."""
    volumes, providers = tokens.shape[1:3]
    framed = np.pad(tokens, ((0, 0), (1, 1), (1, 1), (0, 0)))
    places = ((1, 1), (0, 1), (2, 1), (1, 0), (1, 2))
    return np.concatenate([framed[:, v : v + volumes, p : p + providers] for v, p in places], axis=3)


def propose(simulator: Simulator, count: int, policy: GeneralPolicy | None = None) -> IntArray:
    """At most `count` distinct plans (n, volumes, providers + 1), best first by the simulator's score.

    They are those that `policy` (None: the shipped one) makes of the best proportional plans, and these. With one
    provider, or more than the agent takes, they are the proportional plans alone. The policy looks at latency only; who
    is barred from a volume leaves its rows to others.
    """
    free = simulator.unbarred()
    known = PROVIDERS[0] <= simulator.providers <= PROVIDERS[1]
    seen = (policy or shipped_policy()).improve(free) if known else starts(free)
    plans = np.unique(simulator.permitted(seen), axis=0)
    return plans[np.argsort(simulator.score(plans), kind="stable")[:count]]


@cache
def shipped_policy() -> GeneralPolicy:
    """The policy in `agents/general.safetensors`."""
    return load_policy(data_dir("agents") / SHIPPED)


def load_policy(path: Path) -> GeneralPolicy:
    """A policy from its file; raises `InputError` in one line if there is none, or it is damaged or of another kind."""
    try:
        with safe_open(path, "numpy") as stored:
            said = (stored.metadata() or {}).get(_ABOUT)
            weights = {name: stored.get_tensor(name) for name in stored.keys()}
    except OSError as exc:
        raise InputError(f"cannot read '{path}': {exc.strerror or exc}") from exc
    except SafetensorError as exc:
        raise InputError(f"'{path}' is damaged ({exc}): train it again with distredge train-general") from exc
    try:
        about = validate(json.loads(said or "null"), About, InputError, str(path))
    except ValueError as exc:
        raise InputError(f"'{path}' is damaged ({exc}): train it again with distredge train-general") from exc
    if about.features != features.VERSION:
        raise InputError(f"'{path}' sees other features than this release: train it again with distredge train-general")
    wanted, found = shapes(about.network), {name: w.shape for name, w in weights.items()}
    if found != wanted or not all(w.dtype == np.float32 and np.isfinite(w).all() for w in weights.values()):
        raise InputError(
            f"'{path}' does not hold the network that it says: train it again with distredge train-general"
        )
    return GeneralPolicy(weights, about)


def save_policy(path: Path, policy: GeneralPolicy) -> None:
    """Write a policy's file."""
    weights = {name: np.ascontiguousarray(w) for name, w in policy.weights.items()}
    write_atomically(path, save(weights, {_ABOUT: policy.about.model_dump_json()}))


def shapes(network: Network) -> dict[str, tuple[int, ...]]:
    """Shapes of a network's weights by their names."""
    width, hidden = network.width, network.hidden
    linear = {"enter": (width, 5 * features.WIDTH), "leave": (2, width)}
    norms = ["norm"]
    for n in range(network.blocks):
        block = f"blocks.{n}"
        linear |= {f"{block}.rise": (hidden, width), f"{block}.fall": (width, hidden)}
        norms += [f"{block}.norm"]
        for axis in (f"{block}.providers", f"{block}.volumes"):
            linear |= {f"{axis}.mix": (3 * width, width), f"{axis}.out": (width, width)}
            norms += [f"{axis}.norm"]
    found: dict[str, tuple[int, ...]] = {f"{name}.weight": shape for name, shape in linear.items()}
    found |= {f"{name}.bias": shape[:1] for name, shape in linear.items()}
    return found | {f"{name}.{part}": (width,) for name in norms for part in ("weight", "bias")}
