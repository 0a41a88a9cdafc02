"""Runs a plan on providers and reports how fast and how exact it was."""

from __future__ import annotations

import math
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from distredge.engine.base import FloatRows
from distredge.errors import InputError
from distredge.plans.plan import BoundPlan
from distredge.profiles.network import MESSAGE_MS
from distredge.runtime.assignment import assignments
from distredge.runtime.conductor import EpochBegun, workers
from distredge.runtime.keys import Keys, create_keys
from distredge.runtime.launch import Launcher
from distredge.runtime.message import ELEMENT_BYTES, Emulation, Observed, Report, Wire
from distredge.runtime.policy import Policy
from distredge.runtime.replan import Improver
from distredge.runtime.requester import FrameResult, Requester, Terms
from distredge.runtime.trace_file import write
from distredge.scenario import MB, REQUESTER, Io, Scenario
from distredge.simulate.timeline import trace

WIRES = ELEMENT_BYTES

HEADROOM = 1.5
"""A node may send so many times as fast as its link is taken to be, where links are followed: one that has become
faster is noticed in steps of at most this size (docs/drift.md)."""

PREPARED = 200
"""Up to so many images are made before the clock starts; of a longer run each is made when it is its turn."""


@dataclass(frozen=True)
class RunOptions:
    """How a plan is run.

    `inflight` images are under way at a time. `verify` compares every result with the undivided model's. `wire` is the
    precision on the wire, by default float32 with `verify` and the scenario's without. `hold` makes the providers stand
    in for the scenario's boards: each split-part is held for its profiled time and computes nothing; `emulate` does so
    too, and emulates every link at its bandwidth. `paced`: links are real, and nobody sends faster than the scenario
    says that they are. `threads` is what an engine may use. All that happens to each image is written to the file
    `trace`. A first image, `warm_up` of them, is run before the clock starts. With `follow` the plan is changed when
    devices or links have become slower or faster; else only when a provider is lost. Frames that take longer than
    `deadline_ms` are counted. `shown` has a frame noted now and then for a controller.
    """

    inflight: int = 1
    verify: bool = False
    wire: Wire | None = None
    emulate: bool = False
    hold: bool = False
    paced: bool = False
    trace: Path | None = None
    threads: int = 1
    warm_up: int = 1
    follow: bool = True
    deadline_ms: float | None = None
    shown: bool = False


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
class EpochReport:
    """A plan under which images were run: from which image on, why, and who had a part in it."""

    epoch: int
    reason: str
    first_image: int
    providers: tuple[str, ...]


@dataclass(frozen=True)
class RunReport:
    """How a run went.

    `ips` is images a second from the first to the last. `max_abs_diff` is the largest absolute difference from the
    undivided model's outputs, divided by their largest absolute value; None unless it was asked for. `longest_pause_ms`
    is the longest time between two results, `epochs` the plans that were in force one after the other.
    """

    images: int
    ips: float
    latency_ms: Latency
    max_abs_diff: float | None
    per_provider: dict[str, ProviderTotals]
    links: tuple[ObservedLink, ...]
    longest_pause_ms: float
    epochs: tuple[EpochReport, ...]


