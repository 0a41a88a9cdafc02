"""The vertical-splitting law for a layer-volume: which rows of which layer a split-part computes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from distredge.geometry.interval import Interval
from distredge.geometry.receptive import IntArray, needed, needed_starts, needed_stops
from distredge.model.graph import LayerGraph
from distredge.model.layer import INPUT, Layer


@dataclass(frozen=True)
class SplitPart:
    """What one provider computes of a volume.

    `rows[i]` are the rows of the volume's i-th layer, halo included; `input` those of the tensor that enters
    the volume. The last entry of `rows` is the split decision itself.
    """

    input: Interval
    rows: tuple[Interval, ...]


@dataclass(frozen=True)
class Volume:
    """A layer-volume: the layers `[start, stop)` of a graph, entered and left by one tensor each.

    Row needs propagate backwards. A layer with several consumers computes the hull of what they need. Where an
    interval starts depends only on where the output starts, and where it stops only on where that stops, so one
    table over `height + 1` rows holds each.
    """

    graph: LayerGraph
    start: int
    stop: int

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The volume's layers in topological order."""
        return self.graph.layers[self.start : self.stop]

    @property
    def height(self) -> int:
        """Rows of the last layer: the range of a split decision."""
        return self.graph.layers[self.stop - 1].height

    @property
    def input_height(self) -> int:
        """Rows of the tensor that enters the volume."""
        return self.graph.input_rows(self.start)[0]

    @cached_property
    def _sources(self) -> tuple[tuple[int, ...], ...]:
        """Per layer and input, the position of its source in the volume; -1 for the tensor that enters."""
        index = self.graph.index
        return tuple(
            tuple(
                -1 if s.source == INPUT or index[s.source] < self.start else index[s.source] - self.start
                for s in layer.inputs
            )
            for layer in self.layers
        )

    def part(self, out: Interval) -> SplitPart:
        """The split-part that computes the non-empty rows `out` of the last layer (Eq. 1, 2, exact on a DAG)."""
        layers = self.layers
        rows: list[Interval | None] = [None] * len(layers)
        rows[-1] = out
        entering: Interval | None = None
        for i in range(len(layers) - 1, -1, -1):
            mine = rows[i]
            if mine is None:
                raise AssertionError(f"layer {layers[i].name} has no consumer in its volume")
            for source, at in zip(layers[i].inputs, self._sources[i], strict=True):
                height = self.input_height if at < 0 else layers[at].height
                want = needed(source.window, mine, height)
                if at < 0:
                    entering = want if entering is None else entering.hull(want)
                else:
                    known = rows[at]
                    rows[at] = want if known is None else known.hull(want)
        if entering is None:
            raise AssertionError("no layer of the volume reads the tensor that enters it")
        return SplitPart(entering, tuple(r for r in rows if r is not None))

    @cached_property
    def tables(self) -> tuple[IntArray, IntArray]:
        """`(starts, stops)`, each of shape (layers + 1, height + 1): `starts[1 + i, a]` is the first row that
        layer i computes when the output starts at `a`, `stops[1 + i, b]` where it ends when the output stops at
        `b`; row 0 of each is the tensor that enters. `starts[:, height]` and `stops[:, 0]` belong to empty parts.
        """
        layers, height = self.layers, self.height
        starts = np.full((len(layers) + 1, height + 1), np.iinfo(np.int64).max)
        stops = np.zeros((len(layers) + 1, height + 1), dtype=np.int64)
        starts[-1] = stops[-1] = np.arange(height + 1)
        for i in range(len(layers) - 1, -1, -1):
            for source, at in zip(layers[i].inputs, self._sources[i], strict=True):
                size = self.input_height if at < 0 else layers[at].height
                np.minimum(starts[at + 1], needed_starts(source.window, starts[i + 1], size), out=starts[at + 1])
                np.maximum(stops[at + 1], needed_stops(source.window, stops[i + 1], size), out=stops[at + 1])
        return starts, stops


def parts(volume: Volume, cuts: tuple[int, ...]) -> tuple[SplitPart | None, ...]:
    """The split-part of each provider for `cuts` (providers + 1 values); None where a provider has no rows."""
    return tuple(volume.part(Interval(a, b)) if b > a else None for a, b in zip(cuts[:-1], cuts[1:], strict=True))
