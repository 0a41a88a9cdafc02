"""Cuts a split-part out of an ONNX model: a static sub-graph that computes exactly the part's rows.

Row needs are those of `geometry.split`. In the sub-graph a layer computes the hull of what its consumers need, a
`Slice` gives each consumer its own rows, and vertical padding stays only where a part touches the true border.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from distredge.geometry.interval import Interval
from distredge.geometry.receptive import needed, unclipped
from distredge.geometry.split import SplitPart, Volume
from distredge.model.graph import LayerGraph
from distredge.model.layer import Layer
from distredge.model.onnx_file import read_model
from distredge.model.operators import WINDOWED, attribute, window


class OnnxSource:
    """An ONNX file in normal form, indexed for cutting. Large weights in external files stay there, unread."""

    def __init__(self, path: Path) -> None:
        self.folder = path.parent
        self.model = read_model(path)
        graph = self.model.graph
        self.nodes: dict[str, NodeProto] = {node.name: node for node in graph.node}
        self.weights: dict[str, TensorProto] = {tensor.name: tensor for tensor in graph.initializer}
        self.makers: dict[str, NodeProto] = {name: node for node in graph.node for name in node.output}


def part_model(source: OnnxSource, volume: Volume, part: SplitPart) -> ModelProto:
    """The sub-graph of one split-part: input (1, C, part.input.size, W), output (1, C', part.rows[-1].size, W').

    Weights in external files are referred to, not copied: load the result with `source.folder` as base.
    """
    cutter = _PartCutter(source, volume, part)
    for layer, rows in zip(volume.layers, part.rows, strict=True):
        cutter.place(layer, rows)
    return cutter.model()


def head_model(source: OnnxSource, graph: LayerGraph) -> ModelProto:
    """The sub-graph of a non-empty head: from all rows of the body's last tensor to the model's outputs."""
    out = _SubGraph(source, known=graph.head.tensor)
    for name in graph.head.nodes:
        out.add(source.nodes[name])
    inputs = [helper.make_tensor_value_info(graph.head.tensor, TensorProto.FLOAT, (1, *graph.layers[-1].out_shape))]
    return out.model(inputs, source.model.graph.output)


class _SubGraph:
    """A graph under construction: nodes in order, and the constants that they use."""

    def __init__(self, source: OnnxSource, known: str) -> None:
        self._source = source
        self._opset = max(entry.version for entry in source.model.opset_import if entry.domain in ("", "ai.onnx"))
        self._nodes: list[NodeProto] = []
        self._known = {known, ""}
        self._constants: dict[str, TensorProto] = {}

    def add(self, node: NodeProto) -> None:
        """Append a node, and before it the constants that it uses."""
        for name in node.input:
            if name in self._known:
                continue
            self._known.add(name)
            if name in self._source.weights:
                self._constants[name] = self._source.weights[name]
            else:  # a constant that nodes compute; features are known when their reader is added
                self.add(self._source.makers[name])
        self._known.update(node.output)
        self._nodes.append(node)

    def add_slice(self, tensor: str, rows: Interval, result: str) -> None:
        """Append a node that makes `result` from the rows `rows` of `tensor`, counted from its first row."""
        if self._opset < 10:
            name, (start, stop) = f"{result}/slice", rows
            self.add(helper.make_node("Slice", [tensor], [result], name, starts=[start], ends=[stop], axes=[2]))
            return
        values = {"start": [rows.start], "stop": [rows.stop], "axis": [2]}
        inputs = [self._constant(f"{result}/{part}", np.array(value)) for part, value in values.items()]
        self.add(helper.make_node("Slice", [tensor, *inputs], [result], name=f"{result}/slice"))

    def add_lowest(self, tensor: str, pads: list[int], result: str) -> str:
        """Append a node that pads `tensor` (top, left, bottom, right) with what no maximum takes; returns `result`.

        ONNX Runtime's own padding is limited to less than the kernel, which a dilated window may pass.
        """
        top, left, bottom, right = pads
        sizes = self._constant(f"{result}/sizes", np.array([0, 0, top, left, 0, 0, bottom, right]))
        lowest = self._constant(f"{result}/lowest", np.array(np.finfo(np.float32).min))
        self.add(helper.make_node("Pad", [tensor, sizes, lowest], [result], name=f"{result}/pad"))
        return result

    def _constant(self, name: str, values: npt.NDArray[np.generic]) -> str:
        self._constants[name] = numpy_helper.from_array(values, name)
        self._known.add(name)
        return name

    def model(self, inputs: Sequence[onnx.ValueInfoProto], outputs: Sequence[onnx.ValueInfoProto]) -> ModelProto:
        """The finished model, with the source's operator versions."""
        graph = GraphProto(name="part", node=self._nodes, initializer=self._constants.values())
        graph.input.extend(inputs)
        graph.output.extend(outputs)
        whole = self._source.model
        return ModelProto(
            ir_version=whole.ir_version, opset_import=whole.opset_import, functions=whole.functions, graph=graph
        )


