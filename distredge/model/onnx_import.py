"""ONNX file to `LayerGraph`: which nodes split by rows, which fuse into one layer, and which are the head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto

from distredge.errors import ModelError
from distredge.model.graph import LayerGraph
from distredge.model.layer import INPUT, Head, Layer, LayerInput, Output, Shape3, rows_in_the_middle
from distredge.model.normal_form import operator_set
from distredge.model.onnx_file import read_model
from distredge.model.operators import HEAVY, WEIGHTS, Tensors, attribute, macs, params, static_shape
from distredge.model.rows import EVERYTHING, ROW_BY_ROW, RowMap
from distredge.model.rowwise import LAYOUT, RowAnalysis, analyse

PORTABLE = frozenset(
    {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.INT8, TensorProto.UINT8}
)
"""Element types that float32 holds exactly."""

_LIGHT = 1e-3
"""A convolution with a smaller share of the model's work (decoding boxes, say) is not worth keeping out of the head."""

_BEGINS = HEAVY | {"Concat", "DepthToSpace", "DequantizeLinear", "MatMul", "Pad", "Resize", "SpaceToDepth", "Upsample"}
"""Operators that begin a layer, even where they read row by row."""

_NAMES = {"ConvTranspose": "deconv", "MaxPool": "maxpool", "AveragePool": "avgpool", "Upsample": "resize"}


@dataclass(frozen=True)
class OnnxGraph:
    """An ONNX model in normal form, its live nodes in order, and what is known of its tensors and rows.

    `weights` are the large ones that the file itself holds; those in files beside it are not read.
    """

    model: onnx.ModelProto
    weights: dict[str, onnx.TensorProto]
    nodes: tuple[onnx.NodeProto, ...]
    tensors: Tensors
    image: str
    axis: int
    analysis: RowAnalysis

    @classmethod
    def read(cls, path: Path, input_shape: Sequence[int] | None = None) -> OnnxGraph:
        """The graph of a file; see `read_model` for what is raised.

        The image's rows are its height: the dimension in which most convolutions see the last dimension but one, be the
        image given as (1, channels, height, width) or as (1, height, width, channels).
        """
        model, weights = read_model(path, input_shape)
        image = str(model.graph.input[0].name)
        nodes = _live_nodes(model)
        tensors = _tensors(model, nodes)
        rank, opset = len(tensors.shapes[image]), operator_set(model)
        candidates = [(axis, analyse(nodes, tensors, image, axis, opset)) for axis in ((3,) if rank == 5 else (2, 1))]
        axis, analysis = max(candidates, key=lambda c: _split_macs(nodes, tensors, c[1]))
        return cls(model, weights, tuple(nodes), tensors, image, axis, analysis)


def import_onnx(
    path: Path, name: str, sha256: str, task: str = "", input_shape: Sequence[int] | None = None
) -> LayerGraph:
    """The `LayerGraph` of an ONNX file; its weights are not read.

    Raises `ModelError` where the file is no CNN that can be planned, saying why, and `UnsupportedOperatorError` for
    operators that cannot be run at all.
    """
    source = OnnxGraph.read(path, input_shape)
    tensors, analysis = source.tensors, source.analysis
    _check_sizes(source)
    body, head = _divide(source)
    if not any(node.name in analysis.nodes for node in body):
        body, head = _divide(source, least_rows=1)  # nothing else is there to split
    if not any(node.op_type in WEIGHTS for node in source.nodes) or not any(n.name in analysis.nodes for n in body):
        raise ModelError(f"'{name}' is no CNN: it has no convolution that can be split by rows")
    layers = _Fusion(source, _single_readers(source)).run(body)
    return LayerGraph(
        name=name,
        sha256=sha256,
        path=path,
        input_shape=tensors.shapes[source.image],
        input_tensor=source.image,
        layers=layers,
        head=_head(source, layers, head, name),
        task=task,
        input_axis=source.axis,
    )


