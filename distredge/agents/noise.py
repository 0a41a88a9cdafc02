"""Exploration: how an agent's actions are varied while it learns."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import numpy.typing as npt

from distredge.agents.elites import ElitePool
from distredge.agents.settings import EpsilonNoise, Settings, SpreadNoise
from distredge.envs.encode import Float32Array
from distredge.simulate.kernel import FloatArray

FEW = 2.0
"""Cuts, on average, that are moved in a step of a sparse episode."""


class Exploration(ABC):
    """Varies the actions of episodes that run together; one object for a whole training."""

    @abstractmethod
    def vary(self, episode: int, volume: int, actions: Float32Array) -> Float32Array:
        """What is done instead of the policy's `actions` (environments, action_size) at `volume`.

        `episode` counts from 1 and is that of the first environment.
        """

    @abstractmethod
    def level(self, episode: int) -> float:
        """The figure that is logged: epsilon, or the mean standard deviation."""


def epsilon(episode: int, delta: float) -> float:
    """Probability of noise in an episode, counted from 1 (Algorithm 2, line 7); 0 from episode 1 / delta on."""
    return max(0.0, 1.0 - (episode * delta) ** 2)


class EpsilonExploration(Exploration):
    """The paper's: with probability epsilon N(0, sigma^2) is added to an action (Algorithm 2, lines 9 to 13).

    The sum may leave [-1, 1]: it is stored as it is, and Eq. 9 puts the cut at the border.
    """

    def __init__(self, settings: EpsilonNoise, providers: int, rng: np.random.Generator) -> None:
        self._delta = settings.delta_epsilon
        self._sigma = settings.variance_for(providers) ** 0.5
        self._rng = rng

    def vary(self, episode: int, volume: int, actions: Float32Array) -> Float32Array:
        """See `Exploration`."""
        noisy = self._rng.random(len(actions)) < self.level(episode)
        noise = self._rng.normal(0.0, self._sigma, actions.shape)
        return (actions + noise * noisy[:, None]).astype(np.float32)

    def level(self, episode: int) -> float:
        """See `Exploration`."""
        return epsilon(episode, self._delta)


class SpreadExploration(Exploration):
    """Noise of another size in each environment, part of it shared by an episode's steps.

    Some episodes vary an elite plan instead of the policy's; in some, few cuts are moved instead of all shares.
    """

    def __init__(self, settings: SpreadNoise, elites: ElitePool | None, rng: np.random.Generator) -> None:
        self._settings = settings
        self._elites = elites
        self._rng = rng
        self._shared: FloatArray = np.zeros((0, 0))
        self._sparse: npt.NDArray[np.bool_] = np.zeros((0, 1), dtype=bool)
        self._guides: tuple[npt.NDArray[np.bool_], Float32Array] | None = None

    def vary(self, episode: int, volume: int, actions: Float32Array) -> Float32Array:
        """See `Exploration`."""
        if volume == 0:
            self._begin(actions.shape)
        if self._guides is not None:
            guided, plans = self._guides
            actions = np.where(guided[:, None], plans[:, volume], actions)
        share = self._settings.shared
        noise = share**0.5 * self._shared + (1.0 - share) ** 0.5 * self._draw(actions.shape)
        varied: Float32Array = np.clip(actions + self._sizes(len(actions)) * noise, -1.0, 1.0).astype(np.float32)
        return varied

    def level(self, episode: int) -> float:
        """See `Exploration`."""
        return float(self._sizes(32).mean())

    def _sizes(self, count: int) -> FloatArray:
        return np.geomspace(self._settings.smallest, self._settings.largest, count)[:, None]

    def _draw(self, shape: tuple[int, ...]) -> FloatArray:
        """Noise of unit size: on each share or, in sparse episodes, on a few cuts, from one neighbour to the other."""
        moves = self._rng.normal(0.0, 1.0, shape) * (self._rng.random(shape) < FEW / shape[1])
        return np.where(self._sparse, moves - np.roll(moves, 1, axis=1), self._rng.normal(0.0, 1.0, shape))

    def _begin(self, shape: tuple[int, ...]) -> None:
        """Draw what stays the same throughout these episodes."""
        self._sparse = self._rng.random((shape[0], 1)) < self._settings.sparse_episodes
        self._shared = self._draw(shape)
        self._guides = None
        if self._elites is not None and len(self._elites) > 0:
            chosen = self._rng.integers(len(self._elites), size=shape[0])
            guided = self._rng.random(shape[0]) < self._settings.elite_episodes
            self._guides = guided, self._elites.actions[chosen]


def make_exploration(
    settings: Settings, providers: int, elites: ElitePool | None, rng: np.random.Generator
) -> Exploration:
    """The exploration that the settings ask for."""
    if isinstance(settings.noise, EpsilonNoise):
        return EpsilonExploration(settings.noise, providers, rng)
    return SpreadExploration(settings.noise, elites, rng)
