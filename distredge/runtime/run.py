"""Runs a plan on providers and reports how fast and how exact it was."""

from __future__ import annotations

import math
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from distredge.engine.base import FloatRows
from distredge.errors import InputError
from distredge.plans.plan import BoundPlan
from distredge.profiles.network import MESSAGE_MS
from distredge.runtime.assignment import assignments
from distredge.runtime.keys import Keys, create_keys
from distredge.runtime.launch import Launcher
from distredge.runtime.message import Emulation, Observed, Report, Wire
from distredge.runtime.requester import FrameResult, Requester
from distredge.scenario import MB, REQUESTER, Io, Scenario
from distredge.simulate.timeline import trace

WIRES: dict[Wire, int] = {"int8": 1, "float16": 2, "float32": 4}
"""Bytes of an element in each precision on the wire."""


PREPARED = 200
"""Up to so many images are made before the clock starts; of a longer run each is made when it is its turn."""


@dataclass(frozen=True)
class RunOptions:
    """How a plan is run.

    `inflight` images are under way at a time. `verify` compares every result with the undivided model's. `wire`
    is the precision on the wire, by default float32 with `verify` and the scenario's without. `emulate` makes the
    providers stand in for the scenario's boards: each split-part is held for its profiled time, computes nothing,
    and every link is shaped to its bandwidth. `threads` is what an engine may use. A first image, `warm_up` of
    them, is run before the clock starts.
    """

    inflight: int = 1
    verify: bool = False
    wire: Wire | None = None
    emulate: bool = False
    threads: int = 1
    warm_up: int = 1


@dataclass(frozen=True)
class Latency:
    """Percentiles over the images, in ms."""

    p50: float
    p90: float
    p99: float


@dataclass(frozen=True)
class ProviderTotals:
    """What a provider did, on average for an image: payload bytes, and rows of the volumes' last layers.

    `link_mbps` is the highest rate at which rows were seen to come to it or from it: its link is at least so fast. None
    if there were too few transfers to tell.
    """

    compute_ms: float
    bytes_in: int
    bytes_out: int
    rows: int
    link_mbps: float | None


@dataclass(frozen=True)
class ObservedLink:
    """A link as its receiver saw it (`runtime.link_estimate`): Mbit/s on the wire, fixed delay of a block in ms."""

    sender: str
    receiver: str
    mbps: float
    fixed_ms: float
    samples: int


@dataclass(frozen=True)
class RunReport:
    """How a run went.

    `ips` is images a second from the first to the last. `max_abs_diff` is the largest absolute difference from the
    undivided model's outputs, divided by their largest absolute value; None unless it was asked for.
    """

    images: int
    ips: float
    latency_ms: Latency
    max_abs_diff: float | None
    per_provider: dict[str, ProviderTotals]
    links: tuple[ObservedLink, ...]


def run_plan(
    bound: BoundPlan,
    scenario: Scenario,
    addresses: Mapping[str, str],
    images: Sequence[FloatRows],
    options: RunOptions = RunOptions(),
    *,
    keys: Keys | None = None,
    listen: str | None = None,
    check: Callable[[], None] = lambda: None,
    progress: Callable[[FrameResult], None] = lambda result: None,
) -> RunReport:
    """Run a plan for some images on providers that listen at `addresses`; see `Requester` for what it raises.

    `progress` is called with each result.
    """
    if options.emulate and options.verify:
        raise InputError("an emulated run computes nothing that could be verified: leave out --emulate or --verify")
    wire = wire_of(options, scenario)
    requester = Requester(
        bound,
        addresses,
        keys=keys,
        listen=listen,
        wire=wire,
        emulations=emulations(bound, scenario, WIRES[wire]) if options.emulate else None,
        threads=options.threads,
        check=check,
    )
    if not images:
        raise InputError("there is no image to run")
    shown = [*images] if len(images) <= PREPARED else images
    warm_up = [shown[0]] * options.warm_up
    with requester:
        for _ in requester.stream(warm_up):
            pass
        results: list[FrameResult] = []
        started = time.monotonic()
        for result in requester.stream(shown, options.inflight):
            results.append(result)
            progress(result)
        seconds = time.monotonic() - started
        reports = requester.finish()
    largest = difference(bound, shown, results) if options.verify else None
    latencies = [result.latency_ms for result in results]
    p50, p90, p99 = (float(p) for p in np.percentile(latencies, (50, 90, 99)))
    links = _links(requester.observed_links())
    totals = {name: _totals(name, reports.get(name), len(shown) + len(warm_up), links) for name in bound.plan.providers}
    return RunReport(len(shown), len(shown) / seconds, Latency(p50, p90, p99), largest, totals, links)


