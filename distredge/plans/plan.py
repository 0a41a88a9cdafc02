"""`Plan`: which provider computes which rows of which layer-volume. A pure value, read by everything."""

from __future__ import annotations

import json
from bisect import bisect_right
from itertools import pairwise
from pathlib import Path

from pydantic import Field, field_validator, model_validator

from distredge.config import Frozen, Number, Version1, Whole, read_json
from distredge.errors import PlanError
from distredge.geometry.interval import Interval
from distredge.geometry.split import SplitPart, Volume, parts
from distredge.model.graph import LayerGraph
from distredge.resources import write_atomically


class ModelRef(Frozen):
    """The model that a plan was made for."""

    name: str
    sha256: str = Field(description="of the ONNX file with its weights")
    input_shape: tuple[Whole, ...]


class VolumePlan(Frozen):
    """A layer-volume and where it is cut: provider i computes the rows `[cuts[i], cuts[i+1])` of its last layer."""

    layers: tuple[str, ...] = Field(min_length=1)
    cuts: tuple[Whole, ...] = Field(min_length=2)

    @field_validator("cuts")
    @classmethod
    def _ordered(cls, cuts: tuple[int, ...]) -> tuple[int, ...]:
        if cuts[0] != 0 or any(b < a for a, b in pairwise(cuts)):
            raise ValueError(f"cuts must begin with 0 and not decrease, got {list(cuts)}")
        return cuts


class Prediction(Frozen):
    """What the simulator says of the plan; `compute_ms` and `transfer_ms` are sums by provider."""

    latency_ms: float = Field(gt=0, allow_inf_nan=False)
    ips: float = Field(gt=0, allow_inf_nan=False)
    compute_ms: dict[str, Number]
    transfer_ms: dict[str, Number]


class Plan(Frozen):
    """A distribution strategy for one model on one scenario (`schema_version` 1)."""

    schema_version: Version1 = 1
    method: str = Field(min_length=1)
    seed: Whole = Field(default=0, ge=0)
    model: ModelRef
    scenario: str
    providers: tuple[str, ...] = Field(min_length=1, description="in their order along the height")
    volumes: tuple[VolumePlan, ...] = Field(min_length=1)
    head_provider: str
    predicted: Prediction | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Plan:
        if len(set(self.providers)) != len(self.providers):
            raise ValueError("a provider is named twice")
        if self.head_provider not in self.providers:
            raise ValueError(
                f"head_provider '{self.head_provider}' is none of the providers {', '.join(self.providers)}"
            )
        for volume in self.volumes:
            if len(volume.cuts) != len(self.providers) + 1:
                raise ValueError(
                    f"volume {volume.layers[0]}..{volume.layers[-1]} has {len(volume.cuts)} cuts,"
                    f" {len(self.providers)} providers need {len(self.providers) + 1}"
                )
        return self

    def save(self, path: str | Path) -> None:
        """Write the plan as JSON; the file appears whole or not at all."""
        write_atomically(Path(path), self.model_dump_json(indent=2) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> Plan:
        """Read a plan; raises `PlanError` with one line if the file is missing or malformed."""
        return read_json(Path(path), cls, PlanError)

    def bind(self, graph: LayerGraph) -> BoundPlan:
        """The plan with its model's geometry; raises `PlanError` if it is for another model or does not cover it."""
        if self.model.sha256 != graph.sha256:
            raise PlanError(
                f"the plan was made for '{self.model.name}' ({self.model.sha256[:12]}), not for"
                f" '{graph.name}' ({graph.sha256[:12]}): make a plan for this file"
            )
        if self.model.input_shape != graph.input_shape:
            raise PlanError(f"the plan is for images of the shape {self.model.input_shape}, not {graph.input_shape}")
        volumes: list[Volume] = []
        reached = 0
        for item in self.volumes:
            if item.layers != graph.names(reached, reached + len(item.layers)):
                raise PlanError(f"volume {_span(item)} does not continue at layer {reached} of '{graph.name}'")
            if reached not in graph.cut_points:
                raise PlanError(
                    f"'{graph.name}' cannot be partitioned before {item.layers[0]}: more than one tensor crosses there"
                    " (`distredge inspect` lists where a layer-volume may begin)"
                )
            volume = Volume(graph, reached, reached + len(item.layers))
            if item.cuts[-1] != volume.height:
                raise PlanError(
                    f"cuts of volume {_span(item)} must end with its height {volume.height}, got {item.cuts[-1]}"
                )
            reached = volume.stop
            volumes.append(volume)
        if reached != len(graph.layers):
            raise PlanError(f"the plan ends before layer {graph.layers[reached].name} of '{graph.name}'")
        return BoundPlan(self, graph, tuple(volumes))


def _span(item: VolumePlan) -> str:
    return f"{item.layers[0]}..{item.layers[-1]}"


class BoundPlan:
    """A plan together with the geometry of its model."""

    def __init__(self, plan: Plan, graph: LayerGraph, volumes: tuple[Volume, ...]) -> None:
        self.plan = plan
        self.graph = graph
        self.volumes = volumes
        self._parts = tuple(parts(volume, item.cuts) for volume, item in zip(volumes, plan.volumes, strict=True))

    def owned(self, volume: int, provider: int) -> Interval:
        """Rows of a volume's last layer that a provider (by its place in the plan) computes; may be empty."""
        cuts = self.plan.volumes[volume].cuts
        return Interval(cuts[provider], cuts[provider + 1])

    def part(self, volume: int, provider: int) -> SplitPart | None:
        """What a provider computes of a volume; None without a part."""
        return self._parts[volume][provider]

    def needs(self, volume: int, provider: int) -> dict[int, Interval]:
        """Rows of each tensor that enters a volume which a provider needs, by the layer that makes it (or `IMAGE`).

        Empty without a part. The volume after the last is the head, which needs all rows of what it reads.
        """
        if volume == len(self.volumes):
            mine = self.plan.providers[provider] == self.plan.head_provider
            return {i: Interval(0, self.graph.shape(i)[1]) for i in sorted(self.graph.to_head)} if mine else {}
        part = self.part(volume, provider)
        return dict(zip(self.volumes[volume].entering, part.inputs, strict=True)) if part else {}

    def held(self, layer: int, provider: int) -> Interval:
        """Rows of a tensor that leaves its volume which a provider owns, by the layer that makes it."""
        volume = self.volume_of(layer)
        return self.volumes[volume].owned(layer, self.owned(volume, provider))

    def volume_of(self, layer: int) -> int:
        """Index of the volume that a layer is in; -1 for `IMAGE`."""
        return bisect_right([volume.start for volume in self.volumes], layer) - 1


SCHEMA_FILE = Path(__file__).with_name("plan.schema.json")
"""The JSON Schema of plan files, shipped for other programs."""


def schema() -> dict[str, object]:
    """The JSON Schema that `SCHEMA_FILE` holds."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Plan.model_json_schema()}


if __name__ == "__main__":
    write_atomically(SCHEMA_FILE, json.dumps(schema(), indent=2) + "\n")
