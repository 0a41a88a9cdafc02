"""`PartitionScheme`: where a CNN is cut into layer-volumes."""

from __future__ import annotations

from dataclasses import dataclass

from distredge.errors import ModelError
from distredge.geometry.split import Volume
from distredge.model.graph import LayerGraph


@dataclass(frozen=True)
class PartitionScheme:
    """The partition locations of a model: indices of the layers at which its layer-volumes begin.

    `locations` begin with 0 and increase; each is one of the graph's cut points.
    """

    graph: LayerGraph
    locations: tuple[int, ...]

    def __post_init__(self) -> None:
        points = set(self.graph.cut_points)
        wrong = [p for p in self.locations if p not in points]
        if wrong or self.locations[:1] != (0,) or list(self.locations) != sorted(set(self.locations)):
            raise ModelError(f"'{self.graph.name}' cannot be partitioned at layers {wrong or list(self.locations)}")

    @property
    def parts(self) -> tuple[Volume, ...]:
        """The layer-volumes with their geometry."""
        stops = (*self.locations[1:], len(self.graph.layers))
        return tuple(Volume(self.graph, a, b) for a, b in zip(self.locations, stops, strict=True))

    @property
    def volumes(self) -> tuple[tuple[str, ...], ...]:
        """Names of the layers of each layer-volume."""
        return tuple(self.graph.names(part.start, part.stop) for part in self.parts)
