"""Images as models take them: real photographs, cropped, resized and normalised."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import overload

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from distredge.engine.base import FloatRows
from distredge.errors import DependencyError, InputError

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


class Images(Sequence[FloatRows]):
    """Photographs as float32 (1, C, H, W), made when asked for.

    The middle square is cut out, resized to H x W and normalised with ImageNet's mean and deviation. If more are
    wanted than there are, they come again, mirrored or with a corner cut out, always in the same way.
    """

    def __init__(self, files: Sequence[Path], count: int, input_shape: tuple[int, int, int, int]) -> None:
        self._files, self._count, self._shape = tuple(files), count, input_shape

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> FloatRows: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[FloatRows]: ...
    def __getitem__(self, index: int | slice) -> FloatRows | Sequence[FloatRows]:
        """The image at `index`; raises `InputError` if its file is no image."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self._count))]
        if not 0 <= index < self._count:
            raise IndexError(index)
        path = self._files[index % len(self._files)]
        try:
            with Image.open(path) as opened:
                photograph = opened.convert("RGB")
        except (OSError, UnidentifiedImageError) as exc:
            raise InputError(f"'{path}' is not an image that can be read") from exc
        return _prepared(photograph, index // len(self._files), self._shape)


def load_images(source: Path | int, input_shape: tuple[int, int, int, int]) -> Images:
    """All JPEG and PNG images of a folder, or so many photographs from scikit-image's wheel.

    Raises `InputError` if there is none or the model takes no colour images, `DependencyError` without scikit-image.
    """
    if input_shape[1] != 3:
        raise InputError(f"photographs have 3 channels, the model's input has {input_shape[1]}")
    if isinstance(source, int):
        if source < 1:
            raise InputError(f"at least 1 image is needed, not {source}")
        return Images(_shipped(), source, input_shape)
    if not source.is_dir():
        raise InputError(f"there is no folder '{source}': give one with images, or a number")
    files = sorted(path for path in source.iterdir() if path.suffix.lower() in _SUFFIXES)
    if not files:
        raise InputError(f"the folder '{source}' has no .jpg, .jpeg or .png image")
    return Images(files, len(files), input_shape)


def _shipped() -> list[Path]:
    spec = find_spec("skimage")
    if spec is None or spec.origin is None:
        raise DependencyError("a number of photographs", "scikit-image", "images")
    folder = Path(spec.origin).parent / "data"
    files = [path for name in _PHOTOGRAPHS if (path := folder / name).is_file()]
    if not files:
        raise InputError("this scikit-image ships no photographs: give a folder with images")
    return files


def _prepared(photograph: Image.Image, variant: int, shape: tuple[int, int, int, int]) -> FloatRows:
    """Variant 0 is the middle square; odd ones are mirrored; every second one zooms in from another corner."""
    _, _, height, width = shape
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
    return np.ascontiguousarray(((pixels - _MEAN) / _DEVIATION).transpose(2, 0, 1)[None])
