"""Reads ONNX files into one normal form, so that import and engines see the same plain graph."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from graphlib import CycleError, TopologicalSorter
from hashlib import sha256
from heapq import heappop, heappush
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import external_data_helper, inliner, numpy_helper, shape_inference
from onnx.reference import ReferenceEvaluator

from distredge.errors import ModelError, UnsupportedOperatorError
from distredge.model.layer import INPUT
from distredge.model.operators import (
    HEAVY,
    WEIGHTS,
    attribute,
    check_window,
    counts_padding_unevenly,
    set_attributes,
    static_shape,
    write_window,
)

_FOLDED_ELEMENTS = 1 << 20
"""Constants with more elements are not computed beforehand."""

_SMALL_BYTES = 65536
"""External tensors up to this size are always read: shapes and axes may be among them."""


def read_model(
    path: Path, input_shape: Sequence[int] | None = None
) -> tuple[onnx.ModelProto, dict[str, onnx.TensorProto]]:
    """The model in normal form, and by name the large weights that the file itself holds.

    In the model, large weights keep their shape but have no data, wherever they come from.

    In normal form the batch is 1, functions are inlined, every node has a name of its own and stands behind those that
    it depends on, what depends on constants and shapes alone is an initializer (so far as its data is loaded), every
    tensor whose shape is known has a `value_info`, and:

    * convolutions and poolings state kernel, strides, dilations and pads explicitly, a transposed convolution its
      output padding; zeros that a `Pad` puts around a convolution's input are the convolution's own;
    * poolings pad their end instead of rounding up (ONNX's shape inference counts windows that begin beyond the input);
    * a `Split` is as many `Slice`s.

    `input_shape` fixes sizes that the file leaves open. Raises `ModelError` where the file is missing, is not ONNX, has
    no image as its one input or does not fit together, and `UnsupportedOperatorError` for operators that are not ONNX's
    own or hold graphs of their own.
    """
    model = _parse(path)
    model.ir_version = max(model.ir_version, 8)  # before 4, initializers had to be inputs too
    _load_small(model, path)
    _check_constants(model, path)
    weights = _detach(model)
    _sort_nodes(model, path)
    _name_nodes(model)
    _set_batch(model, path, input_shape)
    _check_image(model, path)
    _fold(model, path)
    _split_to_slices(model, path)
    while _write_windows(model, path):
        pass  # each pooling that leaves ceil mode may change the shapes of all that follows
    _fold_padding(model)
    return _infer_shapes(model, path, strict=True), weights


def operator_set(model: onnx.ModelProto) -> int:
    """The version of ONNX's own operators that the model uses."""
    return int(max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=1))


def model_files(path: Path) -> tuple[Path, ...]:
    """The `.onnx` file and the files that hold its external data, these in order of name."""
    return path, *_external_files(_parse(path), path)


def model_sha256(path: Path) -> str:
    """SHA-256 over the bytes of `model_files`, in their order."""
    digest = sha256()
    for file in model_files(path):
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _parse(path: Path) -> onnx.ModelProto:
    """The model without its external data, functions inlined, each node found to follow ONNX's rules."""
    if not path.is_file():
        raise ModelError(f"there is no file '{path}'")
    try:
        model = onnx.load(path, load_external_data=False)
    except (DecodeError, OSError) as error:
        raise ModelError(f"'{path}' is not an ONNX file") from error
    if not model.graph.node or not model.opset_import or not _is_text(model.graph):
        raise ModelError(f"'{path}' is not an ONNX file, or one without nodes")
    try:
        if model.functions:
            model = inliner.inline_local_functions(model)
        _check_operators(model, path)
    except (onnx.checker.ValidationError, RuntimeError, ValueError) as error:
        raise ModelError(f"'{path}' breaks ONNX's rules: {_line(error)}") from error
    return model


def _is_text(graph: onnx.GraphProto) -> bool:
    """Whether all names can be printed: protobuf hands over as bytes what is not UTF-8."""
    names = [text for node in graph.node for text in (node.name, node.op_type, node.domain, *node.input, *node.output)]
    names += [item.name for item in (*graph.input, *graph.output, *graph.initializer)]
    return all(isinstance(name, str) and (name.isprintable() or not name) for name in names)


