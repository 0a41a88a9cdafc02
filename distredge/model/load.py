"""`load_model`: a model by its zoo name or its file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from distredge.model import zoo
from distredge.model.graph import LayerGraph


def load_model(name_or_path: str | Path, input_shape: Sequence[int] | None = None) -> LayerGraph:
    """The `LayerGraph` of a zoo model, exported on first use, or of an `.onnx` file.

    `input_shape`, as (1, 3, 480, 640), fixes the sizes of the image that a file leaves open.

    Raises `UnknownNameError` for a name that is neither, `ModelError` (`UnsupportedOperatorError`) for a file
    that is missing or cannot be planned, `DependencyError` where a zoo model must be exported without torch.
    """
    from distredge.model.export import exported
    from distredge.model.onnx_file import model_sha256
    from distredge.model.onnx_import import import_onnx

    name = str(name_or_path)
    path = Path(name_or_path)
    if name not in zoo.NAMES and (path.suffix == ".onnx" or path.exists() or isinstance(name_or_path, Path)):
        return import_onnx(path, path.stem, model_sha256(path), input_shape=input_shape)
    model = exported(name)
    return import_onnx(model.path, name, model.sha256, model.task, input_shape)
