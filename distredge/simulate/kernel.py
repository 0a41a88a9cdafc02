"""The compiled simulator: end-to-end latency of many split decisions (the reference is `timeline.py`).

A frame passes the volumes one after the other. At each boundary every provider sends the rows that others need
(halo included), one message a receiver, in the receivers' order, over its one uplink; messages for one receiver
share its downlink first come, first served. A provider computes its part when all its rows have arrived and its
last part is done. The last volume's rows are gathered at the head provider, whose result goes to the requester.

Links are a tandem of fluid queues. A message of `B` bytes that starts at `s` occupies the uplink until
`e = s + B * up`, and the receiver's downlink, free from `t0` on, has passed on all `k` messages at

    max( t0 + B_all * down,                                     the downlink was never idle since t0
         max_k  s_k + q_k * up_k + (B_all - A(s_k + q_k * up_k)) * down,    last idle when message k came
         max_k  e_k + q_k * down )                              the last quantum passes both links in turn

where `A(t)` are the bytes of the other messages that have arrived before `t`, in whole quanta, and `q_k` is
`min(quantum, B_k)`. The first two are the exit time of a first-come-first-served queue (Reich's formula), with idle
periods looked for only where a message begins; the quantum makes it store-and-forward. A boundary's messages are
served after those of the boundary before. A test holds this close to an event-driven simulation of every quantum.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from distredge.profiles.network import TIE_MS

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


class Problem(NamedTuple):
    """Everything that the latency depends on but the cuts, as flat arrays. V volumes, P providers.

    heights        (V,) rows of each volume's last layer
    need_start     (V, max height + 1) first entering row that a part beginning at row a needs
    need_stop      (V, max height + 1) where the entering rows end that a part ending at row b needs
    row_bytes      (V + 1,) bytes of one row of the tensor entering volume v; last: of the final tensor
    compute_ms     flat: at `compute_at[v, i] + a * (heights[v] + 1) + b` the latency of rows [a, b) on provider i
    compute_at     (V, P)
    up, down       (P + 1,) ms a byte of each link, paced, headers included; last: the requester's; 0 = infinite
    head_ms        (P,) latency of the head
    result_bytes   of the model's outputs
    quantum_bytes  size in which messages are forwarded
    message_ms     fixed cost of a message
    """

    heights: IntArray
    need_start: IntArray
    need_stop: IntArray
    row_bytes: FloatArray
    compute_ms: FloatArray
    compute_at: IntArray
    up: FloatArray
    down: FloatArray
    head_ms: FloatArray
    result_bytes: float
    quantum_bytes: float
    message_ms: float


@njit(cache=True, inline="always")
def drain(count, start, end, size, up, free, down, quantum):  # type: ignore[no-untyped-def]
    """Time at which a downlink, free from `free` on, has passed on `count` messages."""
    total = 0.0
    for k in range(count):
        total += size[k]
    done = free + total * down
    for k in range(count):
        first = min(quantum, size[k])
        done = max(done, end[k] + first * down)
        came = start[k] + first * up[k]
        if came > free:
            arrived = 0.0
            for m in range(count):
                if m != k:  # what arrives at the same moment counts as before if its sender stands before
                    moment = came + TIE_MS if m < k else came - TIE_MS
                    if moment >= end[m]:
                        arrived += size[m]
                    elif moment > start[m]:
                        arrived += quantum * np.floor((moment - start[m]) / (quantum * up[m]))
            done = max(done, came + (total - arrived) * down)
    return done


@njit(cache=True)
def make_scratch(providers):  # type: ignore[no-untyped-def]
    """Working memory of `advance` and `finish`: messages by receiver (start, end, bytes, uplink) and their counts."""
    return np.empty((4, providers, providers + 1)), np.zeros(providers, dtype=np.int64)


@njit(cache=True)
def advance(problem, v, previous, cuts, state, scratch):  # type: ignore[no-untyped-def]
    """Carry `state` (3, P + 1) over volume `v`, cut at `cuts`, whose input was cut at `previous` (unused if v = 0).

    state[0] is when each provider's last part was done, state[1] and state[2] when its uplink and downlink are
    free; column P is the requester's.
    """
    messages, counts = scratch
    providers = cuts.shape[0] - 1
    quantum = problem.quantum_bytes
    per_row = problem.row_bytes[v]
    for j in range(providers):
        counts[j] = 0
    first, last = (providers, providers + 1) if v == 0 else (0, providers)
    for i in range(first, last):
        if v == 0:
            low, high = 0, 1 << 40
        else:
            low, high = previous[i], previous[i + 1]
            if low == high:
                continue
        ready = state[0, i]
        for j in range(providers):
            a, b = cuts[j], cuts[j + 1]
            if a == b or i == j:
                continue
            rows = min(high, problem.need_stop[v, b]) - max(low, problem.need_start[v, a])
            if rows > 0:
                k = counts[j]
                start = max(ready, state[1, i])
                size = rows * per_row
                state[1, i] = start + size * problem.up[i]
                messages[0, j, k] = start
                messages[1, j, k] = state[1, i]
                messages[2, j, k] = size
                messages[3, j, k] = problem.up[i]
                counts[j] = k + 1
    for j in range(providers):
        a, b = cuts[j], cuts[j + 1]
        if a == b:
            continue
        begin = state[0, j]
        if counts[j] > 0:
            done = drain(
                counts[j], messages[0, j], messages[1, j], messages[2, j], messages[3, j],
                state[2, j], problem.down[j], quantum,
            )  # fmt: skip
            state[2, j] = done
            begin = max(begin, done + problem.message_ms)
        state[0, j] = begin + problem.compute_ms[problem.compute_at[v, j] + a * (problem.heights[v] + 1) + b]


@njit(cache=True)
def largest_share(cuts):  # type: ignore[no-untyped-def]
    """The provider with most rows, the first of equals: it runs the head (DistrEdge, section V-A)."""
    best = 0
    for i in range(1, cuts.shape[0] - 1):
        if cuts[i + 1] - cuts[i] > cuts[best + 1] - cuts[best]:
            best = i
    return best


@njit(cache=True)
def finish(problem, cuts, head, state, scratch):  # type: ignore[no-untyped-def]
    """Latency of the frame: gather the last volume's rows at `head`, run the head, send its result."""
    messages, _ = scratch
    providers = cuts.shape[0] - 1
    per_row = problem.row_bytes[problem.heights.shape[0]]
    k = 0
    for i in range(providers):
        rows = cuts[i + 1] - cuts[i]
        if rows > 0 and i != head:
            start = max(state[0, i], state[1, i])
            size = rows * per_row
            state[1, i] = start + size * problem.up[i]
            messages[0, 0, k] = start
            messages[1, 0, k] = state[1, i]
            messages[2, 0, k] = size
            messages[3, 0, k] = problem.up[i]
            k += 1
    begin = state[0, head]
    if k > 0:
        done = drain(
            k, messages[0, 0], messages[1, 0], messages[2, 0], messages[3, 0],
            state[2, head], problem.down[head], problem.quantum_bytes,
        )  # fmt: skip
        state[2, head] = done
        begin = max(begin, done + problem.message_ms)
    start = max(begin + problem.head_ms[head], state[1, head])
    end = start + problem.result_bytes * problem.up[head]
    state[1, head] = end
    first = min(problem.quantum_bytes, problem.result_bytes)
    down = problem.down[providers]
    return problem.message_ms + max(
        end + first * down,
        start + first * problem.up[head] + problem.result_bytes * down,
        state[2, providers] + problem.result_bytes * down,
    )


