"""What the critic learns from: conditions, every plan's latency under them, and the simulator's slopes there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from distredge.agents.moving.library import Simulators, cast_conditions, expected_log_latency, sample_conditions
from distredge.agents.moving.policy import UNIT_MBPS, Float32Array, Roles, WholePlan, features
from distredge.agents.moving.settings import MovingSettings
from distredge.simulate.conditions import Conditions
from distredge.simulate.kernel import FloatArray

RISE = 0.02
"""By which a feature is raised to see how steeply the latency rises, as a share of it."""

RISE_MS = 0.05
"""The same for an I/O delay, which may be 0."""

OUT_OF_ORDER = 0.5
"""Standard deviation of the logarithm by which link rates differ from those that a cast was chosen for."""


@dataclass(frozen=True, eq=False)
class Sample:
    """n conditions as told, in the order of the roles, and logarithms of the plans' latencies in ms, (n, plans).

    `log_told` is of the latency if the world is as told, `log_expected` of what is to be expected (`Noise`).
    """

    told: Conditions
    log_told: FloatArray
    log_expected: FloatArray

    @property
    def features(self) -> Float32Array:
        """(n, 3 P + 1): z of the told conditions."""
        return features(self.told.mbps, self.told.slowdown, self.told.io_ms)

    def relevance(self, share: float) -> Float32Array:
        """(n, plans): how much a plan matters under a condition; 1/e if it is slower than the best by `share`."""
        behind = self.log_told - self.log_told.min(axis=1, keepdims=True)
        weights: Float32Array = np.exp(-behind / share).astype(np.float32)
        return weights


def draw_sample(
    simulators: Simulators, roles: Roles, plans: list[WholePlan], settings: MovingSettings, rng: np.random.Generator
) -> Sample:
    """What the simulator says of plans under sampled conditions, as `CriticSettings` wants it.

    Where the cast was chosen for other conditions nearby, the critic learns what a plan takes when the world is not
    what its cast was chosen for.
    """
    count = settings.critic.conditions
    told = sample_conditions(settings.ranges, len(roles.kinds), count, rng)
    off = OUT_OF_ORDER * rng.standard_normal(told.mbps.shape) * (rng.random((count, 1)) < settings.critic.unsorted)
    told = cast_conditions(roles, told, Conditions(told.mbps * np.exp(off), told.slowdown, told.io_ms))
    log_told = np.log(simulators.evaluate(told, plans))
    if not settings.noise.any:
        return Sample(told, log_told, log_told)
    return Sample(told, log_told, expected_log_latency(simulators, told, plans, settings.noise, rng))


def slopes(simulators: Simulators, plans: list[WholePlan], at: Conditions, latency_ms: FloatArray) -> Float32Array:
    """(n, plans, 3 P + 1), not negative: linear forms that touch the plans' latencies (n, plans) at n conditions."""
    count = at.mbps.shape[1]
    found = np.empty((*latency_ms.shape, 3 * count + 1), dtype=np.float32)
    for i in range(count):
        for kind, (moved, by) in enumerate(_raised(at, i)):
            risen = (simulators.evaluate(moved, plans) - latency_ms) / by[:, None]
            found[:, :, kind * count + i] = np.maximum(risen, 0.0)
    z = features(at.mbps, at.slowdown, at.io_ms)
    found[:, :, -1] = np.maximum(latency_ms - np.einsum("npf,nf->np", found[:, :, :-1], z[:, :-1]), 0.0)
    return found


def first_pieces(
    found: Float32Array, z: Float32Array, log_latency: FloatArray, relevance: Float32Array, pieces: int
) -> Float32Array:
    """(plans, pieces, F): of each plan's forms `found` (n, plans, F), those whose maximum fits it best on a sample.

    Greedy: each next one lowers the error most. The sample: features (m, F), logarithms and relevance (m, plans).
    """
    chosen = np.empty((found.shape[1], pieces, found.shape[2]), dtype=np.float32)
    wanted = log_latency.astype(np.float32)
    for plan in range(len(chosen)):
        values = np.log(np.maximum(found[:, plan] @ z.T, 1e-6))
        reached = np.full(len(z), -10.0, dtype=np.float32)
        for j in range(pieces):
            errors = np.abs(np.maximum(reached, values) - wanted[:, plan]) @ relevance[:, plan]
            at = int(np.argmin(errors))
            reached = np.maximum(reached, values[at])
            chosen[plan, j] = found[at, plan]
    return chosen


def _raised(at: Conditions, i: int) -> list[tuple[Conditions, FloatArray]]:
    """Conditions with one feature of provider `i` raised, and by how much: its link's, its slowdown, its delay."""
    mbps, slowdown, io_ms = (a.copy() for a in (at.mbps, at.slowdown, at.io_ms))
    mbps[:, i] /= 1.0 + RISE
    slowdown[:, i] *= 1.0 + RISE
    io_ms[:, i] += RISE_MS
    return [
        (Conditions(mbps, at.slowdown, at.io_ms), RISE * UNIT_MBPS / at.mbps[:, i]),
        (Conditions(at.mbps, slowdown, at.io_ms), RISE * at.slowdown[:, i]),
        (Conditions(at.mbps, at.slowdown, io_ms), np.full(len(at), RISE_MS)),
    ]
