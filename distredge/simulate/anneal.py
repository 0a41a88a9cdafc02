"""Simulated annealing over split decisions on the compiled simulator: the search that agents are compared with.

The moves are those that matter for contiguous parts: shift one cut, shift it alike over a run of volumes, copy a
neighbouring volume's proportions, snap a cut to its neighbour (which closes a provider there), shift a block of
cuts, close a provider over a run of volumes. A move re-simulates only from the first volume that it touches.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from distredge.simulate import aim as aims
from distredge.simulate import goals, kernel
from distredge.simulate.kernel import IntArray
from distredge.simulate.simulator import Simulator

START_TEMPERATURE = 0.03
"""Of the starting latency; it falls with (1 - t)^3."""

PENALTY = 10.0
"""Of a limit that is broken by its own size, at first; it rises to `goals.PENALTY` as it gets colder: one may pass
through plans that break it, but not stay."""


def anneal(
    simulator: Simulator, start: IntArray, steps: int, rng: np.random.Generator, warmth: float = START_TEMPERATURE
) -> tuple[IntArray, float]:
    """The best cuts (volumes, providers + 1) found in `steps` evaluations from `start`, and their score.

    The score is the latency in ms, if the simulator has no aim. `warmth` is the starting temperature as a share of what
    the start is worth.
    """
    cuts = simulator.permitted(simulator.check(start[None])[0]).copy()
    try:
        best, cost = _anneal(simulator.problem, simulator.aim, cuts, steps, warmth, rng)
    except SystemError as exc:  # how Ctrl-C comes out of compiled code
        if isinstance(exc.__cause__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        raise
    return best, float(cost)


@njit(cache=True)
def _resume(problem, cuts, v0, head, saved, state, scratch):  # type: ignore[no-untyped-def]
    """Latency of `cuts`, continuing from `saved[v0]`; fills `saved` after it."""
    volumes = cuts.shape[0]
    state[:] = saved[v0]
    for v in range(v0, volumes):
        kernel.advance(problem, v, cuts, head, state, scratch)
        saved[v + 1] = state
    return kernel.finish(problem, cuts, head, state, scratch)


@njit(cache=True)
def _clip(cuts, lo, hi):  # type: ignore[no-untyped-def]
    """Make the cuts of volumes lo..hi ordered again after a move, from the left."""
    for v in range(lo, hi + 1):
        top = cuts[v, cuts.shape[1] - 1]
        for i in range(1, cuts.shape[1] - 1):
            cuts[v, i] = min(max(cuts[v, i], cuts[v, i - 1]), top)


@njit(cache=True)
def _reach(rng, height, heat):  # type: ignore[no-untyped-def]
    """A signed step in rows, far while hot, one row when cold."""
    far = max(1.0, heat * 0.25 * height)
    size = 1 + int(rng.random() * rng.random() * far)
    return size if rng.random() < 0.5 else -size


@njit(cache=True)
def _propose(heights, cuts, heat, rng):  # type: ignore[no-untyped-def]
    """Change `cuts` in place by one random move; returns the first and last volume touched."""
    volumes, providers = cuts.shape[0], cuts.shape[1] - 1
    v = int(rng.random() * volumes)
    i = 1 + int(rng.random() * (providers - 1))
    kind = rng.random()
    lo = hi = v
    if kind < 0.35:
        cuts[v, i] += _reach(rng, heights[v], heat)
        if cuts[v, i] < 0:
            cuts[v, i] = 0
        for k in range(i - 1, 0, -1):  # push the cuts before it along
            cuts[v, k] = min(cuts[v, k], cuts[v, i])
    elif kind < 0.55:
        hi = min(volumes - 1, v + int(rng.random() * (volumes - v)))
        share = _reach(rng, heights[v], heat) / heights[v]
        for w in range(lo, hi + 1):
            cuts[w, i] = max(0, cuts[w, i] + int(round(share * heights[w])))
            for k in range(i - 1, 0, -1):
                cuts[w, k] = min(cuts[w, k], cuts[w, i])
    elif kind < 0.65:
        w = v - 1 if v > 0 and (v == volumes - 1 or rng.random() < 0.5) else min(v + 1, volumes - 1)
        for k in range(1, providers):
            cuts[v, k] = int(round(cuts[w, k] * heights[v] / heights[w]))
    elif kind < 0.75:
        cuts[v, i] = cuts[v, i - 1] if rng.random() < 0.5 else cuts[v, i + 1]
    elif kind < 0.9:
        j = i + int(rng.random() * (providers - i))
        delta = _reach(rng, heights[v], heat)
        for k in range(i, j + 1):
            cuts[v, k] = max(0, cuts[v, k] + delta)
        for k in range(i - 1, 0, -1):
            cuts[v, k] = min(cuts[v, k], cuts[v, i])
    else:
        hi = min(volumes - 1, v + int(rng.random() * (volumes - v)))
        closed = int(rng.random() * providers)
        side = rng.random()
        for w in range(lo, hi + 1):
            if closed == 0:
                to = 0
            elif closed == providers - 1:
                to = heights[w]
            else:
                to = cuts[w, closed] + int(round(side * (cuts[w, closed + 1] - cuts[w, closed])))
            if closed > 0:
                cuts[w, closed] = to
            if closed < providers - 1:
                cuts[w, closed + 1] = to
    _clip(cuts, lo, hi)
    return lo, hi


@njit(cache=True)
def _judge(problem, aim, cuts, since, head, latency_ms, sizes, spent):  # type: ignore[no-untyped-def]
    """`aims.judge` of `cuts`, which differ from those that `spent` is of from volume `since` on."""
    for v in range(since, cuts.shape[0]):
        aims.spend(problem, aim, v, cuts, head, sizes, spent[v])
    return aims.judge(problem, aim, cuts, head, latency_ms, spent)


@njit(cache=True, nogil=True)
def _anneal(problem, aim, cuts, steps, warmth, rng):  # type: ignore[no-untyped-def]
    volumes, providers = cuts.shape[0], cuts.shape[1] - 1
    saved = np.zeros((volumes + 1, 4, providers + 1))
    trial_saved = np.zeros_like(saved)
    state = kernel.make_state(providers)
    head = kernel.largest_share(cuts[volumes - 1])
    early = problem.exit_at[volumes - 1] > 0  # something leaves for the head before the last volume
    scratch = kernel.make_scratch(providers)
    trial = cuts.copy()
    now = _resume(problem, cuts, 0, head, saved, state, scratch)
    trial_saved[:] = saved
    best, best_cost = cuts.copy(), now
    start = now
    spent, sizes = np.zeros((volumes, 3)), np.zeros(providers)
    trial_spent = spent.copy()
    now_excess, coldest = 0.0, 1e-12
    if aim is not None:
        now, now_excess = _judge(problem, aim, cuts, 0, head, now, sizes, spent)
        trial_spent[:] = spent
        start, best_cost, coldest = now, aims.total(aim, now, now_excess), 1e-12 * aim.scale
    if providers == 1:
        return best, best_cost
    for n in range(steps):
        heat = (1.0 - n / steps) ** 3
        lo, hi = _propose(problem.heights, trial, heat, rng)
        changed = False
        for v in range(lo, hi + 1):
            for k in range(1, providers):
                if trial[v, k] != cuts[v, k]:
                    changed = True
        if not changed:
            continue
        trial_head = kernel.largest_share(trial[volumes - 1])
        since = 0 if early and trial_head != head else lo
        cost = _resume(problem, trial, since, trial_head, trial_saved, state, scratch)
        excess, gap = 0.0, cost - now
        if aim is not None:
            cost, excess = _judge(problem, aim, trial, since, trial_head, cost, sizes, trial_spent)
            gap = cost - now + aim.scale * (excess - now_excess) * PENALTY / (heat + PENALTY / goals.PENALTY)
        if gap <= 0.0 or rng.random() < np.exp(-gap / max(warmth * start * heat, coldest)):
            now, head = cost, trial_head
            cuts[lo : hi + 1] = trial[lo : hi + 1]
            saved[since:] = trial_saved[since:]
            if aim is not None:
                now_excess = excess
                spent[since:] = trial_spent[since:]
                cost = aims.total(aim, cost, excess)
            if cost < best_cost:
                best_cost = cost
                best[:] = cuts
        else:
            trial[lo : hi + 1] = cuts[lo : hi + 1]
            trial_saved[since:] = saved[since:]
            if aim is not None:
                trial_spent[since:] = spent[since:]
    return best, best_cost