def _external_tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Tensors whose data lies in another file."""
    attributes = (a for node in model.graph.node for a in node.attribute)
    tensors = (t for a in attributes for t in (a.t, *a.tensors))
    yield from (t for t in (*model.graph.initializer, *tensors) if external_data_helper.uses_external_data(t))


def _external_files(model: onnx.ModelProto, path: Path) -> list[Path]:
    """The files with external data by name; raises `ModelError` where one is missing or lies elsewhere."""
    infos = (external_data_helper.ExternalDataInfo(tensor) for tensor in _external_tensors(model))
    files = [path.parent / name for name in sorted({info.location for info in infos})]
    for file in files:
        if not file.resolve().is_relative_to(path.parent.resolve()) or not file.is_file():
            raise ModelError(f"'{path}' keeps weights in '{file.name}', which is not beside it: copy both together")
    return files


def _load_small(model: onnx.ModelProto, path: Path) -> None:
    """Read the small external tensors into the model."""
    _external_files(model, path)
    for tensor in list(_external_tensors(model)):
        length = external_data_helper.ExternalDataInfo(tensor).length
        if length is not None and length <= _SMALL_BYTES:
            try:
                external_data_helper.load_external_data_for_tensor(tensor, str(path.parent))
            except (ValueError, onnx.checker.ValidationError) as error:
                raise ModelError(f"'{path}': the weights of '{tensor.name}' cannot be read: {_line(error)}") from error
            tensor.data_location = onnx.TensorProto.DEFAULT
            del tensor.external_data[:]


def _check_constants(model: onnx.ModelProto, path: Path) -> None:
    """Refuse constants whose data does not fit their shape."""
    held = [a.t for node in model.graph.node for a in node.attribute if a.type == onnx.AttributeProto.TENSOR]
    for tensor in (*model.graph.initializer, *held):
        if not external_data_helper.uses_external_data(tensor):
            try:
                numpy_helper.to_array(tensor)
            except Exception as error:  # whatever a damaged tensor makes NumPy or protobuf say
                raise ModelError(f"'{path}': the constant '{tensor.name}' is damaged: {_line(error)}") from error


def _detach(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    """Make `Constant` nodes initializers, and take the data of the large ones out of the model."""
    graph, kept = model.graph, []
    for node in graph.node:
        value = attribute(node, "value", None) if node.op_type == "Constant" else None
        if value is None:
            kept.append(node)
            continue
        graph.initializer.add().CopyFrom(value)
        graph.initializer[-1].name = node.output[0]
    if len(kept) < len(graph.node):
        _replace_nodes(model, kept)
    weights = {}
    for tensor in graph.initializer:
        if tensor.data_location != onnx.TensorProto.EXTERNAL and tensor.ByteSize() > _SMALL_BYTES:
            weights[tensor.name] = onnx.TensorProto()
            weights[tensor.name].CopyFrom(tensor)
            for data in ("raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data"):
                tensor.ClearField(data)
            tensor.data_location = onnx.TensorProto.EXTERNAL
            tensor.external_data.add(key="location", value="elsewhere")
    return weights


def _check_operators(model: onnx.ModelProto, path: Path) -> None:
    """Refuse operators that nothing here knows, those with graphs inside, and malformed nodes."""
    context = onnx.checker.C.CheckerContext()
    context.ir_version = model.ir_version
    context.opset_imports = {entry.domain: entry.version for entry in model.opset_import}
    for node in model.graph.node:
        title = f"operator {node.domain + '.' if node.domain else ''}{node.op_type} (node '{node.name}') of '{path}'"
        if node.domain not in ("", "ai.onnx") or not onnx.defs.has(node.op_type):
            raise UnsupportedOperatorError(f"{title} is not one of ONNX's own: export the model without it")
        if any(a.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for a in node.attribute):
            raise UnsupportedOperatorError(f"{title} is control flow: export the model without it")
        onnx.checker.check_node(node, context)
        check_window(node)


def _name_nodes(model: onnx.ModelProto) -> None:
    """Give each node a name of its own: `Conv_3` where it has none, a suffix where it is taken."""
    taken = {INPUT}
    for i, node in enumerate(model.graph.node):
        base = name = node.name or f"{node.op_type}_{i}"
        suffix = 0
        while name in taken:
            suffix += 1
            name = f"{base}_{suffix}"
        taken.add(name)
        node.name = name


def _sort_nodes(model: onnx.ModelProto, path: Path) -> None:
    """Put every node behind those that make its inputs, in the file's order as far as possible."""
    made_by = {name: i for i, node in enumerate(model.graph.node) for name in node.output if name}
    order = TopologicalSorter(
        {i: {made_by[n] for n in node.input if n in made_by} for i, node in enumerate(model.graph.node)}
    )
    try:
        order.prepare()
    except CycleError as error:
        raise ModelError(f"the nodes of '{path}' depend on each other in a circle") from error
    places: list[int] = []
    ready: list[int] = []
    while order.is_active():
        for i in order.get_ready():
            heappush(ready, i)
        places.append(heappop(ready))
        order.done(places[-1])
    if places != sorted(places):
        _replace_nodes(model, [model.graph.node[i] for i in places])


