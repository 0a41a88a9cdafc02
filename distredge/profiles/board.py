"""`BoardProfile`: a device's speed by an analytic model that was calibrated on published figures.

It answers for any layer of any model, but it is an estimate: its file names the figures it was fitted to, how far it
is from each of them, and how far it is from each when that one is left out of the fit.
"""

from __future__ import annotations

import dataclasses
import difflib
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from distredge.config import Frozen, read_yaml
from distredge.errors import ProfileError
from distredge.model.graph import LayerGraph
from distredge.model.layer import Layer
from distredge.profiles.power import Power
from distredge.profiles.profile import FloatArray, IntArray, Profile
from distredge.profiles.speed import CpuSpeed, GpuSpeed, Speed

_SPEEDS: dict[str, type[GpuSpeed] | type[CpuSpeed]] = {"gpu": GpuSpeed, "cpu": CpuSpeed}


class Parameter(Frozen):
    """One physical quantity of a board."""

    value: float = Field(gt=0)
    unit: str
    meaning: str
    origin: str = Field(description="`fitted` with its prior, or the document or evidence that it was taken from")


class BoardPower(Frozen):
    """What a board draws, with the origin of each number; see `Power`."""

    idle_w: Parameter
    active_w: Parameter
    radio_w: Parameter

    @model_validator(mode="after")
    def _idle_is_the_lesser(self) -> BoardPower:
        if self.idle_w.value > self.active_w.value:
            raise ValueError(f"idle_w is {self.idle_w.value:g}, more than active_w, {self.active_w.value:g}")
        return self

    @property
    def watts(self) -> Power:
        """The numbers alone."""
        return Power(self.idle_w.value, self.active_w.value, self.radio_w.value)


class Figure(Frozen):
    """A published latency of a whole model, and what the calibrated model says to it."""

    model: str
    published_ms: float = Field(gt=0)
    predicted_ms: float = Field(gt=0)
    residual: float = Field(description="predicted / published - 1")
    leave_one_out_ms: float = Field(gt=0, description="predicted by a fit that did not see this figure")
    leave_one_out: float = Field(description="leave_one_out_ms / published - 1")
    input: str = ""
    source: str


class BoardFile(Frozen):
    """A board's YAML file (`schema_version` 1)."""

    schema_version: Literal[1]
    name: str = Field(min_length=1)
    kind: Literal["calibrated"]
    device: str
    runtime: str
    precision: Literal["FP16", "FP32"]
    analytic_model: Literal["gpu", "cpu"]
    parameters: dict[str, Parameter]
    figures: tuple[Figure, ...]
    power: BoardPower | None = None
    memory_mb: Parameter | None = None
    step_evidence: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _parameters_are_the_models(self) -> BoardFile:
        known = [field.name for field in dataclasses.fields(_SPEEDS[self.analytic_model])]
        for name in self.parameters:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                raise ValueError(f"unknown parameter '{name}'" + (f", did you mean '{near[0]}'?" if near else ""))
        for name in known:
            if name not in self.parameters:
                raise ValueError(f"parameter '{name}' is missing")
        return self

    @cached_property
    def speed(self) -> Speed:
        """The analytic model with this board's parameters."""
        return _SPEEDS[self.analytic_model](**{name: p.value for name, p in self.parameters.items()})


class BoardProfile(Profile):
    """A board described by a `BoardFile`; latencies never fall when rows are added."""

    kind = "calibrated"

    def __init__(self, file: BoardFile) -> None:
        self.name = file.name
        self.precision = file.precision
        self.power = file.power.watts if file.power else None
        self.memory_mb = file.memory_mb.value if file.memory_mb else None
        self._file = file
        self._element_bytes = 2 if file.precision == "FP16" else 4

    @classmethod
    def load(cls, path: Path) -> BoardProfile:
        """The profile in a YAML file; raises `ProfileError` with one line."""
        return cls(read_yaml(path, BoardFile, ProfileError))

    def layer_ms(self, layer: Layer, rows: IntArray) -> FloatArray:
        """See `Profile`."""
        counts = np.asarray(rows)
        latency = self._file.speed.layer_ms(layer, np.maximum(counts, 1), self._element_bytes)
        return np.where(counts > 0, latency, 0.0)

    def head_ms(self, graph: LayerGraph) -> float:
        """See `Profile`."""
        return self._file.speed.head_ms(graph.head, self._element_bytes) if graph.head.nodes else 0.0

    def provenance(self) -> dict[str, object]:
        """See `Profile`."""
        return self._file.model_dump(mode="json")


def undivided_ms(profile: Profile, graph: LayerGraph) -> float:
    """Latency of the whole model on one device: every layer with all its rows, and the head."""
    layers = sum(float(profile.layer_ms(layer, np.array([layer.height]))[0]) for layer in graph.layers)
    return layers + profile.head_ms(graph)
