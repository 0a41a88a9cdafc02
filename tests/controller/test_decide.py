"""Decisions: pure, each with its reason; what is drift, when a plan is looked for, and when it is used."""

from __future__ import annotations

from dataclasses import replace

import pytest

from distredge.control.schema import plan_sha256
from distredge.controller import decide as deciding
from distredge.controller import events as e
from distredge.controller.decide import decide, decide_stream, noticed
from distredge.controller.measured import Measured, differences
from distredge.controller.state import Heard, Seen, State, StreamState, apply
from distredge.testing.controlling import NANOS, four_nanos, registration, some_plan, telemetry

T = 1000.0
OLD, NEW = plan_sha256(some_plan(0)), plan_sha256(some_plan(1))
QUARTERED = Measured(present=NANOS, mbps={"nano-1": 12.5})


def opened() -> State:
    event = e.StreamOpenedAs(
        at_s=T, stream="s", requester="camera", scenario=four_nanos(), model="nowhere", plan_sha256=OLD
    )
    return apply(State(), event)


def stream(*events: e.AnyEvent) -> StreamState:
    state = opened()
    for event in events:
        state = apply(state, event)
    return state.streams["s"]


def seen(known: StreamState, now_s: float, far_for_s: float = 1.0, **values: object) -> Seen:
    first = noticed(known, None, telemetry(1, now_s, **values), now_s - far_for_s)
    return Seen(0.0, streams={"s": noticed(known, first, telemetry(2, now_s, **values), now_s)})


def started(at_s: float = T + 1) -> e.ReplanStarted:
    return e.ReplanStarted(at_s=at_s, stream="s", measured=QUARTERED, plan_sha256=OLD)


def found(latency_ms: float = 80.0, current_ms: float | None = 200.0, plan: str = NEW) -> e.ReplanDone:
    return e.ReplanDone(
        at_s=T + 4,
        stream="s",
        plan_sha256=plan,
        latency_ms=latency_ms,
        current_sha256=OLD,
        current_ms=current_ms,
        seconds=3.0,
        measured=QUARTERED,
        reason="found by a test",
    )


def drift(at_s: float = T + 1, measured: Measured = QUARTERED) -> e.LargeDrift:
    return e.LargeDrift(at_s=at_s, stream="s", since_s=at_s, measured=measured)


SLOW = {"mbps": {"nano-1": 12.5}}


def test_a_quartered_link_is_large_drift_and_then_a_plan_is_looked_for() -> None:
    known = stream()
    event = decide_stream(known, seen(known, T + 2, **SLOW), T + 2)
    assert isinstance(event, e.LargeDrift)
    assert event.reason == (
        "nano-1's link fell from 50 to 12.5 Mbit/s (x0.25); for 1.0 s, and large beyond x1.5 either way"
    )
    known = stream(event)
    event = decide_stream(known, seen(known, T + 2, **SLOW), T + 2)
    assert isinstance(event, e.ReplanStarted)
    assert (event.measured, event.plan_sha256) == (QUARTERED, OLD)
    known = stream(drift(), event)
    assert decide_stream(known, seen(known, T + 5, **SLOW), T + 5) is None  # it is under way


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"mbps": {"nano-1": 34.0}}, None),
        ({"mbps": {"nano-1": 33.0}}, "nano-1's link fell from 50 to 33"),
        ({"mbps": {"nano-1": 74.0}}, None),
        ({"mbps": {"nano-1": 76.0}}, "nano-1's link rose from 50 to 76"),
        ({"slowdown": {"nano-2": 1.49}}, None),
        ({"slowdown": {"nano-2": 1.51}}, "nano-2 computes 1.51 times as long"),
        ({"present": NANOS[:3]}, "nano-3 is gone"),
        ({"present": NANOS[:3], "mbps": {"nano-3": 1.0}}, "nano-3 is gone; for"),
        ({"mbps": {"requester": 1.0}}, None),  # the scenario says that its link never limits
    ],
)
def test_what_is_large_drift(values: dict[str, object], words: str | None) -> None:
    known = stream()
    event = decide_stream(known, seen(known, T + 2, **values), T + 2)
    assert (event.reason if event else None) is None if words is None else event and words in event.reason


