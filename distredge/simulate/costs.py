"""Latency tables of layer-volumes: what every split-part of a volume costs on every kind of device."""

from __future__ import annotations

import numpy as np

from distredge.geometry.split import Volume
from distredge.model.graph import LayerGraph
from distredge.profiles.profile import FloatArray, Profile


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
