"""Reads nn-Meter's kernel data: JSON with a latency for each configuration of a kernel, measured or predicted.

Its form is that of nn-Meter's builder (`docs/builder/build_kernel_latency_predictor.md`, "Kernel Data Format"):
`{"conv-bn-relu": {"ID": {"config": {"HW": 56, "CIN": 64, "COUT": 64, "KERNEL_SIZE": 3, "STRIDES": 1}, "latency":
"4.2 +- 0.1"}}}`. The builder writes configurations and latencies into files of their own, which belong together by
kernel and ID. HW is the height and width of the input. A latency is a number, or mean and standard deviation, in ms.
"""

from __future__ import annotations

import json
import math
import re
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from distredge.engine.subgraph import OnnxSource
from distredge.errors import InputError
from distredge.measure.imports import LONGEST_MS, Imported, listed
from distredge.measure.imports.gather import Gathered, figure, read_text
from distredge.model.graph import LayerGraph
from distredge.model.layer import Layer
from distredge.profiles.measured import Timing

Key = tuple[str | int, ...]
"""What identifies a kernel: its family and its features, as `("conv", HW, CIN, COUT, KERNEL_SIZE, STRIDES)`."""

_FEATURES: dict[str, tuple[str, ...]] = {
    "conv": ("HW", "CIN", "COUT", "KERNEL_SIZE", "STRIDES"),
    "dwconv": ("HW", "CIN", "KERNEL_SIZE", "STRIDES"),
    "maxpool": ("HW", "CIN", "KERNEL_SIZE", "POOL_STRIDES"),
    "avgpool": ("HW", "CIN", "KERNEL_SIZE", "POOL_STRIDES"),
    "fc": ("CIN", "COUT"),
    "concat": ("HW", "CIN1", "CIN2", "CIN3", "CIN4"),
}
"""Of kernels with others than HW and CIN. A depthwise convolution's and a pooling's COUT is its CIN."""

_BY_OPS: dict[tuple[str, ...], str] = {
    ("BatchNormalization", "Relu"): "bnrelu",
    ("BatchNormalization",): "bn",
    ("Relu",): "relu",
    ("HardSwish",): "hswish",
    ("Add", "Relu"): "addrelu",
    ("Add",): "add",
}
"""Kernels of layers that are no convolution, pooling or concatenation, by their operators."""

_KNOWN = (*_FEATURES, *_BY_OPS.values(), "global-avgpool")


class _Entry(BaseModel):
    """A kernel of a file; one that has no configuration or no latency has it in another file."""

    config: dict[str, int] | None = None
    latency: str | float | None = Field(default=None, union_mode="left_to_right")


_FILE = TypeAdapter(dict[str, dict[str, _Entry]])


def read(paths: Sequence[Path], graph: LayerGraph) -> Imported:
    """See `imports.read`. Layers that no kernel is like are left out, and noted."""
    kernels = _kernels(paths)
    source = OnnxSource.of(graph)
    gathered, added, left_out = Gathered(graph), [], []
    used: set[Key] = set()
    for layer in graph.layers:
        key = _key(layer, graph, source)
        if key not in kernels:
            left_out.append(layer.name)
            continue
        used.add(key)
        timing = kernels[key]
        if key[0] == "conv" and len(layer.inputs) > 1:
            sums = [k for k in (("addrelu", *_tail(layer)), ("add", *_tail(layer))) if k in kernels][:1]
            used.update(sums)
            timing = _sum([timing, *(kernels[k] for k in sums)])
            added += [] if sums else [layer.name]
        gathered.add(layer, layer.height, timing, str(paths[0]))
    if not used:
        raise InputError(f"none of the {len(kernels)} kernels in '{paths[0]}' is a layer of '{graph.name}'")
    head, heads = _head(kernels, graph, source)
    notes = [f"nn-meter: {len(used | heads)} of {len(kernels)} kernels are layers of {graph.name}, or in its head"]
    if left_out:
        notes.append(f"nn-meter: no kernel is like {listed(left_out)}")
    if added:
        notes.append(f"nn-meter: no kernel for the addition in {listed(added)}, which is taken to take no time")
    return Imported(gathered.layers, head, notes=(*notes, *gathered.notes()))


def _kernels(paths: Sequence[Path]) -> dict[Key, Timing]:
    """The kernels of all files, each with the median of its latencies; raises `InputError` for malformed ones."""
    configs: dict[tuple[str, str], Key] = {}
    latencies: dict[tuple[str, str], Timing] = {}
    for path in paths:
        for kernel, entries in _entries(path).items():
            for name, entry in entries.items():
                where, at = f"{path}: {kernel} '{name}'", (kernel, name)
                if entry.config is not None:
                    configs[at] = _only(configs, at, _of_config(kernel, entry.config, where), where)
                if entry.latency is not None:
                    latencies[at] = _only(latencies, at, _latency(entry.latency, where), where)
    if lone := sorted(set(configs) ^ set(latencies)):
        lacks = "latency" if lone[0] in configs else "config"
        raise InputError(f"{paths[0]}: {lone[0][0]} '{lone[0][1]}' has no {lacks}: give the file that has it as well")
    found: dict[Key, list[Timing]] = {}
    for at, key in configs.items():
        found.setdefault(key, []).append(latencies[at])
    return {key: min(timings, key=lambda t: abs(t.median_ms - _median(timings))) for key, timings in found.items()}