def _live_nodes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Nodes that an output depends on, in order."""
    wanted = {value.name for value in model.graph.output}
    live = []
    for node in reversed(model.graph.node):
        if wanted.intersection(node.output):
            live.append(node)
            wanted.update(node.input)
    return live[::-1]


def _tensors(model: onnx.ModelProto, nodes: list[onnx.NodeProto]) -> Tensors:
    """What shape inference knows; constants are initializers and what is made of constants alone."""
    graph = model.graph
    shapes: dict[str, tuple[int, ...]] = {}
    types: dict[str, int] = {}
    for value in (*graph.input, *graph.value_info, *graph.output):
        shape = static_shape(value)
        types[value.name] = value.type.tensor_type.elem_type
        if shape is not None:
            shapes[value.name] = shape
    for tensor in graph.initializer:
        shapes[tensor.name], types[tensor.name] = tuple(tensor.dims), tensor.data_type
    constants = {tensor.name for tensor in graph.initializer}
    for node in nodes:
        if all(not n or n in constants for n in node.input):
            constants.update(node.output)
    used = {n for node in nodes for n in node.input if n} | {value.name for value in graph.output}
    values = {t.name: t for t in graph.initializer if t.data_location != TensorProto.EXTERNAL}
    return Tensors(shapes, types, frozenset(constants), frozenset(used), values)


def _split_macs(nodes: Sequence[onnx.NodeProto], tensors: Tensors, analysis: RowAnalysis) -> int:
    """Work of the convolutions and poolings that are split along the last dimension but one."""
    found = 0
    for node in nodes:
        made = analysis.nodes.get(node.name)
        if made and node.op_type in HEAVY and made.axis == len(tensors.shapes[node.output[0]]) - 2:
            found += macs(node, tensors) + 1
    return found


def _divide(source: OnnxGraph, least_rows: int = 2) -> tuple[list[onnx.NodeProto], list[onnx.NodeProto]]:
    """The body and the head; it pays to split a convolution that makes `least_rows`.

    The head is what no convolution follows that it pays to split, from the first node on that is not row-wise, only
    moves elements, turns integers into what is larger to send, or makes what cannot be sent.
    """
    analysis, tensors = source.analysis, source.tensors
    nodes = [node for node in source.nodes if tensors.activations(node)]
    light = _LIGHT * sum(macs(node, tensors) for node in nodes)
    leads_on: set[str] = set()  # tensors that a convolution depends on which it pays to split
    sendable: set[str] = set()  # tensors that can be sent, or become such row by row
    for node in reversed(nodes):
        if tensors.types.get(node.output[0]) in PORTABLE or sendable.intersection(node.output):
            sendable.update((node.output[0], *(analysis.nodes[node.name].reads if node.name in analysis.nodes else ())))
        made = analysis.nodes.get(node.name) if node.op_type in HEAVY | {"MatMul"} else None
        heavy = made and tensors.shapes[node.output[0]][made.axis] >= least_rows and macs(node, tensors) > light
        if heavy or leads_on.intersection(node.output):
            leads_on.update(tensors.activations(node))
    body: list[onnx.NodeProto] = []
    head: list[onnx.NodeProto] = []
    of_head: set[str] = set()
    for node in nodes:
        ends = (
            node.name not in analysis.nodes
            or node.op_type in LAYOUT
            or node.op_type == "DequantizeLinear"
            or node.output[0] not in sendable
            or bool(of_head.intersection(node.input))
        )
        if ends and not leads_on.intersection(node.output):
            head.append(node)
            of_head.update(node.output)
        else:
            body.append(node)
    return body, head


def _single_readers(source: OnnxGraph) -> frozenset[str]:
    """Tensors that one node reads and that are no outputs."""
    readers: dict[str, int] = {}
    for node in source.nodes:
        for tensor in set(node.input):
            readers[tensor] = readers.get(tensor, 0) + 1
    outputs = {value.name for value in source.model.graph.output}
    return frozenset(tensor for tensor, count in readers.items() if count == 1 and tensor not in outputs)


@dataclass
class _Draft:
    """A layer in the making: its nodes so far, the last of which makes `tensor`."""

    op: str
    position: int
    inputs: list[tuple[str, RowMap]]
    whole: bool
    nodes: list[onnx.NodeProto] = field(default_factory=list)

    @property
    def tensor(self) -> str:
        return str(self.nodes[-1].output[0])


@dataclass
class _Fusion:
    """Fuses nodes into layers.

    Convolutions, poolings, concatenations and what changes the number of rows begin a layer. What follows row by row
    joins the layer that makes its input, if nobody else reads that tensor; a sum of two activations joins the later of
    the two. Nodes that take and give whole tensors make layers of their own, chains of them one.
    """

    source: OnnxGraph
    single: frozenset[str]
    drafts: list[_Draft] = field(default_factory=list)
    makers: dict[str, _Draft] = field(default_factory=dict)

    def run(self, body: list[onnx.NodeProto]) -> tuple[Layer, ...]:
        """The layers of the body's nodes, in an order in which few tensors are alive at a time."""
        for node in body:
            draft = self._draft(node)
            draft.nodes.append(node)
            self.makers.update(dict.fromkeys(node.output, draft))
        return tuple(self._layer(draft) for draft in self._ordered())

    def _draft(self, node: onnx.NodeProto) -> _Draft:
        """The layer that `node` joins, or a new one."""
        sources = list(dict.fromkeys(self.source.tensors.activations(node)))
        made = self.source.analysis.nodes.get(node.name)
        reads = made.reads if made else dict.fromkeys(sources, EVERYTHING)
        latest = max(sources, key=self._position)
        joined = self.makers.get(latest)
        if joined and latest in self.single and latest == joined.tensor and self._joins(node, joined, reads[latest]):
            joined.inputs.extend((source, reads[source]) for source in sources if source != latest)
            return joined
        op = self._kind(node, len(sources), whole=made is None)
        return self._begin(op, [(source, reads[source]) for source in sources], whole=made is None)

    def _joins(self, node: onnx.NodeProto, draft: _Draft, reads: RowMap) -> bool:
        """Whether a node that alone reads a draft's tensor becomes part of it."""
        made = self.source.analysis.nodes.get(node.name)
        if draft.whole or made is None:
            return draft.whole and made is None and len(self.source.tensors.activations(node)) == 1
        return node.op_type not in _BEGINS and reads == ROW_BY_ROW

    def _begin(self, op: str, inputs: list[tuple[str, RowMap]], whole: bool) -> _Draft:
        self.drafts.append(_Draft(op, len(self.drafts), inputs, whole))
        return self.drafts[-1]

    def _position(self, tensor: str) -> int:
        return self.makers[tensor].position if tensor in self.makers else -1

    def _kind(self, node: onnx.NodeProto, sources: int, whole: bool) -> str:
        """What a layer is called that the node begins."""
        if node.op_type == "Conv" and not whole:
            channels = self.source.tensors.shapes[node.input[0]][1]
            return "depthwise" if attribute(node, "group", 1) == channels > 1 else "conv"
        if node.op_type in _BEGINS or whole or sources > 1:
            return _NAMES.get(node.op_type, node.op_type.lower())
        return "elementwise"

    def _ordered(self) -> list[_Draft]:
        """The drafts in a topological order that keeps few tensors, and then few elements, alive.

        So a branch that only leaves stands where it arises. Of equally good ones the first in the file comes first.
        """
        readers: dict[str, set[int]] = {}
        for draft in self.drafts:
            for tensor, _ in draft.inputs:
                readers.setdefault(tensor, set()).add(draft.position)
        waiting = {d.position: {self.makers[t].position for t, _ in d.inputs if t in self.makers} for d in self.drafts}
        alive: set[str] = {self.source.image}
        ordered: list[_Draft] = []
        placed: set[int] = set()

        def after(position: int) -> set[str]:
            draft, done = self.drafts[position], placed | {position}
            made = {draft.tensor} if draft.tensor in readers else set()
            inputs = {tensor for tensor, _ in draft.inputs if readers[tensor] <= done}
            return (alive - inputs) | made

        def cost(position: int) -> tuple[int, int, int]:
            left = after(position)
            return len(left), sum(self._elements(tensor) for tensor in left), position

        while waiting:
            best = min((p for p, needs in waiting.items() if needs <= placed), key=cost)
            alive = after(best)
            placed.add(best)
            del waiting[best]
            ordered.append(self.drafts[best])
        return ordered

    def _elements(self, tensor: str) -> int:
        return int(np.prod(self.source.tensors.shapes.get(tensor, (0,)), dtype=np.int64))

    def _shape(self, tensor: str) -> Shape3:
        return rows_in_the_middle(self.source.tensors.shapes[tensor], self.source.analysis.axis.get(tensor))

    def _layer(self, draft: _Draft) -> Layer:
        """The finished layer; its shapes are checked against its windows."""
        tensors, first = self.source.tensors, draft.nodes[0]
        for tensor in (draft.tensor, *(name for name, _ in draft.inputs)):
            if tensor not in tensors.shapes:
                raise ModelError(
                    f"the shape of '{tensor}' (node '{first.name}') is not fixed, and convolutions follow it: "
                    "export the model with fixed sizes"
                )
        kernel, stride = (1, 1), (1, 1)
        if first.op_type in HEAVY and not draft.whole:
            along = self.source.analysis.nodes[first.name].axis - 2
            sizes, steps = attribute(first, "kernel_shape", None), attribute(first, "strides", None)
            kernel, stride = (sizes[along], sizes[-1]), (steps[along], steps[-1])
        layer = Layer(
            name=first.name,
            op=draft.op,
            inputs=tuple(LayerInput(self._source(tensor), reads) for tensor, reads in draft.inputs),
            in_shape=self._shape(draft.inputs[0][0]),
            out_shape=self._shape(draft.tensor),
            kernel=kernel,
            stride=stride,
            groups=attribute(first, "group", 1) if first.op_type in ("Conv", "ConvTranspose") else 1,
            macs=sum(macs(node, tensors) for node in draft.nodes),
            params=sum(params(node, tensors) for node in draft.nodes),
            nodes=tuple(node.name for node in draft.nodes),
            tensor=draft.tensor,
            whole=draft.whole,
            portable=tensors.types.get(draft.tensor) in PORTABLE
            and draft.nodes[-1].op_type != "DequantizeLinear"  # or its reader could not run on integers
            and not any(name in tensors.used for name in draft.nodes[-1].output[1:]),
        )
        for node in draft.nodes:
            if node.op_type == "Conv":
                _check_channels(node, tensors)
        return layer

    def _source(self, tensor: str) -> str:
        return INPUT if tensor == self.source.image else self.makers[tensor].nodes[0].name


