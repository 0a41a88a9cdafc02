"""`TableProfile`: a device's speed as it was measured, layer by layer and at some numbers of rows."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np

from distredge.config import read_json
from distredge.errors import ProfileError, ProfileMissingError
from distredge.geometry.split import Volume
from distredge.model.graph import LayerGraph
from distredge.model.layer import Layer
from distredge.profiles import fusion, regression
from distredge.profiles.measured import UNSTEADY_CV, FusedTiming, Representation, TableFile, head_signature
from distredge.profiles.profile import FloatArray, IntArray, Profile

MUCH_DRIFT = 0.15
"""A sentinel that changed by more makes a profile doubtful."""


class TableProfile(Profile):
    """A measured device: what it took at some numbers of rows, and between them what the representation says.

    Nothing is forced to grow: latency may fall when a row is added, if the device showed it. Split-parts that were
    measured whole take what was measured; others the sum of their layers less what fused execution saves, if that was
    fitted.
    """

    kind = "measured"

    def __init__(self, file: TableFile) -> None:
        self.name = file.name
        self.precision = file.provenance.subject.precision
        self.file = file
        self._curves: dict[str, regression.Curve] = {}

    @classmethod
    def load(cls, path: Path) -> TableProfile:
        """The profile in a JSON file; raises `ProfileError` with one line."""
        return cls(read_json(path, TableFile, ProfileError))

    @cached_property
    def points(self) -> dict[str, tuple[FloatArray, FloatArray]]:
        """Measured numbers of rows and medians in ms of each layer, by its signature."""
        return {
            signature: (
                np.array([t.rows for t in timings], dtype=np.float64),
                np.array([t.median_ms for t in timings], dtype=np.float64),
            )
            for signature, timings in self.file.layers.items()
        }

    @cached_property
    def representation(self) -> Representation:
        """The file's, else the one with the least error under cross-validation."""
        return self.file.representation or regression.best(regression.cross_validate(self.points.values()))

    def layer_ms(self, layer: Layer, rows: IntArray) -> FloatArray:
        """See `Profile`."""
        known = self.points.get(layer.signature)
        counts = np.asarray(rows)
        if known is None:
            raise self._missing(f"layer '{layer.name}' ({layer.signature})")
        if counts.max(initial=0) > known[0][-1]:
            raise self._missing(f"more than {known[0][-1]:.0f} rows of layer '{layer.name}' ({layer.signature})")
        if layer.signature not in self._curves:
            self._curves[layer.signature] = regression.fit(self.representation, *known)
        return np.where(counts > 0, self._curves[layer.signature](counts.astype(np.float64)), 0.0)

    def fused_ms(self, volume: Volume, apart_ms: FloatArray) -> FloatArray:
        """See `Profile`."""
        predicted = apart_ms
        if self.file.fusion and volume.stop - volume.start > 1:
            predicted = fusion.fused(self.file.fusion, fusion.inner_work(volume), apart_ms)
        parts = self.measured_parts(volume)
        return fusion.corrected(parts, predicted) if parts else predicted

    def measured_parts(self, volume: Volume) -> list[FusedTiming]:
        """The split-parts of a volume, or of one like it, that were measured whole."""
        if not self.file.parts:
            return []
        return self._parts.get(fusion.volume_signature(volume), [])

    def head_ms(self, graph: LayerGraph) -> float:
        """See `Profile`."""
        if not graph.head.nodes:
            return 0.0
        timing = self.file.heads.get(head_signature(graph.head))
        if timing is None:
            raise self._missing(f"the head of model '{graph.name}'", graph.name)
        return timing.median_ms

    def cautions(self, graph: LayerGraph) -> list[str]:
        """See `Profile`."""
        source = self.file.provenance
        said = []
        if graph.sha256 not in source.models:
            measured = ", ".join(sorted(source.models.values())) or "some layers"
            same = graph.name in source.models.values()
            said.append(
                f"was measured for {'another file of ' if same else ''}{graph.name if same else measured}"
                f"{'' if same else f', not for {graph.name}'}: its layers are known, its fused split-parts may not be"
            )
        if not source.complete:
            said.append("is not complete: run `distredge profile` again with the same name")
        if source.sentinel and source.sentinel.drift > MUCH_DRIFT:
            said.append(f"was measured while the device's speed changed by {source.sentinel.drift:.0%}")
        return [f"profile '{self.name}' {words}" for words in said]

    def provenance(self) -> dict[str, object]:
        """See `Profile`; `unsteady` lists what varied by more than `UNSTEADY_CV`."""
        unsteady = [
            f"{signature} at {t.rows} rows: cv {t.cv:.0%}"
            for signature, timings in self.file.layers.items()
            for t in timings
            if t.cv > UNSTEADY_CV
        ]
        unsteady += [f"head {key}: cv {t.cv:.0%}" for key, t in self.file.heads.items() if t.cv > UNSTEADY_CV]
        source = self.file.provenance
        return {
            "kind": self.kind,
            "schema_version": self.file.schema_version,
            **source.subject.model_dump(mode="json"),
            **source.model_dump(mode="json", exclude={"subject"}),
            "drift": source.sentinel.drift if source.sentinel else None,
            "unsteady": unsteady,
            "representation": self.representation,
            "fusion": self.file.fusion.model_dump(mode="json") if self.file.fusion else None,
            "fused_parts": len(self.file.parts),
        }

    @cached_property
    def _parts(self) -> dict[str, list[FusedTiming]]:
        parts: dict[str, list[FusedTiming]] = {}
        for part in self.file.parts:
            parts.setdefault(part.volume, []).append(part)
        return parts

    def _missing(self, what: str, model: str = "MODEL") -> ProfileMissingError:
        return ProfileMissingError(
            f"device '{self.name}' was not measured for {what}: on that device run "
            f"`distredge profile {model} --backend ort --out DIR` with the model that has it"
        )
