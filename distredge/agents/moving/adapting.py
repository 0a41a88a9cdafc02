"""Adapts the agent to a world that is not what it is told (numpy alone).

From the latencies of whole images (`Adapter`): the networks stay as they are; learnt is by how much each provider's
link, slowness and I/O delay differ from what is told, as shifts of the critic's inputs. The critic is a maximum of
linear forms, so its slope by a shift is one product, and the most probable shifts over all images seen are found by a
few Gauss-Newton steps. Shifts and errors have heavy tails (Student's t): few devices are off, and some images are
held up by other things. While shifts are uncertain it pays to try plans that may be better than they seem
(`curiosity`).

From what each provider and link took (`refitted`): the medians of what was measured over what was told.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from distredge.agents.moving.policy import Decision, Float32Array, FloatArray, IntArray, MovingAgent, features

Number = TypeVar("Number", bound=np.generic)

STEPS = 8
"""Gauss-Newton steps after an image, at most."""

HALVINGS = 4
"""Times that a step which makes it worse is halved, before all is left as it is."""

ENOUGH = 1e-3
"""A step that gains less, in units of the log-probability, is the last."""

TAIL = 4.0
"""Degrees of freedom of Student's t."""

MEMORY = 200
"""Images that are remembered, the newest."""


@dataclass(frozen=True)
class Beliefs:
    """How large shifts, and errors of the logarithm of the latency, are thought to be (the scale of Student's t)."""

    log_mbps: float = 0.2
    log_slowdown: float = 0.3
    io_ms: float = 0.5
    error: float = 0.01


class Images(NamedTuple):
    """n images: what was told (n, 3, P) and who played the roles (n, P), the critic's forms (n, pieces, 3 P + 1) of the
    plans that they ran, the logarithms of their latencies (n,); `told` in the order of the roles.
    """

    told: FloatArray
    cast: IntArray
    forms: Float32Array
    log_latency: FloatArray


class Adapter:
    """An agent with what it has learnt of the world that it is in.

    `shifts` (3, P), by provider: to add to the logarithms of link rate and slowdown, and to the I/O delay in ms.
    """

    def __init__(self, agent: MovingAgent, beliefs: Beliefs | None = None) -> None:
        self.agent = agent
        self.beliefs = beliefs or Beliefs()
        count = len(agent.header.providers)
        self.shifts: FloatArray = np.zeros((3, count))
        self._sizes = np.repeat([self.beliefs.log_mbps, self.beliefs.log_slowdown, self.beliefs.io_ms], count)
        self._covariance = np.diag(np.square(self._sizes))
        empty = (np.empty((0, 3, count)), np.empty((0, count), np.int64), agent.networks.critic[:0], np.empty(0))
        self._images = Images(*empty)

    def decide(self, mbps: FloatArray, slowdown: FloatArray, io_ms: FloatArray, curiosity: float = 0.0) -> Decision:
        """The plan for conditions as told, each (P,): as the agent decides under what is believed instead.

        With curiosity it is, of the whole library, the plan with the least latency less so many standard deviations.
        """
        believed = shifted(np.stack([mbps, slowdown, io_ms]), self.shifts)
        if curiosity == 0.0:
            return self.agent.decide(believed[0], believed[1], believed[2])
        cast, forms = self.agent.roles.cast(*believed), self.agent.networks.critic
        answers, slopes = _answers(believed[None, :, cast], cast[None], forms)
        unsure = np.sqrt(np.einsum("nf,fg,ng->n", slopes, self._covariance, slopes))
        best = int(np.argmin(np.log(answers) - curiosity * unsure))
        return Decision(best, cast, float(answers[best]))

    def learn(
        self, mbps: FloatArray, slowdown: FloatArray, io_ms: FloatArray, decision: Decision, latency_ms: float
    ) -> None:
        """Take in the latency of an image that ran the plan of a decision, under conditions as told, each (P,)."""
        told = np.stack([mbps, slowdown, io_ms])[:, decision.cast]
        seen, forms = self._images, self.agent.networks.critic[decision.plan]
        self._images = Images(
            _remembered(seen.told, told),
            _remembered(seen.cast, decision.cast),
            _remembered(seen.forms, forms),
            _remembered(seen.log_latency, np.log(latency_ms)),
        )
        theta = self.shifts.ravel()
        for _ in range(STEPS):
            gap, slopes = self._gaps(theta)
            trust, hold = _weights(gap, self.beliefs.error), _weights(theta, self._sizes)
            precision = (slopes.T * trust) @ slopes + np.diag(hold)
            self._covariance = np.linalg.inv(precision)
            step = self._covariance @ (slopes.T @ (trust * gap) - hold * theta)
            tried = [theta + step * 0.5**n for n in range(HALVINGS + 1)]
            before = self._surprise(theta, gap)
            better = next((t for t in tried if self._surprise(t, self._gaps(t)[0]) < before - ENOUGH), None)
            if better is None:
                break
            theta = better
        self.shifts = theta.reshape(3, -1)

    def _gaps(self, theta: FloatArray) -> tuple[FloatArray, FloatArray]:
        """What the logarithms of the latencies are beyond those expected with shifts `theta`, and these' slopes."""
        told, cast, forms, log_latency = self._images
        shifts = theta.reshape(3, -1)[:, cast].transpose(1, 0, 2)
        answers, slopes = _answers(shifted(told, shifts), cast, forms)
        return log_latency - np.log(answers), slopes

    def _surprise(self, theta: FloatArray, gap: FloatArray) -> float:
        """Minus the log-probability of shifts and errors, but for a constant."""
        ratios = np.concatenate([theta / self._sizes, gap / self.beliefs.error])
        return float(0.5 * (TAIL + 1.0) * np.sum(np.log1p(np.square(ratios) / TAIL)))


