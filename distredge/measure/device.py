"""Measures this machine: each layer of a model at some numbers of rows, into a `TableProfile`."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

import numpy as np

from distredge.config import read_json
from distredge.errors import InputError, ProfileError
from distredge.model.graph import LayerGraph
from distredge.model.layer import Layer
from distredge.profiles.table import Measured, RowTiming, Sentinel, TableFile, TableProfile, Timing, head_signature

SAVE_EVERY_S = 2.0
SENTINEL_EVERY = 16
"""Points between two measurements of the sentinel."""

WARM_UP_SHARE = 0.2
"""Warming up before a point, as a share of the time for measuring it."""

Progress = Callable[[int, int, str], None]
"""Called before each point: points done, points in all, what is measured now."""


@dataclass(frozen=True)
class Effort:
    """How long to measure: numbers of rows a layer, and seconds for each of them."""

    points: int
    seconds_per_point: float


EFFORTS: dict[Literal["quick", "default"], Effort] = {"quick": Effort(3, 0.05), "default": Effort(5, 0.25)}
"""For VGG-16 on one core `quick` takes a few seconds, `default` about half a minute."""


def row_points(height: int, points: int) -> list[int]:
    """At most `points` numbers of rows from 1 to `height`, both among them, in geometric steps.

    Latency is nearly affine in rows, with an offset: small numbers of rows tell the offset.
    """
    if points >= height:
        return list(range(1, height + 1))
    return sorted({round(rows) for rows in np.geomspace(1, height, max(points, 2)).tolist()})


def measure_device(
    graph: LayerGraph,
    *,
    name: str,
    out: Path,
    rng: np.random.Generator,
    threads: int = 1,
    points: int = EFFORTS["default"].points,
    seconds_per_point: float = EFFORTS["default"].seconds_per_point,
    budget_s: float | None = None,
    progress: Progress | None = None,
) -> TableProfile:
    """Measure the layers and the head of a model on this machine, with ONNX Runtime, into `out / NAME.json`.

    What the file already holds is kept and not measured again: so a measurement that was interrupted (by Ctrl-C
    too) goes on where it stopped, and one profile serves several models. `points` is the number of row counts a
    layer, its height or more for every one. With `budget_s` the seconds a point are cut to fit, but a point takes
    three runs at least. The order of layers and row counts is random, so that a drift of the machine does not pass for
    a property of a layer.

    Raises `InputError` for a budget or number that is not positive, a name that is no file name or a folder that cannot
    be written, and `ProfileError` where `out / NAME.json` is of another machine, engine or number of threads.
    """
    if min(points, threads) < 1 or min(seconds_per_point, 1.0 if budget_s is None else budget_s) <= 0:
        raise InputError("points, threads, seconds a point and the budget must be positive")
    _make_folder(out, name)
    run = _Run(graph, name, out / f"{name}.json", rng, threads)
    todo = run.missing(points)
    if budget_s is not None:
        seconds_per_point = min(seconds_per_point, budget_s / (1 + WARM_UP_SHARE) / max(len(todo), 1))
    run.measure(todo, seconds_per_point, progress or (lambda done, total, what: None))
    return TableProfile.load(out / f"{name}.json")


def _make_folder(out: Path, name: str) -> None:
    """Make the folder before anything is measured."""
    if not name or Path(name).name != name:
        raise InputError(f"'{name}' cannot name a profile: give a name without '/'")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write profiles to '{out}': {error.strerror}") from error


@dataclass
class _Point:
    """Something to measure: rows of a layer, or the head (no layer)."""

    layer: Layer | None
    rows: int

    @property
    def title(self) -> str:
        return f"{self.layer.name}, {self.rows} rows" if self.layer else "head"


@dataclass
class _Timings:
    """What was measured so far."""

    layers: dict[str, dict[int, RowTiming]] = field(default_factory=dict)
    heads: dict[str, Timing] = field(default_factory=dict)
    models: tuple[str, ...] = ()
    sentinel: Sentinel | None = None


class _Run:
    """One call of `measure_device`: the timings so far and the file that keeps them."""

    def __init__(self, graph: LayerGraph, name: str, path: Path, rng: np.random.Generator, threads: int) -> None:
        from distredge.measure.ort import OrtBench

        self._graph = graph
        self._name = name
        self._path = path
        self._rng = rng
        self._threads = threads
        self._bench = OrtBench(graph, rng, threads)
        self._seconds = 0.0
        self._saved = time.monotonic()
        self._timings = self._read() if path.exists() else _Timings()

    def missing(self, points: int) -> list[_Point]:
        """What is still to measure, in random order."""
        layers = {layer.signature: layer for layer in self._graph.layers}
        todo = [
            _Point(layer, rows)
            for signature, layer in layers.items()
            for rows in row_points(layer.height, points)
            if rows not in self._timings.layers.get(signature, {})
        ]
        if self._graph.head.nodes and head_signature(self._graph.head) not in self._timings.heads:
            todo.append(_Point(None, 0))
        return [todo[i] for i in self._rng.permutation(len(todo))]

    def measure(self, todo: list[_Point], seconds: float, progress: Progress) -> None:
        """Measure all of `todo`; what was measured is saved every so often and whatever happens."""
        self._seconds = seconds if todo else self._seconds
        try:
            for done, point in enumerate(todo):
                if done % SENTINEL_EVERY == 0:
                    self._watch()
                progress(done, len(todo), point.title)
                self._measure(point)
                if time.monotonic() - self._saved > SAVE_EVERY_S:
                    self._save(complete=False)
            if todo:
                self._watch()
            self._timings.models = tuple(sorted({*self._timings.models, self._graph.name}))
            self._save(complete=True)
        except BaseException:
            self._save(complete=False)
            raise
        progress(len(todo), len(todo), "done")

    @property
    def _warm_up_s(self) -> float:
        return self._seconds * WARM_UP_SHARE

    def _measure(self, point: _Point) -> None:
        if point.layer is None:
            head = self._bench.head(self._warm_up_s, self._seconds)
            self._timings.heads[head_signature(self._graph.head)] = head
        else:
            timing = self._bench.layer(point.layer, point.rows, self._warm_up_s, self._seconds)
            of_layer = self._timings.layers.setdefault(point.layer.signature, {})
            of_layer[point.rows] = RowTiming(rows=point.rows, **timing.model_dump())

    def _watch(self) -> None:
        """Measure the sentinel: the model's layer of median cost, whole."""
        layer = sorted(self._graph.layers, key=lambda each: each.macs)[len(self._graph.layers) // 2]
        median = self._bench.layer(layer, layer.height, self._warm_up_s, self._seconds).median_ms
        known = self._timings.sentinel
        before = known.medians_ms if known and known.signature == layer.signature else ()
        self._timings.sentinel = Sentinel(signature=layer.signature, rows=layer.height, medians_ms=(*before, median))

    def _save(self, complete: bool) -> None:
        if self._timings.layers or self._timings.heads:
            self._file(complete).save(self._path)
        self._saved = time.monotonic()

    def _read(self) -> _Timings:
        """The timings of an earlier run, which must have been made alike."""
        file = read_json(self._path, TableFile, ProfileError)
        was = file.provenance
        for key, now in self._identity().items():
            if getattr(was, key) != now:
                raise ProfileError(
                    f"'{self._path}' was measured with {key} '{getattr(was, key)}', not '{now}': "
                    "choose another name or remove it"
                )
        self._seconds = was.seconds_per_point
        layers = {signature: {t.rows: t for t in timings} for signature, timings in file.layers.items()}
        return _Timings(layers, dict(file.heads), was.models, was.sentinel)

    def _file(self, complete: bool) -> TableFile:
        """The timings so far, as they are stored."""
        return TableFile(
            name=self._name,
            provenance=Measured(
                **self._identity(),
                date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
                models=self._timings.models,
                warm_up_s=self._warm_up_s,
                seconds_per_point=self._seconds,
                order="random",
                caches="swept before each repeat, inputs written anew",
                sentinel=self._timings.sentinel,
                complete=complete,
            ),
            layers={
                signature: tuple(timings[rows] for rows in sorted(timings))
                for signature, timings in sorted(self._timings.layers.items())
            },
            heads=self._timings.heads,
        )

    def _identity(self) -> dict[str, Any]:
        """What must be the same for two measurements to share a file."""
        return {
            "host": platform.node(),
            "cpu": cpu_name(),
            "engine": self._bench.engine,
            "engine_version": self._bench.engine_version,
            "threads": self._threads,
        }


def cpu_name() -> str:
    """The processor, as the system calls it."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith(("model name", "Model")):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