def _replace_nodes(model: onnx.ModelProto, nodes: Iterable[onnx.NodeProto]) -> None:
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)


def _set_batch(model: onnx.ModelProto, path: Path, input_shape: Sequence[int] | None) -> None:
    """Make the batch 1, initializers no inputs, set the given sizes, and forget the shapes that held for others."""
    graph = model.graph
    constants = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in constants]
    del graph.input[:], graph.value_info[:]
    graph.input.extend(inputs)
    for value in graph.input:
        dims = value.type.tensor_type.shape.dim
        if len(dims) in (4, 5):
            if dims[0].dim_value > 1 and input_shape is None:
                raise ModelError(f"the model is for {dims[0].dim_value} images at a time: export it for one")
            dims[0].dim_value = 1
    if input_shape is not None and len(inputs) == 1:
        _set_sizes(graph.input[0], path, input_shape)
    for value in graph.output:
        value.type.tensor_type.ClearField("shape")


def _set_sizes(value: onnx.ValueInfoProto, path: Path, input_shape: Sequence[int]) -> None:
    """Fix the sizes of the model's input; raises `ModelError` if they contradict those that the file fixes."""
    dims = value.type.tensor_type.shape.dim
    stated = ", ".join(d.dim_param or str(d.dim_value or "?") for d in dims)
    fits = len(input_shape) == len(dims) and all(
        size >= 1 and d.dim_value in (0, size) for d, size in zip(dims, input_shape, strict=True)
    )
    if not fits:
        raise ModelError(f"the input '{value.name}' of '{path}' has the shape ({stated}), not {tuple(input_shape)}")
    for d, size in zip(dims, input_shape, strict=True):
        d.dim_value = size


def _check_image(model: onnx.ModelProto, path: Path) -> None:
    """Refuse a model whose input is not one image: (batch, C, H, W) of float32 with fixed C, H and W."""
    inputs = model.graph.input
    if len(inputs) != 1:
        listed = ", ".join(value.name for value in inputs) or "none"
        raise ModelError(f"'{path}' is no CNN: it should have one input, the image, but has {len(inputs)} ({listed})")
    kind = inputs[0].type.tensor_type
    if len(kind.shape.dim) not in (4, 5):
        raise ModelError(
            f"'{path}' is no CNN: its input '{inputs[0].name}' has {len(kind.shape.dim)} dimensions, "
            "not (batch, channels, height, width)"
        )
    if static_shape(inputs[0]) is None or min(static_shape(inputs[0]) or (0,)) < 1:
        sizes = ", ".join(d.dim_param or str(d.dim_value or "?") for d in kind.shape.dim)
        raise ModelError(
            f"the input '{inputs[0].name}' of '{path}' has the shape ({sizes}): give its sizes (--input-shape, as in "
            "1,3,224,224), or export it with fixed ones"
        )
    if kind.elem_type != onnx.TensorProto.FLOAT:
        raise ModelError(f"the input '{inputs[0].name}' of '{path}' is not float32: export it with a float32 input")


