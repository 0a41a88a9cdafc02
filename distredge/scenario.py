"""A scenario: the service requester, the service providers, their links and their profiles."""

from __future__ import annotations

import math
from functools import cached_property
from pathlib import Path
from typing import Annotated

from pydantic import Field, PrivateAttr, model_validator

from distredge.config import ElementBytes, Frozen, Number, Version1, read_yaml
from distredge.errors import ScenarioError, UnknownNameError
from distredge.profiles.profile import Profile
from distredge.profiles.store import load_profile
from distredge.resources import shipped

SUFFIX = ".yaml"


NODE_NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"
"""What a provider may be called."""

REQUESTER = "requester"
"""The name of the service requester, which no provider may bear."""

Rate = Annotated[Number, Field(ge=0.001, le=1_000_000)]
"""Of a link, in Mbit/s."""


class Requester(Frozen):
    """The device that asks for inference."""

    bandwidth_mbps: Rate | None = Field(default=None, description="null: its link never limits")


class Provider(Frozen):
    """A device that computes."""

    name: str = Field(pattern=NODE_NAME)
    profile: str = Field(description="a shipped name, or a path relative to the scenario's file")
    bandwidth_mbps: Rate = Field(description="of its access link, each direction")
    memory_mb: Annotated[Number, Field(gt=0)] | None = None
    trace: str | None = Field(default=None, description="CSV `t_s,Mbps`")
    address: str | None = Field(default=None, pattern=r"^\S+:\d+$", description="HOST:PORT at which it listens")


class Scenario(Frozen):
    """Providers and their links to a common access point (`schema_version` 1)."""

    schema_version: Version1 = 1
    name: str = Field(min_length=1)
    requester: Requester = Requester()
    providers: tuple[Provider, ...] = Field(min_length=1)
    element_bytes: ElementBytes = Field(default=2, description="what a feature-map element costs on the wire")
    _folder: Path = PrivateAttr(default=Path())

    @model_validator(mode="after")
    def _names_differ(self) -> Scenario:
        names = [p.name for p in self.providers]
        for name in names:
            if name == REQUESTER:
                raise ValueError(f"no provider may be named '{REQUESTER}'")
            if names.count(name) > 1:
                raise ValueError(f"two providers are named '{name}'")
        return self

    @property
    def folder(self) -> Path:
        """Where the relative paths in it begin: the folder of its file."""
        return self._folder

    @property
    def provider_names(self) -> tuple[str, ...]:
        """In the scenario's order."""
        return tuple(p.name for p in self.providers)

    @cached_property
    def profiles(self) -> tuple[Profile, ...]:
        """Each provider's profile; providers with the same profile share one object."""
        loaded: dict[str, Profile] = {}
        for p in self.providers:
            if p.profile not in loaded:
                loaded[p.profile] = load_profile(p.profile, self._folder)
        return tuple(loaded[p.profile] for p in self.providers)

    def reordered(self, order: tuple[int, ...]) -> Scenario:
        """The same scenario with its providers in another order along the height."""
        other = self.model_copy(update={"providers": tuple(self.providers[i] for i in order)})
        other.__dict__["profiles"] = tuple(self.profiles[i] for i in order)  # the same objects: tables stay shared
        return other

    @property
    def requester_mbps(self) -> float:
        """Rate of the requester's link, infinite if it never limits."""
        return self.requester.bandwidth_mbps or math.inf


def load_scenario(name: str | Path) -> Scenario:
    """A shipped scenario by its name, or one from a YAML file; raises `UnknownNameError` or `ScenarioError`."""
    known = shipped("envs", SUFFIX)
    path = known.get(str(name)) or Path(name)
    if not path.is_file():
        if path.suffix in {".yaml", ".yml"}:
            raise ScenarioError(f"cannot read '{path}': no such file")
        raise UnknownNameError("scenario", str(name), known, "(or give the path of a .yaml file)")
    scenario = read_yaml(path, Scenario, ScenarioError)
    scenario._folder = path.parent  # where the relative paths in it begin
    for provider in scenario.providers:
        if provider.trace and not (path.parent / provider.trace).is_file():
            raise ScenarioError(f"{path}: there is no trace '{path.parent / provider.trace}' of '{provider.name}'")
    return scenario