def _check_sizes(source: OnnxGraph) -> None:
    """Refuse windows that do not fit into their input, which shape inference overlooks."""
    shapes = source.tensors.shapes
    for node in source.nodes:
        if node.op_type in HEAVY and min(shapes.get(node.output[0], (1,))) < 1:
            raise ModelError(
                f"nothing is left at layer '{node.name}': its window does not fit into its input's "
                f"{shapes.get(node.input[0])}"
            )


def _check_channels(node: onnx.NodeProto, tensors: Tensors) -> None:
    """Refuse a convolution whose weights are for another number of channels, which shape inference overlooks."""
    expected = tensors.shapes[node.input[1]][1] * attribute(node, "group", 1)
    if tensors.shapes[node.input[0]][1] != expected:
        raise ModelError(
            f"Conv (node '{node.name}') has weights for {expected} channels, its input has "
            f"{tensors.shapes[node.input[0]][1]}"
        )


def _head(source: OnnxGraph, layers: tuple[Layer, ...], nodes: list[onnx.NodeProto], name: str) -> Head:
    """The head's nodes, the layers that it reads, and the model's outputs."""
    tensors, graph = source.tensors, source.model.graph
    made_by = {layer.tensor: layer.name for layer in layers}
    nodes_of_head = {node.name for node in nodes}
    read = {n for node in nodes for n in tensors.activations(node)}
    outputs = []
    for value in graph.output:
        if any(value.name in node.output[1:] for node in source.nodes if node.name not in nodes_of_head):
            raise ModelError(
                f"the output '{value.name}' of '{name}' is a second output of a node in mid-network: export it without"
            )
        if value.name in tensors.constants or value.name == source.image:
            raise ModelError(f"the output '{value.name}' of '{name}' does not depend on any layer")
        dims = value.type.tensor_type.shape.dim
        if not value.type.HasField("tensor_type") or not value.type.tensor_type.HasField("shape"):
            raise ModelError(f"the output '{value.name}' of '{name}' has no known shape: export it with fixed sizes")
        dtype = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        outputs.append(Output(value.name, tuple(d.dim_value for d in dims), str(dtype), made_by.get(value.name)))
    unsendable = [layer.name for layer in layers if layer.tensor in read and not layer.portable]
    if unsendable:
        raise ModelError(f"what layer '{unsendable[0]}' of '{name}' hands to the head cannot be sent as float32")
    if source.image in read:
        raise ModelError(f"the head of '{name}' reads the image itself, which is not supported: export it without that")
    return Head(
        inputs=tuple(layer.name for layer in layers if layer.tensor in read),
        nodes=tuple(node.name for node in nodes),
        ops=tuple(node.op_type for node in nodes),
        outputs=tuple(outputs),
        macs=sum(macs(node, tensors) for node in nodes),
        params=sum(params(node, tensors) for node in nodes),
    )
