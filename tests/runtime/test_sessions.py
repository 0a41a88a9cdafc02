"""Providers and requester together, on real sockets, in one process."""

from __future__ import annotations

import math
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import zmq

from distredge.engine.onnxruntime import Undivided
from distredge.errors import InputError, ProviderLostError, RunError
from distredge.model.graph import IMAGE, LayerGraph
from distredge.model.load import load_model
from distredge.plans.plan import BoundPlan
from distredge.runtime import crew as crew_module
from distredge.runtime.message import Wire
from distredge.runtime.requester import FrameResult, Requester, Terms
from distredge.runtime.run import RunOptions, difference, run_plan, terms
from distredge.runtime.store import ModelStore
from distredge.scenario import Io
from distredge.simulate.timeline import trace
from distredge.testing.branchy_models import branchy_model
from distredge.testing.providers import equal_plan, random_images, random_plan, toy_scenario
from distredge.testing.random_models import random_model
from distredge.testing.toy_devices import ToyProfile
from distredge.testing.toy_devices import toy_scenario as toy_scenario_of
from distredge.testing.toy_models import chain, residual, save_model

from .conftest import StartProviders

NAMES = ["a", "b", "c"]


@pytest.fixture
def graph(tmp_path: Path) -> LayerGraph:
    return load_model(save_model(residual(np.random.default_rng(0)), tmp_path))


def run(
    bound: BoundPlan, addresses: dict[str, str], count: int = 2, inflight: int = 1, wire: Wire = "float32"
) -> float:
    images = random_images(bound.graph, count)
    with Requester(bound, addresses, terms=Terms(wire=wire)) as requester:
        results = list(requester.stream(images, inflight))
    assert [result.index for result in results] == list(range(count))
    return difference(bound, images, results)


@pytest.mark.parametrize("make", [random_model, branchy_model])
def test_random_plans_give_the_undivided_result(
    tmp_path: Path, start_providers: StartProviders, make: Callable[..., onnx.ModelProto]
) -> None:
    addresses = start_providers(*NAMES)
    for seed in range(12):
        rng = np.random.default_rng(seed)
        folder = tmp_path / str(seed)
        folder.mkdir()
        bound = random_plan(rng, load_model(save_model(make(rng), folder)), NAMES)
        assert run(bound, addresses) <= 1e-5


def test_a_model_without_a_head_is_gathered_by_the_requester(tmp_path: Path, start_providers: StartProviders) -> None:
    graph = load_model(save_model(random_model(np.random.default_rng(5), head=False), tmp_path))
    assert not graph.head.nodes
    assert run(equal_plan(graph, NAMES), start_providers(*NAMES)) <= 1e-5


@pytest.mark.parametrize("make", [residual, branchy_model])
def test_several_images_under_way_do_not_mix(
    tmp_path: Path, start_providers: StartProviders, make: Callable[..., onnx.ModelProto]
) -> None:
    graph = load_model(save_model(make(np.random.default_rng(0)), tmp_path))
    assert run(equal_plan(graph, NAMES), start_providers(*NAMES), count=12, inflight=5) <= 1e-5


@pytest.mark.parametrize(("wire", "tolerance"), [("float16", 5e-3), ("int8", 0.2)])
def test_a_coarser_wire_changes_the_result_a_little(
    graph: LayerGraph, start_providers: StartProviders, wire: Wire, tolerance: float
) -> None:
    assert 0.0 < run(equal_plan(graph, NAMES), start_providers(*NAMES), wire=wire) <= tolerance


def test_an_emulated_run_gives_zeros_of_every_output(tmp_path: Path, start_providers: StartProviders) -> None:
    addresses = start_providers(*NAMES)
    for seed in range(4):
        rng = np.random.default_rng(seed)
        bound = random_plan(rng, load_model(save_model(branchy_model(rng), tmp_path)), NAMES)
        stand_ins = terms(toy_scenario(NAMES), RunOptions(emulate=True))
        with Requester(bound, addresses, terms=stand_ins) as requester:
            (result,) = requester.stream(random_images(bound.graph, 1))
        assert {n: x.shape for n, x in result.outputs.items()} == {o.name: o.shape for o in bound.graph.head.outputs}
        assert not any(x.any() for x in result.outputs.values())


