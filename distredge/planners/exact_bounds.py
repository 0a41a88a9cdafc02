"""The compiled part of `exact` that finds bounds: the time that is left at least.

Cuts are numbered: `table[n]` are the edges (providers + 1) of number `n`; the numbers of one location stand together.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from distredge.simulate import kernel
from distredge.simulate.kernel import FloatArray, IntArray

LONG_AGO = -1e11
"""When everything was ready, in ms, that a bound on the time left does without."""

SAME_MS = 1e-9
"""Latencies that differ by less are the same."""


class Nodes(NamedTuple):
    """The nodes of a group: all combinations of cuts of its volumes, numbered with the last volume's fastest.

    bases, counts   (volumes,) the first number of each volume's cuts, and how many there are
    strides         (volumes,) node = sum of (number - base) * stride
    """

    bases: IntArray
    counts: IntArray
    strides: IntArray


class Left(NamedTuple):
    """Bounds on the time left, by node.

    A vector says how long it takes at least, in one way to go on, from when each provider's part is done to the end.
    Some way is taken: the least over the vectors is a bound.

    vectors   (nodes, K, P) in ms
    counts    (nodes,) vectors used; none: no better strategy passes here
    since     (nodes, 4, P + 1) a state that none of this node is before, infinite where no better strategy passes
    """

    vectors: FloatArray
    counts: IntArray
    since: FloatArray


class Step(NamedTuple):
    """From one group over a volume, the last of `problem`, to another group.

    before, after   the nodes of both
    left            bounds on the time left behind the volume
    keep            (volumes,) which of the volumes matter behind it; the last entry stands for the new one
    slack_ms        by how much bounds may be too high
    margin_ms       by how much a label must be earlier to dominate; 0: not at all
    settled         whether a provider without rows cannot compute again before it receives some
    image           whether the image is still read behind the volume
    head            who runs the head if something leaves for it early; else any
    only            who must run the head, -1 for anybody
    """

    problem: kernel.Problem
    before: Nodes
    after: Nodes
    left: Left
    keep: IntArray
    slack_ms: float
    margin_ms: float
    settled: bool
    image: bool
    head: int
    only: int


@njit(cache=True)
def least_ms(state, left, node):  # type: ignore[no-untyped-def]
    """A latency that nothing which continues a state can beat."""
    best = np.inf
    for k in range(left.counts[node]):
        total = 0.0
        for i in range(left.vectors.shape[2]):
            total = max(total, state[0, i] + left.vectors[node, k, i])
        best = min(best, total)
    return best


@njit(cache=True)
def first_after(step, node):  # type: ignore[no-untyped-def]
    """The first of the nodes that a node is extended to; they differ in the new cuts only."""
    after = 0
    for k in range(len(step.keep) - 1):
        old = step.keep[k]
        own = node // step.before.strides[old] % step.before.counts[old]
        after += own * step.after.strides[k]
    return after


@njit(cache=True)
def fill(step, node, table, cuts):  # type: ignore[no-untyped-def]
    """The cuts that a node stands for."""
    for k in range(len(step.before.bases)):
        cuts[k] = table[step.before.bases[k] + node // step.before.strides[k] % step.before.counts[k]]


@njit(cache=True)
def _from(state, i):  # type: ignore[no-untyped-def]
    """Everything was ready long ago but the part of provider `i`, done at 0."""
    state[:] = LONG_AGO
    state[0, i] = 0.0


@njit(cache=True)
def bound_end(problem, only, table, base, left):  # type: ignore[no-untyped-def]
    """Time left at least behind the last volume, the only one of `problem`: a vector for each of its cuts."""
    providers = table.shape[1] - 1
    state, scratch = kernel.make_state(providers), kernel.make_scratch(providers)
    cuts = np.empty((1, providers + 1), dtype=np.int64)
    for node in range(len(left.counts)):
        cuts[0] = table[base + node]
        runs = kernel.largest_share(cuts[0])
        left.counts[node] = 1 if only < 0 or runs == only else 0
        for i in range(providers):
            _from(state, i)
            left.vectors[node, 0, i] = kernel.finish(problem, cuts, runs, state, scratch)


@njit(cache=True)
def _add_vector(vectors, count, vector):  # type: ignore[no-untyped-def]
    """Add a vector to `count` of which none is below another; returns their count. Full: the nearest takes it in."""
    size, providers = vectors.shape
    while True:
        nearest, gap, k = 0, np.inf, 0
        while k < count:
            above, below = 0.0, 0.0  # by how much the new one is above the old, and below
            for i in range(providers):
                above = max(above, vector[i] - vectors[k, i])
                below = max(below, vectors[k, i] - vector[i])
            if below == 0.0:
                if k > 0:  # found early by the next ones
                    for i in range(providers):
                        vectors[k, i], vectors[k - 1, i] = vectors[k - 1, i], vectors[k, i]
                return count
            if above == 0.0:
                count -= 1
                vectors[k] = vectors[count]
                continue
            if min(above, below) < gap:
                nearest, gap = k, min(above, below)
            k += 1
        if count < size:
            vectors[count] = vector
            return count + 1
        for i in range(providers):
            vector[i] = min(vector[i], vectors[nearest, i])
        count -= 1
        vectors[nearest] = vectors[count]


@njit(cache=True)
def bound(step, table, left, start, stop, best_ms):  # type: ignore[no-untyped-def]
    """Add to the bounds `left` of the nodes `start` to `stop` before a step what the step allows.

    Counted is what the parts' ends alone entail: the parts that wait for them, in turn, as if links were free.
    """
    volumes, providers = len(step.before.bases), table.shape[1] - 1
    state, scratch = kernel.make_state(providers), kernel.make_scratch(providers)
    cuts = np.empty((volumes + 1, providers + 1), dtype=np.int64)
    paths, vector = np.empty((providers, providers)), np.empty(providers)
    for own in range(start, stop):
        if left.since[own, 0, 0] == np.inf:
            continue
        fill(step, own, table, cuts)
        first = first_after(step, own)
        for node in range(first, first + step.after.counts[-1]):
            if step.left.counts[node] == 0:
                continue
            cuts[volumes] = table[step.after.bases[-1] + node - first]
            for i in range(providers):
                _from(state, i)
                kernel.advance(step.problem, volumes, cuts, -1, state, scratch)
                paths[i] = state[0, :providers]
            for k in range(step.left.counts[node]):
                least = 0.0
                for i in range(providers):
                    vector[i] = LONG_AGO
                    for j in range(providers):
                        vector[i] = max(vector[i], paths[i, j] + step.left.vectors[node, k, j])
                    least = max(least, left.since[own, 0, i] + vector[i])
                if least - step.slack_ms < best_ms - SAME_MS:
                    left.counts[own] = _add_vector(left.vectors[own], left.counts[own], vector)


@njit(cache=True)
def earliest(step, table, since, start, stop, best_ms):  # type: ignore[no-untyped-def]
    """Lower `step.left.since` by what a step makes of the states `since` of the nodes `start` to `stop` before it."""
    volumes, providers = len(step.before.bases), table.shape[1] - 1
    state, scratch = kernel.make_state(providers), kernel.make_scratch(providers)
    cuts = np.empty((volumes + 1, providers + 1), dtype=np.int64)
    for own in range(start, stop):
        if since[own, 0, 0] == np.inf:
            continue
        fill(step, own, table, cuts)
        first = first_after(step, own)
        for node in range(first, first + step.after.counts[-1]):
            cuts[volumes] = table[step.after.bases[-1] + node - first]
            state[:] = since[own]
            kernel.advance(step.problem, volumes, cuts, -1, state, scratch)
            if least_ms(state, step.left, node) - step.slack_ms < best_ms - SAME_MS:
                for r in range(4):
                    for i in range(providers + 1):
                        step.left.since[node, r, i] = min(step.left.since[node, r, i], state[r, i])
