"""What an agent for a moving network is for: the part of its file that says whether it may be used."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from distredge.config import Frozen, Number, Version1, Whole
from distredge.errors import InputError
from distredge.plans.plan import ModelRef
from distredge.scenario import Io, Scenario

Range = tuple[Annotated[Number, Field(ge=0)], Annotated[Number, Field(ge=0)]]


class Device(Frozen):
    """What of a provider an agent depends on, besides what it observes."""

    name: str
    profile: str
    slowdown: Number
    io: Io


class Header(Frozen):
    """Model, providers, and the conditions that the agent was trained for."""

    schema_version: Version1 = 1
    kind: Literal["moving"] = "moving"
    model: ModelRef
    layers: tuple[str, ...] = Field(min_length=1, description="names of the model's layers")
    scenario: str
    providers: tuple[Device, ...] = Field(min_length=2)
    requester_mbps: Number | None = Field(description="null: its link never limits")
    element_bytes: Whole
    mbps: Range
    slowdown: Range
    io_ms: Range
    candidates: Whole = Field(ge=1, description="plans that the critic judges in a decision")

    @property
    def names(self) -> tuple[str, ...]:
        """Of the providers, in their order."""
        return tuple(p.name for p in self.providers)

    def check_model(self, model: ModelRef) -> None:
        """Raise `InputError` if the agent is for another model."""
        if model != self.model:
            raise InputError(
                f"the agent is for '{self.model.name}' ({self.model.sha256[:12]}), not for '{model.name}'"
                f" ({model.sha256[:12]}): pre-train one for it"
            )

    def check_scenario(self, scenario: Scenario) -> None:
        """Raise `InputError` if the agent is for other providers, or another requester's link or element size."""
        there = (devices(scenario), scenario.requester.bandwidth_mbps, scenario.element_bytes)
        if there != (self.providers, self.requester_mbps, self.element_bytes):
            raise InputError(
                f"the agent is for the providers {', '.join(f'{p.name} ({p.profile})' for p in self.providers)} of"
                f" '{self.scenario}', and '{scenario.name}' differs: pre-train one for it"
            )


def devices(scenario: Scenario) -> tuple[Device, ...]:
    """What of a scenario's providers an agent depends on."""
    return tuple(Device(name=p.name, profile=p.profile, slowdown=p.slowdown, io=p.io) for p in scenario.providers)
