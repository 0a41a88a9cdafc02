"""Analytic latency of a layer against its output rows: a roofline with the steps that real kernels show.

Both models answer the same two questions (`Speed`). A layer's arithmetic is padded to what the kernels compute,
so latency is a staircase in rows where the device makes it one, and it never falls when rows are added.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from distredge.model.layer import Head, Layer
from distredge.model.rows import Window
from distredge.profiles.profile import FloatArray, IntArray

_FREE_IN_HEAD = frozenset({"Flatten", "Reshape", "Relu", "Clip", "Dropout", "Identity", "Squeeze", "Unsqueeze"})
"""Operators of a head that change a shape only, or run inside the kernel before them."""


def _quantity(unit: str, meaning: str) -> Any:
    """A positive parameter; `scripts/fit_boards.py` writes unit and meaning into a board's file."""
    return field(metadata={"unit": unit, "meaning": meaning})


class Speed(Protocol):
    """How long a device takes; rows are at least 1, milliseconds throughout."""

    def layer_ms(self, layer: Layer, rows: IntArray, element_bytes: int) -> FloatArray:
        """Latency of `rows` output rows of a layer, non-decreasing in rows."""
        ...

    def head_ms(self, head: Head, element_bytes: int) -> float:
        """Latency of a head that has nodes: memory-bound, since each weight is used once."""
        ...


@dataclass(frozen=True, slots=True)
class GpuSpeed:
    """A GPU that computes an output map in tiles, some at a time: `launch + max(waves * wave, bytes / bandwidth)`.

    A convolution is a matrix product of (pixels, output channels) over input channels and taps (implicit GEMM).
    Its tiles run in waves, and a last wave that is partly empty takes as long as a full one: on small maps
    latency is flat and then jumps, on large maps the jumps are too small to see.

    A depthwise convolution is no such product: it is bound by its maps' bytes, or by its groups where kernels take
    them one by one. A concatenation copies its first input, the other branches having been written in place.
    """

    peak_gflops: float = _quantity("GFLOP/s", "peak arithmetic rate of the CUDA cores at this precision")
    spatial_share: float = _quantity("of peak", "rate of k x k convolutions; above 1 by Winograd or tensor cores")
    pointwise_ratio: float = _quantity("of spatial_share", "rate of 1 x 1 convolutions against k x k ones")
    group_us: float = _quantity("us", "time that each group of a grouped convolution takes at least")
    dram_gbps: float = _quantity("GB/s", "bandwidth of the memory")
    bandwidth_share: float = _quantity("of dram_gbps", "bandwidth that kernels reach")
    conv_launch_us: float = _quantity("us", "fixed time of a convolution: launch, filling and draining its pipeline")
    other_launch_us: float = _quantity("us", "fixed time of any other kernel")
    tile_pixels: float = _quantity("pixels", "output pixels that one tile of a convolution covers")
    tile_channels: float = _quantity("channels", "output channels that one tile covers")
    tiles_in_flight: float = _quantity("tiles", "tiles that are computed at the same time: one wave")
    input_channel_quantum: float = _quantity("channels", "input channels are padded to a multiple of this")

    def layer_ms(self, layer: Layer, rows: IntArray, element_bytes: int) -> FloatArray:
        """See `Speed`."""
        if not is_convolution(layer):
            elements = first_branch_elements(layer, rows) if layer.op == "concat" else moved_elements(layer, rows)
            return np.asarray(self.other_launch_us / 1e3 + self._move_ms(elements * element_bytes))
        moved = self._move_ms((moved_elements(layer, rows) + layer.params) * element_bytes)
        return np.asarray(self.conv_launch_us / 1e3 + np.maximum(self._arithmetic_ms(layer, rows), moved))

    def head_ms(self, head: Head, element_bytes: int) -> float:
        """See `Speed`."""
        arithmetic = head.macs * 2e-6 / (self.peak_gflops * self.spatial_share * self.pointwise_ratio)
        moved = head.params * element_bytes * 1e-6 / (self.dram_gbps * self.bandwidth_share)
        return kernels(head) * self.other_launch_us / 1e3 + max(arithmetic, moved)

    def _move_ms(self, moved_bytes: FloatArray) -> FloatArray:
        return moved_bytes * 1e-6 / (self.dram_gbps * self.bandwidth_share)

    def _arithmetic_ms(self, layer: Layer, rows: IntArray) -> FloatArray:
        groups = layer.groups * self.group_us / 1e3 if layer.groups > 1 else 0.0
        if is_depthwise(layer):
            return np.asarray(groups)
        share = self.spatial_share * (self.pointwise_ratio if layer.kernel == (1, 1) else 1.0)
        return np.maximum(groups, self._padded_macs(layer, rows) * 2e-6 / (self.peak_gflops * share))

    def _padded_macs(self, layer: Layer, rows: IntArray) -> FloatArray:
        (kernel_h, kernel_w), (cout, _, width) = layer.kernel, layer.out_shape
        quantum = self.input_channel_quantum
        taps = kernel_h * kernel_w
        channels = layer.macs / (layer.height * layer.row_elements * taps)  # a third dimension's taps among them
        depth = np.ceil(channels / quantum) * quantum * taps
        tiles = np.ceil(rows * width / self.tile_pixels) * np.ceil(cout / layer.groups / self.tile_channels)
        waves = np.ceil(tiles * layer.groups / self.tiles_in_flight)
        padded: FloatArray = waves * (self.tiles_in_flight * self.tile_pixels * self.tile_channels * depth)
        return padded