def _infer_shapes(model: onnx.ModelProto, path: Path, strict: bool) -> onnx.ModelProto:
    """The model with the shapes that ONNX infers; unless `strict`, what does not fit has none."""
    try:
        return shape_inference.infer_shapes(model, check_type=strict, strict_mode=strict, data_prop=True)
    except (shape_inference.InferenceError, onnx.checker.ValidationError, RuntimeError, ValueError) as error:
        raise ModelError(f"the shapes of '{path}' do not fit together: {_line(error)}") from error


def _fold(model: onnx.ModelProto, path: Path) -> None:
    """Turn nodes into initializers whose value follows from constants, and from shapes that are known."""
    while True:
        before = len(model.graph.node)
        inferred = _infer_shapes(model, path, strict=False).graph
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
        _replace_nodes(model, kept)


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


def _split_to_slices(model: onnx.ModelProto, path: Path) -> None:
    """Replace each `Split` of a feature map by a `Slice` for each of its parts that somebody reads."""
    if not any(node.op_type == "Split" for node in model.graph.node) or operator_set(model) < 10:
        return
    inferred = _infer_shapes(model, path, strict=False).graph
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
            ends = {"start": start, "stop": start + part[axis], "axis": axis}
            start += part[axis]
            if name not in used:
                continue
            inputs = [f"{node.name}/part{i}/{end}" for end in ends]
            model.graph.initializer.extend(
                numpy_helper.from_array(np.array([value], dtype=np.int64), tensor)
                for tensor, value in zip(inputs, ends.values(), strict=True)
            )
            nodes.append(onnx.helper.make_node("Slice", [node.input[0], *inputs], [name], f"{node.name}/part{i}"))
    _replace_nodes(model, nodes)


def _write_windows(model: onnx.ModelProto, path: Path) -> bool:
    """State the windows of convolutions and poolings in full, up to the first that leaves ceil mode.

    Returns whether there was one: what follows it needs its new shape.
    """
    inferred = _infer_shapes(model, path, strict=False).graph
    shapes = {v.name: static_shape(v) for v in (*inferred.input, *inferred.value_info, *inferred.output)}
    shapes |= {tensor.name: tuple(tensor.dims) for tensor in inferred.initializer}
    for i, node in enumerate(model.graph.node):
        shape = shapes.get(node.input[0]) if node.op_type in HEAVY and node.input else None
        weight = shapes.get(node.input[WEIGHTS[node.op_type]]) if node.op_type in WEIGHTS else None
        if shape is None:
            continue
        if counts_padding_unevenly(node) and operator_set(model) >= 11:
            _pad_before(model, i)
            return True
        if write_window(node, shape, weight, shapes.get(node.output[0])):
            return True
    return False


def _pad_before(model: onnx.ModelProto, position: int) -> None:
    """Give an average that counts its padding that padding as a node of its own: it then counts what it reads."""
    node = model.graph.node[position]
    pads = list(attribute(node, "pads", [0] * 4))
    spatial = len(pads) // 2
    sizes, padded = f"{node.name}/pads", f"{node.name}/padded"
    values = np.array([0, 0, *pads[:spatial], 0, 0, *pads[spatial:]], dtype=np.int64)
    model.graph.initializer.append(numpy_helper.from_array(values, sizes))
    pad = onnx.helper.make_node("Pad", [node.input[0], sizes], [padded], f"{node.name}/pad")
    node.input[0] = padded
    set_attributes(node, pads=[0] * len(pads), count_include_pad=0)
    _replace_nodes(model, [*model.graph.node[:position], pad, *model.graph.node[position:]])


def _fold_padding(model: onnx.ModelProto) -> None:
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
        _replace_nodes(model, [node for node in model.graph.node if node.name not in folded])


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


def _line(error: Exception) -> str:
    """An error's message on one line."""
    return " ".join(str(error).split())[:300]