def test_an_emulated_run_takes_the_time_that_reading_and_writing_takes(
    tmp_path: Path, start_providers: StartProviders
) -> None:
    graph = load_model(save_model(chain(np.random.default_rng(0), height=64, width=64), tmp_path))
    bound, io = equal_plan(graph, ["d0", "d1"]), Io(read_ms=10.0, read_ms_per_mb=100.0, write_ms=20.0)
    plain = toy_scenario_of([ToyProfile("free", 0.0, 0.0)] * 2, [50.0, 50.0])
    scenario = plain.model_copy(
        update={
            "providers": tuple(p.model_copy(update={"io": io}) for p in plain.providers),
            "requester": plain.requester.model_copy(update={"io": io}),
        }
    )
    images, addresses = random_images(graph, 5), start_providers("d0", "d1")
    took = [run_plan(bound, s, addresses, images, RunOptions(emulate=True)).latency_ms.p50 for s in (plain, scenario)]
    predicted = [trace(bound, s).latency_ms for s in (plain, scenario)]
    assert predicted[1] > predicted[0] + 90.0  # three messages one after the other, and the requester's second one
    assert took[1] - took[0] == pytest.approx(predicted[1] - predicted[0], rel=0.15)


def test_a_wrong_result_shows_in_the_difference(graph: LayerGraph) -> None:
    bound, images = equal_plan(graph, NAMES), random_images(graph, 1)
    right = Undivided(graph).run(images[0])
    (name,) = right

    def measured(change: Callable[[np.ndarray], np.ndarray]) -> float:
        return difference(bound, images, [FrameResult(0, {name: change(right[name].copy())}, 1.0)])

    def spoilt(values: np.ndarray) -> np.ndarray:
        values.flat[0] = np.nan
        return values

    assert measured(lambda values: values) == 0.0
    assert measured(lambda values: values + np.abs(values).max()) == pytest.approx(1.0)
    assert measured(spoilt) == math.inf
    assert measured(lambda values: values[..., :1]) == math.inf


@pytest.mark.parametrize("make", [residual, branchy_model])
def test_a_report_tells_what_providers_did(
    tmp_path: Path, start_providers: StartProviders, make: Callable[..., onnx.ModelProto]
) -> None:
    graph = load_model(save_model(make(np.random.default_rng(0)), tmp_path))
    bound = equal_plan(graph, NAMES)
    addresses = start_providers(*NAMES)
    report = run_plan(bound, toy_scenario(NAMES), addresses, random_images(graph, 3), RunOptions(verify=True))
    assert report.images == 3
    assert report.max_abs_diff is not None and report.max_abs_diff <= 1e-5
    assert 0 < report.latency_ms.p50 <= report.latency_ms.p90 <= report.latency_ms.p99
    assert report.ips <= 1000 / report.latency_ms.p50 * 3
    heights = [volume.height for volume in bound.volumes]
    assert sum(totals.rows for totals in report.per_provider.values()) == sum(heights)
    image_needs = [needs[IMAGE] for v in range(len(heights)) for i in range(3) if IMAGE in (needs := bound.needs(v, i))]
    image_bytes = sum(rows.size for rows in image_needs) * graph.input_shape[1] * graph.input_shape[3] * 4
    result_bytes = sum(int(np.prod(output.shape)) for output in graph.head.outputs) * 4
    received = sum(totals.bytes_in for totals in report.per_provider.values())
    sent = sum(totals.bytes_out for totals in report.per_provider.values())
    assert received - image_bytes == sent - result_bytes > 0


def test_a_provider_without_a_part_need_not_be_there(tmp_path: Path, start_providers: StartProviders) -> None:
    graph = load_model(save_model(chain(np.random.default_rng(1)), tmp_path))
    bound = equal_plan(graph, ["a", "b"])
    volumes = [v.model_copy(update={"cuts": (0, v.cuts[-1], v.cuts[-1])}) for v in bound.plan.volumes]
    alone = bound.plan.model_copy(update={"volumes": tuple(volumes)}).bind(graph)
    assert run(alone, start_providers("a")) <= 1e-5


def test_a_provider_that_has_not_got_the_model_is_sent_it(
    graph: LayerGraph, tmp_path: Path, start_providers: StartProviders
) -> None:
    store = ModelStore(tmp_path / "elsewhere")
    addresses = start_providers("a", "b", store=store)
    assert run(equal_plan(graph, ["a", "b"]), addresses) <= 1e-5
    path = store.find(graph.sha256)
    assert path is not None and path.is_relative_to(tmp_path / "elsewhere")
    assert [p.name for p in (tmp_path / "elsewhere").iterdir()] == [graph.sha256]


def test_a_model_that_changed_on_disk_is_not_used(graph: LayerGraph) -> None:
    store = ModelStore()
    store.offer(graph)
    assert store.find(graph.sha256) == graph.path
    graph.path.write_bytes(graph.path.read_bytes() + b"\0")
    assert store.find(graph.sha256) is None


