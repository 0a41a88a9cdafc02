"""Photographs as the model takes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from distredge.errors import InputError
from distredge.runtime.images import load_images

SHAPE = (1, 3, 20, 16)


def test_the_middle_square_is_normalised(tmp_path: Path) -> None:
    pixels = np.zeros((40, 100, 3), dtype=np.uint8)
    pixels[:, 30:70] = (255, 0, 0)
    Image.fromarray(pixels).save(tmp_path / "red.png")
    images = load_images(tmp_path, SHAPE)
    assert len(images) == 1
    assert images[0].shape == SHAPE and images[0].dtype == np.float32 and images[0].flags.c_contiguous
    red = (np.array([1.0, 0.0, 0.0]) - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(images[0][0, :, 10, :], np.tile(red[:, None], 16), rtol=1e-5)


def test_a_folder_gives_its_images_in_order_of_name(tmp_path: Path) -> None:
    for shade, name in ((200, "b.JPG"), (10, "a.png"), (90, "c.jpeg")):
        Image.new("L", (30, 30), shade).save(tmp_path / name, "JPEG" if name != "a.png" else "PNG")
    (tmp_path / "notes.txt").write_text("no image")
    means = [float(image.mean()) for image in load_images(tmp_path, SHAPE)]
    assert len(means) == 3
    assert means[0] < means[2] < means[1]


def test_shipped_photographs_differ_and_come_again_the_same() -> None:
    images = list(load_images(45, SHAPE))
    again = list(load_images(45, SHAPE))
    assert len({image.tobytes() for image in images}) == 45
    assert all(np.array_equal(a, b) for a, b in zip(images, again, strict=True))


def test_what_holds_no_images_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no folder"):
        load_images(tmp_path / "missing", SHAPE)
    with pytest.raises(InputError, match="has no .jpg"):
        load_images(tmp_path, SHAPE)
    with pytest.raises(InputError, match="at least 1"):
        load_images(0, SHAPE)
    with pytest.raises(InputError, match="3 channels"):
        load_images(1, (1, 1, 8, 8))
    (tmp_path / "broken.png").write_bytes(b"\x89PNG nothing")
    with pytest.raises(InputError, match="broken.png"):
        list(load_images(tmp_path, SHAPE))
