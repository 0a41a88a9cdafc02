"""The compiled part of `exact` that follows labels: their extension and their dominance.

A label is a partial strategy: where the next volume begins, the cuts of the volumes that still matter, and the
simulator's state behind the last of them. Its *node* is all of that but the state; labels of one node compete.
"""

from __future__ import annotations

from typing import NamedTuple, TypeVar

import numpy as np
from numba import njit

from distredge.planners.exact_bounds import SAME_MS, fill, first_after, least_ms
from distredge.simulate import kernel
from distredge.simulate.kernel import FloatArray, IntArray

Array = TypeVar("Array", FloatArray, IntArray)


class Pool(NamedTuple):
    """Labels of one group: the same location, and the same volumes that still matter.

    states    (capacity, 4, P + 1) the simulator's
    nodes     (capacity,) their nodes: the cuts that still matter
    parents   (capacity, 2) the group and the label that it continues
    least_ms  (capacity,) a latency that nothing which continues it can beat; infinite once it is dominated
    link      (capacity,) the next label of its node, or the next free place
    first     (nodes,) a node's first label, -1 without one
    counts    (2,) places ever used, and the first that is free again (-1)
    """

    states: FloatArray
    nodes: IntArray
    parents: IntArray
    least_ms: FloatArray
    link: IntArray
    first: IntArray
    counts: IntArray


def empty_pool(providers: int, nodes: int) -> Pool:
    """A pool without labels."""
    return Pool(
        states=np.zeros((0, 4, providers + 1)),
        nodes=np.zeros(0, dtype=np.int64),
        parents=np.zeros((0, 2), dtype=np.int64),
        least_ms=np.zeros(0),
        link=np.zeros(0, dtype=np.int64),
        first=np.full(nodes, -1, dtype=np.int64),
        counts=np.array([0, -1], dtype=np.int64),
    )


def root_pool(empty: Pool) -> Pool:
    """The one label before the first volume: everything at 0."""
    pool = roomy(empty, 1)
    pool.counts[0] = 1
    return pool


def roomy(pool: Pool, more: int) -> Pool:
    """The pool, with room for at least so many labels more."""
    size = int(pool.counts[0]) + more
    if size <= len(pool.link):
        return pool
    size = max(size, 2 * len(pool.link), 1024)

    def grown(old: Array) -> Array:
        new = np.zeros((size, *old.shape[1:]), dtype=old.dtype)
        new[: len(old)] = old
        return new

    return Pool(
        grown(pool.states), grown(pool.nodes), grown(pool.parents), grown(pool.least_ms), grown(pool.link),
        pool.first, pool.counts,
    )  # fmt: skip


def without_states(pool: Pool) -> Pool:
    """What is left of labels that have been extended: whence they came."""
    return pool._replace(states=pool.states[:0].copy(), first=pool.first[:0].copy())


def most_promising(pool: Pool, width: int | None) -> IntArray:
    """Labels that are not dominated, the most promising first, at most `width`."""
    least = pool.least_ms[: pool.counts[0]]
    return np.argsort(least, kind="stable")[: int(np.sum(least < np.inf))][:width]


@njit(cache=True)
def _covers(a, b, margin):  # type: ignore[no-untyped-def]
    """Whether state `a` is, by the margin, nowhere later than `b`; by any margin if both are the same."""
    early = True
    for r in range(a.shape[0]):
        for i in range(a.shape[1]):
            if a[r, i] > b[r, i]:
                return False
            if a[r, i] + margin > b[r, i]:
                early = False
    if early:
        return True
    for r in range(a.shape[0]):
        for i in range(a.shape[1]):
            if a[r, i] != b[r, i]:
                return False
    return True


@njit(cache=True)
def normalise(state, cuts, step):  # type: ignore[no-untyped-def]
    """Raise what lies so far back that it cannot matter, so that more labels dominate others; no latency changes.

    `cuts` (volumes, P + 1) are all that still matter. A message leaves its sender no earlier than the sender's part is
    done and its uplink free, and reaches a downlink no earlier than that; where parts need rows of the volume before,
    nothing happens on an idle provider before one with rows has sent some.
    """
    providers = state.shape[1] - 1
    for i in range(providers):
        state[1, i] = max(state[1, i], state[0, i])
    if step.image:
        return
    state[1, providers] = 0.0
    if step.settled:
        since = np.inf
        for i in range(providers):
            if not _idle(cuts, i):
                since = min(since, state[1, i])
        for i in range(providers):
            if _idle(cuts, i):
                state[0, i] = max(state[0, i], since)
                state[1, i] = max(state[1, i], state[0, i])
    begun = np.inf
    for i in range(providers):
        begun = min(begun, state[0, i])
    for j in range(providers):
        since = np.inf
        for i in range(providers):
            if i != j:
                since = min(since, state[1, i])
        if since < np.inf:
            state[2, j] = max(state[2, j], since)
    if step.settled:
        state[2, providers] = max(state[2, providers], begun)
        state[3, kernel.HEAD] = max(state[3, kernel.HEAD], begun)
        state[3, kernel.REQUESTER] = max(state[3, kernel.REQUESTER], begun)


