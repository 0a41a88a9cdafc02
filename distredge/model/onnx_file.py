"""Reads ONNX files into one normal form, so that import and engines see the same plain graph."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import external_data_helper, inliner, numpy_helper, shape_inference
from onnx.reference import ReferenceEvaluator

from distredge.errors import ModelError, UnsupportedOperatorError
from distredge.model.layer import INPUT
from distredge.model.operators import WINDOWED, check_window, static_shape, write_window

_SMALL_BYTES = 65536
"""External tensors up to this size are always read: shapes and axes may be among them."""


def read_model(path: Path) -> onnx.ModelProto:
    """The model in normal form; large external tensors keep their shape and place but have no data.

    In normal form the batch is 1, functions are inlined, every node has a name of its own, what depends on
    constants alone is an initializer (so far as its data is loaded), every tensor whose shape is known has a
    `value_info`, convolutions and poolings state kernel, strides, dilations and pads explicitly, and poolings
    pad their end instead of rounding up (ONNX's shape inference counts windows that begin beyond the input).

    Raises `ModelError` where the file is missing, is not ONNX, has no image as its one input or does not fit
    together, and `UnsupportedOperatorError` for operators that are not ONNX's own or hold graphs of their own.
    """
    model = _parse(path)
    _load_small(model, path)
    _name_nodes(model)
    _set_batch(model)
    _check_image(model, path)
    _fold_constants(model)
    while _write_windows(model, path):
        pass  # each pooling that leaves ceil mode may change the shapes of all that follows
    return _infer_shapes(model, path, strict=True)


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


def _set_batch(model: onnx.ModelProto) -> None:
    """Make the batch 1, initializers no inputs, and forget the shapes that held for another batch."""
    graph = model.graph
    constants = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in constants]
    del graph.input[:], graph.value_info[:]
    graph.input.extend(inputs)
    for value in graph.input:
        if len(value.type.tensor_type.shape.dim) == 4:
            batch = value.type.tensor_type.shape.dim[0]
            if batch.dim_value > 1:
                raise ModelError(f"the model is for {batch.dim_value} images at a time: export it for one")
            batch.dim_value = 1
    for value in graph.output:
        value.type.tensor_type.ClearField("shape")


def _check_image(model: onnx.ModelProto, path: Path) -> None:
    """Refuse a model whose input is not one image: (batch, C, H, W) of float32 with fixed C, H and W."""
    inputs = model.graph.input
    if len(inputs) != 1:
        listed = ", ".join(value.name for value in inputs) or "none"
        raise ModelError(f"'{path}' is no CNN: it should have one input, the image, but has {len(inputs)} ({listed})")
    kind = inputs[0].type.tensor_type
    if len(kind.shape.dim) != 4:
        raise ModelError(
            f"'{path}' is no CNN: its input '{inputs[0].name}' has {len(kind.shape.dim)} dimensions, "
            "not (batch, channels, height, width)"
        )
    if static_shape(inputs[0]) is None or min(static_shape(inputs[0]) or (0,)) < 1:
        sizes = ", ".join(d.dim_param or str(d.dim_value or "?") for d in kind.shape.dim)
        raise ModelError(
            f"the input '{inputs[0].name}' of '{path}' has the shape ({sizes}): export it with fixed channels, "
            "height and width"
        )
    if kind.elem_type != onnx.TensorProto.FLOAT:
        raise ModelError(f"the input '{inputs[0].name}' of '{path}' is not float32: export it with a float32 input")


def _infer_shapes(model: onnx.ModelProto, path: Path, strict: bool) -> onnx.ModelProto:
    """The model with the shapes that ONNX infers; unless `strict`, what does not fit has none."""
    try:
        return shape_inference.infer_shapes(model, check_type=strict, strict_mode=strict, data_prop=True)
    except (shape_inference.InferenceError, onnx.checker.ValidationError, RuntimeError, ValueError) as error:
        raise ModelError(f"the shapes of '{path}' do not fit together: {_line(error)}") from error


def _fold_constants(model: onnx.ModelProto) -> None:
    """Turn `Constant` nodes and nodes of loaded constants alone into initializers."""
    graph = model.graph
    known = {t.name: t for t in graph.initializer if not external_data_helper.uses_external_data(t)}
    kept = []
    for node in graph.node:
        results = _evaluate(node, model, known) if all(not n or n in known for n in node.input) else None
        if results is None:
            kept.append(node)
            continue
        for tensor in results:
            known[tensor.name] = tensor
            graph.initializer.append(tensor)
    if len(kept) < len(graph.node):
        copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in kept]
        del graph.node[:]
        graph.node.extend(copies)


def _evaluate(
    node: onnx.NodeProto, model: onnx.ModelProto, known: dict[str, onnx.TensorProto]
) -> list[onnx.TensorProto] | None:
    """What a node of constants makes; None where ONNX's reference implementation cannot tell."""
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
    except (NotImplementedError, RuntimeError, ValueError, TypeError, LookupError, ArithmeticError):
        return None  # or its constants do not fit it, which shape inference will tell
    return [numpy_helper.from_array(v, n) for v, n in zip(values, (n for n in node.output if n), strict=True)]


def _write_windows(model: onnx.ModelProto, path: Path) -> bool:
    """State the windows of convolutions and poolings in full, up to the first that leaves ceil mode.

    Returns whether there was one: what follows it needs its new shape.
    """
    inferred = _infer_shapes(model, path, strict=False).graph
    shapes = {value.name: static_shape(value) for value in (*inferred.input, *inferred.value_info)}
    shapes |= {tensor.name: tuple(tensor.dims) for tensor in inferred.initializer}
    for node in model.graph.node:
        shape = shapes.get(node.input[0]) if node.op_type in WINDOWED else None
        weight = shapes.get(node.input[1]) if node.op_type == "Conv" else None
        if shape is not None and write_window(node, shape, weight):
            return True
    return False


def _line(error: Exception) -> str:
    """An error's message on one line."""
    return " ".join(str(error).split())[:300]
