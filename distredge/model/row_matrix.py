"""How a separable operator (resizing, padding by what is there) makes its rows: read off the operator itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from distredge.model.operators import Tensors

Matrix = npt.NDArray[np.float32]
"""(output rows, input rows)."""


def row_matrix(operator: onnx.NodeProto, tensors: Tensors, axis: int, opset: int) -> Matrix | None:
    """The matrix (output rows, input rows) by which a separable operator makes its rows: its value at the identity."""
    import onnxruntime as ort

    shape, out = tensors.shapes[operator.input[0]], tensors.shapes[operator.output[0]]
    height = shape[axis]
    node = onnx.NodeProto()
    node.CopyFrom(operator)
    names: dict[str, npt.NDArray[Any]] = {}
    for i, name in enumerate(node.input[1:], start=1):
        value = tensors.value(name) if name else None
        if value is not None:
            names[f"c{i}"] = _rows_only(node.op_type, value, axis, len(shape), out[axis], height)
            node.input[i] = f"c{i}"
    weights = [numpy_helper.from_array(value, name) for name, value in names.items()]
    node.input[0], node.output[0] = "x", "y"
    if node.op_type == "Pad" and len(node.input) < 2:
        return None  # of an operator set in which pads were an attribute
    graph = helper.make_graph(
        [node],
        "rows",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, height, height])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    try:
        session = ort.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"], enable_fallback=0
        )
        made = session.run(None, {"x": np.eye(height, dtype=np.float32)[None, None]})[0]
    except Exception:  # whatever it is that this operator does not like, it stays whole
        return None
    return np.asarray(made[0, 0]) if made.ndim == 4 and made.shape[3] == height else None


def _rows_only(op: str, value: npt.NDArray[Any], axis: int, rank: int, out: int, height: int) -> npt.NDArray[Any]:
    """A constant argument for a tensor (1, 1, height, height) of which only the rows are to change."""
    if op == "Pad":
        if value.size == 2 * rank:
            return np.array([0, 0, value[axis], 0, 0, 0, value[axis + rank], 0], dtype=value.dtype)
        return value
    if value.size == rank:  # sizes or scales
        if value.dtype == np.int64:
            return np.array([1, 1, out, height], dtype=np.int64)
        return np.array([1, 1, value[axis], 1], dtype=value.dtype)
    return value
