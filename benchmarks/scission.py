"""Scission's ranking against one placement at a time, and what it answers as networks and demands change.

The second part mirrors the paper's Table IV and figures 6 to 13 with block times from shipped profiles, all calibrated
from published figures, none measured by us: a Raspberry Pi 4 (as in the paper) as device, a Jetson TX2 and a Jetson
Nano as edges, a Jetson AGX Xavier in place of a cloud server with a GPU.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable

import numpy as np

import distredge
from distredge.placement.benchmarks import INPUT_BYTES, NETWORKS, TIERS, Benchmarks, Network, Resource
from distredge.placement.from_profiles import benchmarks_of, scenario_of_profiles
from distredge.placement.query import parse_caps, parse_tier, query

PLACES = {"device": ["raspberry-pi-4b"], "edge": ["jetson-tx2", "jetson-nano"], "cloud": ["jetson-agx-xavier"]}

LINES: list[tuple[str, str, str, float, dict[str, str]]] = [
    ("fig. 6", "vgg19", "3g", INPUT_BYTES, {}),
    ("fig. 6", "vgg19", "4g", INPUT_BYTES, {}),
    ("fig. 7", "resnet50", "3g", INPUT_BYTES, {}),
    ("fig. 7", "resnet50", "4g", INPUT_BYTES, {}),
    ("fig. 8", "mobilenet_v2", "3g", INPUT_BYTES, {}),
    ("fig. 8", "mobilenet_v2", "4g", INPUT_BYTES, {}),
    ("fig. 9", "vgg19", "3g", 200_000.0, {}),
    ("fig. 10", "vgg19", "3g", INPUT_BYTES, dict.fromkeys(TIERS, "!-1")),
    ("fig. 10", "vgg19", "4g", INPUT_BYTES, dict.fromkeys(TIERS, "!-1")),
    ("fig. 11", "resnet50", "3g", INPUT_BYTES, dict.fromkeys(TIERS, "!-1")),
    ("fig. 11", "resnet50", "4g", INPUT_BYTES, dict.fromkeys(TIERS, "!-1")),
    ("fig. 12", "inception_v3", "wired", INPUT_BYTES, {"edge": "jetson-tx2"}),
    ("fig. 12", "inception_v3", "wired", INPUT_BYTES, {"edge": "jetson-nano"}),
    ("fig. 13", "inception_v3", "wired", INPUT_BYTES, {"device": "!-1", "edge": "jetson-tx2", "cloud": "!-1"}),
    ("fig. 13", "inception_v3", "wired", INPUT_BYTES, {"device": "!-1", "edge": "jetson-nano", "cloud": "!-1"}),
    ("fig. 14", "densenet121", "wired", INPUT_BYTES, {"device": "!-1", "edge": "jetson-tx2", "cloud": "!-1"}),
    ("fig. 14", "densenet121", "wired", INPUT_BYTES, {"device": "!-1", "edge": "jetson-nano", "cloud": "!-1"}),
    ("fig. 15", "resnet50", "wired", INPUT_BYTES, {"edge": "jetson-tx2"}),
    ("query", "resnet50", "wired", INPUT_BYTES, {"device": "!-1", "edge": "!-1"}),
    ("query", "resnet50", "wired", INPUT_BYTES, {"device": "!-1", "edge": "!-1", "max-upload": "device=0.5"}),
    ("query", "resnet50", "wired", INPUT_BYTES, {"device": "!-1", "edge": "!-1", "max-time": "device=0.1,edge=10%"}),
    ("query", "resnet50", "4g", INPUT_BYTES, {"edge": "!jetson-tx2", "cloud": "-1"}),
    ("query", "resnet50", "4g", INPUT_BYTES, {"device": "0", "cloud": "54"}),
]

TABLE_IV: list[tuple[str, dict[str, str]]] = [
    ("device, edge", {"device": "!-1", "edge": "jetson-tx2", "cloud": "-1"}),
    ("device, cloud", {"device": "!-1", "edge": "-1", "cloud": "!-1"}),
    ("edge, cloud", {"device": "-1", "edge": "jetson-tx2", "cloud": "!-1"}),
    ("device, edge, cloud", {"device": "!-1", "edge": "jetson-tx2", "cloud": "!-1"}),
]


def main() -> None:
    _speed()
    _like_the_paper()


def _speed() -> None:
    benchmarks, network = random_benchmarks(60, {"device": 1, "edge": 2, "cloud": 2}), NETWORKS["wired"]
    ranked = query(benchmarks, network, INPUT_BYTES, [])
    quick = _median_ms(lambda: query(benchmarks, network, INPUT_BYTES, []), 21)
    slow = _median_ms(lambda: one_by_one(benchmarks, network, INPUT_BYTES), 3)
    print(
        f"60 blocks, 1 device, 2 edges, 2 clouds: {len(ranked.order):,} placements ranked in {quick:.2f} ms,"
        f" one at a time {slow:.0f} ms (ratio {slow / quick:.0f}); the paper: 50 ms at worst"
    )
    three = random_benchmarks(60, dict.fromkeys(TIERS, 1))
    count, ms = (
        len(query(three, network, INPUT_BYTES, []).order),
        _median_ms(lambda: query(three, network, 1.5e5, []), 21),
    )
    print(f"60 blocks, one resource a tier: {count:,} placements ranked in {ms:.2f} ms")


def _median_ms(call: Callable[[], object], times: int) -> float:
    taken = []
    for _ in range(times):
        started = time.perf_counter()
        call()
        taken.append(time.perf_counter() - started)
    return float(np.median(taken)) * 1000.0


def random_benchmarks(blocks: int, counts: dict[str, int]) -> Benchmarks:
    rng = np.random.default_rng(0)
    left = rng.uniform(1e4, 2e6, blocks)
    resources = tuple(
        Resource(tier, f"{tier}{n}", rng.uniform(0.001, 0.02, blocks) / (1 + TIERS.index(tier)), left)
        for tier, count in counts.items()
        for n in range(count)
    )
    return Benchmarks(tuple((k, k) for k in range(blocks)), resources)


def one_by_one(benchmarks: Benchmarks, network: Network, input_bytes: float) -> list[float]:
    """Latencies of all placements, best first, as a plain program would find them."""
    blocks, found = len(benchmarks.layers), list[float]()
    for a, b in itertools.combinations_with_replacement(range(blocks + 1), 2):
        runs = [
            (tier, span) for tier, span in zip(TIERS, ((0, a), (a, b), (b, blocks)), strict=True) if span[0] < span[1]
        ]
        for chain in itertools.product(*(benchmarks.of_tier(tier) for tier, _ in runs)):
            total, passed, before = 0.0, input_bytes, "device"
            for (tier, (start, stop)), i in zip(runs, chain, strict=True):
                resource = benchmarks.resources[i]
                if tier != before:
                    link = network.links[before, tier]
                    total += link.latency_s + passed * link.byte_s
                total += float(resource.time_s[start:stop].sum())
                passed, before = float(resource.output_bytes[stop - 1]), tier
            found.append(total)
    return sorted(found)


def _like_the_paper() -> None:
    known = {name: _blocks(name) for name in dict.fromkeys(line[1] for line in LINES)}
    print("like | model | network | input kB | demands | latency s | device | edge | cloud")
    for figure, model, network, size, demands in LINES:
        row = answer(known[model], network, size, demands, 1)[0]
        said = " ".join(f"--{tier} {text}" for tier, text in demands.items()) or "none"
        print(f"{figure} | {model} | {network} | {size / 1e3:.0f} | {said} | {row['latency_s']:.3f} | {_where(row)}")
    print("Table IV | ResNet-50, wired | latency s | MB | device | edge | cloud")
    for pipeline, demands in TABLE_IV:
        for row in answer(known["resnet50"], "wired", INPUT_BYTES, demands, 3):
            print(f"{pipeline} | {row['latency_s']:.3f} | {row['transfer_mb']:.3f} | {_where(row)}")


def _blocks(model: str) -> Benchmarks:
    return benchmarks_of(distredge.load_model(model), scenario_of_profiles(PLACES), PLACES)


def answer(
    benchmarks: Benchmarks, network: str, size: float, demands: dict[str, str], top: int
) -> list[dict[str, object]]:
    parsed = [d for t in TIERS if t in demands for d in parse_tier(f"--{t}", t, demands[t], benchmarks)]
    for option, kind in (("max-upload", "upload"), ("max-time", "time")):
        parsed += parse_caps(f"--{option}", [demands[option]] if option in demands else [], kind)
    found = query(benchmarks, NETWORKS[network], size, parsed)
    return [found.placements.row(int(place)) for place in found.order[:top]]


def _where(row: dict[str, object]) -> str:
    return " | ".join("-" if row[t] is None else f"{row[t]}: {row[f'{t}_layers']}" for t in TIERS)
