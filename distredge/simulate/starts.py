"""Split decisions from which a search or an agent may start."""

from __future__ import annotations

import numpy as np

from distredge.simulate.kernel import FloatArray, IntArray
from distredge.simulate.simulator import Simulator


def proportional_cuts(heights: IntArray, shares: FloatArray) -> IntArray:
    """(volumes, providers + 1) cuts that give each provider its share of every volume's rows.

    `shares` (providers,) are not negative and not all zero; cumulative rounding, as MoDNN's, keeps every cut within
    half a row of its place.
    """
    edges = np.concatenate([[0.0], np.cumsum(shares) / np.sum(shares)])
    edges[-1] = 1.0
    return np.rint(edges * heights[:, None]).astype(np.int64)


def capability(simulator: Simulator) -> FloatArray:
    """(providers,) 1 / latency of each provider on its own: compute and links together."""
    rates: FloatArray = 1.0 / simulator.evaluate(simulator.single_device_cuts())
    return rates


def starts(simulator: Simulator) -> IntArray:
    """(n, volumes, providers + 1): equal parts, and the best k providers by capability, k = 1, 2, ..."""
    rates = capability(simulator)
    ranking = np.argsort(-rates, kind="stable")
    found = [simulator.equal_cuts()]
    for k in range(1, simulator.providers + 1):
        shares = np.zeros_like(rates)
        shares[ranking[:k]] = rates[ranking[:k]]
        found.append(proportional_cuts(simulator.heights, shares))
    return np.stack(found)
