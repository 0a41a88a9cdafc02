"""`TableProfile`: a device's speed as it was measured, layer by layer and at some numbers of rows."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from distredge.config import Frozen, read_json
from distredge.errors import ProfileError, ProfileMissingError
from distredge.model.graph import LayerGraph
from distredge.model.layer import Head, Layer
from distredge.profiles.profile import FloatArray, IntArray, Profile
from distredge.resources import write_atomically

UNSTEADY_CV = 0.05
"""A coefficient of variation above this marks a measurement as unsteady."""


class Timing(Frozen):
    """Repeated measurements of one thing, summed up."""

    median_ms: float = Field(ge=0)
    p10_ms: float = Field(ge=0)
    p90_ms: float = Field(ge=0)
    cv: float = Field(ge=0, description="standard deviation / mean")
    repeats: int = Field(ge=1)


class RowTiming(Timing):
    """The timing of a layer at a number of output rows."""

    rows: int = Field(ge=1)


class Sentinel(Frozen):
    """One layer that was measured again and again: its spread is the drift of the device."""

    signature: str
    rows: int
    medians_ms: tuple[float, ...] = ()

    @property
    def drift(self) -> float:
        """Largest over smallest median, minus 1; 0 for fewer than two."""
        return max(self.medians_ms) / min(self.medians_ms) - 1 if self.medians_ms else 0.0


class Measured(Frozen):
    """How the figures of a `TableFile` were obtained."""

    host: str
    cpu: str
    engine: str
    engine_version: str
    threads: int = Field(ge=1)
    date: str = Field(description="of the last measurement, ISO 8601, UTC")
    models: tuple[str, ...] = Field(description="whose layers were measured")
    warm_up_s: float = Field(ge=0)
    seconds_per_point: float = Field(ge=0)
    order: Literal["random", "sequential"]
    caches: str = Field(description="what was done to the caches before each repeat")
    sentinel: Sentinel | None = None
    complete: bool = Field(description="false: interrupted; measuring the same model again goes on from here")


class TableFile(Frozen):
    """A measured profile's JSON file (`schema_version` 1): timings by `Layer.signature` and by `head_signature`."""

    schema_version: Literal[1] = 1
    name: str = Field(min_length=1)
    kind: Literal["measured"] = "measured"
    provenance: Measured
    layers: dict[str, tuple[RowTiming, ...]]
    heads: dict[str, Timing] = {}

    @model_validator(mode="after")
    def _rows_increase(self) -> TableFile:
        for signature, timings in self.layers.items():
            rows = [t.rows for t in timings]
            if not rows or rows != sorted(set(rows)):
                raise ValueError(f"the rows of layer '{signature}' must be increasing and not empty")
        return self

    def save(self, path: Path) -> None:
        """Write the file; an interruption leaves the old one."""
        write_atomically(path, self.model_dump_json(indent=1) + "\n")


def head_signature(head: Head) -> str:
    """What decides a head's speed, whatever the model: the key under which its timing is stored."""
    return f"{'+'.join(head.ops)}-m{head.macs}-p{head.params}"


class TableProfile(Profile):
    """A measured device: piecewise linear in rows between the numbers of rows that were measured.

    Below the smallest of them the latency is that of the smallest. Nothing is smoothed, so that latency may fall when
    a row is added, if the device showed it.
    """

    kind = "measured"

    def __init__(self, file: TableFile) -> None:
        self.name = file.name
        self.file = file

    @classmethod
    def load(cls, path: Path) -> TableProfile:
        """The profile in a JSON file; raises `ProfileError` with one line."""
        return cls(read_json(path, TableFile, ProfileError))

    def layer_ms(self, layer: Layer, rows: IntArray) -> FloatArray:
        """See `Profile`."""
        known = self._points.get(layer.signature)
        counts = np.asarray(rows)
        if known is None:
            raise self._missing(f"layer '{layer.name}' ({layer.signature})")
        measured_rows, medians = known
        if counts.max(initial=0) > measured_rows[-1]:
            raise self._missing(f"more than {measured_rows[-1]:.0f} rows of layer '{layer.name}' ({layer.signature})")
        return np.where(counts > 0, np.interp(counts, measured_rows, medians), 0.0)

    def head_ms(self, graph: LayerGraph) -> float:
        """See `Profile`."""
        if not graph.head.nodes:
            return 0.0
        timing = self.file.heads.get(head_signature(graph.head))
        if timing is None:
            raise self._missing(f"the head of model '{graph.name}'", graph.name)
        return timing.median_ms

    def provenance(self) -> dict[str, object]:
        """See `Profile`; `unsteady` lists what varied by more than `UNSTEADY_CV`."""
        unsteady = [
            f"{signature} at {t.rows} rows: cv {t.cv:.0%}"
            for signature, timings in self.file.layers.items()
            for t in timings
            if t.cv > UNSTEADY_CV
        ]
        unsteady += [f"head {key}: cv {t.cv:.0%}" for key, t in self.file.heads.items() if t.cv > UNSTEADY_CV]
        measured = self.file.provenance
        drift = measured.sentinel.drift if measured.sentinel else None
        return {"kind": self.kind, **measured.model_dump(mode="json"), "drift": drift, "unsteady": unsteady}

    @cached_property
    def _points(self) -> dict[str, tuple[FloatArray, FloatArray]]:
        return {
            signature: (
                np.array([t.rows for t in timings], dtype=np.float64),
                np.array([t.median_ms for t in timings], dtype=np.float64),
            )
            for signature, timings in self.file.layers.items()
        }

    def _missing(self, what: str, model: str = "MODEL") -> ProfileMissingError:
        return ProfileMissingError(
            f"device '{self.name}' was not measured for {what}: on that device run "
            f"`distredge profile {model} --backend ort --out DIR` with the model that has it"
        )
