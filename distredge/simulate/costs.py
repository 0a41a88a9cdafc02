"""Latency tables of layer-volumes: what every split-part of a volume costs on every kind of device."""

from __future__ import annotations

import numpy as np

from distredge.geometry.split import Volume
from distredge.model.graph import IMAGE, LayerGraph
from distredge.profiles.profile import FloatArray, IntArray, Profile
from distredge.profiles.wrapped import Wrapped

BARRED_MS = 1e7
"""What a part takes beyond its time on a provider that must not compute it: no frame takes as long."""


class VolumeCosts:
    """Tables of one graph's volumes on some devices, each computed once.

    A split-part costs the sum of its layers' latencies for the rows that it computes, halo included, corrected for
    being run as one (`Profile.fused_ms`).
    """

    def __init__(self, graph: LayerGraph, profiles: tuple[Profile, ...]) -> None:
        self.graph = graph
        self.kinds: list[Profile] = []
        for profile in profiles:
            if not any(profile is known for known in self.kinds):
                self.kinds.append(profile)
        self.kind_of = {id(p): k for k, p in enumerate(self.kinds)}
        self.head_ms = np.array([kind.head_ms(graph) for kind in self.kinds])
        self._layers = [self._layer_table(i) for i in range(len(graph.layers))]
        self._volumes: dict[tuple[int, int], FloatArray] = {}
        self._macs: dict[tuple[int, int], FloatArray] = {}
        self._peaks: dict[tuple[int, int], FloatArray] = {}

    def _layer_table(self, index: int) -> FloatArray:
        """(kinds, height + 1): latency of 0..height rows of a layer."""
        layer = self.graph.layers[index]
        rows = np.arange(layer.height + 1)
        return np.stack([kind.layer_ms(layer, rows) for kind in self.kinds])

    def table(self, volume: Volume) -> FloatArray:
        """(kinds, height + 1, height + 1): latency of the rows [a, b) at [:, a, b]; 0 where b <= a."""
        key = (volume.start, volume.stop)
        if key not in self._volumes:
            starts, stops = volume.tables
            size = volume.height + 1
            total = np.zeros((len(self.kinds), size, size))
            for i, table in enumerate(self._layers[volume.start : volume.stop]):
                k = len(volume.entering) + i
                rows = np.maximum(stops[k][None, :] - starts[k][:, None], 0)
                total += table[:, rows]
            fused = np.stack([kind.fused_ms(volume, apart) for kind, apart in zip(self.kinds, total, strict=True)])
            fused[:, np.tri(size, dtype=bool)] = 0.0
            self._volumes[key] = fused
        return self._volumes[key]

    def macs(self, volume: Volume) -> FloatArray:
        """(height + 1, height + 1): multiply-accumulates of the rows [a, b), halo included; 0 where b <= a."""
        key = (volume.start, volume.stop)
        if key not in self._macs:
            each = [layer.macs / layer.height for layer in volume.layers]
            self._macs[key] = np.tensordot(each, _rows(volume)[len(volume.entering) :], 1)
        return self._macs[key]

    def peak_elements(self, volume: Volume) -> FloatArray:
        """(height + 1, height + 1): most elements of a layer's input and output together for the rows [a, b)."""
        key = (volume.start, volume.stop)
        if key not in self._peaks:
            rows, count = _rows(volume), len(volume.entering)
            held = np.tensordot([float(self.graph.row_elements(i)) for i in volume.entering], rows[:count], 1)
            peak = np.zeros_like(held)
            for layer, made in zip(volume.layers, rows[count:], strict=True):
                made_elements = made * float(layer.row_elements)
                np.maximum(peak, held + made_elements, out=peak)
                held = made_elements
            self._peaks[key] = peak
        return self._peaks[key]


def _rows(volume: Volume) -> IntArray:
    """(entering + layers, height + 1, height + 1): how many rows the part [a, b) reads or computes; 0 where b <= a."""
    starts, stops = volume.tables
    rows: IntArray = np.maximum(stops[:, None, :] - starts[:, :, None], 0)
    rows[:, np.tri(volume.height + 1, dtype=bool)] = 0
    return rows


class Barred(Wrapped):
    """A device that must not compute some layers or, with `IMAGE` among them, read the image: it takes too long."""

    def __init__(self, device: Profile, barred: frozenset[int]) -> None:
        super().__init__(device)
        self.barred = barred

    def fused_ms(self, volume: Volume, apart_ms: FloatArray) -> FloatArray:
        """As the device, and `BARRED_MS` more where something is barred."""
        found = self.device.fused_ms(volume, apart_ms)
        image = {IMAGE} & {*volume.entering}
        return found + BARRED_MS if self.barred & {*image, *range(volume.start, volume.stop)} else found
