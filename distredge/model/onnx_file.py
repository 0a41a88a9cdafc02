"""Reads ONNX files into one normal form, so that import and engines see the same plain graph."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from graphlib import CycleError, TopologicalSorter
from hashlib import sha256
from heapq import heappop, heappush
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import external_data_helper, inliner, numpy_helper

from distredge.errors import ModelError, UnsupportedOperatorError
from distredge.model.layer import INPUT
from distredge.model.normal_form import (
    fold,
    fold_padding,
    infer_shapes,
    one_line,
    replace_nodes,
    split_to_slices,
    write_windows,
)
from distredge.model.operators import attribute, check_window, static_shape

_RANDOM = frozenset("Bernoulli Multinomial RandomNormal RandomNormalLike RandomUniform RandomUniformLike".split())

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
    fold(model, path)
    split_to_slices(model, path)
    while write_windows(model, path):
        pass  # each pooling that leaves ceil mode may change the shapes of all that follows
    fold_padding(model)
    return infer_shapes(model, path, strict=True), weights


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
        raise ModelError(f"'{path}' breaks ONNX's rules: {one_line(error)}") from error
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
                raise ModelError(
                    f"'{path}': the weights of '{tensor.name}' cannot be read: {one_line(error)}"
                ) from error
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
                raise ModelError(f"'{path}': the constant '{tensor.name}' is damaged: {one_line(error)}") from error


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
        replace_nodes(model, kept)
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
        if node.op_type in _RANDOM:
            raise UnsupportedOperatorError(f"{title} is random: no two runs of the model would agree")
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
        replace_nodes(model, [model.graph.node[i] for i in places])


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
    """Refuse a model whose input is not one image: (batch, C, H, W) of float32 or float16 with fixed sizes."""
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
    if kind.elem_type not in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16):
        raise ModelError(f"the input '{inputs[0].name}' of '{path}' is not float32: export it with a float32 input")
