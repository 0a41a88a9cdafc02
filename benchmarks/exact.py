"""`exact` on two providers: seconds, labels, pairs of cuts; what offload and, for as long, search are above it."""

from __future__ import annotations

import time

import distredge
from distredge.api import make_task
from distredge.errors import InputError
from distredge.planners import planner

CASES = (
    ("vgg16", "na-nano", (0, 2)),
    ("vgg16", "na-nano", (0, 1)),
    ("vgg16", "db-50", (0, 2)),
    ("vgg16", "db-300", (0, 1)),
    ("resnet50", "na-nano", (0, 2)),
    ("resnet50", "db-300", (0, 1)),
    ("yolov2", "db-300", (0, 2)),
    ("inception_v3", "db-300", (0, 1)),
    ("ssd_vgg16", "db-300", (0, 1)),
    ("vgg16", "na-nano", (0, 1, 2)),
)
"""Model, scenario, and which of its providers."""


def main() -> None:
    _solve(*CASES[0])  # compiles
    for case in CASES:
        _compare(*case)


def _compare(model: str, name: str, some: tuple[int, ...]) -> None:
    graph, scenario = distredge.load_model(model), distredge.load_scenario(name).reordered(some)
    title = f"exact {model} {name} {', '.join(scenario.provider_names)}"
    try:
        best, seconds, labels, work = _solve(model, name, some)
    except InputError as exc:
        print(f"{title}: {exc}")
        return
    offload = planner("offload").plan(make_task(graph, scenario, 0, None, None)).latency_ms
    search = planner("search").plan(make_task(graph, scenario, 0, max(1.0, seconds), None)).latency_ms
    print(
        f"{title}: {best:.2f} ms in {seconds:.1f} s, {labels:,} labels, {work:,} pairs and extensions"
        f" (offload {offload / best:.3f}, search in {max(1.0, seconds):.1f} s {search / best:.4f})"
    )


def _solve(model: str, name: str, some: tuple[int, ...]) -> tuple[float, float, int, int]:
    from distredge.planners.exact import Exact

    scenario = distredge.load_scenario(name).reordered(some)
    task = make_task(distredge.load_model(model), scenario, 0, None, None)
    started = time.perf_counter()
    found = Exact().prove(task)
    return found.latency_ms, time.perf_counter() - started, found.labels, found.work
