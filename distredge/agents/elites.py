"""The best plans that an agent has seen, with the transitions that they are made of."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from distredge.envs.encode import AnyFormulation, Float32Array
from distredge.envs.mdp import SplitMdp
from distredge.simulate.kernel import FloatArray, IntArray
from distredge.simulate.simulator import Simulator


class Transitions(NamedTuple):
    """Steps of whole episodes, each array (episodes, volumes, ...): `returns` are the sums of what is still to come."""

    observations: Float32Array
    actions: Float32Array
    next_observations: Float32Array
    rewards: Float32Array
    returns: Float32Array


def replay(simulator: Simulator, formulation: AnyFormulation, cuts: IntArray, gamma: float) -> Transitions:
    """The transitions of the episodes that make `cuts` (episodes, volumes, providers + 1)."""
    mdp = SplitMdp(simulator, formulation)
    actions = np.stack([formulation.actions(plan) for plan in cuts])
    seen, rewards = [mdp.reset(len(cuts))], []
    for v in range(mdp.volumes):
        observed, reward, _ = mdp.step(actions[:, v])
        seen.append(observed)
        rewards.append(reward)
    observations, gains = np.stack(seen, axis=1), np.stack(rewards, axis=1)
    returns = gains.copy()
    for v in range(mdp.volumes - 2, -1, -1):
        returns[:, v] += gamma * returns[:, v + 1]
    return Transitions(
        observations[:, :-1], actions.astype(np.float32), observations[:, 1:],
        gains.astype(np.float32), returns.astype(np.float32),
    )  # fmt: skip


class ElitePool:
    """The `keep` best distinct plans, best first."""

    def __init__(self, simulator: Simulator, formulation: AnyFormulation, keep: int, gamma: float) -> None:
        self._simulator = simulator
        self._formulation = formulation
        self._keep = keep
        self._gamma = gamma
        self.cuts: IntArray = np.zeros((0, len(simulator.heights), simulator.providers + 1), dtype=np.int64)
        self.latency_ms: FloatArray = np.zeros(0)
        self.transitions: Transitions  # of the plans; from the first offer on
        self.version = 0
        """Grows whenever a plan comes in."""

    def __len__(self) -> int:
        return len(self.cuts)

    @property
    def actions(self) -> npt.NDArray[np.float32]:
        """(plans, volumes, providers): what an agent does to make each plan."""
        return self.transitions.actions

    def offer(self, cuts: IntArray, latency_ms: FloatArray) -> None:
        """Take in those of `cuts` (plans, volumes, providers + 1) that are new and good enough."""
        if len(self) == self._keep:
            good = latency_ms < self.latency_ms[-1]
            cuts, latency_ms = cuts[good], latency_ms[good]
        known = {plan.tobytes() for plan in self.cuts}
        fresh = list({plan.tobytes(): n for n, plan in enumerate(cuts) if plan.tobytes() not in known}.values())
        if not fresh:
            return
        merged = np.concatenate([self.cuts, cuts[fresh]])
        latencies = np.concatenate([self.latency_ms, latency_ms[fresh]])
        best = np.argsort(latencies, kind="stable")[: self._keep]
        self.cuts, self.latency_ms = merged[best], latencies[best]
        self.transitions = replay(self._simulator, self._formulation, self.cuts, self._gamma)
        self.version += 1