def _median(timings: Sequence[Timing]) -> float:
    return statistics.median(t.median_ms for t in timings)


def _entries(path: Path) -> dict[str, dict[str, _Entry]]:
    try:
        return _FILE.validate_python(json.loads(read_text(path)))
    except ValidationError as error:
        at = " / ".join(str(part)[:40] for part in error.errors()[0]["loc"][:4])
        raise InputError(f"{path}: not nn-Meter's kernel data: wrong at {at or 'its beginning'}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not valid JSON: {error}") from error


def _only(known: dict[tuple[str, str], Any], at: tuple[str, str], new: Any, where: str) -> Any:
    if known.get(at, new) != new:
        raise InputError(f"{where} is given twice, and differs")
    return new


def _of_config(kernel: str, config: dict[str, int], where: str) -> Key:
    """nn-Meter predicts all kernels with a convolution alike, whatever follows it: so they are one family here."""
    family = "dwconv" if "dwconv" in kernel else "conv" if "conv" in kernel else kernel
    if family not in _KNOWN:
        return (family,)
    wanted = _FEATURES.get(family, ("HW", "CIN"))
    missing = [name for name in wanted if name not in config and not name.startswith("CIN")]
    if missing or ("CIN" in wanted and "CIN" not in config):
        raise InputError(f"{where}: its config lacks {missing[0] if missing else 'CIN'}")
    return (family, *(config.get(name, 0) for name in wanted))


_LATENCY = re.compile(r"\s*(\d+\.?\d*(?:e[+-]?\d+)?)\s*(?:\+-\s*(\d+\.?\d*(?:e[+-]?\d+)?)\s*)?", re.ASCII | re.I)


def _latency(told: str | float, where: str) -> Timing:
    match = _LATENCY.fullmatch(str(told))
    mean, deviation = (float(part or 0) for part in match.groups()) if match else (math.nan, 0.0)
    if not (mean <= LONGEST_MS and deviation <= LONGEST_MS):
        raise InputError(f"{where}: '{str(told)[:40]}' is no latency in ms, as 4.2 or \"4.2 +- 0.1\"")
    return figure(mean, deviation / mean if mean else 0.0)


def _key(layer: Layer, graph: LayerGraph, source: OnnxSource) -> Key | None:
    """The kernel that a layer with all its rows is; None if nn-Meter has none, as for images that are not square."""
    (channels, height, width), (_, stride), (kernel, across) = layer.in_shape, layer.stride, layer.kernel
    if height != width or kernel != across or layer.stride[0] != stride:
        return None
    if layer.op == "conv":
        return ("conv", height, channels, layer.out_shape[0], kernel, stride) if layer.groups == 1 else None
    if layer.op == "depthwise":
        return ("dwconv", height, channels, kernel, stride)
    if layer.op in ("maxpool", "avgpool"):
        return (layer.op, height, channels, kernel, stride)
    if layer.op == "concat":
        parts = [graph.shape(graph.index[each.source])[0] for each in layer.inputs]
        return ("concat", height, *parts, *[0] * (4 - len(parts))) if len(parts) <= 4 else None
    family = _BY_OPS.get(tuple(source.nodes[name].op_type for name in layer.nodes))
    return (family, height, channels) if family else None


def _tail(layer: Layer) -> Key:
    """Features of the addition in a convolution's layer."""
    return (layer.out_shape[1], layer.out_shape[0])


def _sum(timings: Sequence[Timing]) -> Timing:
    """Of kernels one after the other; their deviations are independent."""
    total = sum(t.median_ms for t in timings)
    deviation = math.sqrt(sum((t.cv * t.median_ms) ** 2 for t in timings))
    return figure(total, deviation / total if total else 0.0)


def _head(kernels: dict[Key, Timing], graph: LayerGraph, source: OnnxSource) -> tuple[Timing | None, set[Key]]:
    """The head's fully connected layers, and its pooling if a kernel is like it; None if one of these is missing."""
    keys: list[Key] = []
    for name in graph.head.nodes:
        node = source.nodes[name]
        weights = [source.weights[each].dims for each in node.input if each in source.weights]
        if node.op_type in ("Gemm", "MatMul"):
            sizes = next(([int(size) for size in dims] for dims in weights if len(dims) == 2), [0, 0])
            flipped = any(a.name == "transB" and a.i for a in node.attribute)
            keys.append(("fc", *(reversed(sizes) if flipped else sizes)))
    if not keys or any(key not in kernels for key in keys):
        return None, set()
    channels, height, _ = graph.shape(graph.index[graph.head.inputs[0]])
    pooled: Iterator[Key] = (key for key in [("global-avgpool", height, channels)] if key in kernels)
    keys += pooled
    return _sum([kernels[key] for key in keys]), set(keys)
