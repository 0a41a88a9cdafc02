"""Images as models take them: real photographs, cropped, resized and normalised."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import overload

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from distredge.engine.base import FloatRows
from distredge.errors import DependencyError, InputError
from distredge.model.graph import LayerGraph

_SUFFIXES = frozenset({".jpg", ".jpeg", ".png"})
_PHOTOGRAPHS = (
    "astronaut.png",
    "chelsea.png",
    "coffee.png",
    "rocket.jpg",
    "motorcycle_left.png",
    "hubble_deep_field.jpg",
    "retina.jpg",
    "camera.png",
    "coins.png",
    "moon.png",
)
"""Photographs that lie in scikit-image's wheel; others it would download."""

_MEAN = np.array([0.485, 0.456, 0.406], dtype=np.float32)
_DEVIATION = np.array([0.229, 0.224, 0.225], dtype=np.float32)


class Pictures(Sequence[FloatRows], ABC):
    """Float32 arrays of a model's input shape, each made when it is asked for, and the same each time."""

    def __init__(self, count: int, graph: LayerGraph) -> None:
        self._count, self._shape = count, graph.input_shape

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> FloatRows: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[FloatRows]: ...
    def __getitem__(self, index: int | slice) -> FloatRows | Sequence[FloatRows]:
        """The array at `index`; raises `InputError` if its file cannot be used."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self._count))]
        if not 0 <= index < self._count:
            raise IndexError(index)
        return self._make(index)

    @abstractmethod
    def _make(self, index: int) -> FloatRows:
        """The array at an index that exists."""


class Images(Pictures):
    """Photographs, or arrays (`.npy`), from files.

    Of a photograph the middle square is cut out, resized and normalised with ImageNet's mean and deviation, and given
    with the model's number of channels (1 or 3), first or last. If more are wanted than there are, they come again,
    mirrored or with a corner cut out.
    """

    def __init__(self, files: Sequence[Path], count: int, graph: LayerGraph) -> None:
        super().__init__(count, graph)
        self._files, self._channels_last = tuple(files), graph.input_axis == 1

    def _make(self, index: int) -> FloatRows:
        path = self._files[index % len(self._files)]
        if path.suffix == ".npy":
            return _array(path, self._shape)
        try:
            with Image.open(path) as opened:
                photograph = opened.convert("RGB")
        except (OSError, UnidentifiedImageError) as exc:
            raise InputError(f"'{path}' is not an image that can be read") from exc
        shape = tuple(self._shape[i] for i in (0, 3, 1, 2)) if self._channels_last else self._shape
        pixels = _prepared(photograph, index // len(self._files), shape)
        return np.ascontiguousarray(pixels.transpose(0, 2, 3, 1)) if self._channels_last else pixels


class Noise(Pictures):
    """Seeded noise, for models that take no photographs."""

    def _make(self, index: int) -> FloatRows:
        return np.random.default_rng(index).standard_normal(self._shape, dtype=np.float32)


def load_images(source: Path | int, graph: LayerGraph) -> Pictures:
    """All JPEG, PNG and NPY files of a folder, or so many photographs from scikit-image's wheel.

    A number gives noise where the model's input is no photograph. Raises `InputError` if there is none that the model
    can take, `DependencyError` without scikit-image.
    """
    photographs = takes_photographs(graph)
    if isinstance(source, int):
        if source < 1:
            raise InputError(f"at least 1 image is needed, not {source}")
        return Images(_shipped(), source, graph) if photographs else Noise(source, graph)
    if not source.is_dir():
        raise InputError(f"there is no folder '{source}': give one with images, or a number")
    suffixes = {*_SUFFIXES, ".npy"} if photographs else {".npy"}
    files = sorted(path for path in source.iterdir() if path.suffix.lower() in suffixes)
    if not files:
        wanted = (
            "no .jpg, .jpeg, .png or .npy image" if photographs else f"no .npy array of the shape {graph.input_shape}"
        )
        raise InputError(f"the folder '{source}' has {wanted}")
    return Images(files, len(files), graph)


def takes_photographs(graph: LayerGraph) -> bool:
    """Whether the model's input has the 1 or 3 channels of a picture."""
    channels = graph.input_shape[3 if graph.input_axis == 1 else 1]
    return len(graph.input_shape) == 4 and channels in (1, 3)


def _array(path: Path, shape: tuple[int, ...]) -> FloatRows:
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as exc:
        raise InputError(f"'{path}' is not an array that can be read") from exc
    if array.shape != shape:
        raise InputError(f"'{path}' has the shape {array.shape}, the model takes {shape}")
    return np.ascontiguousarray(array, dtype=np.float32)


def _shipped() -> list[Path]:
    spec = find_spec("skimage")
    if spec is None or spec.origin is None:
        raise DependencyError("a number of photographs", "scikit-image", "images")
    folder = Path(spec.origin).parent / "data"
    files = [path for name in _PHOTOGRAPHS if (path := folder / name).is_file()]
    if not files:
        raise InputError("this scikit-image ships no photographs: give a folder with images")
    return files


def _prepared(photograph: Image.Image, variant: int, shape: tuple[int, ...]) -> FloatRows:
    """Variant 0 is the middle square; odd ones are mirrored; every second one zooms in from another corner."""
    _, channels, height, width = shape
    size = min(photograph.size)
    left, top = (photograph.width - size) // 2, (photograph.height - size) // 2
    zoom = variant // 2
    if zoom:
        inner = max(1, round(size * max(0.5, 0.95**zoom)))
        left += (size - inner) * (zoom % 2)
        top += (size - inner) * (zoom // 2 % 2)
        size = inner
    square = photograph.crop((left, top, left + size, top + size)).resize((width, height), Image.Resampling.BILINEAR)
    pixels: npt.NDArray[np.float32] = np.asarray(square, dtype=np.float32) / np.float32(255)
    if variant % 2:
        pixels = pixels[:, ::-1]
    normal = (pixels - _MEAN) / _DEVIATION
    if channels == 1:
        normal = normal.mean(axis=2, keepdims=True)
    return np.ascontiguousarray(normal.transpose(2, 0, 1)[None])
