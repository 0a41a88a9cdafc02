"""For tests of the runtime: plans for toy models, and providers in threads on real sockets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from threading import Event, Thread

import numpy as np

from distredge.engine.base import FloatRows
from distredge.model.graph import LayerGraph
from distredge.plans.plan import BoundPlan, ModelRef, Plan, VolumePlan
from distredge.runtime.keys import Keys
from distredge.runtime.provider import Provider
from distredge.runtime.store import ModelStore
from distredge.scenario import Provider as Device
from distredge.scenario import Scenario


def random_plan(rng: np.random.Generator, graph: LayerGraph, names: Sequence[str]) -> BoundPlan:
    """A plan of random volumes, cut at random; any provider may be left without a part, any may run the head."""
    points = [p for p in graph.cut_points[1:] if rng.random() < 0.5]
    volumes = []
    for start, stop in pairwise([0, *points, len(graph.layers)]):
        height = graph.layers[stop - 1].height
        inner = sorted(int(c) for c in rng.integers(0, height + 1, len(names) - 1))
        volumes.append(VolumePlan(layers=graph.names(start, stop), cuts=(0, *inner, height)))
    return bound_plan(graph, names, volumes, names[int(rng.integers(len(names)))])


def equal_plan(graph: LayerGraph, names: Sequence[str]) -> BoundPlan:
    """Two volumes where the model can be divided, each cut into equal parts; the first provider runs the head."""
    points = graph.partition_points
    bounds = sorted({0, points[len(points) // 2], len(graph.layers)})
    volumes = []
    for start, stop in pairwise(bounds):
        height = graph.layers[stop - 1].height
        cuts = tuple(i * height // len(names) for i in range(len(names) + 1))
        volumes.append(VolumePlan(layers=graph.names(start, stop), cuts=cuts))
    return bound_plan(graph, names, volumes, names[0])


def bound_plan(graph: LayerGraph, names: Sequence[str], volumes: Sequence[VolumePlan], head: str) -> BoundPlan:
    """A plan of these volumes."""
    model = ModelRef(name=graph.name, sha256=graph.sha256, input_shape=graph.input_shape)
    plan = Plan(
        method="test", model=model, scenario="toy", providers=tuple(names), volumes=tuple(volumes), head_provider=head
    )
    return plan.bind(graph)


def toy_scenario(names: Sequence[str], bandwidth_mbps: float = 100.0, profile: str = "jetson-nano") -> Scenario:
    """Like devices on like links."""
    return Scenario(
        name="toy", providers=tuple(Device(name=n, profile=profile, bandwidth_mbps=bandwidth_mbps) for n in names)
    )


def random_images(graph: LayerGraph, count: int, seed: int = 0) -> list[FloatRows]:
    """Images of noise."""
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(graph.input_shape).astype(np.float32) for _ in range(count)]


@contextmanager
def provider_threads(
    names: Sequence[str], keys: Path | None = None, store: ModelStore | None = None
) -> Iterator[dict[str, str]]:
    """Providers that serve on loopback until the block is left; yields their addresses."""
    providers = [Provider(n, "127.0.0.1:0", Keys.load(keys, n) if keys else None, store) for n in names]
    stop = Event()
    threads = [Thread(target=provider.serve, args=(stop,)) for provider in providers]
    for thread in threads:
        thread.start()
    try:
        yield {provider.name: provider.address for provider in providers}
    finally:
        stop.set()
        for thread in threads:
            thread.join()
