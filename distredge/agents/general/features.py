"""What the general agent sees: a token for each volume and provider, in units of the fastest provider alone.

Part of a token says what the provider and its link are to the volume; the rest, what a plan makes of it: rows, times
and waits of the simulated frame. numpy and the compiled simulator only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numba import njit

from distredge.simulate import kernel
from distredge.simulate.kernel import FloatArray, IntArray, Problem
from distredge.simulate.simulator import Simulator

Float32Array = npt.NDArray[np.float32]

VERSION = 1
"""Of the features; a policy is only good for those that it was trained on."""

STATIC = 21
DYNAMIC = 18
WIDTH = STATIC + DYNAMIC
"""Features of a token."""

SHARES = (0.5, 0.25, 0.125, 0.0625)
"""Of a volume's rows, taken from its middle: for these a provider's time is shown."""

REACH = 1.2
"""How far an answer of 1 moves a share, of up to four providers; with more, less far."""

LEAST = 0.25
"""Of an equal share: what a provider that takes part gets at least, before rounding to rows."""

_LEAST = 1e-3
"""Added before logarithms."""


@dataclass(frozen=True, eq=False)
class Setting:
    """A simulator as the agent sees it, whatever the plan.

    `scale_ms`: latency of the fastest provider alone. `static`: (volumes, providers, STATIC).
    """

    simulator: Simulator
    scale_ms: float
    static: Float32Array


def setting_of(simulator: Simulator) -> Setting:
    """The setting of a simulator; bars are not seen."""
    alone_ms = simulator.evaluate(simulator.single_device_cuts())
    scale_ms = max(float(alone_ms.min()), 1e-9)
    return Setting(simulator, scale_ms, _static(simulator.problem, alone_ms, scale_ms))


def _static(problem: Problem, alone_ms: FloatArray, scale_ms: float) -> Float32Array:
    volumes, providers = problem.compute_at.shape
    heights = problem.heights
    whole_ms = _compute_ms(problem, np.zeros((volumes, 1), np.int64), heights[:, None])
    in_bytes = _entering_bytes(problem, np.zeros(volumes, np.int64), heights)
    columns, halos = [np.log(whole_ms / scale_ms + _LEAST)], []
    for share in SHARES:
        rows = np.maximum(1, np.rint(share * heights).astype(np.int64))
        first = (heights - rows) // 2
        part = (rows / heights)[:, None]
        part_ms = _compute_ms(problem, first[:, None], (first + rows)[:, None])
        columns.append(np.log((part_ms / part + _LEAST * scale_ms) / (whole_ms + _LEAST * scale_ms)))
        halos.append(np.log(_entering_bytes(problem, first, first + rows) / in_bytes)[:, None] - np.log(part))
    times = problem.node_ms[:, :-1] / scale_ms
    columns.append(np.log(in_bytes[:, None] * times[kernel.DOWN_BYTE] + _LEAST))
    columns.append(np.log(_leaving_bytes(problem)[:, None] * times[kernel.UP_BYTE] + _LEAST))
    columns += [np.log(alone_ms / scale_ms), np.log(problem.head_ms * problem.slowdown / scale_ms + _LEAST)]
    columns.append(np.log(times[kernel.WRITE] + times[kernel.READ] + _LEAST))
    columns += [halos[1], halos[3], np.log(heights)[:, None] / 2.0]
    columns += _place(providers, axis=1) + _place(volumes, axis=0)
    columns += [np.full((1, 1), np.log(count)) for count in (volumes, providers)]
    grid = np.empty((volumes, providers, STATIC), dtype=np.float32)
    for k, column in enumerate(columns):
        grid[..., k] = column
    return grid


def _place(count: int, axis: int) -> list[FloatArray]:
    """Where each of `count` stands, from -1 to 1, and whether it is the first, the last."""
    at = np.arange(count)
    shape = (count, 1) if axis == 0 else (1, count)
    place = (2.0 * at + 1.0) / count - 1.0
    return [c.reshape(shape).astype(np.float64) for c in (place, at == 0, at == count - 1)]


def _compute_ms(problem: Problem, first: IntArray, stop: IntArray) -> FloatArray:
    """(..., volumes, providers): what the rows [first, stop) take; these (..., volumes, providers or 1)."""
    heights = problem.heights[:, None]
    found: FloatArray = problem.compute_ms[problem.compute_at + first * (heights + 1) + stop] * problem.slowdown
    return found


def _entering_bytes(problem: Problem, first: IntArray, stop: IntArray) -> FloatArray:
    """(volumes,) bytes that a part of rows [first, stop) needs."""
    volumes = len(problem.heights)
    of = np.repeat(np.arange(volumes), np.diff(problem.enter_at))
    at = np.arange(len(of))
    rows = problem.need_stop[at, stop[of]] - problem.need_start[at, first[of]]
    found = np.zeros(volumes)
    np.add.at(found, of, np.maximum(rows, 1) * problem.enter_bytes)
    return found


def _leaving_bytes(problem: Problem) -> FloatArray:
    """(volumes,) bytes by which a volume is left, each tensor once for every volume that it enters."""
    volumes = len(problem.heights)
    of = np.repeat(np.arange(volumes), np.diff(problem.enter_at))
    at = np.arange(len(of))
    rows = problem.need_stop[at, problem.heights[of]] - problem.need_start[at, 0]
    inner = problem.enter_from >= 0
    found = np.zeros(volumes)
    np.add.at(found, problem.enter_from[inner], (rows * problem.enter_bytes)[inner])
    left = np.repeat(np.arange(volumes), np.diff(problem.exit_at))
    rows = problem.exit_cuts[np.arange(len(left)), problem.heights[left]]
    np.add.at(found, left, rows * problem.exit_bytes)
    return found


def observe(setting: Setting, cuts: IntArray) -> tuple[Float32Array, FloatArray]:
    """Tokens (batch, volumes, providers, WIDTH) under `cuts` (batch, volumes, providers + 1), and latencies in ms."""
    problem = setting.simulator.problem
    batch, volumes, edges = cuts.shape
    states, latency_ms = np.empty((batch, volumes, 4, edges)), np.empty(batch)
    _replay(problem, cuts, states, latency_ms)
    tokens = np.empty((batch, volumes, edges - 1, WIDTH), dtype=np.float32)
    tokens[..., :STATIC] = setting.static
    for k, column in enumerate(_dynamic(problem, cuts, states, latency_ms, setting.scale_ms)):
        tokens[..., STATIC + k] = column
    return tokens, latency_ms


def _dynamic(
    problem: Problem, cuts: IntArray, states: FloatArray, latency_ms: FloatArray, scale_ms: float
) -> list[FloatArray]:
    """DYNAMIC columns, each broadcast to (batch, volumes, providers); times as shares of the plan's latency."""
    first, stop = cuts[..., :-1], cuts[..., 1:]
    heights = problem.heights[:, None]
    rows, total = stop - first, latency_ms[:, None, None]
    is_open = rows > 0
    share = rows / heights
    spent = np.where(is_open, _compute_ms(problem, first, stop), 0.0)
    done, up, down = (states[:, :, k, :-1] for k in range(3))
    before = np.concatenate([np.zeros_like(done[:, :1]), done[:, :-1]], axis=1)
    slowest = done.max(axis=2, keepdims=True)
    earlier = np.concatenate([np.zeros_like(slowest[:, :1]), slowest[:, :-1]], axis=1)
    providers = share.shape[2]
    head = np.arange(providers) == np.argmax(rows[:, -1], axis=1)[:, None, None]
    return [
        is_open,
        share,
        np.log(share * providers + 0.1),
        np.log(rows + 1.0),
        first / heights,
        stop / heights,
        np.log(spent / total + _LEAST) / 2.0,
        spent / total,
        (slowest - done) / total,
        done / total,
        np.where(is_open, done - before - spent, 0.0) / total,
        (done - slowest[:, -1:]) / total,
        np.maximum(up - done, -total) / total,
        np.maximum(down - done, -total) / total,
        slowest / total,
        (slowest - earlier) / total,
        np.log(total / scale_ms),
        head,
    ]