@njit(cache=True)
def _idle(cuts, i):  # type: ignore[no-untyped-def]
    for v in range(cuts.shape[0]):
        if cuts[v, i] < cuts[v, i + 1]:
            return False
    return True


@njit(cache=True)
def _insert(pool, node, state, margin):  # type: ignore[no-untyped-def]
    """A place for a state among the labels of its node, -1 if one of them dominates it; drops those it dominates."""
    before, k = -1, pool.first[node]
    while k >= 0:
        if _covers(pool.states[k], state, margin):
            return -1
        after = pool.link[k]
        if _covers(state, pool.states[k], margin):
            if before < 0:
                pool.first[node] = after
            else:
                pool.link[before] = after
            pool.least_ms[k] = np.inf
            pool.link[k] = pool.counts[1]
            pool.counts[1] = k
        else:
            before = k
        k = after
    place = pool.counts[1]
    if place >= 0:
        pool.counts[1] = pool.link[place]
    else:
        place = pool.counts[0]
        pool.counts[0] += 1
    pool.states[place] = state
    pool.link[place] = pool.first[node]
    pool.first[node] = place
    return place


@njit(cache=True)
def extend(step, table, source, chosen, at, group, target, best_ms, limit):  # type: ignore[no-untyped-def]
    """Extend the labels `chosen[at:]` of `source`, group number `group`.

    Stops after `limit` extensions or when `target` is full. Returns where it stopped and how many it made.
    """
    volumes, providers = len(step.before.bases), table.shape[1] - 1
    base, count = step.after.bases[-1], step.after.counts[-1]
    state, scratch = kernel.make_state(providers), kernel.make_scratch(providers)
    cuts = np.empty((volumes + 1, providers + 1), dtype=np.int64)
    kept = np.empty((len(step.keep), providers + 1), dtype=np.int64)
    done = 0
    while at < len(chosen) and done < limit and target.counts[0] + count <= len(target.link):
        label = chosen[at]
        at += 1
        if source.least_ms[label] >= best_ms - SAME_MS:
            continue
        fill(step, source.nodes[label], table, cuts)
        for k in range(len(step.keep)):
            kept[k] = cuts[step.keep[k]]
        first = first_after(step, source.nodes[label])
        done += count
        for node in range(first, first + count):
            if step.left.counts[node] == 0:
                continue
            cuts[volumes] = table[base + node - first]
            state[:] = source.states[label]
            kernel.advance(step.problem, volumes, cuts, step.head, state, scratch)
            least = max(source.least_ms[label], least_ms(state, step.left, node) - step.slack_ms)
            if least >= best_ms - SAME_MS:
                continue
            kept[len(step.keep) - 1] = cuts[volumes]
            normalise(state, kept, step)
            place = _insert(target, node, state, step.margin_ms)
            if place >= 0:
                target.nodes[place] = node
                target.least_ms[place] = least
                target.parents[place, 0] = group
                target.parents[place, 1] = label
    return at, done


@njit(cache=True)
def conclude(step, table, source, chosen, at, best_ms, limit):  # type: ignore[no-untyped-def]
    """Extend labels to the end.

    Returns where it stopped, how many it made, the best latency, and its label and cuts' number (-1 if none is better).
    """
    volumes, providers = len(step.before.bases), table.shape[1] - 1
    base, count = step.after.bases[-1], step.after.counts[-1]
    state, scratch = kernel.make_state(providers), kernel.make_scratch(providers)
    cuts = np.empty((volumes + 1, providers + 1), dtype=np.int64)
    done, best_label, best_number = 0, -1, -1
    while at < len(chosen) and done < limit:
        label = chosen[at]
        at += 1
        if source.least_ms[label] >= best_ms - SAME_MS:
            continue
        fill(step, source.nodes[label], table, cuts)
        done += count
        for number in range(base, base + count):
            cuts[volumes] = table[number]
            runs = kernel.largest_share(cuts[volumes])
            if step.only >= 0 and runs != step.only:
                continue
            state[:] = source.states[label]
            kernel.advance(step.problem, volumes, cuts, runs, state, scratch)
            total = kernel.finish(step.problem, cuts, runs, state, scratch)
            if total < best_ms - SAME_MS:
                best_ms, best_label, best_number = total, label, number
    return at, done, best_ms, best_label, best_number
