"""The split MDP, compiled: a step of a whole batch of episodes is one call (actions, cuts, transition, what is seen).

The transition is the simulator's own (`kernel.advance`). What the formulas mean stands in `encode.py`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from distredge.simulate.kernel import FloatArray, IntArray, advance, finish, largest_share, latency, make_scratch

REACH = 1.2
"""How far an action of 1 moves a share from its prior."""

REWARD_SCALE = 5.0
REWARD_OFFSET = 0.1
"""The reward is -5 times the growth of log(slowest / scale + 0.1): it telescopes, and no one bad step dominates."""


class Positions(NamedTuple):
    """Constants of the paper's formulation.

    heights    (volumes,) rows of each volume's last layer
    scale_ms   latency of the fastest single provider
    config     (volumes, 4) height, depth, filter and stride of each volume's last layer over the model's largest
    """

    heights: IntArray
    scale_ms: float
    config: FloatArray


class Shares(NamedTuple):
    """Constants of the default formulation.

    heights, scale_ms   as in `Positions`
    prior               (providers,) each one's share when its action is 0, before what is below 0 is cut off
    """

    heights: IntArray
    scale_ms: float
    prior: FloatArray


@njit(cache=True, inline="always")
def slowest(state):  # type: ignore[no-untyped-def]
    """When the last provider was done, from a state of the kernel (4, P + 1)."""
    done = 0.0
    for i in range(state.shape[1] - 1):
        done = max(done, state[0, i])
    return done


@njit(cache=True)
def frame_ms(problem, cuts, state, scratch):  # type: ignore[no-untyped-def]
    """Latency of a frame whose `state` is that after the last volume; `state` is overwritten.

    What leaves for the head on the way was left out of the state: it has to be gone through anew.
    """
    if problem.exit_at[cuts.shape[0] - 1] > 0:
        return latency(problem, cuts, state, scratch)
    return finish(problem, cuts, largest_share(cuts[-1]), state, scratch)


@njit(cache=True)
def positions_to_cuts(constants, v, action, cuts):  # type: ignore[no-untyped-def]
    """Write the cuts (P + 1,) of volume `v` for an action (P - 1,): Eq. 9 with [A, B] = [-1, 1]."""
    height = constants.heights[v]
    cuts[0], cuts[-1] = 0, height
    for i in range(len(action)):
        cuts[i + 1] = min(max(int(np.rint((action[i] + 1.0) / 2.0 * height)), 0), height)
    cuts[1:-1].sort()


@njit(cache=True)
def shares_to_cuts(constants, v, action, cuts):  # type: ignore[no-untyped-def]
    """Write the cuts (P + 1,) of volume `v` for an action (P,); if no share is left, those of the prior."""
    height, prior, reach, total = constants.heights[v], constants.prior, REACH, 0.0
    for i in range(len(prior)):
        total += max(0.0, prior[i] + reach * action[i])
    if total <= 1e-9:
        reach, total = 0.0, 0.0
        for i in range(len(prior)):
            total += max(0.0, prior[i])
    edge = 0.0
    cuts[0], cuts[-1] = 0, height
    for i in range(len(prior) - 1):
        edge += max(0.0, prior[i] + reach * action[i])
        cuts[i + 1] = int(np.rint(edge / total * height))


@njit(cache=True)
def see_positions(constants, v, previous, state, seen):  # type: ignore[no-untyped-def]
    """Write what is seen before volume `v` (Eq. 7), (P + 4,); after the last volume, its configuration once more."""
    providers = state.shape[1] - 1
    for i in range(providers):
        seen[i] = state[0, i] / constants.scale_ms
    for k in range(4):
        seen[providers + k] = constants.config[min(v, len(constants.heights) - 1), k]


@njit(cache=True)
def see_shares(constants, v, previous, state, seen):  # type: ignore[no-untyped-def]
    """Write what is seen before volume `v`, (2 P + V,); `previous` (P + 1,) are the cuts of the volume before."""
    providers, reached = state.shape[1] - 1, slowest(state)
    for i in range(providers):
        seen[i] = (reached - state[0, i]) / constants.scale_ms
    seen[providers] = reached / constants.scale_ms
    for i in range(1, providers):
        seen[providers + i] = previous[i] / max(previous[providers], 1)
    for w in range(len(constants.heights)):
        seen[2 * providers + w] = 1.0 if w == v else 0.0


@njit(cache=True, nogil=True)
def step_positions(problem, constants, v, actions, cuts, states, seen, rewards, latency_ms):  # type: ignore[no-untyped-def]
    """A step of the paper's formulation: see `Formulation.step`."""
    scratch = make_scratch(cuts.shape[2] - 1)
    for n in range(len(actions)):
        positions_to_cuts(constants, v, actions[n], cuts[n, v])
        advance(problem, v, cuts[n], -1, states[n], scratch)
        see_positions(constants, v + 1, cuts[n, v], states[n], seen[n])
        rewards[n] = 0.0
        if v == cuts.shape[1] - 1:
            latency_ms[n] = frame_ms(problem, cuts[n], states[n], scratch)
            rewards[n] = 1000.0 / latency_ms[n]


@njit(cache=True, nogil=True)
def step_shares(problem, constants, v, actions, cuts, states, seen, rewards, latency_ms):  # type: ignore[no-untyped-def]
    """A step of the default formulation: see `Formulation.step`."""
    scratch = make_scratch(cuts.shape[2] - 1)
    scale = constants.scale_ms
    for n in range(len(actions)):
        before = slowest(states[n])
        shares_to_cuts(constants, v, actions[n], cuts[n, v])
        advance(problem, v, cuts[n], -1, states[n], scratch)
        see_shares(constants, v + 1, cuts[n, v], states[n], seen[n])
        after = slowest(states[n])
        if v == cuts.shape[1] - 1:
            latency_ms[n] = after = frame_ms(problem, cuts[n], states[n], scratch)
        rewards[n] = -REWARD_SCALE * np.log((after / scale + REWARD_OFFSET) / (before / scale + REWARD_OFFSET))
