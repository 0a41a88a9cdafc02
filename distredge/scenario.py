"""A scenario: the service requester, the service providers, their links and their profiles."""

from __future__ import annotations

import math
from functools import cached_property
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from distredge.config import Frozen, read_yaml
from distredge.errors import ScenarioError, UnknownNameError
from distredge.profiles.profile import Profile
from distredge.profiles.store import load_profile
from distredge.resources import shipped

SUFFIX = ".yaml"


class Requester(Frozen):
    """The device that asks for inference."""

    bandwidth_mbps: float | None = Field(default=None, gt=0, description="null: its link never limits")


class Provider(Frozen):
    """A device that computes."""

    name: str = Field(min_length=1, pattern=r"^[A-Za-z0-9_.-]+$")
    profile: str = Field(description="a shipped name, or a path relative to the scenario's file")
    bandwidth_mbps: float = Field(gt=0, description="of its access link, each direction, Mbit/s")
    memory_mb: float | None = Field(default=None, gt=0)
    trace: str | None = Field(default=None, description="CSV `t_s,Mbps`")
    address: str | None = Field(default=None, description="HOST:PORT at which it listens")


class Scenario(Frozen):
    """Providers and their links to a common access point (`schema_version` 1)."""

    schema_version: Literal[1] = 1
    name: str = Field(min_length=1)
    requester: Requester = Requester()
    providers: tuple[Provider, ...] = Field(min_length=1)
    element_bytes: Literal[1, 2, 4] = Field(default=2, description="what a feature-map element costs on the wire")
    folder: Path = Field(default=Path(), exclude=True, description="where relative paths begin")

    @model_validator(mode="after")
    def _names_differ(self) -> Scenario:
        names = [p.name for p in self.providers]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two providers are named '{name}'")
        return self

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
                loaded[p.profile] = load_profile(p.profile, self.folder)
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
    return read_yaml(path, Scenario, ScenarioError).model_copy(update={"folder": path.parent})
