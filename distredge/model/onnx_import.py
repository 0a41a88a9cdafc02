"""ONNX file to `LayerGraph`: which nodes split by rows, which fuse into one layer, and which are the head."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import onnx

from distredge.errors import ModelError, UnsupportedOperatorError
from distredge.model.graph import LayerGraph
from distredge.model.layer import INPUT, ROW_BY_ROW, Head, Layer, LayerInput, Window
from distredge.model.onnx_file import read_model
from distredge.model.operators import (
    BINARY,
    CONVOLUTIONS,
    POOLINGS,
    WINDOWED,
    Tensors,
    attribute,
    is_row_wise,
    macs,
    out_height,
    params,
    static_shape,
    window,
)


def import_onnx(path: Path, name: str, sha256: str, task: str = "") -> LayerGraph:
    """The `LayerGraph` of an ONNX file; its weights are not read.

    Raises `ModelError` where the file is no CNN that can be planned, saying why, and `UnsupportedOperatorError`
    naming the operator and its node where one stands in the way of convolutions.
    """
    model = read_model(path)
    image = str(model.graph.input[0].name)
    nodes = _live_nodes(model)
    tensors = _tensors(model, nodes)
    body, head = _divide(nodes, tensors, name)
    if not any(node.op_type == "Conv" for node in body):
        raise ModelError(f"'{name}' is no CNN: it has no convolution that can be split by rows")
    exit_tensor = _exit(model, body, head, tensors, name)
    layers = _Fusion(image, tensors, _single_readers(model, nodes)).run(body)
    return LayerGraph(
        name=name,
        sha256=sha256,
        path=path,
        input_shape=_shape4(tensors.shapes[image]),
        input_tensor=image,
        layers=layers,
        head=_head(model, exit_tensor, head, tensors, name),
        task=task,
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
    return Tensors(shapes, types, frozenset(constants), frozenset(used))


def _divide(
    nodes: list[onnx.NodeProto], tensors: Tensors, name: str
) -> tuple[list[onnx.NodeProto], list[onnx.NodeProto]]:
    """The row-wise body, and the head: every node downstream of one that is not row-wise.

    A convolution or pooling of several rows in the head would be left to one provider: it is refused, naming
    the node that keeps it from being split.
    """
    body: list[onnx.NodeProto] = []
    head: list[onnx.NodeProto] = []
    blocker: dict[str, onnx.NodeProto] = {}
    for node in nodes:
        if not tensors.activations(node):
            continue
        above = next((blocker[n] for n in node.input if n in blocker), None)
        if above is None and is_row_wise(node, tensors):
            body.append(node)
            continue
        head.append(node)
        blocker.update((tensor, above or node) for tensor in node.output)
        _refuse_windows(node, above, tensors, name)
    return body, head


def _refuse_windows(node: onnx.NodeProto, above: onnx.NodeProto | None, tensors: Tensors, name: str) -> None:
    """Raise `UnsupportedOperatorError` if `node` of the head should have been split by rows."""
    shape = tensors.shapes.get(node.input[0], ())
    one_row = len(shape) == 4 and shape[2] == 1
    if one_row or not (node.op_type in CONVOLUTIONS or (above is not None and node.op_type in POOLINGS)):
        return
    if above is None:
        raise UnsupportedOperatorError(
            f"operator {node.op_type} (node '{node.name}') of '{name}' cannot be split by rows"
        )
    raise UnsupportedOperatorError(
        f"operator {above.op_type} (node '{above.name}') of '{name}' cannot be split by rows, "
        f"nor can what follows it: {node.op_type} '{node.name}'"
    )


def _exit(
    model: onnx.ModelProto, body: list[onnx.NodeProto], head: list[onnx.NodeProto], tensors: Tensors, name: str
) -> str:
    """The one tensor by which the body is left, to the head or as the only output."""
    made_by_head = {n for node in head for n in node.output}
    outputs = [value.name for value in model.graph.output]
    leaving = [n for node in head for n in tensors.activations(node) if n not in made_by_head]
    leaving = list(dict.fromkeys([*leaving, *(n for n in outputs if n not in made_by_head)]))
    if len(leaving) != 1 or (head and leaving[0] in outputs):
        raise ModelError(
            f"'{name}' has no partition point: {len(leaving)} tensors ({', '.join(leaving)}) leave its convolutional "
            "part, which must hand one to its head or be its only output"
        )
    return leaving[0]


def _single_readers(model: onnx.ModelProto, nodes: list[onnx.NodeProto]) -> frozenset[str]:
    """Tensors that one node reads and that are no outputs."""
    readers: dict[str, int] = {}
    for node in nodes:
        for tensor in set(node.input):
            readers[tensor] = readers.get(tensor, 0) + 1
    outputs = {value.name for value in model.graph.output}
    return frozenset(tensor for tensor, count in readers.items() if count == 1 and tensor not in outputs)


@dataclass
class _Draft:
    """A layer in the making: its nodes so far, the last of which makes `tensor`."""

    op: str
    position: int
    inputs: list[tuple[str, Window]]
    nodes: list[onnx.NodeProto] = field(default_factory=list)

    @property
    def tensor(self) -> str:
        return str(self.nodes[-1].output[0])


@dataclass
class _Fusion:
    """Fuses row-wise nodes into layers, in the order of the nodes.

    Convolutions, poolings and concatenations begin a layer. What follows element by element joins the layer
    that makes its input, if nobody else reads that tensor; a sum of two activations joins the later of the two.
    """

    image: str
    tensors: Tensors
    single: frozenset[str]
    drafts: list[_Draft] = field(default_factory=list)
    makers: dict[str, _Draft] = field(default_factory=dict)

    def run(self, body: list[onnx.NodeProto]) -> tuple[Layer, ...]:
        """The layers of the body's nodes."""
        for node in body:
            draft = self._draft(node)
            draft.nodes.append(node)
            self.makers[draft.tensor] = draft
        return tuple(self._layer(draft) for draft in self.drafts)

    def _draft(self, node: onnx.NodeProto) -> _Draft:
        """The layer that `node` joins, or a new one."""
        sources = self.tensors.activations(node)
        if node.op_type in WINDOWED:
            return self._begin(_kind(node, self.tensors), [(sources[0], window(node))])
        if node.op_type == "Concat":
            return self._begin("concat", [(source, ROW_BY_ROW) for source in sources])
        sources = list(dict.fromkeys(sources))
        latest = max(sources, key=self._position)
        if latest in self.single and latest in self.makers:
            draft = self.makers[latest]
            draft.inputs.extend((source, ROW_BY_ROW) for source in sources if source != latest)
            return draft
        op = node.op_type.lower() if len(sources) == 2 and node.op_type in BINARY else "elementwise"
        return self._begin(op, [(source, ROW_BY_ROW) for source in sources])

    def _begin(self, op: str, inputs: list[tuple[str, Window]]) -> _Draft:
        self.drafts.append(_Draft(op, len(self.drafts), inputs))
        return self.drafts[-1]

    def _position(self, tensor: str) -> int:
        return self.makers[tensor].position if tensor in self.makers else -1

    def _layer(self, draft: _Draft) -> Layer:
        """The finished layer; its shapes are checked against its windows."""
        first = draft.nodes[0]
        windowed = first.op_type in WINDOWED
        kernel = attribute(first, "kernel_shape", None) if windowed else (1, 1)
        stride = attribute(first, "strides", None) if windowed else (1, 1)
        layer = Layer(
            name=first.name,
            op=draft.op,
            inputs=tuple(LayerInput(self._source(tensor), reads) for tensor, reads in draft.inputs),
            in_shape=_shape3(self.tensors.shapes[draft.inputs[0][0]]),
            out_shape=_shape3(self.tensors.shapes[draft.tensor]),
            kernel=(kernel[0], kernel[1]),
            stride=(stride[0], stride[1]),
            groups=attribute(first, "group", 1) if windowed else 1,
            macs=sum(macs(node, self.tensors) for node in draft.nodes),
            params=sum(params(node, self.tensors) for node in draft.nodes),
            nodes=tuple(node.name for node in draft.nodes),
            tensor=draft.tensor,
        )
        if windowed and first.op_type == "Conv":
            _check_channels(first, layer, self.tensors)
        _check_height(layer, first, [self.tensors.shapes[tensor][2] for tensor, _ in draft.inputs])
        return layer

    def _source(self, tensor: str) -> str:
        return INPUT if tensor == self.image else self.makers[tensor].nodes[0].name


