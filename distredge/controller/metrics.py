"""What Prometheus reads at `/metrics`: counted from the requesters' messages and from the events.

Counters and histograms begin with the process, gauges show what is known now. Numbers of series are bounded: histograms
know at most `MAX_MODELS` models (what comes later is `other`), gauges the `MAX_STREAMS` newest open streams.
"""

from __future__ import annotations

import time
from collections import Counter as Counts
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from threading import Lock
from typing import Any, get_args

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from distredge import __version__
from distredge.control.schema import DeviceView, Event, Health, StreamSummary, Telemetry
from distredge.controller.core import Core

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

MAX_MODELS = 32
MAX_STREAMS = 200

OTHER = "other"

LATENCY_S = (0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 5.0, 10.0)
PART_S = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0)
DECISION_S = (0.00002, 0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.1)

OUTCOMES = {"plan_ordered": "used", "plan_kept": "kept", "replan_failed": "failed"}
"""What comes of a re-plan, by the event that says so."""

ROLLBACKS = {"plan_rolled_back": "requester", "operator_rolled_back": "operator"}
DRIFTS = ("link", "compute", "large")

EVENTS_AT_A_TIME = 1000


class Metrics:
    """Of one controller. May be used from several threads."""

    def __init__(self, core: Core) -> None:
        self._core, self._lock = core, Lock()
        self._taken: dict[str, int] = {}
        self._models: set[str] = set()
        newest = core.events(limit=1)
        self._last = newest[-1].id if newest else 0
        self.registry = CollectorRegistry()
        self.registry.register(_Now(core))
        self._make_counters()
        self._make_histograms()

    def _make_counters(self) -> None:
        def counter(name: str, about: str, *labels: str) -> Counter:
            return Counter(f"distredge_{name}", about, labels, registry=self.registry)

        self._replans = counter("replans", "Re-plans by what came of them", "outcome")
        self._rollbacks = counter("rollbacks", "Plans that were left again, by who wanted it", "by")
        self._drifts = counter("drift", "Changes of links and of compute, and conditions far from the plan's", "kind")
        self._misses = counter("deadline_misses", "Frames that came after their deadline", "model")
        self._decisions = counter("decisions", "Split decisions that were asked for", "outcome")
        self._messages = counter("telemetry_messages", "Messages of requesters that were taken")
        self._errors = counter("http_errors", "Answers from 400 up", "status")
        for known, labels in (
            (self._replans, OUTCOMES.values()),
            (self._rollbacks, ROLLBACKS.values()),
            (self._drifts, DRIFTS),
            (self._decisions, ("answered", "refused")),
        ):
            for label in labels:
                known.labels(label)  # it is there, and 0, from the beginning

    def _make_histograms(self) -> None:
        def histogram(name: str, about: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(f"distredge_{name}_seconds", about, labels, registry=self.registry, buckets=buckets)

        self._frame = histogram("frame", "Latency of a frame", LATENCY_S, "model")
        self._compute = histogram("compute", "A provider's computing of a volume", PART_S, "model")
        self._transfer = histogram("transfer", "A transfer between two nodes", PART_S, "model")
        self._decision = histogram("decision", "A split decision, without HTTP", DECISION_S)

    def told(self, stream: str, telemetry: Telemetry) -> None:
        """Count what a requester has told, once for each message."""
        with self._lock:
            if telemetry.sequence <= self._taken.get(stream, 0):
                return
            self._taken[stream] = telemetry.sequence
            model = self._model(stream)
        self._messages.inc()
        self._misses.labels(model).inc(telemetry.deadline_misses)
        for histogram, samples in (
            (self._frame, telemetry.frame_ms),
            (self._compute, telemetry.compute_ms),
            (self._transfer, telemetry.transfer_ms),
        ):
            observed = histogram.labels(model)
            for ms in samples:
                observed.observe(ms / 1e3)

    @contextmanager
    def deciding(self) -> Iterator[None]:
        """Around a decision."""
        began_s = time.perf_counter()
        outcome = "refused"
        try:
            yield
            outcome = "answered"
        finally:
            self._decision.observe(time.perf_counter() - began_s)
            self._decisions.labels(outcome).inc()

    def failed(self, status: int) -> None:
        """An answer from 400 up was given."""
        self._errors.labels(str(status)).inc()

    def follow(self) -> None:
        """Count the events since the last call."""
        while found := self._core.events(after=self._last, limit=EVENTS_AT_A_TIME):
            self._last = found[-1].id
            for event in found:
                self._count(event)

    def text(self) -> bytes:
        """What `/metrics` answers."""
        return generate_latest(self.registry)

    def _count(self, event: Event) -> None:
        if event.kind in OUTCOMES:
            self._replans.labels(OUTCOMES[event.kind]).inc()
        elif event.kind in ROLLBACKS:
            self._rollbacks.labels(ROLLBACKS[event.kind]).inc()
        elif event.kind == "large_drift":
            self._drifts.labels("large").inc()
        elif event.kind == "drift_seen":
            change = event.data["change"]
            self._drifts.labels(change["kind"] if isinstance(change, dict) else OTHER).inc()
        elif event.kind == "stream_closed" and event.stream is not None:
            with self._lock:
                self._taken.pop(event.stream, None)

    def _model(self, stream: str) -> str:
        """The label of a stream's model."""
        known = self._core.state.streams.get(stream)
        if known is None or (known.model not in self._models and len(self._models) >= MAX_MODELS):
            return OTHER
        self._models.add(known.model)
        return known.model


class _Now(Collector):
    """What is known at the moment of a scrape."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """Nothing beforehand: registering asks for it, and would have to read the state file for an answer."""
        return iter(())

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """See `Collector`."""
        yield _gauge("build_info", "Which release this is", ("version",), {(__version__,): 1.0})
        yield from _of_devices(self._core.devices())
        streams = self._core.streams()
        yield _gauge("streams_live", "Streams that are heard of", (), {(): float(sum(s.live for s in streams))})
        yield from _of_streams([s for s in streams if s.live][:MAX_STREAMS])


def _of_devices(devices: tuple[DeviceView, ...]) -> Iterator[GaugeMetricFamily]:
    by_health = Counts(device.health for device in devices)
    values = {(health,): float(by_health[health]) for health in get_args(Health)}
    yield _gauge("devices", "Registered providers by their health", ("health",), values)


def _of_streams(streams: list[StreamSummary]) -> Iterator[GaugeMetricFamily]:
    labels = ("stream", "model")
    keys = {s.stream: (s.stream, s.model) for s in streams}
    yield _gauge("plan_version", "Epoch of the plan in force", labels, {keys[s.stream]: s.epoch for s in streams})
    versions = {keys[s.stream]: s.orders.version for s in streams}
    yield _gauge("order_version", "Of the newest orders given", labels, versions)
    p50 = {keys[s.stream]: s.latency.p50 for s in streams if s.latency and s.latency.frames}
    yield _gauge("latency_p50_seconds", "Median latency of late", labels, {k: ms / 1e3 for k, ms in p50.items()})
    ips = {keys[s.stream]: s.latency.ips for s in streams if s.latency}
    yield _gauge("images_per_second", "Of late", labels, ips)
    expected = {keys[s.stream]: s.expected_ms for s in streams if s.expected_ms is not None}
    errors = {key: expected[key] / ms - 1.0 for key, ms in p50.items() if key in expected and ms > 0.0}
    yield _gauge("prediction_error_ratio", "Expected over measured latency, less 1", labels, errors)


def _gauge(name: str, about: str, labels: tuple[str, ...], values: Mapping[Any, float]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"distredge_{name}", about, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family
