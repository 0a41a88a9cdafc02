"""Rewrites of an ONNX model that lead to the normal form which `onnx_file.read_model` describes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import external_data_helper, numpy_helper, shape_inference
from onnx.reference import ReferenceEvaluator

from distredge.errors import ModelError
from distredge.model.operators import (
    HEAVY,
    WEIGHTS,
    attribute,
    counts_padding_unevenly,
    set_attributes,
    static_shape,
    write_window,
)

_AS_INPUT = frozenset({"GroupNormalization", "InstanceNormalization", "RMSNormalization"})

_FOLDED_ELEMENTS = 1 << 20
"""Constants with more elements are not computed beforehand."""


def operator_set(model: onnx.ModelProto) -> int:
    """The version of ONNX's own operators that the model uses."""
    return int(max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=1))


def replace_nodes(model: onnx.ModelProto, nodes: Iterable[onnx.NodeProto]) -> None:
    """Give a model other nodes, maybe some of its own."""
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)


def infer_shapes(model: onnx.ModelProto, path: Path, strict: bool) -> onnx.ModelProto:
    """The model with the shapes that ONNX infers; unless `strict`, what does not fit has none."""
    while True:
        try:
            inferred = shape_inference.infer_shapes(model, check_type=strict, strict_mode=strict, data_prop=True)
        except (shape_inference.InferenceError, onnx.checker.ValidationError, RuntimeError, ValueError) as error:
            raise ModelError(f"the shapes of '{path}' do not fit together: {one_line(error)}") from error
        overlooked = _overlooked(inferred)
        if not overlooked:
            return inferred
        model.graph.value_info.extend(overlooked)


