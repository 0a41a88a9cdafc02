"""The state is the fold of its events, whatever they are and in whatever order they come."""

from __future__ import annotations

import copy
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given
from hypothesis import strategies as st

from distredge.control.schema import Change, plan_sha256
from distredge.controller import events as e
from distredge.controller import state as states
from distredge.controller.measured import Measured
from distredge.controller.state import State, apply
from distredge.controller.store import Store
from distredge.testing.controlling import NANOS, change, four_nanos, registration, some_plan

SHAS = [plan_sha256(some_plan(n)) for n in range(4)]

times = st.floats(0, 1e9, allow_nan=False)
reasons = st.text(max_size=20)
nodes = st.sampled_from(NANOS)
streams = st.sampled_from(["s0", "s1"])
shas = st.sampled_from(SHAS)
measured = st.builds(
    Measured,
    present=st.lists(nodes, unique=True).map(lambda names: tuple(sorted(names))),
    mbps=st.dictionaries(nodes, st.floats(0.1, 1000.0)),
    slowdown=st.dictionaries(nodes, st.floats(0.1, 10.0)),
)
changes = st.builds(
    change,
    plan=st.sampled_from([some_plan(n) for n in range(4)]),
    epoch=st.integers(0, 9),
    at_s=times,
    source=st.sampled_from(["crew", "policy", "search", "controller", "rollback"]),
)
change_points = st.builds(
    Change, at_s=times, kind=st.sampled_from(["link", "compute"]), node=nodes, before=st.just(2.0), after=st.just(1.0)
)
versions = st.integers(0, 9)

device_events = [
    st.builds(
        e.DeviceRegistered,
        at_s=times,
        reason=reasons,
        node=nodes,
        registration=st.builds(registration, memory_mb=st.floats(1, 9000)),
    ),
    *(st.builds(k, at_s=times, reason=reasons, node=nodes) for k in (e.DeviceLost, e.DeviceReturned)),
]
stream_events = [
    st.builds(
        e.StreamOpenedAs,
        at_s=times,
        stream=streams,
        requester=st.just("camera"),
        scenario=st.just(four_nanos()),
        model=st.just("nowhere"),
        plan_sha256=shas,
    ),
    *(
        st.builds(kind, at_s=times, reason=reasons, stream=streams)
        for kind in (e.StreamSilent, e.StreamReturned, e.StreamClosed, e.Unpredictable)
    ),
    st.builds(e.DriftSeen, at_s=times, stream=streams, node=nodes, change=change_points),
    st.builds(e.LargeDrift, at_s=times, stream=streams, since_s=times, measured=measured),
    st.builds(e.ReplanStarted, at_s=times, stream=streams, measured=measured, plan_sha256=shas),
    st.builds(
        e.ReplanDone,
        at_s=times,
        stream=streams,
        plan_sha256=shas,
        latency_ms=times,
        current_sha256=shas,
        current_ms=st.none() | times,
        methods=st.dictionaries(st.sampled_from(["search", "aofl"]), times),
        training=st.lists(st.tuples(times, times), max_size=3).map(tuple),
        seconds=times,
        measured=measured,
    ),
    st.builds(e.ReplanFailed, at_s=times, stream=streams, interrupted=st.booleans()),
    st.builds(e.PlanOrdered, at_s=times, stream=streams, version=versions, plan_sha256=shas, measured=measured),
    st.builds(
        e.PlanKept,
        at_s=times,
        stream=streams,
        plan_sha256=shas,
        candidate_sha256=shas,
        judged=st.none() | measured,
    ),
    st.builds(e.PlanInForce, at_s=times, stream=streams, change=changes, policy_sha256=st.none() | shas),
    st.builds(e.PlanRolledBack, at_s=times, stream=streams, change=changes, refused_sha256=shas, measured=measured),
    st.builds(
        e.OperatorRolledBack,
        at_s=times,
        stream=streams,
        version=versions,
        plan_sha256=shas,
        refused_sha256=shas,
        measured=measured,
    ),
    st.builds(e.Pinned, at_s=times, stream=streams, version=versions, plan_sha256=shas),
    st.builds(e.Unpinned, at_s=times, stream=streams, version=versions),
]
removals = st.builds(e.DeviceRemoved, at_s=times, reason=reasons, node=nodes)
any_events = st.one_of(*device_events, *stream_events, removals)


def fold(events: list[e.AnyEvent], state: State | None = None) -> State:
    state = state or State()
    for event in events:
        state = apply(state, event)
    return state


@given(st.lists(any_events, max_size=30))
def test_the_stored_events_give_the_same_state_again(events: list[e.AnyEvent]) -> None:
    with TemporaryDirectory() as folder:
        store = Store(Path(folder) / "state.db")
        store.add(events)
        store.close()
        store = Store(Path(folder) / "state.db")
        stored = [*store.all_events()]
        store.close()
    assert stored == events
    assert fold(stored) == fold(events)


@given(st.lists(any_events, max_size=30), any_events)
def test_applying_changes_no_value_that_was_there(events: list[e.AnyEvent], event: e.AnyEvent) -> None:
    before = fold(events)
    copied = copy.deepcopy(before)
    assert apply(before, event) == apply(before, event)
    assert before == copied


@given(st.lists(st.one_of(*device_events, *stream_events), max_size=40))
def test_no_device_is_lost_but_by_removal(events: list[e.AnyEvent]) -> None:
    registered = {event.node for event in events if isinstance(event, e.DeviceRegistered)}
    state = fold(events)
    assert {*state.devices} == registered
    for name in registered:
        assert name not in apply(state, e.DeviceRemoved(at_s=0.0, node=name)).devices


@given(st.lists(st.one_of(*stream_events), max_size=40))
def test_the_plan_in_force_is_the_one_that_was_told_last(events: list[e.AnyEvent]) -> None:
    state, told = State(), dict[str, str]()
    for event in events:
        state = apply(state, event)
        if isinstance(event, e.StreamOpenedAs):
            told[event.stream] = event.plan_sha256
        elif isinstance(event, e.PlanInForce | e.PlanRolledBack) and event.stream in told:
            told[event.stream] = event.change.plan_sha256
    assert {name: stream.current.plan_sha256 for name, stream in state.streams.items()} == told
    for stream in state.streams.values():
        assert len(stream.history) <= states.MAX_HISTORY and len(stream.refused) <= states.MAX_REFUSED


def test_every_kind_of_event_is_among_those_that_are_tried() -> None:
    kinds = {kind.__name__ for kind in states._STREAM}
    assert len(stream_events) == len(kinds) + 1  # and the opening


def test_closed_streams_are_forgotten_in_their_order_and_open_ones_never() -> None:
    state = State()
    for n in range(states.MAX_CLOSED + 3):
        opened = e.StreamOpenedAs(
            at_s=n, stream=f"s{n}", requester="camera", scenario=four_nanos(), model="nowhere", plan_sha256=SHAS[0]
        )
        state = apply(state, opened)
        if n:
            state = apply(state, e.StreamClosed(at_s=n, stream=f"s{n}"))
    assert "s0" in state.streams
    assert {"s1", "s2"}.isdisjoint(state.streams)
    assert len(state.streams) == states.MAX_CLOSED + 1
