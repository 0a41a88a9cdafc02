"""How the split MDP is shown to an agent: what it observes, what its action means, what it is rewarded for.

Two formulations. `PaperFormulation` is DistrEdge's own (Eq. 6 to 9). `ShareFormulation` is the one that learns well:
actions are shares around a capability prior, rewards telescope to the logarithm of the latency.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from distredge.errors import InputError
from distredge.simulate.kernel import FloatArray, IntArray
from distredge.simulate.simulator import Simulator
from distredge.simulate.starts import capability, proportional_cuts

Float32Array = npt.NDArray[np.float32]


class Situation(NamedTuple):
    """A batch of frames before volume `volume` (= number of volumes: after the last).

    `accumulated` (batch, providers): ms when each provider's last part was done. `previous` (batch, providers + 1):
    cuts of the volume before; zeros at the first.
    """

    volume: int
    accumulated: FloatArray
    previous: IntArray


class Formulation(ABC):
    """One way to show the MDP of a simulator.

    Observations are float32 (batch, observation_size), finite; actions are floats (batch, action_size) in [-1, 1].
    """

    observation_size: int
    action_size: int

    def __init__(self, simulator: Simulator) -> None:
        if simulator.providers < 2:
            raise InputError("splitting needs at least two providers: use --method offload for one")
        self.heights = simulator.heights
        self.providers = simulator.providers
        self.scale_ms = float(simulator.evaluate(simulator.single_device_cuts()).min())

    @abstractmethod
    def observe(self, situation: Situation) -> Float32Array:
        """What the agent sees."""

    @abstractmethod
    def cuts(self, volume: int, actions: FloatArray) -> IntArray:
        """(batch, providers + 1) cuts of a volume that the actions stand for."""

    @abstractmethod
    def actions(self, cuts: IntArray) -> FloatArray:
        """(volumes, action_size) actions in [-1, 1] whose `cuts` are those given, (volumes, providers + 1)."""

    @abstractmethod
    def reward(self, before: Situation, after: Situation, latency_ms: FloatArray | None) -> FloatArray:
        """(batch,) reward of the step from `before` to `after`; `latency_ms` (batch,) is known at the last volume."""


class PaperFormulation(Formulation):
    """DistrEdge to the letter: state (T, H, C, F, S) (Eq. 7), absolute cuts (Eq. 9), reward 1/T at the end (Eq. 8).

    The paper gives no units: T is in units of the fastest single provider's latency, H, C, F and S in units of the
    model's largest, the reward is 1/T in images a second.
    """

    def __init__(self, simulator: Simulator) -> None:
        super().__init__(simulator)
        last = [simulator.graph.layers[part.stop - 1] for part in simulator.scheme.parts]
        config = np.array([[x.height, x.out_shape[0], x.kernel[0], x.stride[0]] for x in last], dtype=np.float64)
        self._config = config / config.max(axis=0)
        self.observation_size = self.providers + 4
        self.action_size = self.providers - 1

    def observe(self, situation: Situation) -> Float32Array:
        """See `Formulation`."""
        at = min(situation.volume, len(self.heights) - 1)
        config = np.broadcast_to(self._config[at], (len(situation.accumulated), 4))
        return np.hstack([situation.accumulated / self.scale_ms, config]).astype(np.float32)

    def cuts(self, volume: int, actions: FloatArray) -> IntArray:
        """See `Formulation`."""
        height = int(self.heights[volume])
        inner = np.rint((np.sort(actions, axis=1) + 1.0) / 2.0 * height).astype(np.int64)  # Eq. 9 with [A, B] = [-1, 1]
        batch = len(actions)
        return np.hstack([np.zeros((batch, 1), np.int64), np.clip(inner, 0, height), np.full((batch, 1), height)])

    def actions(self, cuts: IntArray) -> FloatArray:
        """See `Formulation`."""
        return 2.0 * cuts[:, 1:-1] / cuts[:, -1:] - 1.0

    def reward(self, before: Situation, after: Situation, latency_ms: FloatArray | None) -> FloatArray:
        """See `Formulation`."""
        return np.zeros(len(after.accumulated)) if latency_ms is None else 1000.0 / latency_ms


REACH = 1.2
"""How far an action of 1 moves a share from its prior."""

CLOSED = -0.05
"""The prior of a provider that is left out, and what a closed one's share is before it is cut off at 0: small noise
does not open it."""

REWARD_SCALE = 5.0
REWARD_OFFSET = 0.1
"""The reward is -5 times the growth of log(slowest / scale + 0.1): it telescopes, and no one bad step dominates."""


class ShareFormulation(Formulation):
    """Actions are shares, `max(0, prior + 1.2 a)` over their sum, so that a provider can be left out altogether.

    Observed: each provider's lag behind the slowest and the slowest itself in units of the fastest single provider's
    latency, the previous cuts as fractions, the volume one-hot.
    """

    def __init__(self, simulator: Simulator) -> None:
        super().__init__(simulator)
        self.prior = _prior(simulator)
        self.observation_size = 2 * self.providers + len(self.heights)
        self.action_size = self.providers

    def observe(self, situation: Situation) -> Float32Array:
        """See `Formulation`."""
        batch, volumes = len(situation.accumulated), len(self.heights)
        slowest = situation.accumulated.max(axis=1, keepdims=True)
        one_hot = np.zeros((batch, volumes))
        if situation.volume < volumes:
            one_hot[:, situation.volume] = 1.0
        fractions = situation.previous[:, 1:-1] / np.maximum(situation.previous[:, -1:], 1)
        parts = [(slowest - situation.accumulated) / self.scale_ms, slowest / self.scale_ms, fractions, one_hot]
        return np.hstack(parts).astype(np.float32)

    def cuts(self, volume: int, actions: FloatArray) -> IntArray:
        """See `Formulation`."""
        shares = np.maximum(0.0, self.prior + REACH * actions)
        total = shares.sum(axis=1, keepdims=True)
        shares = np.where(total > 1e-9, shares, np.maximum(0.0, self.prior))
        edges = np.cumsum(shares / shares.sum(axis=1, keepdims=True), axis=1)
        height = int(self.heights[volume])
        cuts = np.zeros((len(actions), self.providers + 1), dtype=np.int64)
        cuts[:, 1:] = np.rint(edges * height)
        cuts[:, -1] = height
        return cuts

    def actions(self, cuts: IntArray) -> FloatArray:
        """See `Formulation`."""
        shares = np.diff(cuts, axis=1) / cuts[:, -1:]
        return (np.where(shares > 0, shares, CLOSED) - self.prior) / REACH

    def reward(self, before: Situation, after: Situation, latency_ms: FloatArray | None) -> FloatArray:
        """See `Formulation`."""
        reached = after.accumulated.max(axis=1) if latency_ms is None else latency_ms
        return -REWARD_SCALE * (self._log(reached) - self._log(before.accumulated.max(axis=1)))

    def _log(self, time_ms: FloatArray) -> FloatArray:
        return np.log(time_ms / self.scale_ms + REWARD_OFFSET)


def _prior(simulator: Simulator) -> FloatArray:
    """(providers,) shares proportional to capability on the best k providers, k by simulation; the others `CLOSED`."""
    rates = capability(simulator)
    ranking = np.argsort(-rates, kind="stable")
    choices = []
    for k in range(1, len(rates) + 1):
        shares = np.zeros_like(rates)
        shares[ranking[:k]] = rates[ranking[:k]]
        choices.append(shares / shares.sum())
    latency = simulator.evaluate(np.stack([proportional_cuts(simulator.heights, s) for s in choices]))
    best = choices[int(np.argmin(latency))]
    return np.where(best > 0, best, CLOSED)