@dataclass(frozen=True, slots=True)
class CpuSpeed:
    """An ARM CPU: `launch + operations / rate + weights / bandwidth + maps / bandwidth`; nothing overlaps.

    A 3x3 convolution of stride 1 runs as Winograd on whole tiles of t rows: it has a rate of its own, its maps pass
    transforms that have a bandwidth of their own, and its transformed weights are ((t + 2) / 3)^2 times as many.
    Operations are those of the direct form, so that the Winograd rate holds what the method saves.
    """

    direct_gflops: float = _quantity("GFLOP/s", "rate of direct convolutions: 1 x 1, strided, of few channels")
    winograd_gflops: float = _quantity("GFLOP/s", "rate of Winograd convolutions, transforms apart")
    transform_gbps: float = _quantity(
        "GB/s", "maps read and written by a Winograd convolution, over its transforms' time"
    )
    dram_gbps: float = _quantity("GB/s", "weights, and maps of other layers, read and written over the time it takes")
    launch_us: float = _quantity("us", "fixed time of a kernel: what the runtime does around it, starting threads")
    winograd_rows: float = _quantity("rows", "output rows of a Winograd tile")

    def layer_ms(self, layer: Layer, rows: IntArray, element_bytes: int) -> FloatArray:
        """See `Speed`."""
        megabytes = element_bytes * 1e-6
        weights, computed, gflops, gbps = float(layer.params), rows, self.direct_gflops, self.dram_gbps
        if is_winograd(layer):
            tile = self.winograd_rows
            computed = np.minimum(np.ceil(rows / tile) * tile, layer.height)
            weights, gflops, gbps = weights * ((tile + 2) / 3) ** 2, self.winograd_gflops, self.transform_gbps
        fixed = self.launch_us / 1e3 + weights * megabytes / self.dram_gbps
        maps = moved_elements(layer, computed) * megabytes / gbps
        return np.asarray(fixed + row_macs(layer) * computed * 2e-6 / gflops + maps)

    def head_ms(self, head: Head, element_bytes: int) -> float:
        """See `Speed`."""
        weights = head.params * element_bytes * 1e-6 / self.dram_gbps
        return kernels(head) * self.launch_us / 1e3 + head.macs * 2e-6 / self.direct_gflops + weights


def is_convolution(layer: Layer) -> bool:
    """Whether the layer multiplies its input with weights."""
    return layer.op in ("conv", "depthwise", "deconv", "matmul")


def is_depthwise(layer: Layer) -> bool:
    """Whether each output channel reads one input channel only."""
    return layer.op == "depthwise"


def is_winograd(layer: Layer) -> bool:
    """Whether CPU kernels use Winograd's method: dense 3x3, stride 1, undilated, more than a few input channels."""
    reads = layer.inputs[0].reads
    dense = layer.op == "conv" and layer.groups == 1 and layer.in_shape[0] >= 16
    square = layer.kernel == (3, 3) and layer.stride == (1, 1)
    return dense and square and isinstance(reads, Window) and reads.dilation == 1


def row_macs(layer: Layer) -> float:
    """Multiply-accumulates of one output row."""
    return layer.macs / layer.height


def moved_elements(layer: Layer, rows: FloatArray | IntArray) -> FloatArray:
    """Elements of feature maps that are read (halo included) and written for `rows` output rows."""
    written = rows * layer.row_elements
    if layer.op == "concat":
        return np.asarray(2.0 * written)
    channels, height, width = layer.in_shape
    reads = layer.inputs[0].reads
    if isinstance(reads, Window):
        taken = np.minimum((rows - 1) * reads.stride + reads.extent, height)
    else:
        taken = rows * (height / layer.height)
    read = taken * (channels * width)
    return np.asarray(read + written * len(layer.inputs), dtype=np.float64)


def first_branch_elements(layer: Layer, rows: FloatArray | IntArray) -> FloatArray:
    """Elements that a concatenation's first input moves, read and written."""
    channels, _, width = layer.in_shape
    return np.asarray(2.0 * rows * (channels * width))


def kernels(head: Head) -> int:
    """Kernels that a head launches."""
    return sum(op not in _FREE_IN_HEAD for op in head.ops)