def _overlooked(inferred: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """Results of normalisations that ONNX's inference knows nothing of: they are as their inputs."""
    values = (*inferred.graph.input, *inferred.graph.value_info, *inferred.graph.output)
    known = {v.name: v for v in values if static_shape(v) is not None}
    found = []
    for node in inferred.graph.node:
        if node.op_type in _AS_INPUT and node.input[0] in known and node.output[0] not in known:
            found.append(onnx.ValueInfoProto())
            found[-1].CopyFrom(known[node.input[0]])
            found[-1].name = node.output[0]
    outputs = {value.name for value in inferred.graph.output}
    return [value for value in found if value.name not in outputs]


def fold(model: onnx.ModelProto, path: Path) -> None:
    """Turn nodes into initializers whose value follows from constants, and from shapes that are known."""
    while True:
        before = len(model.graph.node)
        inferred = infer_shapes(model, path, strict=False).graph
        values = (*inferred.input, *inferred.value_info)
        shapes = {v.name: shape for v in values if (shape := static_shape(v)) is not None}
        shapes |= {tensor.name: tuple(tensor.dims) for tensor in inferred.initializer}
        _fold_constants(model, shapes)
        if len(model.graph.node) == before:
            return


def _fold_constants(model: onnx.ModelProto, shapes: dict[str, tuple[int, ...]]) -> None:
    """Turn `Constant` nodes, nodes of small loaded constants alone and known shapes into initializers."""
    graph = model.graph
    known = {t.name: t for t in graph.initializer if not external_data_helper.uses_external_data(t)}
    kept = []
    for node in graph.node:
        results = _known_shape(node, shapes)
        if results is None and all(not n or n in known for n in node.input):
            results = _evaluate(node, model, known, shapes)
        if results is None:
            kept.append(node)
            continue
        for tensor in results:
            known[tensor.name] = tensor
            graph.initializer.append(tensor)
    if len(kept) < len(graph.node):
        replace_nodes(model, kept)


def _known_shape(node: onnx.NodeProto, shapes: dict[str, tuple[int, ...]]) -> list[onnx.TensorProto] | None:
    """What `Shape` and `Size` make of a tensor whose shape is known."""
    if node.op_type not in ("Shape", "Size") or node.input[0] not in shapes:
        return None
    shape = shapes[node.input[0]]
    if node.op_type == "Size":
        return [numpy_helper.from_array(np.array(math.prod(shape), dtype=np.int64), node.output[0])]
    start, end = attribute(node, "start", 0), attribute(node, "end", None)
    return [numpy_helper.from_array(np.array(shape[start:end], dtype=np.int64), node.output[0])]


def _evaluate(
    node: onnx.NodeProto,
    model: onnx.ModelProto,
    known: dict[str, onnx.TensorProto],
    shapes: dict[str, tuple[int, ...]],
) -> list[onnx.TensorProto] | None:
    """What a node of constants makes; None where that is large, random or beyond ONNX's reference implementation."""
    sizes = [math.prod(shapes.get(n, (0,))) for n in node.output]
    large = max([*sizes, *(math.prod(known[n].dims) for n in node.input if n)]) > _FOLDED_ELEMENTS
    if node.op_type.startswith("Random") or (large and node.op_type not in ("Constant", "Identity")):
        return None
    feeds = {n: numpy_helper.to_array(known[n]) for n in node.input if n}
    graph = onnx.helper.make_graph(
        [node],
        "constant",
        [onnx.helper.make_tensor_value_info(n, known[n].data_type, known[n].dims) for n in feeds],
        [onnx.helper.make_empty_tensor_value_info(n) for n in node.output if n],
    )
    single = onnx.helper.make_model(graph, opset_imports=model.opset_import)
    try:
        values = ReferenceEvaluator(single).run(None, feeds)
        return [
            numpy_helper.from_array(np.asarray(v), n) for v, n in zip(values, filter(None, node.output), strict=True)
        ]
    except (NotImplementedError, RuntimeError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError):
        return None  # or its constants do not fit it, which shape inference will tell


def split_to_slices(model: onnx.ModelProto, path: Path) -> None:
    """Replace each `Split` of a feature map by a `Slice` for each of its parts that somebody reads."""
    if not any(node.op_type == "Split" for node in model.graph.node):
        return
    names, inputs = _Names(model), operator_set(model) >= 10
    inferred = infer_shapes(model, path, strict=False).graph
    shapes = {v.name: static_shape(v) for v in (*inferred.input, *inferred.value_info, *inferred.output)}
    used = {n for node in model.graph.node for n in node.input} | {value.name for value in model.graph.output}
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        whole, parts = shapes.get(node.input[0]), [shapes.get(name) for name in node.output]
        if node.op_type != "Split" or whole is None or None in parts:
            nodes.append(node)
            continue
        axis = attribute(node, "axis", 0) % len(whole)
        start = 0
        for i, (name, part) in enumerate(zip(node.output, parts, strict=True)):
            assert part is not None
            ends: dict[str, Any] = {"starts": [start], "ends": [start + part[axis]], "axes": [axis]}
            start += part[axis]
            if name not in used:
                continue
            title = names.fresh(f"{node.name}/part{i}")
            if inputs:
                given = [names.constant(f"{title}/{end}", values) for end, values in ends.items()]
                nodes.append(onnx.helper.make_node("Slice", [node.input[0], *given], [name], title))
            else:
                nodes.append(onnx.helper.make_node("Slice", [node.input[0]], [name], title, **ends))
    replace_nodes(model, nodes)


def write_windows(model: onnx.ModelProto, path: Path) -> bool:
    """State the windows of convolutions and poolings in full, up to the first that leaves ceil mode.

    Returns whether there was one: what follows it needs its new shape.
    """
    inferred = infer_shapes(model, path, strict=False).graph
    shapes = {v.name: static_shape(v) for v in (*inferred.input, *inferred.value_info, *inferred.output)}
    shapes |= {tensor.name: tuple(tensor.dims) for tensor in inferred.initializer}
    for i, node in enumerate(model.graph.node):
        shape = shapes.get(node.input[0]) if node.op_type in HEAVY and node.input else None
        weight = shapes.get(node.input[WEIGHTS[node.op_type]]) if node.op_type in WEIGHTS else None
        if shape is None:
            continue
        if counts_padding_unevenly(node):
            _pad_before(model, i)
            return True
        if write_window(node, shape, weight, shapes.get(node.output[0])):
            return True
    return False


def _pad_before(model: onnx.ModelProto, position: int) -> None:
    """Give an average that counts its padding that padding as a node of its own: it then counts what it reads."""
    node, names = model.graph.node[position], _Names(model)
    pads = list(attribute(node, "pads", [0] * 4))
    spatial = len(pads) // 2
    values = [0, 0, *pads[:spatial], 0, 0, *pads[spatial:]]
    title = names.fresh(f"{node.name}/pad")
    if operator_set(model) >= 11:
        inputs = [node.input[0], names.constant(f"{title}/sizes", values)]
        pad = onnx.helper.make_node("Pad", inputs, [title], title)
    else:
        pad = onnx.helper.make_node("Pad", [node.input[0]], [title], title, pads=values)
    node.input[0] = title
    set_attributes(node, pads=[0] * len(pads), count_include_pad=0)
    replace_nodes(model, [*model.graph.node[:position], pad, *model.graph.node[position:]])


class _Names:
    """Names of nodes, tensors and constants that are added to a model, none of them taken."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = model
        graph = model.graph
        self._taken = {name for node in graph.node for name in (node.name, *node.input, *node.output)}
        self._taken |= {value.name for value in (*graph.input, *graph.initializer)}

    def fresh(self, name: str) -> str:
        """The name, or with a number behind it."""
        unused, number = name, 0
        while unused in self._taken:
            number += 1
            unused = f"{name}_{number}"
        self._taken.add(unused)
        return unused

    def constant(self, name: str, values: Sequence[int]) -> str:
        """Add a constant of integers; returns its name."""
        name = self.fresh(name)
        self._model.graph.initializer.append(numpy_helper.from_array(np.array(values, dtype=np.int64), name))
        return name


def fold_padding(model: onnx.ModelProto) -> None:
    """Make zeros that a `Pad` puts around a convolution's input the convolution's own padding."""
    values = {t.name: t for t in model.graph.initializer if not external_data_helper.uses_external_data(t)}
    readers: dict[str, list[onnx.NodeProto]] = {value.name: [] for value in model.graph.output}
    outputs = set(readers)
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    folded = set()
    for pad in model.graph.node:
        pads = _zeros_around(pad, values)
        convs = readers.get(pad.output[0], [])
        if pads is None or pad.output[0] in outputs or not convs:
            continue
        if all(c.op_type == "Conv" and c.input[0] == pad.output[0] and attribute(c, "pads", None) for c in convs):
            for conv in convs:
                set_attributes(conv, pads=[a + b for a, b in zip(attribute(conv, "pads", None), pads, strict=True)])
                conv.input[0] = pad.input[0]
            folded.add(pad.name)
    if folded:
        replace_nodes(model, [node for node in model.graph.node if node.name not in folded])


def _zeros_around(node: onnx.NodeProto, values: dict[str, onnx.TensorProto]) -> list[int] | None:
    """Spatial padding of a `Pad` that adds zeros to a feature map's edges only; None for any other node."""
    if node.op_type != "Pad" or attribute(node, "mode", b"constant") != b"constant" or len(node.input) > 3:
        return None
    if len(node.input) > 1:
        given = values.get(node.input[1])
        pads = None if given is None else [int(v) for v in numpy_helper.to_array(given)]
        filler = values.get(node.input[2]) if len(node.input) > 2 and node.input[2] else None
        zero = (
            len(node.input) < 3 or not node.input[2] or (filler is not None and not numpy_helper.to_array(filler).any())
        )
    else:
        pads, zero = attribute(node, "pads", None), attribute(node, "value", 0.0) == 0.0
    if pads is None or not zero or min(pads) < 0:
        return None
    rank = len(pads) // 2
    return [*pads[2:rank], *pads[rank + 2 :]] if not any((*pads[:2], *pads[rank : rank + 2])) else None


def one_line(error: Exception) -> str:
    """An error's message on one line."""
    return " ".join(str(error).split())[:300]
