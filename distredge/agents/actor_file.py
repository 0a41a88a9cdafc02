"""A trained agent of one case as a file: `policy.safetensors`, read and run with numpy alone.

The file holds the layers of the actor (`0.weight`, `0.bias`, `1.weight`, ..; ReLU between them, tanh at the end), the
constants of its formulation (`heights`, `scale_ms`, `prior` or `config`), and a `Card` as its metadata.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field
from safetensors import SafetensorError
from safetensors.numpy import save

from distredge.agents.tensors import read_tensors
from distredge.config import Frozen, Version1, validate
from distredge.envs.compiled import Positions, Shares
from distredge.envs.encode import FORMULATIONS, AnyFormulation, Float32Array, PaperFormulation, ShareFormulation
from distredge.envs.mdp import SplitMdp
from distredge.errors import InputError
from distredge.model.graph import LayerGraph
from distredge.plans.scheme import PartitionScheme
from distredge.resources import write_atomically
from distredge.scenario import Scenario
from distredge.simulate.kernel import IntArray
from distredge.simulate.simulator import Simulator

POLICY = "policy.safetensors"
"""Its name in the folder of a training."""

SUFFIX = ".safetensors"
_CARD = "distredge"


class Card(Frozen):
    """What a trained agent is for, and where it comes from."""

    schema_version: Version1 = 1
    model: str
    model_sha256: str
    scenario: str
    providers: tuple[str, ...] = Field(min_length=2, description="in their order along the height")
    locations: tuple[int, ...] = Field(min_length=1, description="indices of the layers at which volumes begin")
    formulation: Literal["default", "even", "paper"]
    latency_ms: float = Field(gt=0, description="predicted, of the plan that the policy makes")
    seed: int = Field(ge=0)
    command: str = Field(description="what was run")


@dataclass(frozen=True, eq=False)
class Actor:
    """A greedy policy in numpy: `layers` (weight, bias) of its network, `constants` of its formulation."""

    layers: tuple[tuple[Float32Array, Float32Array], ...]
    constants: Shares | Positions

    def actions(self, observations: Float32Array) -> Float32Array:
        """(n, action_size) for observations (n, observation_size)."""
        x = observations
        for n, (weight, bias) in enumerate(self.layers):
            x = x @ weight.T + bias
            x = np.tanh(x) if n == len(self.layers) - 1 else np.maximum(x, 0.0)
        return x

    def rollout(self, simulator: Simulator) -> tuple[IntArray, float]:
        """The cuts (volumes, providers + 1) that it makes in the MDP of a simulator, and their latency in ms."""
        mdp = SplitMdp(simulator, self.formulation(simulator))
        observed, latency_ms = mdp.reset(1), None
        while latency_ms is None:
            observed, _, latency_ms = mdp.step(self.actions(observed).astype(np.float64))
        return mdp.cuts[0], float(latency_ms[0])

    def formulation(self, simulator: Simulator) -> AnyFormulation:
        """Its formulation, with the constants that it was trained with."""
        if isinstance(self.constants, Shares):
            return ShareFormulation(simulator, self.constants)
        return PaperFormulation(simulator, self.constants)


@dataclass(frozen=True, eq=False)
class TrainedAgent:
    """An actor with its card."""

    card: Card
    actor: Actor

    def save(self, path: Path) -> None:
        """Write the file: the same agent, the same bytes."""
        tensors = {name: np.asarray(x) for name, x in self.actor.constants._asdict().items()}
        for n, (weight, bias) in enumerate(self.actor.layers):
            tensors |= {f"{n}.weight": weight, f"{n}.bias": bias}
        packed = {name: np.ascontiguousarray(x) for name, x in tensors.items()}
        write_atomically(path, save(packed, metadata={_CARD: self.card.model_dump_json()}))

    def simulator(self, graph: LayerGraph, scenario: Scenario) -> Simulator:
        """The simulator in which it makes its decisions; raises `InputError` for another model or other providers."""
        card, names = self.card, scenario.provider_names
        if card.model_sha256 != graph.sha256:
            raise InputError(f"this agent was trained for another model ('{card.model}'): train one for '{graph.name}'")
        if sorted(card.providers) != sorted(names):
            raise InputError(
                f"this agent was trained for the providers {', '.join(card.providers)}: give their scenario"
            )
        order = tuple(names.index(name) for name in card.providers)
        return Simulator(graph, scenario.reordered(order), PartitionScheme(graph, card.locations))


def load_agent(path: Path) -> TrainedAgent:
    """Read what `TrainedAgent.save` wrote; raises `InputError` with one line if it is absent or damaged."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"there is no trained agent '{path}'") from None
    except OSError as exc:
        raise InputError(f"cannot read '{path}': {exc.strerror}") from exc
    return unpack(content, str(path))


def unpack(blob: bytes, where: str) -> TrainedAgent:
    """The agent of a file's content; raises `InputError` with one line, in which the file is called `where`."""
    try:
        about, tensors = read_tensors(blob)
        card = validate(json.loads(about.get(_CARD, "{}")), Card, InputError, where)
        return TrainedAgent(card, _actor(card, tensors))
    except (ValueError, KeyError, SafetensorError) as exc:
        raise InputError(f"'{where}' is no trained agent, or damaged ({type(exc).__name__}): train it again") from exc


def _actor(card: Card, tensors: dict[str, npt.NDArray[np.generic]]) -> Actor:
    """The actor of the tensors in a file; raises `KeyError` or `ValueError` if they do not fit together."""
    kind = Shares if issubclass(FORMULATIONS[card.formulation], ShareFormulation) else Positions
    heights, scale_ms, rest = (tensors.pop(name) for name in kind._fields)
    layers = tuple(
        (np.asarray(tensors[f"{n}.weight"], np.float32), np.asarray(tensors[f"{n}.bias"], np.float32))
        for n in range(len(tensors) // 2)
    )
    actor = Actor(layers, kind(heights.astype(np.int64), float(scale_ms.item()), rest.astype(np.float64)))
    seen = len(card.providers) + 4 if kind is Positions else 2 * len(card.providers) + len(card.locations)
    wanted = len(card.providers) - (kind is Positions)
    if len(heights) != len(card.locations) or actor.actions(np.zeros((1, seen), np.float32)).shape != (1, wanted):
        raise ValueError("the layers do not fit the card")
    return actor
