"""What a controller orders, carried out between frames under a virtual clock: none is lost, whatever else happens."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from distredge.control.schema import Orders, plan_sha256
from distredge.engine.onnxruntime import Undivided
from distredge.errors import PlanError
from distredge.model.graph import LayerGraph
from distredge.model.load import load_model
from distredge.plans.plan import BoundPlan
from distredge.runtime.store import ModelStore
from distredge.testing.memory_network import MemoryNetwork, MemoryProvider, MemoryRequester
from distredge.testing.providers import equal_plan, random_images, random_plan
from distredge.testing.toy_models import residual, save_model

FRAMES = 60
NAMES = ["p0", "p1", "p2"]


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> LayerGraph:
    return load_model(save_model(residual(np.random.default_rng(0), height=48), tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def store(graph: LayerGraph, tmp_path_factory: pytest.TempPathFactory) -> ModelStore:
    found = ModelStore(tmp_path_factory.mktemp("store"))
    found.offer(graph)
    return found


@pytest.fixture(scope="module")
def wanted(graph: LayerGraph) -> list[np.ndarray]:
    undivided = Undivided(graph)
    return [next(iter(undivided.run(image).values())) for image in random_images(graph, FRAMES)]


@pytest.fixture(scope="module")
def other(graph: LayerGraph) -> BoundPlan:
    """Another plan in which everybody has as many parts, and takes as long."""
    rng = np.random.default_rng(3)
    plans = (random_plan(rng, graph, NAMES) for _ in range(1000))
    return next(p for p in plans if len(p.volumes) == 2 and all(p.part(v, i) for v in range(2) for i in range(3)))


class Stage:
    """Three providers and a requester, ready."""

    def __init__(self, graph: LayerGraph, store: ModelStore) -> None:
        self.network = MemoryNetwork()
        self.providers = {name: MemoryProvider(self.network, name, store, stage_s=0.01) for name in NAMES}
        self.first = equal_plan(graph, NAMES)
        self.requester = MemoryRequester(self.network, self.first, NAMES)
        self.images = random_images(graph, FRAMES)
        self.until(lambda: bool(self.requester.begun))

    def until(self, done: object, most_s: float = 60.0) -> None:
        self.network.run_until(self.network.now + most_s, done)  # type: ignore[arg-type]

    def order(self, bound: BoundPlan | None, version: int = 1, pinned: bool = False) -> None:
        sha = plan_sha256(bound.plan) if bound else None
        orders = Orders(version=version, plan_sha256=sha, pinned=pinned, reason="it is better")
        self.requester.helm.obey(orders, bound.plan if bound else None, None)

    @property
    def in_force(self) -> tuple[object, ...]:
        plan = self.requester.begun[-1].bound.plan
        return plan.volumes, plan.providers

    def check(self, wanted: list[np.ndarray]) -> None:
        assert [done.frame for done in self.requester.done] == list(range(len(self.requester.done)))
        for done, want in zip(self.requester.done, wanted, strict=False):
            np.testing.assert_allclose(next(iter(done.outputs.values())), want, rtol=1e-4, atol=1e-5)


def key(bound: BoundPlan) -> tuple[object, ...]:
    return bound.plan.volumes, bound.plan.providers


@given(
    at=st.lists(st.floats(0.0, 1.5), min_size=1, max_size=4),
    inflight=st.integers(1, 4),
    killed_s=st.one_of(st.none(), st.floats(0.0, 1.5)),
)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_orders_at_any_moment_lose_no_frame(
    graph: LayerGraph, store: ModelStore, wanted: list[np.ndarray], other: BoundPlan, at: list[float], inflight: int,
    killed_s: float | None,
) -> None:  # fmt: skip
    stage = Stage(graph, store)
    stage.requester.stream(stage.images, inflight)
    for number, moment in enumerate(sorted(at)):
        bound = (other, stage.first)[number % 2]
        stage.network.at(stage.network.now + moment, lambda b=bound, n=number: stage.order(b, n + 1))
    if killed_s is not None:
        stage.network.at(stage.network.now + killed_s, lambda: stage.network.kill("p1"))
        stage.network.at(stage.network.now + killed_s + 2.0, lambda: stage.providers["p1"].start())
    stage.until(lambda: len(stage.requester.done) == FRAMES)
    assert len(stage.requester.done) == FRAMES
    stage.check(wanted)


def test_an_ordered_plan_comes_into_force_and_telemetry_says_whose_it_was(
    graph: LayerGraph, store: ModelStore, other: BoundPlan
) -> None:
    stage = Stage(graph, store)
    stage.requester.stream(stage.images, 1)
    stage.until(lambda: len(stage.requester.done) >= 10)
    first = stage.requester.helm.telemetry()
    assert [c.source for c in first.plan_changes] == ["first"]
    assert (first.sequence, first.latency and first.latency.frames, first.order_version) == (1, 10, 0)
    assert first.plan_sha256 == plan_sha256(stage.first.plan) == plan_sha256(first.plans[0])
    stage.order(other)
    stage.until(lambda: len(stage.requester.done) >= 30)
    assert stage.in_force == key(other)
    second = stage.requester.helm.telemetry()
    assert [(c.source, c.reason) for c in second.plan_changes] == [("controller", "it is better")]
    assert (second.sequence, second.latency and second.latency.frames, second.order_version) == (2, 20, 1)
    assert second.plan_sha256 == plan_sha256(other.plan)
    third = stage.requester.helm.telemetry()
    assert (third.latency, third.plan_changes, third.frame_ms) == (None, (), ())


def test_a_pinned_plan_gives_way_to_a_loss_and_comes_back(
    graph: LayerGraph, store: ModelStore, wanted: list[np.ndarray], other: BoundPlan
) -> None:
    stage = Stage(graph, store)
    stage.requester.stream(stage.images, 1)
    stage.order(other, pinned=True)
    stage.until(lambda: stage.in_force == key(other), 5.0)
    assert stage.in_force == key(other)
    stage.network.kill("p2")
    stage.until(lambda: "p2" not in stage.requester.begun[-1].bound.plan.providers, 5.0)
    assert "p2" not in stage.requester.begun[-1].bound.plan.providers
    stage.providers["p2"].start()
    stage.until(lambda: stage.in_force == key(other), 10.0)
    assert stage.in_force == key(other)
    stage.until(lambda: len(stage.requester.done) == FRAMES)
    stage.check(wanted)


def test_an_ordered_plan_that_turns_out_worse_is_rolled_back(graph: LayerGraph, store: ModelStore) -> None:
    """One provider alone computes all, at a tenth of the others' speed."""
    stage = Stage(graph, store)
    stage.providers["p0"].slowdown = 10.0
    light = equal_plan(graph, NAMES)
    volumes = [v.model_copy(update={"cuts": (0, 0, v.cuts[-1] // 2, v.cuts[-1])}) for v in light.plan.volumes]
    without = light.plan.model_copy(update={"volumes": tuple(volumes), "head_provider": "p1"}).bind(graph)
    stage.requester.stream(random_images(graph, 200), 1)
    stage.order(without, 1)
    stage.until(lambda: stage.in_force == key(without), 10.0)
    stage.until(lambda: len(stage.requester.done) >= 60)
    stage.requester.helm.telemetry()
    stage.order(light, 2)
    stage.until(lambda: len(stage.requester.done) == 200)
    told = stage.requester.helm.telemetry()
    assert [c.source for c in told.plan_changes] == ["controller", "rollback"]
    assert stage.in_force == key(without)


def test_a_plan_of_another_model_is_refused(graph: LayerGraph, store: ModelStore, other: BoundPlan) -> None:
    stage = Stage(graph, store)
    model = other.plan.model.model_copy(update={"sha256": "0" * 64})
    with pytest.raises(PlanError):
        stage.requester.helm.obey(Orders(version=1), other.plan.model_copy(update={"model": model}), None)


def test_an_order_that_cannot_be_carried_out_yet_is_simulated_once(
    graph: LayerGraph, store: ModelStore, other: BoundPlan
) -> None:
    stage, simulated = Stage(graph, store), []

    class Counting:
        def expected(self, bound: BoundPlan) -> dict[tuple[str, int], float]:
            simulated.append(bound)
            return {}

    stage.network.kill("p2")
    stage.until(lambda: len(stage.requester.begun) > 1, 5.0)
    stage.requester.helm._improver = Counting()  # type: ignore[assignment]
    stage.order(other, pinned=True)
    stage.network.run_until(stage.network.now + 5.0)
    assert len(simulated) == 1
    assert stage.in_force != key(other)