def _kind(node: onnx.NodeProto, tensors: Tensors) -> str:
    """`conv`, `depthwise`, `maxpool` or `avgpool`."""
    if node.op_type != "Conv":
        return "maxpool" if node.op_type == "MaxPool" else "avgpool"
    channels = tensors.shapes[node.input[0]][1]
    return "depthwise" if attribute(node, "group", 1) == channels > 1 else "conv"


def _check_channels(node: onnx.NodeProto, layer: Layer, tensors: Tensors) -> None:
    """Refuse a convolution whose weights are for another number of channels, which shape inference overlooks."""
    expected = tensors.shapes[node.input[1]][1] * layer.groups
    if layer.in_shape[0] != expected:
        raise ModelError(
            f"Conv (node '{node.name}') has weights for {expected} channels, its input has {layer.in_shape[0]}"
        )


def _check_height(layer: Layer, first: onnx.NodeProto, heights: list[int]) -> None:
    """Refuse a layer whose rows are not those that its windows give."""
    given = out_height(first, heights[0]) if first.op_type in WINDOWED else heights[0]
    if min(layer.out_shape) < 1:
        raise ModelError(
            f"nothing is left at layer '{layer.name}': its window does not fit into its input's {layer.in_shape}"
        )
    if given != layer.height or any(height != layer.height for height in heights[1:]):
        raise ModelError(f"layer '{layer.name}' has {layer.height} rows where its inputs' {heights} give {given}")


def _head(model: onnx.ModelProto, exit_tensor: str, nodes: list[onnx.NodeProto], tensors: Tensors, name: str) -> Head:
    """The head's nodes and the model's outputs, whose shapes must be known."""
    outputs = [value.name for value in model.graph.output]
    unknown = [output for output in outputs if output not in tensors.shapes]
    if unknown:
        raise ModelError(f"the output '{unknown[0]}' of '{name}' has no fixed shape: export it with fixed sizes")
    return Head(
        tensor=exit_tensor,
        nodes=tuple(node.name for node in nodes),
        ops=tuple(node.op_type for node in nodes),
        outputs=tuple((output, tensors.shapes[output]) for output in outputs),
        macs=sum(macs(node, tensors) for node in nodes),
        params=sum(params(node, tensors) for node in nodes),
    )


def _shape3(shape: tuple[int, ...]) -> tuple[int, int, int]:
    _, channels, height, width = shape
    return channels, height, width


def _shape4(shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    batch, channels, height, width = shape
    return batch, channels, height, width