def run_here(
    bound: BoundPlan,
    scenario: Scenario,
    images: Sequence[FloatRows],
    options: RunOptions = RunOptions(),
    *,
    progress: Callable[[FrameResult], None] = lambda result: None,
) -> RunReport:
    """As `run_plan`, on provider processes that are started on this machine first and ended after it.

    They talk over TCP on loopback with keys that are made for this run and removed with it.
    """
    names = list(assignments(bound))
    with tempfile.TemporaryDirectory(prefix="distredge-keys-") as folder:
        create_keys(Path(folder), [REQUESTER, *names])
        keys = Keys.load(Path(folder), REQUESTER)
        with Launcher(names, Path(folder)) as launcher:
            return run_plan(
                bound, scenario, launcher.addresses, images, options, keys=keys, check=launcher.check, progress=progress
            )


def wire_of(options: RunOptions, scenario: Scenario) -> Wire:
    """The precision that feature maps travel in."""
    by_size = {size: wire for wire, size in WIRES.items()}
    return options.wire or ("float32" if options.verify else by_size[scenario.element_bytes])


def emulations(bound: BoundPlan, scenario: Scenario, element_bytes: int | None = None) -> dict[str, Emulation]:
    """How each node of a plan, the requester too, stands in for its board: what the simulator says its stages take.

    `element_bytes` replaces the scenario's for another precision on the wire. Of writing, `MESSAGE_MS` is what this
    machine needs itself.
    """
    timeline = trace(bound, scenario, element_bytes=element_bytes)
    times = {(work.provider, work.volume): work.compute_ms for work in timeline.work}
    came: dict[tuple[str, int], float] = defaultdict(float)
    for message in timeline.transfers:
        came[message.receiver, message.volume] += message.payload_bytes

    def stand_in(name: str, rate_mbps: float | None, io: Io, stages: Sequence[int]) -> Emulation:
        return Emulation(
            tuple(times.get((name, v), 0.0) for v in stages),
            rate_mbps,
            tuple(max(0.0, io.writing_ms(came[name, v]) - MESSAGE_MS) if came[name, v] else 0.0 for v in stages),
            io.read_ms,
            io.read_ms_per_mb / MB,
        )

    devices = {provider.name: provider for provider in scenario.providers}
    found = {
        name: stand_in(name, devices[name].bandwidth_mbps, devices[name].io, [stage.boundary for stage in stages])
        for name, stages in assignments(bound).items()
    }
    requester = scenario.requester
    found[REQUESTER] = stand_in(REQUESTER, requester.bandwidth_mbps, requester.io, [len(bound.volumes) + 1])
    return found


def difference(bound: BoundPlan, images: Sequence[FloatRows], results: list[FrameResult]) -> float:
    """Largest absolute difference from the undivided model, as a share of its largest absolute output.

    Infinite if a result has another shape, or holds what is no number where the undivided model's does not.
    """
    from distredge.engine.onnxruntime import Undivided

    undivided = Undivided(bound.graph)
    largest = scale = 0.0
    for result in results:
        for name, want in undivided.run(images[result.index]).items():
            got = result.outputs[name]
            if got.shape != want.shape or not np.array_equal(np.isfinite(got), np.isfinite(want)):
                return math.inf
            finite = np.isfinite(want)
            there, here = want[finite].astype(np.float64), got[finite].astype(np.float64)
            largest = max(largest, float(np.abs(here - there).max(initial=0.0)))
            scale = max(scale, float(np.abs(there).max(initial=0.0)))
    return largest / (scale or 1.0)


def _links(observed: Mapping[str, Sequence[Observed]]) -> tuple[ObservedLink, ...]:
    """What the receivers have seen, as links."""
    return tuple(
        ObservedLink(link.sender, receiver, link.mbps, link.fixed_ms, link.samples)
        for receiver, links in sorted(observed.items())
        for link in links
    )


def _totals(name: str, report: Report | None, images: int, links: Sequence[ObservedLink]) -> ProviderTotals:
    """A provider's report for one image; zeros for one that had nothing to do."""
    seen = [link.mbps for link in links if name in (link.sender, link.receiver)]
    fastest = max(seen, default=None)
    if report is None:
        return ProviderTotals(0.0, 0, 0, 0, fastest)
    return ProviderTotals(
        compute_ms=report.compute_ms / images,
        bytes_in=report.bytes_in // images,
        bytes_out=report.bytes_out // images,
        rows=report.rows // images,
        link_mbps=fastest,
    )
