"""Prices of all contiguous placements of blocks on chains of resources, in one go (Scission, section III-B).

A chain of L resources takes the blocks in order, each resource at least one. Its end-to-end latency is the sum of its
blocks' times and, per hop, `latency + bytes / bandwidth` (section IV-A, the two assumptions). Any unit of time will do.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

LONGEST = 3
"""Resources of a chain at most: device, edge and cloud."""

_AT_ONCE = 1 << 20
"""Prices computed at once by `best_chain`, to bound the memory."""


@dataclass(frozen=True)
class Prices:
    """What placements of n blocks on R resources are priced by.

    time        (R, n) of each block
    left_bytes  (R, n) that must pass on behind a block
    entry       (R,) time until the input is there, for the first of a chain
    exit        (R,) time after the last block, for the last of a chain
    hop         (R, R) fixed time of a hop, infinite without a link
    hop_byte    (R, R) a byte's time on top, finite
    """

    time: FloatArray
    left_bytes: FloatArray
    entry: FloatArray
    exit: FloatArray
    hop: FloatArray
    hop_byte: FloatArray

    @property
    def blocks(self) -> int:
        """How many blocks there are."""
        return int(self.time.shape[1])

    def before(self) -> FloatArray:
        """(R, n + 1) time of all blocks before each place."""
        return np.concatenate([np.zeros((len(self.time), 1)), np.cumsum(self.time, axis=1)], axis=1)


def splits(blocks: int, parts: int) -> IntArray:
    """(S, parts + 1) all ways to cut the blocks into up to `LONGEST` runs, none empty: 0, the inner cuts, `blocks`."""
    if not 1 <= parts <= LONGEST:
        raise ValueError(f"chains have 1 to {LONGEST} resources, not {parts}")
    if parts == 1:
        inner = np.empty((1, 0), dtype=np.int64)
    elif parts == 2:
        inner = np.arange(1, blocks, dtype=np.int64)[:, None]
    else:
        inner = np.stack(np.triu_indices(blocks - 1, 1), axis=1).astype(np.int64) + 1
    edge = np.ones((len(inner), 1), dtype=np.int64)
    return np.concatenate([0 * edge, inner, blocks * edge], axis=1)


def price(prices: Prices, chains: IntArray, cuts: IntArray) -> FloatArray:
    """(Q, S) end-to-end time of each of `chains` (Q, L) under each of `cuts` (S, L + 1), see `splits`."""
    before = prices.before()
    total = np.broadcast_to(
        (prices.entry[chains[:, 0]] + prices.exit[chains[:, -1]])[:, None], (len(chains), len(cuts))
    )
    for k in range(chains.shape[1]):
        mine = before[chains[:, k]]
        total = total + (mine[:, cuts[:, k + 1]] - mine[:, cuts[:, k]])
        if k > 0:
            pair = chains[:, k - 1], chains[:, k]
            passed = prices.left_bytes[pair[0]][:, cuts[:, k] - 1]
            total = total + (prices.hop[pair][:, None] + passed * prices.hop_byte[pair][:, None])
    return total


def all_chains(resources: int, length: int) -> IntArray:
    """(Q, length) all orders of that many different resources."""
    grid = np.stack(np.meshgrid(*[np.arange(resources)] * length, indexing="ij"), axis=-1).reshape(-1, length)
    differ = np.ones(len(grid), dtype=bool)
    for a in range(length):
        for b in range(a):
            differ &= grid[:, a] != grid[:, b]
    return grid[differ]


def best_chain(prices: Prices) -> tuple[tuple[int, ...], tuple[int, ...], float]:
    """The cheapest chain of up to `LONGEST` resources in any order, its cuts, its time; the shortest of equals."""
    best: tuple[tuple[int, ...], tuple[int, ...], float] | None = None
    for length in range(1, min(LONGEST, len(prices.time), prices.blocks) + 1):
        chains, cuts = all_chains(len(prices.time), length), splits(prices.blocks, length)
        step = max(1, _AT_ONCE // len(cuts))
        for start in range(0, len(chains), step):
            some = chains[start : start + step]
            total = price(prices, some, cuts)
            q, s = np.unravel_index(int(np.argmin(total)), total.shape)
            if best is None or total[q, s] < best[2]:
                best = tuple(some[q].tolist()), tuple(cuts[s].tolist()), float(total[q, s])
    assert best is not None
    return best
