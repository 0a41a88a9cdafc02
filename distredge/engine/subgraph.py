"""Pieces of an ONNX model as models of their own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from distredge.model.graph import LayerGraph
from distredge.model.layer import rows_in_the_middle
from distredge.model.normal_form import operator_set
from distredge.model.onnx_import import OnnxGraph


class OnnxSource:
    """An ONNX file in normal form, indexed for cutting. Large weights in external files stay there, unread."""

    def __init__(self, path: Path, input_shape: Sequence[int] | None = None) -> None:
        self.folder = path.parent
        self.graph = OnnxGraph.read(path, input_shape)
        proto = self.graph.model.graph
        self.nodes: dict[str, NodeProto] = {node.name: node for node in proto.node}
        self.weights = {tensor.name: tensor for tensor in proto.initializer} | self.graph.weights
        self.makers: dict[str, NodeProto] = {name: node for node in proto.node for name in node.output}
        self.opset = operator_set(self.graph.model)

    @classmethod
    def of(cls, graph: LayerGraph) -> OnnxSource:
        """The source of a graph's file, at the graph's image size."""
        return cls(graph.path, graph.input_shape)

    def axis(self, tensor: str) -> int | None:
        """The dimension of a tensor's rows."""
        return self.graph.analysis.axis.get(tensor)

    def shape(self, tensor: str) -> tuple[int, ...]:
        """A tensor's shape in the undivided model."""
        return self.graph.tensors.shapes[tensor]

    def height(self, tensor: str) -> int:
        """A tensor's rows, 1 where it has no dimension for them."""
        axis = self.axis(tensor)
        return 1 if axis is None else self.shape(tensor)[axis]


class SubGraph:
    """A graph under construction: nodes in order, and the constants that they use.

    Feature maps enter and leave as float32 (1, channels, rows, width); inside they have the shapes and types of the
    model. Names that are added have a § in them, which no exporter uses.
    """

    def __init__(self, source: OnnxSource) -> None:
        self.source = source
        self._nodes: list[NodeProto] = []
        self._known = {""}
        self._constants: dict[str, TensorProto] = {}
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []

    def add(self, node: NodeProto) -> None:
        """Append a node, and before it the constants that it uses."""
        for name in node.input:
            if name in self._known:
                continue
            self._known.add(name)
            if name in self.source.weights:
                self._constants[name] = self.source.weights[name]
            else:  # a constant that nodes compute; features are known when their reader is added
                self.add(self.source.makers[name])
        self._known.update(node.output)
        self._nodes.append(node)

    def make(self, op: str, inputs: Sequence[str], result: str, **attributes: Any) -> str:
        """Append a node that makes `result`, which is returned."""
        self.add(helper.make_node(op, inputs, [result], name=f"{result}§{op.lower()}", **attributes))
        return result

    def constant(self, name: str, values: npt.NDArray[np.generic]) -> str:
        """A constant; returns its name."""
        self._constants[name] = numpy_helper.from_array(values, name)
        self._known.add(name)
        return name

    def argument(self, name: str, kind: int, shape: Sequence[int | None]) -> str:
        """An input that is no feature map; returns its name."""
        self._inputs.append(helper.make_tensor_value_info(name, kind, shape))
        self._known.add(name)
        return name

    def enter(self, tensor: str, rows: int | None) -> None:
        """Let so many rows of a feature map enter (None: any number)."""
        axis, shape = self.source.axis(tensor), self.source.shape(tensor)
        kind = self.source.graph.tensors.types[tensor]
        channels, _, width = rows_in_the_middle(shape, axis)
        plain = _is_plain(shape, axis)
        name = tensor if plain and kind == TensorProto.FLOAT else f"{tensor}§in"
        self._inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, channels, rows, width)))
        self._known.add(name)
        if not plain:
            name = self.reshape(
                name, with_rows(shape, axis), tensor if kind == TensorProto.FLOAT else f"{tensor}§shaped"
            )
        if kind != TensorProto.FLOAT:
            self.make("Cast", [name], tensor, to=kind)

    def leave(self, tensor: str, like: str, rows: int | None) -> None:
        """Let `tensor`, rows of the model's feature map `like`, leave; several times is fine."""
        axis, shape = self.source.axis(like), self.source.shape(like)
        channels, _, width = rows_in_the_middle(shape, axis)
        result = f"{like}§out"
        if self.source.graph.tensors.types[like] != TensorProto.FLOAT:
            tensor = self.make("Cast", [tensor], f"{like}§float", to=TensorProto.FLOAT)
        if _is_plain(shape, axis):
            self.make("Identity", [tensor], result)
        else:
            self.reshape(tensor, (1, channels, -1, width), result)
        self._outputs.append(helper.make_tensor_value_info(result, TensorProto.FLOAT, (1, channels, rows, width)))

    def reshape(self, tensor: str, shape: Sequence[int], result: str) -> str:
        """Append a node that gives `tensor` a shape, of which one size may be -1."""
        sizes = self.constant(f"{result}§shape", np.array(shape, dtype=np.int64))
        return self.make("Reshape", [tensor, sizes], result)

    def give(self, value: onnx.ValueInfoProto) -> None:
        """Let one of the model's own outputs leave as it is."""
        self._outputs.append(value)

    def model(self) -> ModelProto:
        """The finished model, with the source's operator versions."""
        graph = GraphProto(name="part", node=self._nodes, initializer=self._constants.values())
        graph.input.extend(self._inputs)
        graph.output.extend(self._outputs)
        whole = self.source.graph.model
        return ModelProto(ir_version=whole.ir_version, opset_import=whole.opset_import, graph=graph)


def with_rows(shape: Sequence[int], axis: int | None, rows: int = -1) -> tuple[int, ...]:
    """A shape with another number of rows."""
    return tuple(rows if i == axis else size for i, size in enumerate(shape))


def _is_plain(shape: Sequence[int], axis: int | None) -> bool:
    return len(shape) == 4 and shape[0] == 1 and axis == 2


def head_model(source: OnnxSource, graph: LayerGraph) -> ModelProto:
    """The sub-graph of a non-empty head: from all rows of the layers that it reads to the outputs that it makes."""
    out = SubGraph(source)
    for name in graph.head.inputs:
        layer = graph.layers[graph.index[name]]
        out.enter(layer.tensor, layer.height)
    for name in graph.head.nodes:
        out.add(source.nodes[name])
    made = {output.name for output in graph.head.outputs if output.layer is None}
    for value in source.graph.model.graph.output:
        if value.name in made:
            out.give(value)
    return out.model()
