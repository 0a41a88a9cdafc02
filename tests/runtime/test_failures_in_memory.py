"""Every failure, under a virtual clock: each image's result comes once, in order, right, and soon."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from distredge.engine.onnxruntime import Undivided
from distredge.model.graph import LayerGraph
from distredge.model.load import load_model
from distredge.runtime.conductor import READY_S, RETURN_S, STUCK_S, Offer
from distredge.runtime.replan import redistributed
from distredge.runtime.store import ModelStore
from distredge.scenario import REQUESTER
from distredge.testing.memory_network import MemoryNetwork, MemoryProvider, MemoryRequester
from distredge.testing.providers import equal_plan, random_images
from distredge.testing.toy_models import residual, save_model

FRAMES = 60
PAUSE_S = 1.5

Stage = tuple[MemoryNetwork, dict[str, MemoryProvider], MemoryRequester]


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


def begin(graph: LayerGraph, store: ModelStore, count: int) -> Stage:
    network, names = MemoryNetwork(), [f"p{i}" for i in range(count)]
    providers = {name: MemoryProvider(network, name, store, stage_s=0.01) for name in names}
    requester = MemoryRequester(network, equal_plan(graph, names), names)
    network.run_until(network.now + 1.0, lambda: bool(requester.begun))
    assert requester.begun
    return network, providers, requester


def check(stage: Stage, wanted: list[np.ndarray], frames: int = FRAMES) -> None:
    _, _, requester = stage
    assert [done.frame for done in requester.done] == list(range(frames))
    for done, want in zip(requester.done, wanted, strict=False):
        np.testing.assert_allclose(next(iter(done.outputs.values())), want, rtol=1e-4, atol=1e-5)


def longest_pause(requester: MemoryRequester) -> float:
    return float(np.diff([requester.begun[0].at_s, *(done.done_s for done in requester.done)]).max())


FAULTS: dict[str, tuple[Callable[..., None], Callable[..., None]]] = {
    "killed": (lambda n, p: n.kill(p.name), lambda n, p: p.start()),
    "frozen": (lambda n, p: n.freeze(p.name), lambda n, p: n.thaw(p.name)),
    "cut off": (lambda n, p: n.cut(p.name), lambda n, p: n.mend(p.name)),
}


@pytest.mark.parametrize("fault", FAULTS)
@given(
    count=st.integers(2, 4),
    victim=st.integers(0, 3),
    moment=st.floats(0.0, 1.0),
    away_s=st.floats(0.05, 8.0),
    inflight=st.integers(1, 4),
)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_nothing_is_lost_when_a_provider_fails_and_returns(
    graph: LayerGraph, store: ModelStore, wanted: list[np.ndarray], fault: str, count: int, victim: int,
    moment: float, away_s: float, inflight: int,
) -> None:  # fmt: skip
    stage = network, providers, requester = begin(graph, store, count)
    requester.stream(random_images(graph, FRAMES), inflight)
    provider = providers[f"p{victim % count}"]
    harm, heal = FAULTS[fault]
    network.at(network.now + moment, lambda: harm(network, provider))
    network.at(network.now + moment + away_s, lambda: heal(network, provider))
    network.run_until(network.now + 60.0, lambda: len(requester.done) == FRAMES)
    check(stage, wanted)
    assert longest_pause(requester) <= PAUSE_S
    assert network.now < 1000.0 + 30.0


@pytest.mark.parametrize("fault", FAULTS)
def test_survivors_share_the_work_and_the_returning_one_is_taken_in(
    graph: LayerGraph, store: ModelStore, wanted: list[np.ndarray], fault: str
) -> None:
    stage = network, providers, requester = begin(graph, store, 3)
    images = random_images(graph, FRAMES)
    requester.stream(images, 2)
    harm, heal = FAULTS[fault]
    network.at(network.now + 0.1, lambda: harm(network, providers["p1"]))
    network.run_until(network.now + 60.0, lambda: len(requester.done) == FRAMES)
    check(stage, wanted)
    assert requester.begun[-1].bound.plan.providers == ("p0", "p2")
    heal(network, providers["p1"])
    network.run_until(network.now + 2.0 * RETURN_S + 1.0)
    assert requester.situations[-1].present == ("p0", "p1", "p2")
    offered = requester.situations[-1]
    requester.conductor.offer(Offer(requester.begun[0].bound, {}, situation=offered))
    requester.stream(images[:5], 1)
    network.run_until(network.now + 10.0, lambda: len(requester.done) == FRAMES + 5)
    assert requester.begun[-1].bound.plan.providers == ("p0", "p1", "p2")
    check(stage, [*wanted, *wanted[:5]], FRAMES + 5)
    assert providers["p1"].service.session is not None
    assert providers["p1"].service.session.rows > 0


def test_a_slow_provider_is_noticed_and_a_better_plan_taken_without_a_pause(
    graph: LayerGraph, store: ModelStore, wanted: list[np.ndarray]
) -> None:
    stage = network, providers, requester = begin(graph, store, 3)
    first = requester.begun[0].bound
    expected = {(name, v): 10.0 for name in providers for v in range(len(first.volumes))}
    requester.watch.pacemaker.expect(1, expected)
    requester.stream(3 * random_images(graph, FRAMES), 2)
    network.at(network.now + 0.5, lambda: setattr(providers["p2"], "slowdown", 5.0))
    network.run_until(network.now + 60.0, lambda: bool(requester.situations))
    assert requester.situations[-1].slowdown == {"p2": pytest.approx(5.0, rel=0.3)}
    changed = requester.situations[-1]
    requester.conductor.offer(Offer(redistributed(first, changed), expected, situation=changed))
    network.run_until(network.now + 60.0, lambda: len(requester.done) == 3 * FRAMES)
    check(stage, 3 * wanted, 3 * FRAMES)
    assert len(requester.begun) == 2 and requester.begun[1].reason == "a better plan"
    assert longest_pause(requester) < 0.5


def test_all_lost_and_one_returns(graph: LayerGraph, store: ModelStore, wanted: list[np.ndarray]) -> None:
    stage = network, providers, requester = begin(graph, store, 2)
    requester.stream(random_images(graph, FRAMES), 2)
    for provider in providers.values():
        network.at(network.now + 0.2, lambda p=provider: network.kill(p.name))
    network.at(network.now + 3.0, providers["p1"].start)
    network.run_until(network.now + 60.0, lambda: len(requester.done) == FRAMES)
    check(stage, wanted)
    assert requester.begun[-1].bound.plan.providers == ("p1",)


def test_when_nobody_returns_the_stream_ends_with_the_reason(graph: LayerGraph, store: ModelStore) -> None:
    network, providers, requester = begin(graph, store, 2)
    requester.stream(random_images(graph, FRAMES), 2)
    for name in providers:
        network.kill(name)
    with pytest.raises(Exception, match="no provider is left"):
        network.run_until(network.now + 60.0)


def test_providers_free_everything_when_the_requester_is_gone(graph: LayerGraph, store: ModelStore) -> None:
    network, providers, requester = begin(graph, store, 3)
    requester.stream(random_images(graph, FRAMES), 2)
    network.run_until(network.now + 0.3)
    network.kill(REQUESTER)
    network.run_until(network.now + 5.0)
    assert all(provider.service.session is None for provider in providers.values())


def test_a_provider_that_cannot_compute_is_replaced(
    graph: LayerGraph, store: ModelStore, wanted: list[np.ndarray]
) -> None:
    stage = network, providers, requester = begin(graph, store, 3)
    requester.stream(random_images(graph, FRAMES), 2)

    def break_down() -> None:
        def broken() -> None:
            raise MemoryError("out of memory")

        providers["p0"]._spend = broken  # type: ignore[method-assign]
        for engine in providers["p0"].service.session._epochs[1]._engines.values():  # type: ignore[union-attr]
            if hasattr(engine, "_spend"):
                engine._spend = broken

    network.at(network.now + 0.3, break_down)
    network.run_until(network.now + 20.0, lambda: len(requester.done) == FRAMES)
    check(stage, wanted)
    assert longest_pause(requester) <= PAUSE_S


def test_a_provider_that_is_busy_for_ever_is_given_up(
    graph: LayerGraph, store: ModelStore, wanted: list[np.ndarray]
) -> None:
    stage = network, providers, requester = begin(graph, store, 3)
    requester.stream(random_images(graph, FRAMES), 2)
    service = providers["p1"].service

    def wedge() -> None:
        service._compute.put = lambda *_: None  # type: ignore[method-assign]

    network.at(network.now + 0.3, wedge)
    network.run_until(network.now + 200.0, lambda: len(requester.done) == FRAMES)
    check(stage, wanted)
    assert STUCK_S <= longest_pause(requester) <= STUCK_S + READY_S + 2.0
    assert requester.begun[-1].bound.plan.providers == ("p0", "p2")


def test_what_an_epoch_held_is_freed_with_it_at_once(graph: LayerGraph, store: ModelStore) -> None:
    network, providers, requester = begin(graph, store, 3)
    requester.stream(random_images(graph, FRAMES), 2)
    network.run_until(network.now + 0.5)
    session = providers["p0"].service.session
    assert session is not None
    assembly = session._epochs[1].assembly
    held = [weakref.ref(array) for lists in assembly._spare.values() for arrays in lists for array in arrays]
    assert held
    gc.disable()  # cycles may live for hours in a process that makes few new objects
    try:
        network.kill("p1")
        network.run_until(network.now + 60.0, lambda: len(requester.done) == FRAMES)
        assert len(requester.begun) == 2
        assert not [ref for ref in held if ref() is not None]
    finally:
        gc.enable()
