"""Profiles that are another one's but for something: what a device does, seen under other circumstances."""

from __future__ import annotations

from distredge.geometry.split import Volume
from distredge.model.graph import LayerGraph
from distredge.model.layer import Layer
from distredge.profiles.profile import FloatArray, IntArray, Profile


class Wrapped(Profile):
    """Answers as `device` does; subclasses change what differs."""

    def __init__(self, device: Profile) -> None:
        self.device = device
        for name in ("name", "kind", "precision", "power", "memory_mb"):
            if hasattr(device, name):  # made-up devices may lack one
                setattr(self, name, getattr(device, name))

    def layer_ms(self, layer: Layer, rows: IntArray) -> FloatArray:
        """As the device."""
        return self.device.layer_ms(layer, rows)

    def fused_ms(self, volume: Volume, apart_ms: FloatArray) -> FloatArray:
        """As the device."""
        return self.device.fused_ms(volume, apart_ms)

    def cautions(self, graph: LayerGraph) -> list[str]:
        """As the device."""
        return self.device.cautions(graph)

    def head_ms(self, graph: LayerGraph) -> float:
        """As the device."""
        return self.device.head_ms(graph)

    def provenance(self) -> dict[str, object]:
        """As the device."""
        return self.device.provenance()


class Slowed(Wrapped):
    """A device that takes `factor` times as long as its profile says: throttled, or shared with other work."""

    def __init__(self, device: Profile, factor: float) -> None:
        super().__init__(device)
        self.factor = factor

    def layer_ms(self, layer: Layer, rows: IntArray) -> FloatArray:
        """Of the device, times the factor."""
        return self.factor * self.device.layer_ms(layer, rows)

    def fused_ms(self, volume: Volume, apart_ms: FloatArray) -> FloatArray:
        """Of the device, times the factor."""
        return self.factor * self.device.fused_ms(volume, apart_ms / self.factor)

    def head_ms(self, graph: LayerGraph) -> float:
        """Of the device, times the factor."""
        return self.factor * self.device.head_ms(graph)
