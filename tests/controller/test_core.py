"""The controller without its HTTP: drift followed, orders given, restarts survived, nonsense refused."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distredge.control.schema import Beat, Orders, plan_sha256
from distredge.controller import core as coring
from distredge.controller import decide as deciding
from distredge.controller.core import Conflict, Core, NotKnown
from distredge.controller.library import parse_profile
from distredge.controller.measured import Measured
from distredge.controller.models import Models
from distredge.controller.state import State, apply
from distredge.controller.store import Store, StoreError
from distredge.errors import InputError
from distredge.model.load import load_model
from distredge.plans.plan import ModelRef, Plan, VolumePlan
from distredge.profiles.store import load_profile
from distredge.resources import data_dir, shipped
from distredge.simulate.timeline import trace
from distredge.testing.controlling import (
    NANOS,
    FakeReplanner,
    VirtualClock,
    change,
    four_nanos,
    opening,
    registration,
    some_plan,
    telemetry,
)
from distredge.testing.toy_models import chain, save_model

FIRST, BETTER = some_plan(0), some_plan(1)
SLOW = {"mbps": {"nano-1": 12.5}}


class World:
    """A core, its clock, a re-planner answered by hand, and a requester that tells every half second."""

    def __init__(self, path: Path, models: Path) -> None:
        self.path, self.models = path, models
        self.clock, self.replanner = VirtualClock(), FakeReplanner()
        self.start()
        self.sequence = 0

    def start(self) -> None:
        self.core = Core(Store(self.path), self.replanner, self.clock, self.models)

    def open(self, plan: Plan = FIRST) -> str:
        self.stream, self.plan, self.sequence = self.core.open_stream(opening(plan)).stream, plan, 0
        return self.stream

    def tell(self, **values: object) -> Orders:
        self.clock.now_s += 0.5
        self.sequence += 1
        return self.core.take_telemetry(
            self.stream, telemetry(self.sequence, self.clock.now_s, **{"plan": self.plan, **values})
        )

    def kinds(self) -> list[str]:
        return [event.kind for event in self.core.events(self.stream)]

    def drift(self) -> None:
        for _ in range(3):
            self.tell(**SLOW)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    there = World(tmp_path / "state.db", tmp_path)
    yield there
    there.core.close()


# Drift.


def test_a_quartered_link_is_followed_by_an_order_that_comes_into_force(world: World) -> None:
    world.open()
    assert world.tell() == Orders()
    world.drift()
    (job,) = world.replanner.jobs
    assert (job.plan, job.present, job.mbps, job.banned) == (FIRST, NANOS, {"nano-1": 12.5}, ())
    assert [p.name for p in job.scenario.profiles] == ["jetson-nano"] * 4
    world.replanner.answer(BETTER, 80.0, 200.0)
    orders = world.tell(**SLOW)
    assert (orders.version, orders.plan_sha256, orders.pinned) == (1, plan_sha256(BETTER), False)
    assert "80.0 ms by the simulator" in orders.reason
    assert world.core.plan(plan_sha256(BETTER)) == BETTER
    world.plan = BETTER
    now = world.clock.now_s
    world.tell(**SLOW, epoch=1, order_version=1, plan_changes=(change(BETTER, 1, now),), plans=(BETTER,))
    assert world.kinds() == [
        "stream_opened",
        "large_drift",
        "replan_started",
        "replan_done",
        "plan_ordered",
        "plan_in_force",
    ]
    assert all(event.reason for event in world.core.events(world.stream))
    view = world.core.stream_view(world.stream)
    assert (view.summary.plan_sha256, view.summary.epoch, view.can_roll_back) == (plan_sha256(BETTER), 1, True)
    assert [(m.method, m.latency_ms) for m in view.methods] == [("search", 80.0)]  # what cannot be is left out
    for _ in range(10):
        world.tell(**SLOW, epoch=1, order_version=1)
    assert len(world.replanner.jobs) == 1


def test_a_worse_plan_is_not_used_and_why_is_recorded(world: World) -> None:
    world.open()
    world.drift()
    world.replanner.answer(BETTER, 199.0, 200.0)
    assert world.tell(**SLOW).version == 0
    kept = world.core.events(world.stream)[-1]
    assert kept.kind == "plan_kept" and "199.0 ms by the simulator under what is measured, 200.0 ms" in kept.reason


def test_what_a_replan_found_is_compared_with_the_plan_that_is_in_force_by_now(world: World, tmp_path: Path) -> None:
    plans = real_plans(tmp_path)
    world.open(plans[0])
    world.drift()
    world.plan = plans[1]
    now = world.clock.now_s
    world.tell(**SLOW, epoch=1, plan_changes=(change(plans[1], 1, now, "policy"),), plans=(plans[1],))
    world.replanner.answer(plans[2], 0.001, 1e9)
    done = world.core.events(world.stream)[-2]
    assert done.kind == "replan_done" and done.data["current_sha256"] == plan_sha256(plans[1])
    models = Models(tmp_path)
    by_hand = models.timeline(
        models.bound(plans[1]), world.core.resolved(four_nanos()), Measured(present=NANOS, mbps={"nano-1": 12.5})
    )
    assert done.data["current_ms"] == pytest.approx(by_hand.latency_ms)
    assert world.kinds()[-1] == "plan_ordered"


def test_a_plan_that_the_requester_rolled_back_is_not_asked_for_again(world: World) -> None:
    world.open()
    world.drift()
    world.replanner.answer(BETTER, 80.0, 200.0)
    now = world.clock.now_s
    world.tell(**SLOW, epoch=1, order_version=1, plan_changes=(change(BETTER, 1, now),), plan=BETTER)
    world.tell(**SLOW, epoch=2, order_version=1, plan_changes=(change(FIRST, 2, now + 0.5, "rollback"),))
    assert world.kinds()[-1] == "plan_rolled_back"
    assert not world.core.stream_view(world.stream).can_roll_back
    for _ in range(20):  # the link is far better, then bad again: looked for anew, without that plan
        world.tell(epoch=2, order_version=1)
    world.replanner.answer(FIRST, 50.0, 50.0)
    for _ in range(20):
        world.tell(**SLOW, epoch=2, order_version=1)
    assert [job.banned for job in world.replanner.jobs] == [(), (), (BETTER,)]
    world.replanner.answer(BETTER, 80.0, 200.0)
    assert world.tell(**SLOW, epoch=2, order_version=1).version == 1


def test_a_replan_that_fails_is_recorded(world: World) -> None:
    world.open()
    world.drift()
    world.replanner.done[-1]("the process has died")
    failed = world.core.events(world.stream)[-1]
    assert (failed.kind, failed.reason) == ("replan_failed", "the process has died")


def test_an_answer_that_could_not_be_stored_is_taken_later(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.open()
    world.drift()
    add = world.core.store.add

    def fails(*_: object, **__: object) -> None:
        raise StoreError("the disk is full")

    monkeypatch.setattr(world.core.store, "add", fails)
    world.replanner.answer(BETTER, 80.0, 200.0)
    with pytest.raises(StoreError):
        world.core.tick()
    with pytest.raises(StoreError):
        world.tell(**SLOW)
    world.sequence -= 1
    assert world.core.state.streams[world.stream].orders.version == 0
    monkeypatch.setattr(world.core.store, "add", add)
    world.core.tick()
    assert world.tell(**SLOW).version == 1
    assert world.core.store.latest(world.stream).telemetry.sequence == world.sequence  # type: ignore[union-attr]


# Operators.


def test_an_operator_pins_and_unpins(world: World) -> None:
    world.open()
    orders = world.core.pin(world.stream, "a demonstration")
    assert orders == Orders(version=1, plan_sha256=plan_sha256(FIRST), pinned=True, reason="a demonstration")
    with pytest.raises(Conflict, match="pinned already"):
        world.core.pin(world.stream)
    for _ in range(20):
        assert world.tell(**SLOW, order_version=1) == orders
    assert world.replanner.jobs == []
    assert world.kinds() == ["stream_opened", "pinned", "large_drift"]
    assert world.core.unpin(world.stream).plan_sha256 is None
    with pytest.raises(Conflict, match="not pinned"):
        world.core.unpin(world.stream)
    world.tell(**SLOW, order_version=2)
    assert len(world.replanner.jobs) == 1


def test_an_operator_rolls_back_to_the_plan_before(world: World) -> None:
    world.open()
    with pytest.raises(Conflict, match="no other plan was in force"):
        world.core.roll_back(world.stream)
    world.tell(epoch=1, plan=BETTER, plans=(BETTER,), plan_changes=(change(BETTER, 1, 0.0, "policy"),))
    assert world.core.roll_back(world.stream).plan_sha256 == plan_sha256(FIRST)
    world.tell(epoch=2, order_version=1, plan_changes=(change(FIRST, 2, world.clock.now_s),))
    with pytest.raises(Conflict, match="no other plan was in force"):  # but the one that was just left
        world.core.roll_back(world.stream)


# Restarts.


def test_a_restarted_core_knows_everything_and_goes_on(world: World) -> None:
    world.core.register_device("nano-0", registration())
    world.open()
    world.drift()
    world.core.pin(world.stream)
    world.core.unpin(world.stream)
    state, view = world.core.state, world.core.stream_view(world.stream)
    world.core.store.close()
    world.start()
    after = world.core.state.streams[world.stream]
    assert after.replan is None and world.kinds()[-1] == "replan_failed"
    assert (after.orders, after.current, after.basis) == (
        state.streams[world.stream].orders,
        state.streams[world.stream].current,
        state.streams[world.stream].basis,
    )
    again = world.core.stream_view(world.stream)
    assert (again.history, again.summary, again.volumes) == (view.history, view.summary, view.volumes)
    assert {*world.core.state.devices} == {"nano-0"}
    world.tell(**SLOW, order_version=2)
    assert len(world.replanner.jobs) == 2  # the one that was interrupted is begun again


def test_a_repeated_message_counts_once_also_after_a_restart(world: World) -> None:
    world.open()
    world.tell()
    orders = world.core.pin(world.stream)
    for _ in range(2):
        again = telemetry(world.sequence, world.clock.now_s)
        assert world.core.take_telemetry(world.stream, again) == orders
        world.core.store.close()
        world.start()
    assert len(world.core.stream_view(world.stream).history) == 1


OPERATIONS = {
    "as usual": lambda w: w.tell(),
    "slow": lambda w: w.tell(**SLOW),
    "gone": lambda w: w.tell(present=NANOS[:3]),
    "better": lambda w: w.replanner.done and w.replanner.answer(BETTER, 80.0, 200.0),
    "worse": lambda w: w.replanner.done and w.replanner.answer(BETTER, 300.0, 200.0),
    "fails": lambda w: w.replanner.done and w.replanner.done[-1]("no"),
    "new plan": lambda w: w.tell(
        epoch=w.core.state.streams[w.stream].current.epoch + 1,
        plan=some_plan(w.sequence),
        plans=(some_plan(w.sequence),),
    ),
    "pin": lambda w: w.core.pin(w.stream),
    "unpin": lambda w: w.core.unpin(w.stream),
    "roll back": lambda w: w.core.roll_back(w.stream),
    "wait": lambda w: setattr(w.clock, "now_s", w.clock.now_s + 20.0),
    "tick": lambda w: w.core.tick(),
    "register": lambda w: w.core.register_device("nano-0", registration()),
    "remove": lambda w: w.core.remove_device("nano-0"),
    "close": lambda w: w.core.close_stream(w.stream),
    "open": lambda w: w.open(),
}


@given(st.lists(st.sampled_from(sorted(OPERATIONS)), max_size=40))
def test_what_is_known_is_what_is_stored_whatever_was_done(names: list[str]) -> None:
    with TemporaryDirectory() as folder:
        world = World(Path(folder) / "state.db", Path(folder))
        world.open()
        for name in names:
            with suppress(InputError):
                OPERATIONS[name](world)
            world.sequence = max(
                (t.telemetry.sequence for t in [world.core.store.latest(world.stream)] if t), default=0
            )
        state = State()
        for event in world.core.store.all_events():
            state = apply(state, event)
        assert state == world.core.state
        for stream in state.streams.values():
            orders = [x for x in world.core.events(stream.stream, limit=1000) if "version" in x.data]
            assert [x.data["version"] for x in orders] == [*range(1, len(orders) + 1)]
            assert stream.orders.version == len(orders)
        world.core.close()


def test_a_reason_may_be_longer_than_orders_carry(world: World) -> None:
    world.open()
    assert world.core.pin(world.stream, "x" * 900).reason == "x" * 500
    assert world.core.events(world.stream)[-1].reason == "x" * 900


# Nonsense.


@pytest.mark.parametrize(
    ("values", "error", "words"),
    [
        ({"sequence": 1}, Conflict, "message 1 is stale: 2 was taken"),
        ({"epoch": 0}, Conflict, "epoch 0 is stale: 1 was in force"),
        ({"order_version": 7}, Conflict, "orders 7 were never given"),
        ({"mbps": {"nano-9": 1.0}}, InputError, "'nano-9' is no node"),
        ({"slowdown": {"requester": 1.0}}, InputError, "'requester' is no node"),
        ({"present": ("nano-0", "thief")}, InputError, "'thief' is no node"),
        ({"at_s": 1_000_100.0}, InputError, "s ahead of the controller's clock"),
        ({"plan_changes": (change(BETTER, 9, 1.0),)}, InputError, "later epoch"),
        ({"plans": (some_plan(1, ("x", "y")),)}, InputError, "is not of this stream"),
    ],
)
def test_telemetry_that_cannot_be_is_refused_and_changes_nothing(
    world: World, values: dict[str, object], error: type[InputError], words: str
) -> None:
    world.open()
    world.tell()
    world.tell(epoch=1, plan_changes=(change(BETTER, 1, 1.0),), plans=(BETTER,), plan=BETTER)
    state, events = world.core.state, world.core.events()
    given = {"sequence": 3, "at_s": world.clock.now_s, "plan": BETTER, "epoch": 1, **values}
    with pytest.raises(error, match=words):
        world.core.take_telemetry(world.stream, telemetry(**given))  # type: ignore[arg-type]
    assert (world.core.state, world.core.events()) == (state, events)
    assert world.tell(epoch=1, plan=BETTER) == Orders()


def test_what_is_not_known_is_said(world: World) -> None:
    world.open()
    world.core.close_stream(world.stream)
    for call in (world.tell, lambda: world.core.pin(world.stream), lambda: world.core.stream_view("s")):
        with pytest.raises(NotKnown):
            call()
    assert not world.core.stream_view(world.stream).summary.live  # a closed one can still be looked at
    for known in (world.core.plan, world.core.policy, world.core.profile, world.core.scenario):
        with pytest.raises(NotKnown, match="PUT /v1/"):
            known("0" * 64)
    with pytest.raises(NotKnown, match="register it first"):
        world.core.beat("nano-7", Beat(at_s=0.0, serving=False))


def test_a_plan_for_other_providers_is_refused(world: World) -> None:
    with pytest.raises(InputError, match="provider 'x' is not in scenario"):
        world.open(some_plan(0, ("x", "nano-0")))
    assert world.core.streams() == ()


def test_streams_are_limited(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coring, "MAX_STREAMS", 2)
    world.open()
    world.open()
    with pytest.raises(InputError, match="2 streams are open"):
        world.open()
    world.core.close_stream(world.stream)
    world.open()


# Devices.


def test_a_device_is_up_late_lost_and_back(world: World) -> None:
    assert world.core.register_device("nano-0", registration()).health == "up"
    world.clock.now_s += deciding.LATE_S + 1
    assert world.core.devices()[0].health == "late"
    world.clock.now_s += deciding.DOWN_S
    world.core.tick()
    assert world.core.devices()[0].health == "down"
    world.core.beat("nano-0", Beat(at_s=world.clock.now_s, serving=True, memory_free_mb=12.0))
    view = world.core.devices()[0]
    assert (view.health, view.serving, view.memory_free_mb) == ("up", True, 12.0)
    world.core.register_device("nano-0", registration(memory_mb=4000.0))
    world.core.register_device("nano-0", registration(memory_mb=4000.0))
    world.core.remove_device("nano-0")
    assert [event.kind for event in world.core.events()] == [
        "device_registered",
        "device_lost",
        "device_returned",
        "device_registered",
        "device_removed",
    ]
    assert world.core.devices() == ()


@pytest.mark.parametrize("name", ["", "requester", "../x", "a b", "x" * 65, "a\n"])
def test_impossible_names_are_refused(world: World, name: str) -> None:
    with pytest.raises(InputError, match="named"):
        world.core.register_device(name, registration())
    if name != "requester":
        with pytest.raises(InputError, match="named"):
            world.core.add_profile(name, "{}")


def test_devices_are_limited(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coring, "MAX_DEVICES", 3)
    for n in range(3):
        world.core.register_device(f"d{n}", registration())
    with pytest.raises(InputError, match="3 devices are registered"):
        world.core.register_device("d3", registration())
    world.core.register_device("d2", registration())  # it is one of them


def test_threads_may_call_at_once(world: World) -> None:
    def register(first: int) -> None:
        for n in range(first, first + 50):
            world.core.register_device(f"d{n}", registration())
            world.core.beat(f"d{n}", Beat(at_s=0.0, serving=False))
            world.core.tick()

    threads = [threading.Thread(target=register, args=(100 * n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(world.core.devices()) == 200
    world.core.store.close()
    world.start()
    assert len(world.core.devices()) == 200


# Profiles and scenarios.


def test_a_scenario_finds_stored_profiles_and_never_other_files(world: World, tmp_path: Path) -> None:
    text = shipped("profiles", ".yaml")["jetson-nano"].read_text()
    (tmp_path / "secret.yaml").write_text(text)
    for reference in (str(tmp_path / "secret.yaml"), "../secret.yaml", "secret"):
        with pytest.raises(InputError, match="PUT /v1/profiles/secret"):
            world.core.add_scenario("lab", four_nanos(reference))
    world.core.add_profile("secret", text)
    world.core.add_scenario("lab", four_nanos("lab/secret.yaml"))
    assert world.core.scenario("lab") == four_nanos("lab/secret.yaml")
    found = world.core.resolved(world.core.scenario("lab")).profiles[0]
    assert found.provenance() == load_profile("jetson-nano").provenance()
    assert (world.core.scenarios(), world.core.profiles()) == (("lab",), ("secret",))


@pytest.mark.parametrize("text", ["", "{}", "[1]", "name: x", "{", "\x00", "a: [", "- 1"])
def test_a_profile_that_is_none_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(InputError) as refused:
        parse_profile(text)
    assert "\n" not in str(refused.value) and "/tmp" not in str(refused.value)


def test_a_policy_is_kept_and_goes_to_the_replanner(world: World) -> None:
    blob = (data_dir("agents") / "vgg16" / "lb.safetensors").read_bytes()
    entry = world.core.add_policy(blob)
    assert (entry.kind, entry.model, entry.scenario) == ("osds", "vgg16", "lb")
    assert (world.core.policies(), world.core.policy(entry.sha256)) == ((entry,), blob)
    begun = opening().model_copy(update={"policy_sha256": entry.sha256})
    world.stream, world.plan = world.core.open_stream(begun).stream, FIRST
    world.drift()
    assert world.replanner.jobs[0].policy == blob


@pytest.mark.parametrize("blob", [b"", b"nonsense", b"\x08\0\0\0\0\0\0\0{}      "])
def test_a_policy_that_is_none_is_refused(world: World, blob: bytes) -> None:
    with pytest.raises(InputError, match="this is no policy, or damaged"):
        world.core.add_policy(blob)
    assert world.core.policies() == ()


# Views.


def real_plans(folder: Path) -> list[Plan]:
    """Plans of a real little model in a folder, one volume, cut in three ways."""
    graph = load_model(save_model(chain(np.random.default_rng(1)), folder))
    ref = ModelRef(name="toy", sha256=graph.sha256, input_shape=graph.input_shape)
    layers, height = graph.names(0, len(graph.layers)), graph.layers[-1].height
    return [
        Plan(
            method="equal",
            model=ref,
            scenario="four-nanos",
            providers=NANOS,
            volumes=(VolumePlan(layers=layers, cuts=(0, *cuts, height)),),
            head_provider="nano-0",
        )
        for cuts in ((1, 2, 3), (2, 2, 3), (1, 1, 1))
    ]


def test_a_view_shows_what_the_simulator_says_under_what_is_measured(world: World, tmp_path: Path) -> None:
    (plan, *_) = real_plans(tmp_path)
    world.open(plan)
    graph = load_model(next(tmp_path.glob("*.onnx")))
    usual = world.core.stream_view(world.stream)
    assert usual.predicted is not None
    assert usual.predicted.latency_ms == pytest.approx(trace(plan.bind(graph), four_nanos()).latency_ms)
    world.tell(mbps={"nano-1": 12.5}, slowdown={"nano-2": 2.0}, present=NANOS)
    view = world.core.stream_view(world.stream)
    slow = four_nanos()
    providers = [p.model_copy(update={"bandwidth_mbps": 12.5}) if p.name == "nano-1" else p for p in slow.providers]
    providers = [p.model_copy(update={"slowdown": 2.0}) if p.name == "nano-2" else p for p in providers]
    expected = trace(plan.bind(graph), slow.model_copy(update={"providers": tuple(providers)}))
    assert view.predicted is not None
    assert view.predicted.latency_ms == pytest.approx(expected.latency_ms)
    by_name = {node.node: node for node in view.nodes}
    assert (by_name["nano-1"].mbps, by_name["nano-1"].scenario_mbps, by_name["nano-2"].slowdown) == (12.5, 50.0, 2.0)
    assert sum(node.rows_share for node in view.nodes) == pytest.approx(1.0)
    (volume,) = view.volumes
    assert [part.rows for part in volume.parts] == [*zip(plan.volumes[0].cuts, plan.volumes[0].cuts[1:], strict=False)]
    assert [part.halo_rows for part in volume.parts] == [w.redundant_rows for w in expected.work if w.volume == 0]
    world.tell(present=NANOS[:3])  # a worker of the plan is gone
    assert world.core.stream_view(world.stream).predicted is None


def test_without_the_model_there_is_no_prediction_and_why_is_recorded_once(world: World) -> None:
    world.open()
    for _ in range(3):
        view = world.core.stream_view(world.stream)
    assert view.predicted is None and len(view.volumes) == 1
    assert world.kinds() == ["stream_opened", "unpredictable"]
    assert "start the controller with --models" in world.core.events(world.stream)[-1].reason


def test_an_overview_lists_devices_and_streams(world: World) -> None:
    world.core.register_device("nano-0", registration())
    world.open()
    world.tell()
    overview = world.core.overview("reader")
    assert (overview.role, [d.name for d in overview.devices]) == ("reader", ["nano-0"])
    (summary,) = overview.streams
    assert (summary.live, summary.method, summary.model) == (True, "equal", "nowhere")
    assert summary.latency is not None and summary.latency.p50 == 100.0
