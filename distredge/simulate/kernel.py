"""The compiled simulator: end-to-end latency of many split decisions (the reference is `timeline.py`).

A frame passes the volumes one after the other. At each boundary every provider sends the rows that others need
(halo included) of all the tensors that enter the next volume, one message a receiver, in the receivers' order, over its
one uplink; messages for one receiver share its downlink first come, first served. A provider computes its part when all
its rows are there and its last part is done. What only the head or the requester needs leaves right behind, from
every volume that makes such; the head runs when all of it is there, and its result goes to the requester.

A sender reads a boundary's messages out of its memory one after the other, from the moment its part is computed: each
of `B` bytes takes `READ + B * READ_BYTE` ms and may then enter the uplink. A receiver writes what a boundary brings
into its memory in `WRITE + B * WRITE_BYTE` ms, after the last byte is out of its downlink.

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
    """Everything that the latency depends on but the cuts, as flat arrays.

    V volumes, P providers, E tensors that enter volumes, X tensors that leave for the head or the requester.

    heights        (V,) rows of each volume's last layer
    enter_at       (V + 1,) volume v is entered by the tensors `enter_at[v]` to `enter_at[v + 1]`
    enter_from     (E,) the volume that makes a tensor, -1 for the image
    enter_bytes    (E,) bytes of one row
    enter_cuts     (E, max height + 1) where a tensor is cut when the last layer of its volume is cut at a row
    need_start     (E, max height + 1) first row that a part beginning at row a needs
    need_stop      (E, max height + 1) where the rows end that a part ending at row b needs
    exit_at        (V + 1,) volume v is left for good by the tensors `exit_at[v]` to `exit_at[v + 1]`
    exit_to        (X, 2) whether a tensor goes to the head, and whether to the requester
    exit_bytes, exit_cuts   as for entering tensors
    compute_ms     flat: at `compute_at[v, i] + a * (heights[v] + 1) + b` the latency of rows [a, b) on provider i
    compute_at     (V, P)
    head_ms        (P,) latency of the head
    slowdown       (P,) factor on all that a provider computes, the head too
    result_bytes   of the outputs that the head makes; negative: there is no head
    quantum_bytes  size in which messages are forwarded
    node_ms        (6, P + 1) by `UP_BYTE` ..: a byte's time on a node's link, paced, headers included, 0 if its rate is
                   infinite; a message's and a byte's time out of its memory and into it; last: the requester's
    """

    heights: IntArray
    enter_at: IntArray
    enter_from: IntArray
    enter_bytes: FloatArray
    enter_cuts: IntArray
    need_start: IntArray
    need_stop: IntArray
    exit_at: IntArray
    exit_to: IntArray
    exit_bytes: FloatArray
    exit_cuts: IntArray
    compute_ms: FloatArray
    compute_at: IntArray
    head_ms: FloatArray
    slowdown: FloatArray
    result_bytes: float
    quantum_bytes: float
    node_ms: FloatArray


START, END, SIZE, UP, PACE = 0, 1, 2, 3, 4
"""What is noted of a message: when it enters and has left its sender's uplink, its bytes, that link's ms a byte and
quanta a ms."""

UP_BYTE, DOWN_BYTE, READ, READ_BYTE, WRITE, WRITE_BYTE = 0, 1, 2, 3, 4, 5
"""Rows of `Problem.node_ms`."""

HEAD, REQUESTER = 0, 1
"""Who gets a tensor that leaves for good: columns of `Problem.exit_to`, and of a state's last row."""


@njit(cache=True, inline="always")
def total_bytes(messages, box, count):  # type: ignore[no-untyped-def]
    """Bytes of the `count` messages of a box."""
    total = 0.0
    for k in range(count):
        total += messages[SIZE, box, k]
    return total


@njit(cache=True, inline="always")
def drain(messages, box, count, total, free, down, quantum):  # type: ignore[no-untyped-def]
    """Time at which a downlink, free from `free` on, has passed on the `count` messages of a box, `total` bytes."""
    done = free + total * down
    for k in range(count):
        size, up = messages[SIZE, box, k], messages[UP, box, k]
        first = min(quantum, size)
        done = max(done, messages[END, box, k] + first * down)
        came = messages[START, box, k] + first * up
        if came > free:
            arrived = 0.0
            for m in range(count):
                if m != k:  # what arrives at the same moment counts as before if its sender stands before
                    moment = came + TIE_MS if m < k else came - TIE_MS
                    start = messages[START, box, m]
                    if moment >= messages[END, box, m]:
                        arrived += messages[SIZE, box, m]
                    elif moment > start:
                        arrived += quantum * int((moment - start) * messages[PACE, box, m])
            done = max(done, came + (total - arrived) * down)
    return done


