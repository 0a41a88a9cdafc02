"""LC-PSS against scoring every scheme by brute force; search at several budgets against itself at 20 s."""

from __future__ import annotations

import itertools
import time

import numpy as np

import distredge
from distredge.partitioning.lcpss import ALPHA, SAMPLES, greedy, scorer


def main() -> None:
    for name in ("vgg16", "resnet50"):
        _lcpss(name)
    graph = distredge.load_model("vgg16")
    for scenario_name in ("db-50", "na-nano"):
        scenario = distredge.load_scenario(scenario_name)
        found = {budget: _latency(graph, scenario, budget) for budget in (1.0, 5.0, 20.0)}
        shown = ", ".join(f"{b:.0f} s: {ms:.2f} ms ({ms / found[20.0]:.3f})" for b, ms in found.items())
        print(f"search vgg16 {scenario_name}: {shown}")


def _lcpss(name: str) -> None:
    graph = distredge.load_model(name)
    times = []
    for seed in range(9):
        started = time.perf_counter()
        score = scorer(graph, 4, ALPHA, SAMPLES, np.random.default_rng(seed))
        scheme = greedy(score)
        times.append(time.perf_counter() - started)
    started = time.perf_counter()
    inner = graph.partition_points[1:]
    every = (some for k in range(len(inner) + 1) for some in itertools.combinations(inner, k))
    best = min(score.scheme((0, *some)) for some in every)
    brute = time.perf_counter() - started
    print(
        f"LC-PSS {name}, 4 providers, {SAMPLES} decisions: median {np.median(times) * 1e3:.0f} ms, brute force over"
        f" {2 ** len(inner):,} schemes {brute * 1e3:,.0f} ms (ratio {brute / np.median(times):.0f}),"
        f" score {score.scheme(scheme.locations) / best:.3f} of the best"
    )


def _latency(graph: distredge.LayerGraph, scenario: distredge.Scenario, budget_s: float) -> float:
    predicted = distredge.plan(graph, scenario, method="search", budget_s=budget_s).predicted
    assert predicted is not None
    return predicted.latency_ms
