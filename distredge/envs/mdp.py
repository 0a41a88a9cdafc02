"""The split MDP (DistrEdge, section IV-C): one step a layer-volume, a batch of frames in lock-step."""

from __future__ import annotations

import numpy as np

from distredge.envs.encode import AnyFormulation, Float32Array
from distredge.simulate.kernel import FloatArray, IntArray
from distredge.simulate.simulator import Simulator


class SplitMdp:
    """A batch of episodes on one simulator.

    The transition is the simulator's own step, and an episode's latency is exactly `simulator.evaluate` of its cuts.
    What leaves for the head before the last volume counts in the latency, but not in the accumulated latencies on the
    way: who runs the head is only known at the end.
    """

    def __init__(self, simulator: Simulator, formulation: AnyFormulation) -> None:
        self.simulator = simulator
        self.formulation = formulation
        self.volumes = len(simulator.heights)
        self._first = formulation.first()
        self.reset(1)

    def reset(self, batch: int) -> Float32Array:
        """Begin `batch` episodes; returns their first observations."""
        self.volume = 0
        self.cuts: IntArray = np.zeros((batch, self.volumes, self.simulator.providers + 1), dtype=np.int64)
        self._states = np.zeros((batch, 4, self.simulator.providers + 1))
        return np.tile(self._first, (batch, 1))

    def step(self, actions: FloatArray) -> tuple[Float32Array, FloatArray, FloatArray | None]:
        """Split the next volume; returns observations, rewards and, after the last volume, the latencies in ms."""
        batch = len(actions)
        seen, rewards = np.empty((batch, self.formulation.observation_size), np.float32), np.empty(batch)
        latency_ms = np.empty(batch)
        self.formulation.step(
            self.simulator.problem, self.volume, actions, self.cuts, self._states, seen, rewards, latency_ms
        )
        self.volume += 1
        return seen, rewards, latency_ms if self.volume == self.volumes else None
