"""The vertical-splitting law for a layer-volume: which rows of which layer a split-part computes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from distredge.geometry.interval import Interval
from distredge.model.graph import IMAGE, LayerGraph
from distredge.model.layer import Layer
from distredge.model.rows import IntArray


@dataclass(frozen=True)
class SplitPart:
    """What one provider computes of a volume.

    `inputs[e]` are the rows that it reads of the volume's e-th entering tensor, `rows[i]` those that it computes of the
    i-th layer, halo included, `outputs[k]` those that it owns of the k-th leaving tensor. Rows of a side branch may be
    empty.
    """

    inputs: tuple[Interval, ...]
    rows: tuple[Interval, ...]
    outputs: tuple[Interval, ...]


@dataclass(frozen=True)
class Volume:
    """A layer-volume: the layers `[start, stop)` of a graph.

    A split decision cuts the rows of its last layer. Every other tensor that leaves the volume is cut at the same
    fractions, so that the decision tells who owns which of its rows. Row needs propagate backwards. A layer with
    several consumers computes the hull of what they need. Where an interval starts depends only on where the output
    starts, and where it stops only on where that stops, so one table over `height + 1` rows holds each.
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

    @cached_property
    def entering(self) -> tuple[int, ...]:
        """The layers made before (or `IMAGE`) that the volume's layers read, in order."""
        index = self.graph.index
        return tuple(sorted({p for x in self.layers for s in x.inputs if (p := index[s.source]) < self.start}))

    @cached_property
    def leaving(self) -> tuple[int, ...]:
        """The volume's layers that later layers, the head or the requester read, in order, and the last layer."""
        graph = self.graph
        out = graph.to_head | graph.to_requester
        read = (i for i in range(self.start, self.stop) if graph.last_reader.get(i, IMAGE) >= self.stop or i in out)
        return tuple(sorted({*read, self.stop - 1}))

    def cut_rows(self, layer: int) -> IntArray:
        """(height + 1,) where a leaving layer is cut when the last layer is cut at each row: at the same fraction."""
        rows = self.graph.layers[layer].height
        return (2 * np.arange(self.height + 1) * rows + self.height) // (2 * self.height)

    def owned(self, layer: int, out: Interval) -> Interval:
        """Rows of a leaving layer that belong to the provider which computes the rows `out` of the last layer."""
        cuts = self.cut_rows(layer)
        return Interval(int(cuts[out.start]), int(cuts[out.stop]))

    def part(self, out: Interval) -> SplitPart:
        """The split-part that computes the non-empty rows `out` of the last layer (Eq. 1, 2, exact on a DAG)."""
        starts, stops = self.tables
        rows = [
            Interval(int(a), max(int(a), int(b))) for a, b in zip(starts[:, out.start], stops[:, out.stop], strict=True)
        ]
        count = len(self.entering)
        return SplitPart(tuple(rows[:count]), tuple(rows[count:]), tuple(self.owned(i, out) for i in self.leaving))

    @cached_property
    def tables(self) -> tuple[IntArray, IntArray]:
        """`(starts, stops)`, each of shape (entering + layers, height + 1).

        `starts[k, a]` is the first row needed of an entering tensor, or computed of a layer, when the output starts at
        `a`; `stops[k, b]` where that ends when the output stops at `b`; first the entering tensors, then the layers.
        `starts[:, height]` and `stops[:, 0]` belong to empty parts.
        """
        layers, entering, graph = self.layers, self.entering, self.graph
        at = {i: k for k, i in enumerate((*entering, *range(self.start, self.stop)))}
        starts = np.full((len(at), self.height + 1), np.iinfo(np.int64).max)
        stops = np.zeros((len(at), self.height + 1), dtype=np.int64)
        for i in self.leaving:
            starts[at[i]] = stops[at[i]] = self.cut_rows(i)
        for i in range(self.stop - 1, self.start - 1, -1):
            layer, k = layers[i - self.start], at[i]
            if layer.whole:
                starts[k], stops[k] = 0, layer.height
            for source in layer.inputs:
                j = at[graph.index[source.source]]
                height = graph.shape(graph.index[source.source])[1]
                np.minimum(starts[j], source.reads.starts(starts[k], height), out=starts[j])
                np.maximum(stops[j], source.reads.stops(stops[k], height), out=stops[j])
        return starts, stops


def parts(volume: Volume, cuts: Sequence[int]) -> tuple[SplitPart | None, ...]:
    """The split-part of each provider for `cuts` (providers + 1 values); None where a provider has no rows."""
    return tuple(volume.part(Interval(a, b)) if b > a else None for a, b in zip(cuts[:-1], cuts[1:], strict=True))
