"""A sub-graph in which every feature map has certain rows, the same for one part or different for each of many.

Rows are held as `Span`s over the set of parts that the sub-graph is for. What depends on the part is a constant where
there is one, and an input of the session where there are many.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto

from distredge.engine.subgraph import OnnxSource, SubGraph
from distredge.model.rows import IntArray, RowMap, Window

Formula = Callable[[int, int], npt.NDArray[Any]]
"""A value of the geometry for the part that starts at one place of the domain and stops at another."""


class UnsteadyGeometryError(Exception):
    """A layer's rows cannot be a run-time matter; the part has to be cut by itself."""


@dataclass(frozen=True)
class Span:
    """Rows of a tensor over a set of parts: where they start by the parts' starts, where they stop by their stops."""

    starts: IntArray
    stops: IntArray

    def read(self, reads: RowMap, height: int) -> Span:
        """Rows of an input of `height` rows that these read."""
        return Span(reads.starts(self.starts, height), reads.stops(self.stops, height))

    def same(self, other: Span) -> bool:
        """Whether the rows are equal for all parts."""
        return bool(np.array_equal(self.starts, other.starts) and np.array_equal(self.stops, other.stops))

    def rows(self, a: int, b: int) -> int:
        """How many rows the part has that starts at `a` and stops at `b` of the domain."""
        return int(self.stops[b] - self.starts[a])


class RowGraph(SubGraph):
    """A sub-graph, the rows that its feature maps have, and the geometry that is an input of it.

    `runtime`: it is for many parts, and what differs between them is an input.
    """

    def __init__(self, source: OnnxSource, runtime: bool) -> None:
        super().__init__(source)
        self.runtime = runtime
        self.features: dict[str, Span] = {}
        self.formulas: dict[str, Formula] = {}
        self._sliced: dict[tuple[str, bytes], str] = {}

    def fixed(self, span: Span) -> int | None:
        """The number of rows if it is the same for all parts that the sub-graph is for."""
        return None if self.runtime else span.rows(0, 0)

    def value(self, name: str, formula: Formula, kind: int = TensorProto.INT64) -> str:
        """Name of a tensor that holds a value of the geometry."""
        if not self.runtime:
            return self.constant(name, formula(0, 0))
        self.formulas[name] = formula
        shapes = {formula(a, b).shape for a, b in ((0, 0), (0, -1), (-1, -1))}
        one = next(iter(shapes))
        return self.argument(name, kind, one if len(shapes) == 1 else [None] * len(one))

    def rows_of(self, tensor: str, want: Span) -> str:
        """Name of a tensor that holds exactly the rows `want` of a feature map."""
        have, axis = self.features[tensor], self.source.axis(tensor)
        if have.same(want) or axis is None:
            return tensor
        return self.take_rows(tensor, axis, have, want)

    def take_rows(self, tensor: str, axis: int, have: Span, want: Span) -> str:
        """The rows `want` of a tensor of which the rows `have` are there."""
        key = (tensor, want.starts.tobytes() + want.stops.tobytes())
        if key not in self._sliced:
            result = f"{tensor}§rows{len(self._sliced)}"

            def start(a: int, b: int) -> npt.NDArray[Any]:
                return np.array([want.starts[a] - have.starts[a]])

            def stop(a: int, b: int) -> npt.NDArray[Any]:
                return np.array([want.stops[b] - have.starts[a]])

            self._sliced[key] = self.take(tensor, axis, start, stop, result)
        return self._sliced[key]

    def take(self, tensor: str, axis: int, start: Formula, stop: Formula, result: str) -> str:
        """Append a node that takes rows of a tensor, counted from the first that is there; returns `result`."""
        if self.source.opset < 10:
            if self.runtime:
                raise UnsteadyGeometryError("slices were fixed before operator set 10")
            starts, ends = start(0, 0).tolist(), stop(0, 0).tolist()
            return self.make("Slice", [tensor], result, starts=starts, ends=ends, axes=[axis])
        names = [self.value(f"{result}§start", start), self.value(f"{result}§stop", stop)]
        return self.make("Slice", [tensor, *names, self.constant(f"{result}§axis", np.array([axis]))], result)

    def padding(self, reads: Window, span: Span, want: Span) -> tuple[IntArray, IntArray, IntArray]:
        """Rows of padding above (by the parts' starts) and below (by their stops), and output rows ahead.

        Output rows that lie wholly in padding need no input and get the border row. So that it takes part, rows ahead
        of them or behind them are computed too, by whole strides, and dropped again.
        """
        first, last = span.starts * reads.stride - reads.pad_top, (span.stops - 1) * reads.stride - reads.pad_top
        top = want.starts - first
        ahead = np.maximum(0, -(top // reads.stride))
        return top + ahead * reads.stride, last + reads.extent - want.stops, ahead

    def drop_border(self, tensor: str, axis: int, ahead: IntArray, span: Span, result: str) -> None:
        """Of rows that begin `ahead` of what is wanted, take what is wanted."""
        self.take(
            tensor,
            axis,
            lambda a, b: np.array([ahead[a]]),
            lambda a, b: np.array([ahead[a] + span.rows(a, b)]),
            result,
        )

    def pad(self, tensor: str, sizes: npt.NDArray[Any] | str, result: str, lowest: bool) -> str:
        """Pad a tensor with zeros, or with what no maximum takes."""
        filler = float(np.finfo(np.float32).min) if lowest else 0.0
        if self.source.opset < 11:
            if isinstance(sizes, str):
                raise UnsteadyGeometryError("pads were fixed before operator set 11")
            return self.make("Pad", [tensor], result, pads=sizes.tolist(), value=filler)
        name = sizes if isinstance(sizes, str) else self.constant(f"{result}§sizes", sizes.astype(np.int64))
        value = self.constant(f"{result}§value", np.array(filler, dtype=np.float32))
        return self.make("Pad", [tensor, name, value], result)