@njit(cache=True)
def make_scratch(providers):  # type: ignore[no-untyped-def]
    """Working memory of `advance` and `finish`.

    What is noted of messages (`START` ..) by receiver, then the head's and the requester's; their counts; bytes by
    receiver.
    """
    return np.empty((5, providers + 2, providers + 1)), np.zeros(providers + 2, dtype=np.int64), np.zeros(providers)


@njit(cache=True)
def make_state(providers):  # type: ignore[no-untyped-def]
    """The state before the first volume, (4, P + 1); column P is the requester's.

    Row 0: when each provider's last part was done; 1 and 2: when its uplink and its downlink are free; 3: when what
    left for good is there, at the head (`HEAD`) and at the requester (`REQUESTER`).
    """
    return np.zeros((4, providers + 1))


@njit(cache=True, inline="always")
def send(state, scratch, i, receiver, ready, size, up, quantum):  # type: ignore[no-untyped-def]
    """Queue a message on the uplink of `i`."""
    messages, counts, _ = scratch
    k = counts[receiver]
    start = max(ready, state[1, i])
    state[1, i] = start + size * up
    messages[START, receiver, k] = start
    messages[END, receiver, k] = state[1, i]
    messages[SIZE, receiver, k] = size
    messages[UP, receiver, k] = up
    messages[PACE, receiver, k] = 1.0 / (quantum * up) if up > 0.0 else 0.0
    counts[receiver] = k + 1


@njit(cache=True, inline="always")
def receive(problem, state, scratch, box, node):  # type: ignore[no-untyped-def]
    """When the node has what lies in a box in its memory, over its downlink."""
    messages, counts, _ = scratch
    total, down = total_bytes(messages, box, counts[box]), problem.node_ms[DOWN_BYTE, node]
    done = drain(messages, box, counts[box], total, state[2, node], down, problem.quantum_bytes)
    state[2, node] = done
    return done + (problem.node_ms[WRITE, node] + total * problem.node_ms[WRITE_BYTE, node])


@njit(cache=True, inline="always")
def incoming(problem, v, cuts, i, sizes):  # type: ignore[no-untyped-def]
    """Add to `sizes` (P,) the bytes that node `i`, the last the requester, sends each provider for volume `v`.

    Returns whether there are any.
    """
    providers, any_rows = cuts.shape[1] - 1, False
    for e in range(problem.enter_at[v], problem.enter_at[v + 1]):
        u = problem.enter_from[e]
        if u < 0:
            if i < providers:
                continue
            low, high = 0, 1 << 40
        else:
            if i == providers or cuts[u, i] == cuts[u, i + 1]:
                continue
            low, high = problem.enter_cuts[e, cuts[u, i]], problem.enter_cuts[e, cuts[u, i + 1]]
        for j in range(providers):
            a, b = cuts[v, j], cuts[v, j + 1]
            if a == b or i == j:
                continue
            rows = min(high, problem.need_stop[e, b]) - max(low, problem.need_start[e, a])
            if rows > 0:
                sizes[j] += rows * problem.enter_bytes[e]
                any_rows = True
    return any_rows


@njit(cache=True, inline="always")
def exit_bytes(problem, v, cuts, i, to):  # type: ignore[no-untyped-def]
    """Bytes that provider `i` owns of what volume `v` is left by for the head or the requester (`to`)."""
    size = 0.0
    for x in range(problem.exit_at[v], problem.exit_at[v + 1]):
        if problem.exit_to[x, to]:
            rows = problem.exit_cuts[x, cuts[v, i + 1]] - problem.exit_cuts[x, cuts[v, i]]
            size += rows * problem.exit_bytes[x]
    return size


@njit(cache=True, inline="always")
def send_exits(problem, v, cuts, i, head, ready, state, scratch):  # type: ignore[no-untyped-def]
    """Queue what provider `i`, reading from `ready` on, owns of the tensors by which volume `v` is left for good."""
    providers = cuts.shape[1] - 1
    for to in range(2):
        size = exit_bytes(problem, v, cuts, i, to)
        if size > 0.0 and not (to == HEAD and i == head):
            ready += problem.node_ms[READ, i] + size * problem.node_ms[READ_BYTE, i]
            send(state, scratch, i, providers + to, ready, size, problem.node_ms[UP_BYTE, i], problem.quantum_bytes)


@njit(cache=True, inline="always")
def receive_exits(problem, head, state, scratch):  # type: ignore[no-untyped-def]
    """Let the head and the requester get what was queued for them; they serve it after their other messages."""
    counts = scratch[1]
    providers = counts.shape[0] - 2
    for to in range(2):
        if counts[providers + to] > 0:
            node = head if to == HEAD else providers
            state[3, to] = max(state[3, to], receive(problem, state, scratch, providers + to, node))