def run_plan(
    bound: BoundPlan,
    scenario: Scenario,
    addresses: Mapping[str, str],
    images: Sequence[FloatRows],
    options: RunOptions = RunOptions(),
    *,
    keys: Keys | None = None,
    listen: str | None = None,
    policy: Policy | None = None,
    controlled: Callable[[Requester], AbstractContextManager[object]] = lambda requester: nullcontext(),
    check: Callable[[], None] = lambda: None,
    progress: Callable[[FrameResult], None] = lambda result: None,
) -> RunReport:
    """Run a plan for some images on providers that listen at `addresses`; see `Requester` for what it raises.

    A `policy` decides plans for links that change. `controlled` ties the stream to a controller while it lasts.
    `progress` is called with each result.
    """
    if (options.emulate or options.hold) and options.verify:
        raise InputError("an emulated run computes nothing that could be verified: leave out --emulate or --verify")
    known = {name: at for name, at in addresses.items() if name in scenario.provider_names}
    requester = Requester(
        bound,
        known,
        keys=keys,
        listen=listen,
        terms=terms(scenario, options),
        improver=Improver(bound, scenario) if len(known) > 1 else None,
        policy=policy,
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
        with controlled(requester):
            started = time.monotonic()
            for result in requester.stream(shown, options.inflight):
                results.append(result)
                progress(result)
            seconds = time.monotonic() - started
        reports = requester.finish()
        epochs = _epochs(requester.history, len(warm_up))
        if options.trace is not None:
            write(options.trace, requester.trace(scenario, len(warm_up)))
    largest = difference(bound, shown, results) if options.verify else None
    latencies = [result.latency_ms for result in results]
    p50, p90, p99 = (float(p) for p in np.percentile(latencies, (50, 90, 99)))
    links = _links(requester.observed_links())
    totals = {name: _totals(name, reports.get(name), len(shown) + len(warm_up), links) for name in bound.plan.providers}
    pause_s = np.diff([started, *(result.done_s for result in results)]).max()
    return RunReport(
        images=len(shown),
        ips=len(shown) / seconds,
        latency_ms=Latency(p50, p90, p99),
        max_abs_diff=largest,
        per_provider=totals,
        links=links,
        longest_pause_ms=float(pause_s) * 1000.0,
        epochs=epochs,
    )


def run_here(
    bound: BoundPlan,
    scenario: Scenario,
    images: Sequence[FloatRows],
    options: RunOptions = RunOptions(),
    *,
    controlled: Callable[[Requester], AbstractContextManager[object]] = lambda requester: nullcontext(),
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
                bound, scenario, launcher.addresses, images, options, keys=keys, controlled=controlled,
                check=launcher.check, progress=progress,
            )  # fmt: skip


def wire_of(options: RunOptions, scenario: Scenario) -> Wire:
    """The precision that feature maps travel in."""
    by_size = {size: wire for wire, size in WIRES.items()}
    return options.wire or ("float32" if options.verify else by_size[scenario.element_bytes])


def terms(scenario: Scenario, options: RunOptions) -> Terms:
    """On what terms the providers of a scenario work in such a run."""
    wire = wire_of(options, scenario)

    def stand_ins(bound: BoundPlan | None) -> Mapping[str, Emulation]:
        return emulations(bound, scenario, WIRES[wire], links=options.emulate)

    return Terms(
        wire=wire,
        threads=options.threads,
        traced=options.trace is not None or options.shown,
        keep_trace=options.trace is not None,
        emulate=stand_ins if options.emulate or options.hold else None,
        rates_mbps=link_rates(scenario) if options.paced else {},
        headroom=HEADROOM if options.paced and options.follow else None,
        follow=options.follow,
        deadline_ms=options.deadline_ms,
    )


def link_rates(scenario: Scenario) -> dict[str, float]:
    """The rates of the nodes' links in Mbit/s, where they limit."""
    rates = {p.name: p.bandwidth_mbps for p in scenario.providers}
    requester = scenario.requester.bandwidth_mbps
    return rates if requester is None else {**rates, REQUESTER: requester}


def emulations(
    bound: BoundPlan | None, scenario: Scenario, element_bytes: int | None = None, links: bool = True
) -> dict[str, Emulation]:
    """How each node of a scenario stands in for its board under a plan: what the simulator says its stages take.

    Without a plan nobody has a stage. `element_bytes` replaces the scenario's for another precision on the wire;
    with `links` their rates are emulated as well. Of writing, `MESSAGE_MS` is what this machine needs itself.
    """
    times: dict[tuple[str, int], float] = {}
    came: dict[tuple[str, int], float] = defaultdict(float)
    if bound is not None:
        timeline = trace(bound, scenario, element_bytes=element_bytes)
        times = {(work.provider, work.volume): work.compute_ms for work in timeline.work}
        for message in timeline.transfers:
            came[message.receiver, message.volume] += message.payload_bytes

    rates = link_rates(scenario)

    def stand_in(name: str, rate_mbps: float | None, io: Io, stages: Sequence[int]) -> Emulation:
        return Emulation(
            tuple(times.get((name, v), 0.0) for v in stages),
            rate_mbps if links else None,
            tuple(max(0.0, io.writing_ms(came[name, v]) - MESSAGE_MS) if came[name, v] else 0.0 for v in stages),
            io.read_ms,
            io.read_ms_per_mb / MB,
            rates if links else {},
        )

    stages = assignments(bound) if bound else {}
    found = {
        p.name: stand_in(p.name, p.bandwidth_mbps, p.io, [stage.boundary for stage in stages.get(p.name, ())])
        for p in scenario.providers
    }
    requester = scenario.requester
    last = [len(bound.volumes) + 1] if bound else []
    found[REQUESTER] = stand_in(REQUESTER, requester.bandwidth_mbps, requester.io, last)
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


def _epochs(history: Sequence[EpochBegun], warm_up: int) -> tuple[EpochReport, ...]:
    """The plans that were in force, counted in images."""
    return tuple(
        EpochReport(begun.epoch, begun.reason, max(0, begun.first_frame - warm_up), tuple(sorted(workers(begun.bound))))
        for begun in history
    )


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