def test_sessions_follow_each_other_on_the_same_providers(graph: LayerGraph, start_providers: StartProviders) -> None:
    addresses = start_providers(*NAMES)
    for seed in range(4):
        assert run(random_plan(np.random.default_rng(seed), graph, NAMES), addresses) <= 1e-5


def test_a_requester_that_vanishes_makes_room_for_the_next(
    graph: LayerGraph, start_providers: StartProviders, monkeypatch: pytest.MonkeyPatch
) -> None:
    addresses = start_providers("a", "b")
    bound = equal_plan(graph, ["a", "b"])
    vanished = Requester(bound, addresses)
    vanished.__enter__()
    vanished._stop.set()  # its heartbeats end as if it had been killed
    assert run(bound, addresses) <= 1e-5
    vanished._close(patience_s=0.0)


def test_a_provider_serves_one_requester_at_a_time(
    graph: LayerGraph, start_providers: StartProviders, monkeypatch: pytest.MonkeyPatch
) -> None:
    addresses = start_providers("a", "b")
    bound = equal_plan(graph, ["a", "b"])
    monkeypatch.setattr(crew_module, "SETUP_S", 0.7)
    with Requester(bound, addresses) as first:
        with pytest.raises(RunError, match="serves another requester"), Requester(bound, addresses):
            pass
        assert len(list(first.stream(random_images(graph, 1)))) == 1


def test_a_provider_that_is_not_there_is_named(graph: LayerGraph, start_providers: StartProviders) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        nowhere = f"127.0.0.1:{unused.getsockname()[1]}"
    addresses = {**start_providers("a"), "b": nowhere}
    with pytest.raises(ProviderLostError, match=f"'b' at {nowhere} is not there"):
        run(equal_plan(graph, ["a", "b"]), addresses)


def test_something_else_that_listens_there_is_no_provider(
    graph: LayerGraph, start_providers: StartProviders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crew_module, "SETUP_S", 1.0)
    with zmq.Context() as context, context.socket(zmq.PULL) as mute:
        mute.set(zmq.LINGER, 0)
        port = mute.bind_to_random_port("tcp://127.0.0.1")
        with pytest.raises(ProviderLostError, match="'b' at .* does not answer"):
            run(equal_plan(graph, ["a", "b"]), {**start_providers("a"), "b": f"127.0.0.1:{port}"})


def test_an_engine_that_cannot_be_built_is_reported(
    graph: LayerGraph, start_providers: StartProviders, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise MemoryError("no room\nfor the weights")

    monkeypatch.setattr("distredge.runtime.session.Shelf.engines", broken)
    with pytest.raises(RunError, match="'a' at .* cannot build its engines: no room for the weights"):
        run(equal_plan(graph, ["a"]), start_providers("a"))


def test_bad_requests_are_bad_input(graph: LayerGraph, start_providers: StartProviders) -> None:
    bound = equal_plan(graph, ["a"])
    addresses = start_providers("a")
    with pytest.raises(InputError, match="where does provider 'a'"):
        Requester(bound, {})
    with pytest.raises(InputError, match="keys"):
        Requester(bound, {"a": "192.0.2.1:5701"}, listen="127.0.0.1:0")
    with Requester(bound, addresses) as requester:
        with pytest.raises(InputError, match="shape"):
            list(requester.stream([np.zeros((1, 3, 1, 1), np.float32)]))
        with pytest.raises(InputError, match="inflight"):
            list(requester.stream([], inflight=0))
    with pytest.raises(InputError, match="--emulate or --verify"):
        run_plan(bound, toy_scenario(["a"]), addresses, [], RunOptions(verify=True, emulate=True))
    with pytest.raises(InputError, match="no image"):
        run_plan(bound, toy_scenario(["a"]), addresses, [])


def test_garbage_does_not_disturb_a_provider(graph: LayerGraph, start_providers: StartProviders) -> None:
    addresses = start_providers("a")
    bound = equal_plan(graph, ["a"])
    with zmq.Context() as context, context.socket(zmq.PUSH) as stranger:
        stranger.set(zmq.LINGER, 1000)
        stranger.connect(f"tcp://{addresses['a']}")
        with Requester(bound, addresses) as requester:
            rng = np.random.default_rng(0)
            for _ in range(200):
                frames = [rng.bytes(int(rng.integers(1, 400))) for _ in range(int(rng.integers(1, 4)))]
                stranger.send_multipart(frames)
            images = random_images(graph, 2)
            assert difference(bound, images, list(requester.stream(images))) <= 1e-5
