"""Arrays and the text about them in the content of a `.safetensors` file, read with numpy alone."""

from __future__ import annotations

import json
from typing import Any

import numpy.typing as npt
from safetensors.numpy import load

Arrays = dict[str, npt.NDArray[Any]]


def read_tensors(blob: bytes) -> tuple[dict[str, str], Arrays]:
    """Metadata and arrays, by name; raises `SafetensorError` if the content is damaged or something else.

    The library gives metadata of files only, so they are taken from the header that it has checked: its length in
    eight bytes, then JSON.
    """
    arrays = load(blob)
    length = int.from_bytes(blob[:8], "little")
    return json.loads(blob[8 : 8 + length]).get("__metadata__") or {}, arrays