@njit(cache=True)
def advance(problem, v, cuts, head, state, scratch):  # type: ignore[no-untyped-def]
    """Carry `state` over volume `v`: `cuts` (V, P + 1) are decided up to it.

    What the volume before sends to `head` and to the requester is left out where the head is not known (-1).
    """
    _, counts, sizes = scratch
    providers = cuts.shape[1] - 1
    exits = v > 0 and head >= 0 and problem.exit_at[v] > problem.exit_at[v - 1]
    for j in range(providers + 2):
        counts[j] = 0
    for i in range(providers if v == 0 else 0, providers + 1):
        any_rows, ready = incoming(problem, v, cuts, i, sizes), state[0, i]
        if any_rows:
            up = problem.node_ms[UP_BYTE, i]
            read_ms, read_byte_ms = problem.node_ms[READ, i], problem.node_ms[READ_BYTE, i]
            for j in range(providers):
                if sizes[j] > 0.0:
                    ready += read_ms + sizes[j] * read_byte_ms
                    send(state, scratch, i, j, ready, sizes[j], up, problem.quantum_bytes)
                    sizes[j] = 0.0
        if exits and i < providers:
            send_exits(problem, v - 1, cuts, i, head, ready, state, scratch)
    for j in range(providers):
        a, b = cuts[v, j], cuts[v, j + 1]
        if a == b:
            continue
        start = state[0, j]
        if counts[j] > 0:
            start = max(start, receive(problem, state, scratch, j, j))
        spent = problem.compute_ms[problem.compute_at[v, j] + a * (problem.heights[v] + 1) + b]
        state[0, j] = start + spent * problem.slowdown[j]
    if exits:
        receive_exits(problem, head, state, scratch)


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
    """Latency of the frame: what the last volume is left by is sent, the head runs, its result is sent."""
    counts = scratch[1]
    last, providers = cuts.shape[0] - 1, cuts.shape[1] - 1
    for j in range(providers + 2):
        counts[j] = 0
    for i in range(providers):
        if cuts[last, i] < cuts[last, i + 1]:
            send_exits(problem, last, cuts, i, head, state[0, i], state, scratch)
    receive_exits(problem, head, state, scratch)
    if problem.result_bytes < 0.0:
        return state[3, REQUESTER]
    ready = max(state[0, head], state[3, HEAD]) + problem.head_ms[head] * problem.slowdown[head]
    counts[providers + REQUESTER] = 0
    size, up = problem.result_bytes, problem.node_ms[UP_BYTE, head]
    ready += problem.node_ms[READ, head] + size * problem.node_ms[READ_BYTE, head]
    send(state, scratch, head, providers + REQUESTER, ready, size, up, problem.quantum_bytes)
    return max(state[3, REQUESTER], receive(problem, state, scratch, providers + REQUESTER, providers))


@njit(cache=True)
def latency(problem, cuts, state, scratch):  # type: ignore[no-untyped-def]
    """Latency in ms of one frame under `cuts` (V, P + 1); `state` is overwritten."""
    state[:] = 0.0
    head = largest_share(cuts[cuts.shape[0] - 1])
    for v in range(cuts.shape[0]):
        advance(problem, v, cuts, head, state, scratch)
    return finish(problem, cuts, head, state, scratch)


@njit(cache=True, nogil=True)
def evaluate(problem, cuts, out):  # type: ignore[no-untyped-def]
    """Latency in ms of each of `cuts` (batch, V, P + 1) into `out` (batch,)."""
    providers = cuts.shape[2] - 1
    state = make_state(providers)
    scratch = make_scratch(providers)
    for n in range(cuts.shape[0]):
        out[n] = latency(problem, cuts[n], state, scratch)


@njit(cache=True, nogil=True)
def evaluate_under(problem, node_ms, slowdown, cuts, out):  # type: ignore[no-untyped-def]
    """Latency in ms of `cuts` (batch, V, P + 1) under other conditions, into `out` (conditions, batch).

    `node_ms` (conditions, 6, P + 1) and `slowdown` (conditions, P) are written into the problem's, whose own are lost.
    """
    state = make_state(cuts.shape[2] - 1)
    scratch = make_scratch(cuts.shape[2] - 1)
    for k in range(node_ms.shape[0]):
        problem.node_ms[:] = node_ms[k]
        problem.slowdown[:] = slowdown[k]
        for n in range(cuts.shape[0]):
            out[k, n] = latency(problem, cuts[n], state, scratch)


@njit(cache=True, nogil=True)
def step(problem, v, cuts, states):  # type: ignore[no-untyped-def]
    """Carry a batch of `states` (batch, 4, P + 1) over volume `v`; `cuts` (batch, V, P + 1) are decided up to it."""
    scratch = make_scratch(cuts.shape[2] - 1)
    for n in range(cuts.shape[0]):
        advance(problem, v, cuts[n], -1, states[n], scratch)


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
