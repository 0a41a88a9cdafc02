"""The split MDP (DistrEdge, section IV-C): one step a layer-volume, a batch of frames in lock-step."""

from __future__ import annotations

import numpy as np

from distredge.envs.encode import Float32Array, Formulation, Situation
from distredge.simulate import kernel
from distredge.simulate.kernel import FloatArray, IntArray
from distredge.simulate.simulator import Simulator


class SplitMdp:
    """A batch of episodes on one simulator.

    The transition is the simulator's own step, and an episode's latency is exactly `simulator.evaluate` of its cuts.
    What leaves for the head before the last volume counts in the latency, but not in the accumulated latencies on the
    way: who runs the head is only known at the end.
    """

    def __init__(self, simulator: Simulator, formulation: Formulation) -> None:
        self.simulator = simulator
        self.formulation = formulation
        self.volumes = len(simulator.heights)
        self.reset(1)

    def reset(self, batch: int) -> Float32Array:
        """Begin `batch` episodes; returns their first observations."""
        self.volume = 0
        self.cuts: IntArray = np.zeros((batch, self.volumes, self.simulator.providers + 1), dtype=np.int64)
        self._states = np.zeros((batch, 4, self.simulator.providers + 1))
        return self.formulation.observe(self._situation())

    def step(self, actions: FloatArray) -> tuple[Float32Array, FloatArray, FloatArray | None]:
        """Split the next volume; returns observations, rewards and, after the last volume, the latencies in ms."""
        before = self._situation()
        v = self.volume
        self.cuts[:, v] = self.formulation.cuts(v, actions)
        kernel.step(self.simulator.problem, v, self.cuts, self._states)
        self.volume += 1
        after = self._situation()
        latency: FloatArray | None = None
        if self.volume == self.volumes:
            latency = np.empty(len(actions))
            kernel.evaluate(self.simulator.problem, self.cuts, latency)
        return self.formulation.observe(after), self.formulation.reward(before, after, latency), latency

    def _situation(self) -> Situation:
        previous = self.cuts[:, self.volume - 1] if self.volume > 0 else np.zeros_like(self.cuts[:, 0])
        return Situation(self.volume, self._states[:, 0, :-1].copy(), previous)
