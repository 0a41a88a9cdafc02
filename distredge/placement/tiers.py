"""All contiguous placements of a model's blocks on device, edge and cloud (Scission, section III-B, steps 4 and 5)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from distredge.errors import InputError
from distredge.placement.benchmarks import TIERS, Benchmarks, Network
from distredge.placement.rank import FloatArray, IntArray, Prices, price, splits

UNUSED = -1
"""Stands for the resource of a tier that computes nothing."""


@dataclass(frozen=True, eq=False)
class Placements:
    """N placements of a model's blocks; columns are tiers.

    resource      (N, 3) position in the benchmarks' resources, or `UNUSED`
    start, stop   (N, 3) blocks `[start, stop)`, empty for an unused tier
    time_s        (N, 3) time that a tier computes
    upload_bytes  (N, 3) bytes that leave a tier; the input leaves the device where that computes nothing
    latency_s     (N,)
    """

    benchmarks: Benchmarks
    resource: IntArray
    start: IntArray
    stop: IntArray
    time_s: FloatArray
    upload_bytes: FloatArray
    latency_s: FloatArray

    def __len__(self) -> int:
        return len(self.latency_s)

    @property
    def transfer_bytes(self) -> FloatArray:
        """(N,) bytes over all hops."""
        return np.asarray(self.upload_bytes.sum(axis=1))

    def ranking(self) -> IntArray:
        """(N,) places from best to worst: by latency, then by bytes, then in the order of enumeration."""
        return np.lexsort((self.transfer_bytes, self.latency_s))

    def row(self, place: int) -> dict[str, object]:
        """A placement as JSON-ready data; None for what an unused tier has not."""
        found: dict[str, object] = {
            "latency_s": float(self.latency_s[place]),
            "transfer_mb": float(self.transfer_bytes[place]) / 1e6,
        }
        for t, tier in enumerate(TIERS):
            used = self.resource[place, t] != UNUSED
            first, last = int(self.start[place, t]), int(self.stop[place, t]) - 1
            layers = self.benchmarks.layers
            found[tier] = self.benchmarks.resources[self.resource[place, t]].name if used else None
            found[f"{tier}_layers"] = _span(layers[first][0], layers[last][1]) if used else None
        return found


def _span(first: int, last: int) -> str:
    return f"{first}-{last}" if last > first else f"{first}"


def placements(
    benchmarks: Benchmarks, network: Network, input_bytes: float, sources: Sequence[int] | None = None
) -> Placements:
    """All of them but those over a link that the network has not.

    The input lies on the device tier: on one of `sources` (all its resources if None), the nearest to whoever
    computes first. Raises `InputError` if the links are missing for all of them.
    """
    prices, gaps = _prices(benchmarks, network, input_bytes, sources)
    before = prices.before()
    parts = []
    for used in itertools.chain.from_iterable(itertools.combinations(range(3), k) for k in (1, 2, 3)):
        members = [benchmarks.of_tier(TIERS[t]) for t in used]
        chains = np.array(list(itertools.product(*members)), dtype=np.int64).reshape(-1, len(used))
        cuts = splits(len(benchmarks.layers), len(used))
        if len(chains) and len(cuts):
            parts.append(_part(prices, before, used, chains, cuts, input_bytes))
    joined = [np.concatenate(columns) for columns in zip(*parts, strict=True)] if parts else []
    possible = np.isfinite(joined[-1]) if joined else np.zeros(0, dtype=bool)
    if not possible.any():
        raise InputError(f"nothing can be placed: the network has no link {gaps[0] if gaps else 'at all'}")
    resource, start, stop, time_s, upload, latency = (column[possible] for column in joined)
    return Placements(benchmarks, resource, start, stop, time_s, upload, latency)


def missing_links(benchmarks: Benchmarks, network: Network) -> list[str]:
    """The hops between tiers with resources that the network has no link for, in words."""
    return _prices(benchmarks, network, 0.0, None)[1]


def _prices(
    benchmarks: Benchmarks, network: Network, input_bytes: float, sources: Sequence[int] | None
) -> tuple[Prices, list[str]]:
    resources = benchmarks.resources
    names = [(r.name, r.tier) for r in resources]
    count = len(resources)
    hop, hop_byte, entry = np.full((count, count), np.inf), np.zeros((count, count)), np.full(count, np.inf)
    gaps: dict[str, None] = {}
    at = benchmarks.of_tier("device") if sources is None else tuple(sources)
    origins = [names[i] for i in at] or [("device", "device")]
    for j, resource in enumerate(resources):
        if resource.tier == "device":
            entry[j] = 0.0
            continue
        links = [network.between(origin, names[j]) for origin in origins]
        entry[j] = min((x.latency_s + input_bytes * x.byte_s for x in links if x is not None), default=np.inf)
        if None in links:
            gaps[f"from {origins[links.index(None)][0]} to {resource.name}"] = None
        for i, other in enumerate(resources):
            if TIERS.index(other.tier) >= TIERS.index(resource.tier):
                continue
            link = network.between(names[i], names[j])
            if link is None:
                gaps[f"from {other.name} to {resource.name}"] = None
            else:
                hop[i, j], hop_byte[i, j] = link.latency_s, link.byte_s
    time, left = np.stack([r.time_s for r in resources]), np.stack([r.output_bytes for r in resources])
    return Prices(time, left, entry, np.zeros(count), hop, hop_byte), list(gaps)


def _part(
    prices: Prices, before: FloatArray, used: tuple[int, ...], chains: IntArray, cuts: IntArray, input_bytes: float
) -> tuple[IntArray, IntArray, IntArray, FloatArray, FloatArray, FloatArray]:
    """The columns of `Placements` for the tiers `used`: each of `chains` under each of `cuts`."""
    shape = (len(chains), len(cuts), 3)
    resource = np.full(shape, UNUSED, dtype=np.int64)
    start, stop = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    time_s, upload = np.zeros(shape), np.zeros(shape)
    if used[0] > 0:
        upload[..., 0] = input_bytes
    for k, t in enumerate(used):
        mine = before[chains[:, k]]
        resource[..., t] = chains[:, k, None]
        start[..., t], stop[..., t] = cuts[:, k], cuts[:, k + 1]
        time_s[..., t] = mine[:, cuts[:, k + 1]] - mine[:, cuts[:, k]]
        if k + 1 < len(used):
            upload[..., t] = prices.left_bytes[chains[:, k]][:, cuts[:, k + 1] - 1]
    columns = (resource.reshape(-1, 3), start.reshape(-1, 3), stop.reshape(-1, 3))
    return (*columns, time_s.reshape(-1, 3), upload.reshape(-1, 3), price(prices, chains, cuts).ravel())