class _Feature(NamedTuple):
    """A feature map: which of its rows the sub-graph has, and its true shape (channels, height, width)."""

    rows: Interval
    shape: tuple[int, int, int]


class _PartCutter:
    """Places a volume's layers one after the other, each with the rows that the part computes of it."""

    def __init__(self, source: OnnxSource, volume: Volume, part: SplitPart) -> None:
        graph = volume.graph
        first = graph.layers[volume.start - 1] if volume.start else None
        self._source = source
        self._entering = first.tensor if first else graph.input_tensor
        shape = first.out_shape if first else graph.input_shape[1:]
        self._features = {self._entering: _Feature(part.input, shape)}
        self._last = volume.layers[-1]
        self._out = _SubGraph(source, known=self._entering)
        self._sliced: set[str] = set()

    def place(self, layer: Layer, rows: Interval) -> None:
        """Append a layer's nodes so that they make exactly its rows `rows`."""
        for name in layer.nodes:
            node = NodeProto()
            node.CopyFrom(self._source.nodes[name])
            if node.op_type in WINDOWED:
                self._place_windowed(node, rows)
            else:
                for i, tensor in enumerate(node.input):
                    if tensor in self._features:
                        node.input[i] = self._rows_of(tensor, rows)
                self._out.add(node)
        self._features[layer.tensor] = _Feature(rows, layer.out_shape)

    def model(self) -> ModelProto:
        """The finished sub-graph."""
        ends = [
            helper.make_tensor_value_info(tensor, TensorProto.FLOAT, (1, shape[0], rows.size, shape[2]))
            for tensor, (rows, shape) in ((t, self._features[t]) for t in (self._entering, self._last.tensor))
        ]
        return self._out.model(ends[:1], ends[1:])

    def _place_windowed(self, node: NodeProto, rows: Interval) -> None:
        """Append a convolution or pooling that reads only the rows it needs, padded only beyond the true border.

        Output rows that lie wholly in padding need none, and get the border row. So that it takes part, rows ahead
        of them or behind them are computed too, by whole strides, and dropped again.
        """
        reads, stride = unclipped(window(node), rows), window(node).stride
        want = needed(window(node), rows, self._features[node.input[0]].shape[1])
        ahead = max(0, -((want.start - reads.start) // stride))
        top = want.start - reads.start + ahead * stride
        bottom = max(0, reads.stop - want.stop)
        _, left, _, right = attribute(node, "pads", None)
        pads = [top, left, bottom, right]
        node.input[0] = self._rows_of(node.input[0], want)
        kernel = attribute(node, "kernel_shape", None)
        if node.op_type == "MaxPool" and any(pad >= size for pad, size in zip(pads, kernel * 2, strict=True)):
            node.input[0] = self._out.add_lowest(node.input[0], pads, f"{node.output[0]}/padded")
            pads = [0, 0, 0, 0]
        next(a for a in node.attribute if a.name == "pads").ints[:] = pads
        if not ahead and reads.stop >= want.stop:
            self._out.add(node)
            return
        result = node.output[0]
        node.output[0] = f"{result}/with_border"
        self._out.add(node)
        self._out.add_slice(node.output[0], Interval(ahead, ahead + rows.size), result)

    def _rows_of(self, tensor: str, rows: Interval) -> str:
        """Name of a tensor that holds exactly `rows` of the feature map `tensor`."""
        there = self._features[tensor].rows
        if rows == there:
            return tensor
        result = f"{tensor}/rows_{rows.start}_{rows.stop}"
        if result not in self._sliced:
            self._sliced.add(result)
            self._out.add_slice(tensor, Interval(rows.start - there.start, rows.stop - there.start), result)
        return result