def test_conditions_must_have_settled_and_be_fresh() -> None:
    known = stream()
    assert decide_stream(known, seen(known, T + 2, far_for_s=0.4, **SLOW), T + 2) is None
    assert decide_stream(known, seen(known, T + 2, **SLOW), T + 2 + deciding.LATE_S + 0.1) is None
    back = noticed(known, seen(known, T + 2, **SLOW).streams["s"], telemetry(3, T + 3), T + 3)
    assert back.far_since_s is None


def test_a_pinned_plan_is_left_alone_and_that_is_said_once() -> None:
    pinned = e.Pinned(at_s=T + 1, stream="s", version=1, plan_sha256=OLD)
    known = stream(pinned)
    event = decide_stream(known, seen(known, T + 2, **SLOW), T + 2)
    assert isinstance(event, e.LargeDrift) and event.reason.endswith("as an operator has pinned the plan")
    known = stream(pinned, event)
    assert decide_stream(known, seen(known, T + 9, **SLOW), T + 9) is None
    known = stream(pinned, event, e.Unpinned(at_s=T + 10, stream="s", version=2))
    assert isinstance(decide_stream(known, seen(known, T + 11, **SLOW), T + 11), e.LargeDrift)


def test_a_better_plan_is_ordered_and_drift_is_measured_from_there() -> None:
    known = stream(drift(), started(), found())
    event = decide_stream(known, seen(known, T + 4, **SLOW), T + 4)
    assert isinstance(event, e.PlanOrdered)
    assert (event.version, event.plan_sha256, event.measured) == (1, NEW, QUARTERED)
    assert event.reason == "80.0 ms by the simulator under what is measured, 200.0 ms as it is; found by a test"
    known = stream(drift(), started(), found(), event)
    assert known.orders.plan_sha256 == NEW
    assert decide_stream(known, seen(known, T + 20, **SLOW), T + 20) is None
    assert isinstance(decide_stream(known, seen(known, T + 20), T + 20), e.LargeDrift)  # the link is as it was


@pytest.mark.parametrize(
    ("done", "words"),
    [
        (found(latency_ms=195.0), "less than 3% better"),
        (found(latency_ms=250.0), "less than 3% better"),
        (found(plan=OLD), "nothing better than the plan in force"),
    ],
)
def test_a_plan_that_is_not_better_by_more_than_its_cost_is_not_used(done: e.ReplanDone, words: str) -> None:
    known = stream(drift(), started(), done)
    event = decide_stream(known, seen(known, T + 4, **SLOW), T + 4)
    assert isinstance(event, e.PlanKept) and words in event.reason
    known = stream(drift(), started(), done, event)
    assert decide_stream(known, seen(known, T + 60, **SLOW), T + 60) is None  # it was compared under these conditions


def test_a_change_must_pay_within_the_horizon() -> None:
    known = stream(drift(), started(), found())
    rare = telemetry(1, T).latency
    assert rare is not None
    values = {**SLOW, "latency": rare.model_copy(update={"ips": 0.02})}  # 0.6 frames in 30 s, 120 ms each: 72 ms
    event = decide_stream(known, seen(known, T + 4, **values), T + 4)
    assert isinstance(event, e.PlanKept) and "less is spared than the 100 ms of a change" in event.reason


def test_a_plan_is_ordered_if_the_one_in_force_cannot_go_on() -> None:
    known = stream(drift(), started(), found(current_ms=None))
    assert isinstance(decide_stream(known, seen(known, T + 4, **SLOW), T + 4), e.PlanOrdered)


def test_what_was_found_for_other_conditions_is_put_aside_and_looked_for_anew() -> None:
    known = stream(drift(), started(), found())
    worse = {"mbps": {"nano-1": 3.0}}
    event = decide_stream(known, seen(known, T + 4, **worse), T + 4)
    assert isinstance(event, e.PlanKept) and "conditions moved again" in event.reason
    state = stream(drift(), started(), found(), event)
    first = decide_stream(state, seen(state, T + 5, **worse), T + 5)
    assert isinstance(first, e.LargeDrift)
    state = stream(drift(), started(), found(), event, first)
    assert isinstance(decide_stream(state, seen(state, T + 5, **worse), T + 5), e.ReplanStarted)