@njit(cache=True)
def latency(problem, cuts, state, scratch):  # type: ignore[no-untyped-def]
    """Latency in ms of one frame under `cuts` (V, P + 1); `state` is overwritten."""
    state[:] = 0.0
    for v in range(cuts.shape[0]):
        advance(problem, v, cuts[max(v - 1, 0)], cuts[v], state, scratch)
    last = cuts[cuts.shape[0] - 1]
    return finish(problem, last, largest_share(last), state, scratch)


@njit(cache=True, nogil=True)
def evaluate(problem, cuts, out):  # type: ignore[no-untyped-def]
    """Latency in ms of each of `cuts` (batch, V, P + 1) into `out` (batch,)."""
    providers = cuts.shape[2] - 1
    state = np.empty((3, providers + 1))
    scratch = make_scratch(providers)
    for n in range(cuts.shape[0]):
        out[n] = latency(problem, cuts[n], state, scratch)


@njit(cache=True, nogil=True)
def step(problem, v, previous, cuts, states):  # type: ignore[no-untyped-def]
    """Carry a batch of `states` (batch, 3, P + 1) over volume `v`: `previous` and `cuts` are (batch, P + 1)."""
    scratch = make_scratch(cuts.shape[1] - 1)
    for n in range(cuts.shape[0]):
        advance(problem, v, previous[n], cuts[n], states[n], scratch)


@njit(cache=True, nogil=True)
def close(problem, cuts, states, out):  # type: ignore[no-untyped-def]
    """Latencies into `out` (batch,) from the `states` after the last volume, cut at `cuts` (batch, P + 1)."""
    scratch = make_scratch(cuts.shape[1] - 1)
    for n in range(cuts.shape[0]):
        out[n] = finish(problem, cuts[n], largest_share(cuts[n]), states[n], scratch)


@njit(cache=True)
def first_invalid(heights, cuts):  # type: ignore[no-untyped-def]
    """Index in the batch of the first cuts (batch, V, P + 1) that break the rule of a plan, -1 if none does."""
    for n in range(cuts.shape[0]):
        for v in range(cuts.shape[1]):
            if cuts[n, v, 0] != 0 or cuts[n, v, cuts.shape[2] - 1] != heights[v]:
                return n
            for i in range(cuts.shape[2] - 1):
                if cuts[n, v, i] > cuts[n, v, i + 1]:
                    return n
    return -1