def shifted(told: FloatArray, shifts: FloatArray) -> FloatArray:
    """Conditions (..., 3, P) with shifts (..., 3, P) on them; a delay stays at least 0."""
    factors = np.exp(shifts[..., :2, :])
    delays = np.maximum(told[..., 2:, :] + shifts[..., 2:, :], 0.0)
    moved: FloatArray = np.concatenate([told[..., :2, :] * factors, delays], axis=-2)
    return moved


def refitted(told: FloatArray, measured: FloatArray) -> FloatArray:
    """Shifts (3, P) that robustly explain what was measured: medians over n images, 0 where nothing was.

    `told` and `measured` (n, 3, P): link rate, slowdown and I/O delay of each provider; NaN where an image had none.
    """
    with np.errstate(invalid="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a provider that nothing is known of
        ratios = np.nanmedian(np.log(measured[:, :2] / told[:, :2]), axis=0)
        delays = np.nanmedian(measured[:, 2:] - told[:, 2:], axis=0)
    shifts: FloatArray = np.nan_to_num(np.concatenate([ratios, delays]))
    return shifts


def _answers(believed: FloatArray, cast: IntArray, forms: Float32Array) -> tuple[FloatArray, FloatArray]:
    """Latencies (n,) in ms by forms (n, pieces, F), and slopes (n, 3 P) of their logarithms by the providers' shifts.

    `believed` (n or 1, 3, P) and `cast` (n or 1, P), in the order of the roles.
    """
    z = features(believed[:, 0], believed[:, 1], believed[:, 2])
    values = np.einsum("njf,nf->nj", forms, z) if len(z) > 1 else forms @ z[0]
    rows, count = np.arange(len(forms)), cast.shape[1]
    largest = forms[rows, np.argmax(values, axis=1)]
    answers = np.maximum(values.max(axis=1), 1e-6).astype(np.float64)
    by_kind = np.stack([-z[:, :count], z[:, count : 2 * count], np.ones_like(z[:, :count])], axis=1)
    slopes = largest[:, :-1].reshape(-1, 3, count) * by_kind / answers[:, None, None]
    found = np.empty_like(slopes)
    np.put_along_axis(found, np.broadcast_to(cast[:, None], slopes.shape), slopes, axis=2)
    return answers, found.reshape(len(forms), -1)


def _remembered(old: npt.NDArray[Number], new: npt.NDArray[Number] | float) -> npt.NDArray[Number]:
    """An array of images with one more; the oldest is forgotten when there are too many."""
    return np.concatenate([old[1 - MEMORY :], np.asarray(new, dtype=old.dtype)[None]])


def _weights(error: FloatArray, size: FloatArray | float) -> FloatArray:
    """What makes least squares of errors so weighted the most probable under Student's t."""
    weights: FloatArray = (TAIL + 1.0) / (TAIL * np.square(size) + np.square(error))
    return weights
