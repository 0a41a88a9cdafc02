"""Beyond the paper: search and simulator with up to 64 providers; cost against providers, volumes and layers.

Seconds are of one core's time, so that other work on the machine does not count; limits are by the clock.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np

import distredge
from distredge.api import make_task
from distredge.model.graph import LayerGraph
from distredge.planners import planner
from distredge.plans.scheme import PartitionScheme
from distredge.plots import draw_lines
from distredge.scenario import Scenario
from distredge.simulate.costs import VolumeCosts
from distredge.simulate.simulator import Simulator
from distredge.testing.toy_devices import random_cuts

PROVIDERS = (2, 4, 8, 16, 32, 64)
MODELS = ("vgg16", "resnet50", "inception_v3", "densenet121")
MIDDLE = 16
"""Providers when volumes or layers vary."""

LIMITS_S = (5.0, 20.0)
"""What search is given for most providers."""


def scenario_of(count: int) -> Scenario:
    """So many providers: those of case LD (four boards on 50 to 300 Mbit/s) again and again."""
    base = distredge.load_scenario("ld")
    some = (base.providers[k % len(base.providers)] for k in range(count))
    named = tuple(p.model_copy(update={"name": f"p{k}"}) for k, p in enumerate(some))
    return Scenario(name=f"ld-{count}", providers=named)


def main() -> None:
    graph = distredge.load_model("vgg16")
    _plan(graph, scenario_of(4), None)  # compile
    by_providers = [_plan(graph, scenario_of(n), None) for n in PROVIDERS]
    for n, (seconds, wall, latency) in zip(PROVIDERS, by_providers, strict=True):
        print(f"search vgg16, fixed work, {n} providers: {seconds:.1f} s of one core, {wall:.1f} s, {latency:.2f} ms")
    for budget in LIMITS_S:
        _, wall, latency = _plan(graph, scenario_of(PROVIDERS[-1]), budget)
        print(f"search vgg16, {PROVIDERS[-1]} providers, limit {budget:.0f} s: {wall:.1f} s, {latency:.2f} ms")
    evaluations = [_evaluation_us(graph, scenario_of(n), distredge.partition(graph, scenario_of(n))) for n in PROVIDERS]
    for n, us in zip(PROVIDERS, evaluations, strict=True):
        print(f"simulator vgg16, LC-PSS's volumes, {n} providers: {us:.1f} us a strategy")
    place = scenario_of(MIDDLE)
    schemes = [_scheme(graph, k) for k in range(1, len(graph.cut_points) + 1)]
    by_volumes = [_evaluation_us(graph, place, scheme) for scheme in schemes]
    print(
        f"simulator vgg16, {MIDDLE} providers: 1 volume {by_volumes[0]:.1f} us, {len(schemes)} {by_volumes[-1]:.1f} us"
    )
    graphs = sorted((distredge.load_model(name) for name in MODELS), key=lambda g: len(g.layers))
    by_layers = [_plan(g, place, None) for g in graphs]
    for g, (seconds, _, _) in zip(graphs, by_layers, strict=True):
        print(f"search {g.name}, {len(g.layers)} layers, {MIDDLE} providers: {seconds:.1f} s of one core")
    path = Path(tempfile.gettempdir()) / "many_devices.png"
    draw_lines(
        {
            "search (fixed work, s) by providers": {"": (PROVIDERS, [s for s, _, _ in by_providers])},
            "a strategy (us) by providers": {"": (PROVIDERS, evaluations)},
            f"a strategy (us) by volumes, {MIDDLE} providers": {"": (range(1, len(schemes) + 1), by_volumes)},
            f"search (s) by layers, {MIDDLE} providers": {
                "": ([len(g.layers) for g in graphs], [s for s, _, _ in by_layers])
            },
        },
        "providers, volumes or layers", "time of one core", path,
    )  # fmt: skip
    print(f"plot: {path}")


def _plan(graph: LayerGraph, scenario: Scenario, budget_s: float | None) -> tuple[float, float, float]:
    """Seconds of one core, seconds by the clock, latency in ms of a plan by search."""
    used, began = time.process_time(), time.perf_counter()
    latency = planner("search").plan(make_task(graph, scenario, 0, budget_s, None)).latency_ms
    return time.process_time() - used, time.perf_counter() - began, latency


def _evaluation_us(graph: LayerGraph, scenario: Scenario, scheme: PartitionScheme, batch: int = 3000) -> float:
    """One core's time for a random strategy."""
    simulator = Simulator(graph, scenario, scheme, VolumeCosts(graph, scenario.profiles))
    cuts = random_cuts(np.random.default_rng(0), simulator.heights, simulator.providers, batch)
    simulator.evaluate(cuts[:10])
    began = time.process_time()
    simulator.evaluate(cuts)
    return (time.process_time() - began) / batch * 1e6


def _scheme(graph: LayerGraph, volumes: int) -> PartitionScheme:
    """So many volumes, evenly spread over the partition points."""
    points = graph.cut_points
    chosen = np.unique(np.rint(np.linspace(0, len(points), volumes + 1)[:-1]).astype(int))
    return PartitionScheme(graph, tuple(points[k] for k in chosen))
