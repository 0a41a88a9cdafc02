"""Measures a device: each layer of a model at some numbers of rows, its head, and whole split-parts."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from distredge.engine.subgraph import OnnxSource
from distredge.errors import InputError, UnknownNameError
from distredge.geometry.interval import Interval
from distredge.geometry.split import Volume
from distredge.measure.bench import WARM_UP_SHARE, Bench, summary
from distredge.measure.ledger import Ledger
from distredge.measure.points import (
    PartPoint,
    Point,
    head_point,
    layer_point,
    part_point,
    piece_of,
    plan_parts,
    random_parts,
)
from distredge.measure.row_counts import Adaptive, Every
from distredge.model.graph import LayerGraph
from distredge.model.layer import Layer
from distredge.plans.plan import Plan
from distredge.profiles.measured import Method, head_signature
from distredge.profiles.table import TableProfile

SAVE_EVERY_S = 2.0
SENTINEL_EVERY = 16
"""Points between two measurements of the sentinel."""

Progress = Callable[[int, int, str], None]
"""Called before each point: points done, points in all as far as known, what is measured now."""


@dataclass(frozen=True)
class Campaign:
    """What to measure and how thoroughly. Raises `InputError` for what makes no sense."""

    row_counts: Adaptive | Every = Adaptive(0.03)
    seconds_per_point: float = 0.2
    budget_s: float | None = None
    """When it is spent, nothing is refined any more and nothing measured a second time; what is left is measured."""
    layers: tuple[str, ...] | None = None
    """Names of the layers to measure, and nothing else; None: all, the head, and split-parts."""
    parts: int = 16
    """How many random split-parts to measure whole."""
    plan: Plan | None = None
    """All split-parts of this plan are measured whole as well."""

    def __post_init__(self) -> None:
        if isinstance(self.row_counts, Every) and self.row_counts.granularity < 1:
            raise InputError("the granularity must be 1 row or more")
        if isinstance(self.row_counts, Adaptive) and not 0 < self.row_counts.max_error < 1:
            raise InputError("the error bound must lie between 0 and 1, for example 0.03")
        if self.layers is not None and self.plan is not None:
            raise InputError("split-parts need all layers and the head measured: leave out --layers, or the plan")
        if self.parts < 0 or self.seconds_per_point <= 0 or (self.budget_s is not None and self.budget_s <= 0):
            raise InputError("seconds a point and the budget must be positive, and parts 0 or more")


def measure_device(
    graph: LayerGraph,
    bench: Bench,
    *,
    name: str,
    out: Path,
    rng: np.random.Generator,
    campaign: Campaign = Campaign(),
    progress: Progress = lambda done, total, what: None,
) -> TableProfile:
    """Measure the layers, the head and some split-parts of a model on a bench's device, into `out / NAME.json`.

    What the file already holds is kept and not measured again: so a measurement that was interrupted (by Ctrl-C
    too) goes on where it stopped, and one profile serves several models. Everything is measured in random order and
    twice, a while apart, so that a drift of the device does not pass for a property of a layer.

    Raises `InputError` for a name that is no file name, an unknown layer or a folder that cannot be written, and
    `ProfileError` where `out / NAME.json` is of another device, runtime, precision or number of threads.
    """
    _make_folder(out, name)
    run = _Run(graph, bench, Ledger.open(name, out / f"{name}.json", bench.subject), out / f"{name}.json")
    run.measure(campaign, rng, progress)
    return TableProfile.load(out / f"{name}.json")


def _make_folder(out: Path, name: str) -> None:
    """Make the folder before anything is measured."""
    if not name or Path(name).name != name:
        raise InputError(f"'{name}' cannot name a profile: give a name without '/'")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write profiles to '{out}': {error.strerror}") from error


class _Run:
    """One sitting: a model, a bench, and the ledger that its timings go into."""

    def __init__(self, graph: LayerGraph, bench: Bench, ledger: Ledger, path: Path) -> None:
        self._graph, self._bench, self._ledger, self._path = graph, bench, ledger, path
        self._source = OnnxSource.of(graph)
        self._done, self._began, self._saved = 0, time.monotonic(), time.monotonic()

    def measure(self, campaign: Campaign, rng: np.random.Generator, progress: Progress) -> None:
        """Measure what is missing; what was measured is saved every so often and whatever happens."""
        self._campaign, self._rng, self._progress = campaign, rng, progress
        self._layers = _chosen(self._graph, campaign.layers)
        parts = self._missing_parts()
        measured: list[Point] = []
        self._note_conditions()
        try:
            while (todo := self._missing_layers()) and not (measured and self._is_spent()):
                self._pass(todo, 2 * (len(measured) + len(todo) + len(parts)))
                measured += todo
            self._pass(parts, 2 * (len(measured) + len(parts)))
            measured += parts
            if not self._is_spent():
                self._pass(measured, 2 * len(measured))
            if measured:
                self._watch()
            self._note_kernels()
            self._note_open_gaps()
            if campaign.layers is None:
                self._ledger.models[self._graph.sha256] = self._graph.name
            self._note_conditions()
            self._save(complete=True)
        except BaseException:
            self._save(complete=False)
            raise
        progress(self._done, self._done, "done")

    def _missing_layers(self) -> list[Point]:
        """What the layers, and the head, still want."""
        points: dict[tuple[str, ...], Point] = {}
        for layer in self._layers:
            known = self._ledger.layers.get(layer.signature, {})
            for rows in self._campaign.row_counts.wanted(layer.height, known):
                point = layer_point(layer, rows)
                points[point.key] = point
        head = self._graph.head
        if self._campaign.layers is None and head.nodes and head_signature(head) not in self._ledger.heads:
            points["head",] = head_point(head_signature(head))
        return list(points.values())

    def _missing_parts(self) -> list[PartPoint]:
        """Split-parts that are still to measure whole: random ones up to their number, and the plan's."""
        points: list[PartPoint] = []
        if self._campaign.layers is None:
            mine = f"{self._graph.name}: "
            known = sum(part.title.startswith(mine) for part in self._ledger.parts.values())
            points += random_parts(self._graph, max(self._campaign.parts - known, 0), self._rng)
        if self._campaign.plan:
            points += plan_parts(self._graph, self._campaign.plan)
        return [p for p in {p.key: p for p in points}.values() if p.key not in self._ledger.parts]

    def _pass(self, todo: Sequence[Point], total: int) -> None:
        """Measure these once, in random order."""
        for i in self._rng.permutation(len(todo)):
            if self._done % SENTINEL_EVERY == 0:
                self._watch()
            self._progress(self._done, total, todo[i].title)
            self._ledger.note(todo[i], self._time(todo[i]), self._graph)
            self._done += 1
            if time.monotonic() - self._saved > SAVE_EVERY_S:
                self._save(complete=False)

    def _time(self, point: Point) -> list[list[float]]:
        seconds = self._campaign.seconds_per_point / 2  # everything is measured twice
        return self._bench.look(piece_of(self._source, self._graph, point), seconds)

    def _watch(self) -> None:
        """Measure the sentinel: the layer of median cost, whole."""
        layer = sorted(self._layers, key=lambda each: each.macs)[len(self._layers) // 2]
        whole = layer_point(layer, layer.height)
        self._ledger.watch(whole, self._time(whole))

    def _is_spent(self) -> bool:
        budget_s = self._campaign.budget_s
        return budget_s is not None and time.monotonic() - self._began > budget_s

    def _note_open_gaps(self) -> None:
        """Say where the bound of adaptive measuring is not known to hold."""
        adaptive = self._campaign.row_counts
        if isinstance(adaptive, Adaptive):
            open_at = [x.name for x in self._layers if adaptive.untested(x.height, self._ledger.layers[x.signature])]
            words = f"{adaptive.max_error:.1%} is not known to hold everywhere in {', '.join(open_at)}"
            self._ledger.remark(self._graph, "error bound", [words] if open_at else [])

    def _note_kernels(self) -> None:
        """Have all layers run as one under the runtime's profiler, if it has one."""
        volume = Volume(self._graph, 0, len(self._graph.layers))
        whole = part_point(volume, Interval(0, volume.height))
        if self._campaign.layers is None and self._graph.name not in self._ledger.kernels:
            kernels = self._bench.breakdown_ms(piece_of(self._source, self._graph, whole))
            if kernels is not None:
                self._ledger.note_kernels(self._graph, kernels, summary(self._time(whole)).median_ms)

    def _note_conditions(self) -> None:
        self._ledger.conditions = (*self._ledger.conditions, self._bench.conditions())

    def _save(self, complete: bool) -> None:
        if self._ledger.layers or self._ledger.heads:
            self._ledger.file(self._method(), complete).save(self._path)
        self._saved = time.monotonic()

    def _method(self) -> Method:
        seconds = self._campaign.seconds_per_point
        return Method(
            warm_up_s=round(WARM_UP_SHARE * seconds, 4),
            seconds_per_point=seconds,
            order="random",
            caches=self._bench.caches,
            row_counts=self._campaign.row_counts.describe(),
            commands=self._bench.commands,
        )


def _chosen(graph: LayerGraph, names: Sequence[str] | None) -> list[Layer]:
    if names is None:
        return list(graph.layers)
    known = {layer.name: layer for layer in graph.layers}
    for name in names:
        if name not in known:
            raise UnknownNameError("layer", name, known, f"(`distredge inspect {graph.name}` lists them)")
    return [known[name] for name in names]