def test_a_plan_that_was_rolled_back_is_not_ordered_again_under_such_conditions() -> None:
    rolled = e.OperatorRolledBack(
        at_s=T, stream="s", version=1, plan_sha256=OLD, refused_sha256=NEW, measured=QUARTERED
    )
    known = stream(rolled, drift(), started(), found())
    assert deciding.banned(known, started()) == (NEW,)
    event = decide_stream(known, seen(known, T + 4, **SLOW), T + 4)
    assert isinstance(event, e.PlanKept) and "was rolled back under such conditions" in event.reason
    elsewhere = rolled.model_copy(update={"measured": Measured(present=NANOS)})
    known = stream(elsewhere, drift(), started(), found())
    assert isinstance(decide_stream(known, seen(known, T + 4, **SLOW), T + 4), e.PlanOrdered)


def test_a_failed_replan_is_not_tried_again_at_once() -> None:
    failed = e.ReplanFailed(at_s=T + 5, stream="s", reason="no")
    known = stream(drift(), started(), failed)
    assert decide_stream(known, seen(known, T + 9, **SLOW), T + 9) is None
    later = T + 5 + deciding.RETRY_S
    assert isinstance(decide_stream(known, seen(known, later, **SLOW), later), e.ReplanStarted)
    moved = stream(drift(), started(), failed, drift(T + 8, Measured(present=NANOS, mbps={"nano-1": 5.0})))
    values = {"mbps": {"nano-1": 5.0}}
    assert isinstance(decide_stream(moved, seen(moved, T + 9, **values), T + 9), e.ReplanStarted)
    interrupted = stream(drift(), started(), failed.model_copy(update={"interrupted": True}))
    assert isinstance(decide_stream(interrupted, seen(interrupted, T + 5, **SLOW), T + 5), e.ReplanStarted)


def test_a_replan_that_never_answers_has_failed() -> None:
    known, late = stream(drift(), started(T)), T + deciding.REPLAN_MAX_S
    assert decide_stream(known, seen(known, late, **SLOW), late) is None
    assert isinstance(decide_stream(known, seen(known, late + 1, **SLOW), late + 1), e.ReplanFailed)


def test_silence_is_noticed_but_not_that_of_the_controllers_absence() -> None:
    state = apply(opened(), e.DeviceRegistered(at_s=T, node="nano-0", registration=registration()))
    assert decide(state, Seen(0.0), T + deciding.DOWN_S) == []
    now = T + deciding.DOWN_S + 1
    kinds = [event.kind for event in decide(state, Seen(0.0), now)]
    assert kinds == ["device_lost", "stream_silent"]
    assert decide(state, Seen(now - 1), now) == []  # it has just been started
    assert [x.kind for x in decide(state, Seen(0.0, devices={"nano-0": Heard(now)}), now)] == ["stream_silent"]
    for event in decide(state, Seen(0.0), now):
        state = apply(state, event)
    assert decide(state, Seen(0.0), now) == []
    gone = T + deciding.CLOSE_S + 1
    assert [event.kind for event in decide(state, Seen(0.0), gone)] == ["stream_closed"]


def test_differences_do_not_depend_on_direction() -> None:
    scenario = four_nanos()
    a, b = Measured(present=NANOS, mbps={"nano-1": 12.5}), Measured(present=NANOS)
    assert len([*differences(a, b, scenario, 1.5)]) == len([*differences(b, a, scenario, 1.5)]) == 1
    assert [*differences(a, a, scenario, 1.0)] == []


def test_the_same_is_decided_of_the_same() -> None:
    known = stream(drift(), started(), found())
    there = seen(known, T + 4, **SLOW)
    state = replace(State(), streams={"s": known})
    assert decide(state, there, T + 4) == decide(state, there, T + 4) != []
    assert state.streams["s"] is known
