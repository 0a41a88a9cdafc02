"""Strategies a second: the compiled simulator against the plain reference, VGG-16, LC-PSS scheme, random cuts."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import numpy as np

import distredge
from distredge.planners.base import Strategy, draft
from distredge.simulate.costs import VolumeCosts
from distredge.simulate.simulator import Simulator
from distredge.simulate.timeline import trace
from distredge.testing.toy_devices import random_cuts

BATCH = 200_000
REPEATS = 5
REFERENCES = 30


def main() -> None:
    graph = distredge.load_model("vgg16")
    for name in ("db-50", "na-nano", "lb"):
        scenario = distredge.load_scenario(name)
        costs = VolumeCosts(graph, scenario.profiles)
        simulator = Simulator(graph, scenario, distredge.partition(graph, scenario), costs)
        cuts = random_cuts(np.random.default_rng(0), simulator.heights, simulator.providers, BATCH)
        simulator.evaluate(cuts[:10])  # compile
        times = [_seconds(partial(simulator.evaluate, cuts)) for _ in range(REPEATS)]
        rate = BATCH / float(np.median(times))
        reference = REFERENCES / _seconds(partial(_references, simulator, costs, cuts[:REFERENCES]))
        print(
            f"vgg16 {name}: {simulator.providers} providers, {len(simulator.heights)} volumes:"
            f" {rate:,.0f} strategies/s (spread {min(times) / max(times):.2f}); reference {reference:,.0f}/s;"
            f" ratio {rate / reference:,.0f}"
        )


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _references(simulator: Simulator, costs: VolumeCosts, batch: np.ndarray) -> list[float]:
    return [_reference(simulator, costs, cuts) for cuts in batch]


def _reference(simulator: Simulator, costs: VolumeCosts, cuts: np.ndarray) -> float:
    scenario = simulator.scenario
    plan = draft(Strategy(simulator.scheme, scenario, cuts, 0.0), scenario, "benchmark", 0)
    return trace(plan.bind(simulator.graph), scenario, costs).latency_ms
