"""What readers of files have in common: text, latencies, and layers that are alike."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path

from distredge.errors import InputError, UnknownNameError
from distredge.measure.bench import summary
from distredge.measure.imports import LONGEST_MS, Layers, listed
from distredge.model.graph import LayerGraph
from distredge.model.layer import Layer
from distredge.profiles.measured import Timing


def read_text(path: Path) -> str:
    """A file's text, without a byte-order mark; raises `InputError` if it cannot be read or is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"cannot read '{path}': {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"cannot read '{path}': it is not text in UTF-8: save it as that") from error


def figure(ms: float, cv: float = 0.0) -> Timing:
    """The timing of which one figure is known, and maybe how it varies."""
    return Timing(median_ms=ms, p10_ms=ms, p90_ms=ms, p99_ms=ms, cv=cv, count=1)


def timed(looks: Sequence[list[float]]) -> Timing:
    """Summary of repeated runs in ms, by the sessions that they were of; a coarse clock may have shown 0 in all."""
    if not any(ms > 0 for times in looks for ms in times):
        return figure(0.0).model_copy(update={"count": sum(map(len, looks)), "looks": len(looks)})
    return summary(looks)


class Gathered:
    """Timings of a model's layers, while files are read. `where` tells people the file, and line, of a figure."""

    def __init__(self, graph: LayerGraph) -> None:
        self._graph = graph
        self._named = {layer.name.strip(): layer for layer in graph.layers}
        self._found: dict[str, dict[str, dict[int, Timing]]] = {}

    def knows(self, name: str) -> bool:
        """Whether a layer is called so; spaces around names do not count."""
        return name in self._named

    def layer(self, name: str, where: str) -> Layer:
        """A layer by its name; raises `InputError` naming the nearest."""
        if name not in self._named:
            hint = f"(`distredge inspect {self._graph.name}` lists them)"
            raise InputError(f"{where}: {UnknownNameError('layer', name, self._named, hint)}")
        return self._named[name]

    def add(self, layer: Layer, rows: int, timing: Timing, where: str) -> None:
        """Add a figure; raises `InputError` for rows that the layer has not, a figure too many or one that is none."""
        if not 1 <= rows <= layer.height:
            raise InputError(f"{where}: layer '{layer.name}' has 1 to {layer.height} rows, not {rows}")
        if max(timing.median_ms, timing.p99_ms) > LONGEST_MS:
            raise InputError(f"{where}: {timing.p99_ms:g} ms is no latency")
        mine = self._found.setdefault(layer.signature, {}).setdefault(layer.name, {})
        if rows in mine:
            raise InputError(f"{where}: layer '{layer.name}' has a figure for {rows} rows already: remove one")
        mine[rows] = timing

    @property
    def layers(self) -> Layers:
        """By signature and rows; of layers that are alike, the median of each statistic."""
        return {
            signature: {rows: _middle(timings) for rows, timings in _by_rows(named).items()}
            for signature, named in self._found.items()
        }

    def notes(self) -> Iterator[str]:
        """Which layers were put together, if their figures differ."""
        alike: list[str] = []
        apart = 0.0
        for named in self._found.values():
            figures = [[t.median_ms for t in timings] for timings in _by_rows(named).values()]
            spread = max((max(ms) / min(ms) - 1 for ms in figures if min(ms) > 0), default=0.0)
            if spread > 0:
                alike.append(" = ".join(named))
                apart = max(apart, spread)
        if alike:
            yield (
                f"alike layers share one figure, the median of theirs, which are up to {apart:.1%} apart: "
                f"{listed(alike, 3)}"
            )


def _by_rows(named: dict[str, dict[int, Timing]]) -> dict[int, list[Timing]]:
    """Timings of alike layers by rows."""
    found: dict[int, list[Timing]] = {}
    for timings in named.values():
        for rows, timing in timings.items():
            found.setdefault(rows, []).append(timing)
    return found


def _middle(timings: Sequence[Timing]) -> Timing:
    """The median of each statistic, which keeps their order; runs and looks of the one that has least."""
    if len(timings) == 1:
        return timings[0]
    figures = {
        name: statistics.median(getattr(t, name) for t in timings)
        for name in ("median_ms", "p10_ms", "p90_ms", "p99_ms", "cv")
    }
    return Timing(**figures, count=min(t.count for t in timings), looks=min(t.looks for t in timings))
