"""CNNs that come with DistrEdge, one file each, written in PyTorch and exported to ONNX when first asked for.

The list is readable without torch; only building a model needs it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from distredge.errors import DependencyError, UnknownNameError

if TYPE_CHECKING:
    from torch import nn

NAMES = (
    "densenet121", "inception_v1", "inception_v3", "mobilenet_v1", "mobilenet_v2", "openpose", "resnet101", "resnet18",
    "resnet34", "resnet50", "squeezenet1_1", "ssd_resnet50", "ssd_vgg16", "vgg16", "vgg19", "voxelnet", "yolov2",
)  # fmt: skip
"""Names of the models, each that of its file."""


@dataclass(frozen=True)
class ZooEntry:
    """A model of the zoo.

    `input_shape` is (1, channels, height, width), or (1, channels, depth, height, width) of a 3-D model; `build`
    makes the module with its seeded weights, in evaluation mode; `paper` is where the architecture was published.
    """

    name: str
    task: str
    input_shape: tuple[int, ...]
    paper: str
    build: Callable[[], nn.Module]


def source_files(name: str) -> tuple[Path, ...]:
    """The files that decide what the model `name` is; raises `UnknownNameError`.

    What models share (`_*.py`) counts for all: too many exports after a change there, but never a stale one.
    """
    if name not in NAMES:
        raise UnknownNameError("model", name, NAMES, "(or give a path to an .onnx file)")
    folder = Path(__file__).parent
    return folder / f"{name}.py", folder / "weights.py", *sorted(folder.glob("_[!_]*.py"))


def zoo_entry(name: str) -> ZooEntry:
    """The entry of `name`; raises `UnknownNameError`, and `DependencyError` where torch is not installed."""
    source_files(name)
    try:
        import_module("torch")
    except ImportError as error:
        raise DependencyError("exporting a zoo model", "torch", "train") from error
    entry: ZooEntry = import_module(f"{__name__}.{name}").ENTRY
    return entry
