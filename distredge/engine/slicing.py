"""Cuts split-parts out of an ONNX model: a sub-graph that computes exactly a part's rows.

Row needs are those of `geometry.split`. A layer computes the hull of what its consumers need, a `Slice` gives each
consumer its own rows, and padding stays only where a part touches the true border.

The sub-graph is cut either for one part, whose rows are then constants, or for every part of its volume: then pads and
slices are run-time inputs, and a new split builds nothing. Both are the same walk over the layers: rows are held as
`Span`s over the set of parts that the sub-graph is for, which has one member or many.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto, TensorProto

from distredge.engine.row_graph import Formula, RowGraph, Span, UnsteadyGeometryError
from distredge.engine.subgraph import OnnxSource, with_rows
from distredge.geometry.interval import Interval
from distredge.geometry.split import SplitPart, Volume
from distredge.model.graph import IMAGE
from distredge.model.layer import Layer
from distredge.model.operators import WINDOWED, attribute, set_attributes, window
from distredge.model.rows import ROW_BY_ROW, IntArray, Spread, Window
from distredge.model.rowwise import ELEMENTWISE, LAYOUT, RowWise

_END = np.iinfo(np.int64).max

_BY_ELEMENT = ELEMENTWISE - {"BatchNormalization", "Dropout"} | {"Concat"}
"""Operators whose constants may have rows."""


@dataclass(frozen=True)
class CutVolume:
    """A sub-graph for every part of a volume: the model, and what its geometry inputs are for a part."""

    model: ModelProto
    formulas: dict[str, Formula]

    def geometry(self, out: Interval) -> dict[str, npt.NDArray[Any]]:
        """The geometry inputs for the part that computes the rows `out`."""
        return {name: formula(out.start, out.stop - 1) for name, formula in self.formulas.items()}


def part_model(source: OnnxSource, volume: Volume, out: Interval) -> ModelProto:
    """The sub-graph of the one part that computes the rows `out` of the volume's last layer.

    Its inputs are those rows of the entering tensors that the part reads, its outputs those of the leaving tensors that
    it owns, but for those of which it owns none. Weights in external files are referred to, not copied: load the result
    with `source.folder` as base.
    """
    starts, stops = volume.tables
    spans = [Span(a[out.start : out.start + 1], b[out.stop : out.stop + 1]) for a, b in zip(starts, stops, strict=True)]
    part = volume.part(out)
    owned = [Span(np.array([rows.start]), np.array([rows.stop])) for rows in part.outputs]
    return _Cutter(source, volume, spans, owned, runtime=False).cut().model


def volume_model(source: OnnxSource, volume: Volume) -> CutVolume:
    """The sub-graph of all parts of a volume in which no layer is left without rows (see `has_all_rows`).

    Raises `UnsteadyGeometryError` if a layer's geometry cannot be a run-time input.
    """
    starts, stops = volume.tables
    spans = [Span(a[:-1], b[1:]) for a, b in zip(starts, stops, strict=True)]
    cuts = [volume.cut_rows(i) for i in volume.leaving]
    return _Cutter(source, volume, spans, [Span(c[:-1], c[1:]) for c in cuts], runtime=True).cut()


def has_all_rows(part: SplitPart) -> bool:
    """Whether the part computes at least a row of every layer and owns one of every leaving tensor."""
    return all(rows.size for rows in (*part.rows, *part.outputs))


class _Cutter(RowGraph):
    """Places a volume's layers one after the other, each with the rows that the parts compute of it."""

    def __init__(
        self, source: OnnxSource, volume: Volume, spans: Sequence[Span], owned: Sequence[Span], runtime: bool
    ) -> None:
        super().__init__(source, runtime)
        self._volume = volume
        count = len(volume.entering)
        self._entering = dict(zip((self._tensor(i) for i in volume.entering), spans[:count], strict=True))
        self._rows = list(spans[count:])
        self._owned = dict(zip(volume.leaving, owned, strict=True))
        self.features.update(self._entering)

    def cut(self) -> CutVolume:
        """The finished sub-graph."""
        for tensor, span in self._entering.items():
            self.enter(tensor, self.fixed(span))
        for layer, span in zip(self._volume.layers, self._rows, strict=True):
            if self.runtime or span.rows(0, 0) > 0:
                self._place(layer, span)
        for i, span in self._owned.items():
            layer = self._volume.graph.layers[i]
            if self.runtime or span.rows(0, 0) > 0:
                self.leave(self.rows_of(layer.tensor, span), layer.tensor, self.fixed(span))
        return CutVolume(self.model(), self.formulas)

    def _tensor(self, layer: int) -> str:
        graph = self._volume.graph
        return graph.input_tensor if layer == IMAGE else graph.layers[layer].tensor

    def _place(self, layer: Layer, span: Span) -> None:
        """Append a layer's nodes so that they make exactly the rows `span`."""
        for name in layer.nodes:
            node = NodeProto()
            node.CopyFrom(self.source.nodes[name])
            made = self.source.graph.analysis.nodes.get(name)
            if made is None:
                self._place_whole(node)
            else:
                self._place_rows(node, made, span)
            if layer.whole:
                self._note_whole(node)
        self.features[layer.tensor] = span

    def _note_whole(self, node: NodeProto) -> None:
        """All that a node makes which is not row-wise is there whole; others may read its second output by rows."""
        some = self._rows[0]
        for name in filter(None, node.output):
            if name in self.source.graph.tensors.shapes:
                height = self.source.height(name)
                self.features[name] = Span(np.zeros_like(some.starts), np.full_like(some.stops, height))

    def _place_whole(self, node: NodeProto) -> None:
        for i, tensor in enumerate(node.input):
            if tensor in self.features:
                have = self.features[tensor]
                whole = Span(np.zeros_like(have.starts), np.full_like(have.stops, self.source.height(tensor)))
                node.input[i] = self.rows_of(tensor, whole)
        self.add(node)

    def _place_rows(self, node: NodeProto, made: RowWise, span: Span) -> None:
        """Append a row-wise node that makes the rows `span`."""
        wants: dict[str, Span] = {}
        for i, tensor in enumerate(node.input):
            if tensor in self.features:
                reads = made.reads.get(tensor, ROW_BY_ROW)
                wants[tensor] = span.read(reads, self.source.height(tensor))
                node.input[i] = self.rows_of(tensor, wants[tensor])
            elif tensor in self.source.graph.tensors.constants:
                node.input[i] = self._constant_rows(node, made, tensor, span)
        want = next(iter(wants.values()), span)
        if node.op_type in WINDOWED:
            self._place_windowed(node, made, span, want)
        elif node.op_type == "ConvTranspose":
            self._place_transposed(node, made, span, want)
        elif node.name in self.source.graph.analysis.matrices:
            self._place_by_matrix(node, made, span, want)
        elif node.op_type in LAYOUT - {"Transpose"} or node.op_type == "DepthToSpace":
            self._place_blocks(node, made, span, want)
        elif node.op_type == "Pad":
            self._place_pad(node, made, span, want)
        elif node.op_type == "Slice":
            self._place_slice(node, made)
        elif node.op_type == "Expand":
            shape = with_rows(self.source.shape(node.output[0]), made.axis, 1)
            node.input[1] = self.constant(f"{node.output[0]}§shape", np.array(shape, dtype=np.int64))
            self.add(node)
        else:
            self.add(node)

    def _constant_rows(self, node: NodeProto, made: RowWise, tensor: str, span: Span) -> str:
        """A constant that differs from row to row, its rows cut as well."""
        shape, out = self.source.graph.tensors.shapes.get(tensor, ()), self.source.shape(node.output[0])
        own = made.axis - (len(out) - len(shape))
        if node.op_type not in _BY_ELEMENT or own < 0 or shape[own] != out[made.axis] or out[made.axis] == 1:
            return tensor
        whole = Span(np.zeros_like(span.starts), np.full_like(span.stops, out[made.axis]))
        return self.take_rows(tensor, own, whole, span)

    def _place_windowed(self, node: NodeProto, made: RowWise, span: Span, want: Span) -> None:
        """Append a convolution or pooling that reads only the rows it needs, padded only beyond the true border."""
        spatial = made.axis - 2
        top, bottom, ahead = self.padding(window(node, spatial), span, want)
        pads = list(attribute(node, "pads", None))
        low, high = spatial, spatial + len(pads) // 2
        result = node.output[0]
        extra = bool(ahead.any() or (bottom < 0).any())
        bottom = np.maximum(bottom, 0)
        if extra:
            node.output[0] = f"{result}§with_border"
        if self.runtime:
            pads[low] = pads[high] = 0
            if top.any() or bottom.any():
                self._place_padded_at_run_time(node, made, span, (top, bottom), pads, extra)
            else:
                self.add(self._with_pads(node, pads))
        else:
            pads[low], pads[high] = int(top[0]), int(bottom[0])
            self._place_padded(node, pads)
        if extra:
            self.drop_border(f"{result}§with_border", made.axis, ahead, span, result)

    def _with_pads(self, node: NodeProto, pads: Sequence[int]) -> NodeProto:
        set_attributes(node, pads=list(pads))
        return node

    def _place_padded(self, node: NodeProto, pads: list[int]) -> None:
        """Append a node with its padding; ONNX Runtime's own is limited to less than a pooling's kernel."""
        kernel = attribute(node, "kernel_shape", None)
        if node.op_type == "MaxPool" and any(pad >= size for pad, size in zip(pads, kernel * 2, strict=True)):
            spatial = len(pads) // 2
            sizes = [0, 0, *pads[:spatial], 0, 0, *pads[spatial:]]
            node.input[0] = self.pad(node.input[0], np.array(sizes), f"{node.output[0]}§padded", lowest=True)
            pads = [0] * len(pads)
        self.add(self._with_pads(node, pads))

    def _place_padded_at_run_time(
        self,
        node: NodeProto,
        made: RowWise,
        span: Span,
        border: tuple[IntArray, IntArray],
        pads: list[int],
        more_rows: bool,
    ) -> None:
        """Append a node, its padding on the rows an input; `pads` are those that stay.

        An average over that padding is brought to what it is over the rows in the image; it must not make more rows
        than are wanted.
        """
        top, bottom = border
        source = self.source.nodes[node.name]
        shape, result = self.source.shape(source.input[0]), node.output[0]
        maker = self.source.makers.get(source.input[0])
        if self.source.graph.tensors.types[source.input[0]] != TensorProto.FLOAT:
            raise UnsteadyGeometryError("padding with the value of another type")
        if maker is not None and maker.op_type == "DequantizeLinear":
            raise UnsteadyGeometryError("a convolution that runs on integers if nothing stands before it")

        def sizes(a: int, b: int) -> npt.NDArray[Any]:
            values = np.zeros(2 * len(shape), dtype=np.int64)
            values[made.axis], values[made.axis + len(shape)] = top[a], bottom[b]
            return values

        name = self.value(f"{result}§pads", sizes)
        node.input[0] = self.pad(node.input[0], name, f"{result}§padded", node.op_type == "MaxPool")
        if node.op_type != "AveragePool" or attribute(node, "count_include_pad", 0):
            self.add(self._with_pads(node, pads))
            return
        if more_rows:
            raise UnsteadyGeometryError("averages of nothing but padding")
        reads, like = window(source, made.axis - 2), [1] * len(shape)

        def factor(a: int, b: int) -> npt.NDArray[Any]:
            rows = np.arange(span.starts[a], max(span.stops[b], span.starts[a] + 1))
            taps = rows[:, None] * reads.stride - reads.pad_top + np.arange(reads.kernel)[None] * reads.dilation
            inside = np.maximum(((taps >= 0) & (taps < shape[made.axis])).sum(axis=1), 1)
            factors: npt.NDArray[Any] = (reads.kernel / inside).astype(np.float32)
            return factors.reshape([*like[: made.axis], -1, *like[made.axis + 1 :]])

        node.output[0] = f"{result}§of_all_rows"
        self.add(self._with_pads(node, pads))
        self.make("Mul", [node.output[0], self.value(f"{result}§factor", factor, TensorProto.FLOAT)], result)

    def _place_transposed(self, node: NodeProto, made: RowWise, span: Span, want: Span) -> None:
        """Append a transposed convolution without padding on the rows, and take its rows from what it makes."""
        spatial = made.axis - 2
        reads = window(node, spatial)
        first = span.starts - (want.starts * reads.stride - reads.pad_top)  # in what the rows `want` make
        pads = list(attribute(node, "pads", None))
        low, high = spatial, spatial + len(pads) // 2
        extra = list(attribute(node, "output_padding", None))
        if not self.runtime:
            made_rows = (want.rows(0, 0) - 1) * reads.stride + reads.extent
            below = made_rows - int(first[0]) - span.rows(0, 0)
            pads[low], pads[high], extra[spatial] = int(first[0]), max(0, below), max(0, -below)
            set_attributes(node, pads=pads, output_padding=extra)
            self.add(node)
            return
        pads[low] = pads[high] = 0
        short = span.stops - ((want.stops - 1) * reads.stride - reads.pad_top + reads.extent)
        extra[spatial] = max(0, int(short.max()))
        set_attributes(node, pads=pads, output_padding=extra)
        result = node.output[0]
        node.output[0] = f"{result}§spread"
        self.add(node)
        self.drop_border(node.output[0], made.axis, first, span, result)

    def _place_blocks(self, node: NodeProto, made: RowWise, span: Span, want: Span) -> None:
        """Append a reshape; where input rows become blocks of rows, take those that are wanted of the blocks."""
        result, reads = node.output[0], next(iter(made.reads.values()))
        ahead = span.starts - want.starts * (reads.stride if isinstance(reads, Spread) else 1)
        whole = not isinstance(reads, Spread) or (
            not ahead.any() and np.array_equal(span.stops, want.stops * reads.stride)
        )
        blocks = result if whole else f"{result}§blocks"
        if node.op_type == "DepthToSpace":
            node.output[0] = blocks
            self.add(node)
        else:
            self.reshape(node.input[0], with_rows(self.source.shape(result), made.axis), blocks)
        if not whole:
            self.drop_border(blocks, made.axis, ahead, span, result)

    def _place_by_matrix(self, node: NodeProto, made: RowWise, span: Span, want: Span) -> None:
        """Append a resizing (or a padding by what is there): its rows by its matrix, its width by the node itself."""
        matrix = self.source.graph.analysis.matrices[node.name]
        result, source = node.output[0], self.source.nodes[node.name]
        before, after = self.source.shape(source.input[0]), self.source.shape(source.output[0])
        others_stay = with_rows(before, made.axis) == with_rows(after, made.axis)
        rows_made = result if others_stay else f"{result}§rows"
        picks = bool(((matrix != 0).sum(axis=1) == 1).all() and (matrix.max(axis=1) == 1).all())
        if picks:
            chosen = matrix.argmax(axis=1)
            name = self.value(f"{result}§picked", lambda a, b: chosen[span.starts[a] : span.stops[b]] - want.starts[a])
            self.make("Gather", [node.input[0], name], rows_made, axis=made.axis)
        else:
            if made.axis != len(before) - 2 or self.source.graph.tensors.types[source.input[0]] != TensorProto.FLOAT:
                raise UnsteadyGeometryError("rows that are mixed in another dimension than the last but one")

            def weights(a: int, b: int) -> npt.NDArray[Any]:
                return np.ascontiguousarray(matrix[span.starts[a] : span.stops[b], want.starts[a] : want.stops[b]])

            name = self.value(f"{result}§mixed", weights, TensorProto.FLOAT)
            self.make("MatMul", [name, node.input[0]], rows_made)
        if not others_stay:
            node.input[0] = rows_made
            self._place_width(node, made, span, len(before))

    def _place_width(self, node: NodeProto, made: RowWise, span: Span, rank: int) -> None:
        """Append a resizing or padding whose rows are made already: it leaves them as they are."""
        axes = [int(x) % rank for x in attribute(node, "axes", range(rank))]
        at = axes.index(made.axis) if made.axis in axes else None
        for i, name in enumerate(list(node.input)[1:], start=1):
            value = self.source.graph.tensors.value(name) if name else None
            if value is None or at is None or value.size not in (len(axes), 2 * len(axes)):
                continue
            changed = f"{node.output[0]}§argument{i}"
            if value.size == 2 * len(axes):  # pads, or a region of interest that is not used
                if node.op_type == "Pad":
                    value = value.copy()
                    value[[at, at + len(axes)]] = 0
                    node.input[i] = self.constant(changed, value)
            elif value.dtype == np.int64:

                def sizes(a: int, b: int, value: npt.NDArray[Any] = value) -> npt.NDArray[Any]:
                    return np.array([span.rows(a, b) if k == at else v for k, v in enumerate(value)], dtype=np.int64)

                node.input[i] = self.value(changed, sizes)
            else:
                value = value.copy()
                value[at] = 1.0
                node.input[i] = self.constant(changed, value)
        self.add(node)

    def _place_pad(self, node: NodeProto, made: RowWise, span: Span, want: Span) -> None:
        """Append a padding by constants; rows of padding only where the part has some."""
        source = self.source.nodes[node.name]
        rank = len(self.source.shape(source.input[0]))
        given = self.source.graph.tensors.argument(source, 1, "pads")
        assert given is not None
        axes = list(range(rank))
        if len(source.input) > 3 and source.input[3]:
            named = self.source.graph.tensors.value(source.input[3])
            assert named is not None
            axes = [int(x) % rank for x in named]
        if made.axis not in axes:
            self.add(node)
            return
        at, result = axes.index(made.axis), node.output[0]
        reads = made.reads[source.input[0]]
        assert isinstance(reads, Window)
        top, bottom, ahead = self.padding(reads, span, want)
        extra = bool(ahead.any() or (bottom < 0).any())
        below = np.maximum(bottom, 0)

        def sizes(a: int, b: int) -> npt.NDArray[Any]:
            values = given.astype(np.int64).copy()
            values[at], values[at + len(axes)] = top[a], below[b]
            return np.asarray(values)

        if self.source.opset < 11:
            if self.runtime:
                raise UnsteadyGeometryError("pads were fixed before operator set 11")
            set_attributes(node, pads=sizes(0, 0).tolist())
        else:
            node.input[1] = self.value(f"{result}§pads", sizes)
        if extra:
            node.output[0] = f"{result}§with_border"
        self.add(node)
        if extra:
            self.drop_border(node.output[0], made.axis, ahead, span, result)

    def _place_slice(self, node: NodeProto, made: RowWise) -> None:
        """Append a slice; of the rows, which begin with the first that it takes, it takes all that its step hits."""
        source = self.source.nodes[node.name]
        tensors, rank = self.source.graph.tensors, len(self.source.shape(source.input[0]))
        starts, ends = tensors.argument(source, 1, "starts"), tensors.argument(source, 2, "ends")
        assert starts is not None
        assert ends is not None
        named = tensors.argument(source, 3, "axes")
        axes = [int(x) % rank for x in (range(len(starts)) if named is None else named)]
        if made.axis in axes:
            starts, ends = starts.astype(np.int64).copy(), ends.astype(np.int64).copy()
            starts[axes.index(made.axis)], ends[axes.index(made.axis)] = 0, _END
            if self.source.opset < 10:
                set_attributes(node, starts=starts.tolist(), ends=ends.tolist())
            else:
                for i, (word, values) in enumerate((("starts", starts), ("ends", ends)), start=1):
                    node.input[i] = self.constant(f"{node.output[0]}§{word}", values)
                if len(node.input) > 3 and node.input[3]:
                    node.input[3] = self.constant(f"{node.output[0]}§axes", np.array(axes, dtype=np.int64))
                if len(node.input) > 4 and node.input[4]:
                    steps = tensors.value(source.input[4])
                    assert steps is not None
                    node.input[4] = self.constant(f"{node.output[0]}§steps", steps.astype(np.int64))
        self.add(node)