@njit(cache=True, nogil=True)
def _replay(problem, cuts, states, latency_ms):  # type: ignore[no-untyped-def]
    """The kernel's state after each volume, (batch, V, 4, P + 1), and the latency of `cuts` (batch, V, P + 1)."""
    providers = cuts.shape[2] - 1
    state, scratch = kernel.make_state(providers), kernel.make_scratch(providers)
    for n in range(cuts.shape[0]):
        state[:] = 0.0
        head = kernel.largest_share(cuts[n, cuts.shape[1] - 1])
        for v in range(cuts.shape[1]):
            kernel.advance(problem, v, cuts[n], head, state, scratch)
            states[n, v] = state
        latency_ms[n] = kernel.finish(problem, cuts[n], head, state, scratch)


def reach(providers: int) -> float:
    """How far an answer of 1 moves a share, of so many providers."""
    return REACH * min(1.0, 4.0 / providers)


def shares_of(cuts: IntArray) -> FloatArray:
    """(..., volumes, providers): the parts of a volume's rows that cuts (..., volumes, providers + 1) give."""
    shares: FloatArray = np.diff(cuts, axis=-1) / cuts[..., -1:]
    return shares


def moved(cuts: IntArray, answers: FloatArray, odds: float) -> IntArray:
    """The cuts (batch, volumes, providers + 1) to which the network's answers (batch, volumes, providers, 2) move some.

    The first answer is the log odds that a provider should take part: it does if they are above those of `odds`. The
    second moves its share. Where nobody would, the likeliest does.
    """
    chance, shares = answers[..., 0], shares_of(cuts)
    providers = shares.shape[-1]
    wanted = np.maximum(shares + reach(providers) * answers[..., 1], LEAST / providers)
    wanted *= (chance > np.log(odds / (1.0 - odds))) | (chance == chance.max(axis=-1, keepdims=True))
    edges = np.cumsum(wanted / wanted.sum(axis=-1, keepdims=True), axis=-1)
    found = np.zeros_like(cuts)
    found[..., 1:] = np.rint(edges * cuts[..., -1:])
    return found
