"""Photographs as the model takes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from distredge.errors import InputError
from distredge.model.graph import LayerGraph
from distredge.model.layer import Head
from distredge.runtime.images import load_images

SHAPE = (1, 3, 20, 16)


def takes(*shape: int, axis: int = 2) -> LayerGraph:
    return LayerGraph("toy", "", Path("toy.onnx"), shape, "image", (), Head((), (), (), (), 0, 0), input_axis=axis)


COLOUR = takes(*SHAPE)


def test_the_middle_square_is_normalised(tmp_path: Path) -> None:
    pixels = np.zeros((40, 100, 3), dtype=np.uint8)
    pixels[:, 30:70] = (255, 0, 0)
    Image.fromarray(pixels).save(tmp_path / "red.png")
    images = load_images(tmp_path, COLOUR)
    assert len(images) == 1
    assert images[0].shape == SHAPE and images[0].dtype == np.float32 and images[0].flags.c_contiguous
    red = (np.array([1.0, 0.0, 0.0]) - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(images[0][0, :, 10, :], np.tile(red[:, None], 16), rtol=1e-5)


def test_a_folder_gives_its_images_in_order_of_name(tmp_path: Path) -> None:
    for shade, name in ((200, "b.JPG"), (10, "a.png"), (90, "c.jpeg")):
        Image.new("L", (30, 30), shade).save(tmp_path / name, "JPEG" if name != "a.png" else "PNG")
    (tmp_path / "notes.txt").write_text("no image")
    means = [float(image.mean()) for image in load_images(tmp_path, COLOUR)]
    assert len(means) == 3
    assert means[0] < means[2] < means[1]


def test_shipped_photographs_differ_and_come_again_the_same() -> None:
    images = list(load_images(45, COLOUR))
    again = list(load_images(45, COLOUR))
    assert len({image.tobytes() for image in images}) == 45
    assert all(np.array_equal(a, b) for a, b in zip(images, again, strict=True))


def test_what_holds_no_images_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no folder"):
        load_images(tmp_path / "missing", COLOUR)
    with pytest.raises(InputError, match="has no .jpg"):
        load_images(tmp_path, COLOUR)
    with pytest.raises(InputError, match="at least 1"):
        load_images(0, COLOUR)
    with pytest.raises(InputError, match=r"no .npy array of the shape \(1, 64, 8, 8\)"):
        load_images(tmp_path, takes(1, 64, 8, 8))
    (tmp_path / "broken.png").write_bytes(b"\x89PNG nothing")
    with pytest.raises(InputError, match="broken.png"):
        list(load_images(tmp_path, COLOUR))


def test_channels_come_as_the_model_takes_them() -> None:
    colour = load_images(1, COLOUR)[0]
    last = load_images(1, takes(1, 20, 16, 3, axis=1))[0]
    assert np.array_equal(last, colour.transpose(0, 2, 3, 1)) and last.flags.c_contiguous
    grey = load_images(1, takes(1, 1, 20, 16))[0]
    np.testing.assert_allclose(grey, colour.mean(axis=1, keepdims=True), atol=1e-6)


def test_what_is_no_photograph_comes_from_arrays_or_is_noise(tmp_path: Path) -> None:
    graph = takes(1, 4, 2, 20, 16, axis=3)
    noise = load_images(2, graph)
    assert noise[0].shape == graph.input_shape and not np.array_equal(noise[0], noise[1])
    assert np.array_equal(noise[0], load_images(2, graph)[0])
    np.save(tmp_path / "a.npy", np.ones(graph.input_shape))
    np.save(tmp_path / "b.npy", np.ones(3))
    images = load_images(tmp_path, graph)
    assert images[0].dtype == np.float32 and images[0].sum() == 4 * 2 * 20 * 16
    with pytest.raises(InputError, match=r"b.npy' has the shape \(3,\)"):
        images[1]
