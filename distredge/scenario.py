"""A scenario: the service requester, the service providers, their links and their profiles."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, TypeAlias

import yaml
from pydantic import Field, PrivateAttr, model_validator

from distredge.config import ElementBytes, Frozen, Number, Version1, read_yaml
from distredge.errors import ScenarioError, UnknownNameError
from distredge.plans.nodes import NODE_NAME as NODE_NAME  # here too, beside what bears the names
from distredge.plans.nodes import REQUESTER as REQUESTER
from distredge.profiles.network import MESSAGE_MS
from distredge.profiles.profile import Profile
from distredge.profiles.store import load_profile
from distredge.profiles.wrapped import Slowed
from distredge.resources import shipped, write_atomically

SUFFIX = ".yaml"

Rate = Annotated[Number, Field(ge=0.001, le=1_000_000)]
"""Of a link, in Mbit/s."""


Delay = Annotated[Number, Field(ge=0, le=60_000)]
"""In ms."""

MB = 1e6
"""Bytes."""


class Io(Frozen):
    """What passing a message between a node's compute unit and its link takes (`distredge measure-link`).

    Reading takes a tensor out of the compute unit's memory and packs it for the wire; writing unpacks what came off
    the wire into that memory. A MB has 10^6 bytes, as they are on the wire.
    """

    read_ms: Delay = Field(default=0.0, description="of a message")
    read_ms_per_mb: Delay = Field(default=0.0, description="on top")
    write_ms: Delay = Field(default=MESSAGE_MS, description="of a message, with the network's own delay")
    write_ms_per_mb: Delay = Field(default=0.0, description="on top")

    def reading_ms(self, payload_bytes: float) -> float:
        """Time to read a message of this size."""
        return self.read_ms + payload_bytes * (self.read_ms_per_mb / MB)

    def writing_ms(self, payload_bytes: float) -> float:
        """Time to write a message of this size."""
        return self.write_ms + payload_bytes * (self.write_ms_per_mb / MB)


class Requester(Frozen):
    """The device that asks for inference."""

    bandwidth_mbps: Rate | None = Field(default=None, description="null: its link never limits")
    io: Io = Io()


Watts = Annotated[Number, Field(ge=0, le=100_000)]

Price = Annotated[Number, Field(ge=0)]
"""In whatever currency; of an hour."""

Chance = Annotated[Number, Field(ge=0, le=1)]
"""A probability."""


class Draw(Frozen):
    """What a device draws: the whole of it while it waits or computes, its radio on top while that is on air."""

    active_w: Watts
    idle_w: Watts = 0.0
    radio_w: Watts = 0.0


class Provider(Frozen):
    """A device that computes."""

    name: str = Field(pattern=NODE_NAME)
    profile: str = Field(description="a shipped name, or a path relative to the scenario's file")
    bandwidth_mbps: Rate = Field(description="of its access link, each direction")
    io: Io = Io()
    memory_mb: Annotated[Number, Field(gt=0)] | None = Field(default=None, description="null: the profile's, if known")
    slowdown: Annotated[Number, Field(ge=0.001, le=1000)] = Field(
        default=1.0, description="all takes so many times as long as the profile says: throttling, co-tenants"
    )
    trace: str | None = Field(default=None, description="CSV `t_s,Mbps`")
    address: str | None = Field(default=None, pattern=r"^\S+:\d+$", description="HOST:PORT at which it listens")
    power: Draw | None = Field(default=None, description="null: the profile's, if it knows")
    price_per_hour: Price | None = Field(default=None, description="while it computes")
    link_price_per_hour: Price = Field(default=0.0, description="while its link is busy, either way")
    failure_probability: Chance | None = Field(default=None, description="that it fails during a frame")
    link_failure_probability: Chance = 0.0


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
        """Each provider's profile, as slow as the provider is; those with the same share one object."""
        loaded = {name: load_profile(name, self._folder) for name in dict.fromkeys(p.profile for p in self.providers)}
        kinds = {(p.profile, p.slowdown): loaded[p.profile] for p in self.providers}
        slowed = {(name, f): device if f == 1.0 else Slowed(device, f) for (name, f), device in kinds.items()}
        return tuple(slowed[p.profile, p.slowdown] for p in self.providers)

    @property
    def memory_mb(self) -> tuple[float | None, ...]:
        """What split-parts may use on each provider, in MB: its own figure, else its profile's; None: no limit."""
        return tuple(p.memory_mb or q.memory_mb for p, q in zip(self.providers, self.profiles, strict=True))

    def reordered(self, order: tuple[int, ...]) -> Scenario:
        """The same scenario with its providers in another order along the height."""
        other = self.model_copy(update={"providers": tuple(self.providers[i] for i in order)})
        other.__dict__["profiles"] = tuple(self.profiles[i] for i in order)  # the same objects: tables stay shared
        return other

    @property
    def requester_mbps(self) -> float:
        """Rate of the requester's link, infinite if it never limits."""
        return self.requester.bandwidth_mbps or math.inf


def is_scenario(name: str) -> bool:
    """Whether a name is a shipped scenario's or of a YAML file."""
    return name in shipped("envs", SUFFIX) or Path(name).suffix in {".yaml", ".yml"}


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


def revise(path: Path, values: Mapping[str, Mapping[str, object]]) -> None:
    """Set keys of nodes, by name, in a scenario's file; comments, order and form of all else stay as they are typed.

    Raises `ScenarioError` if the file is written so that it cannot be done, and then leaves it as it is.
    """
    try:
        text = path.read_bytes().decode()
        data, root = yaml.safe_load(text), _mapping(yaml.compose(text, yaml.SafeLoader))
        edits: list[_Edit] = []
        for name, changes in values.items():
            if name == REQUESTER:
                data = _merged(data, {REQUESTER: changes})
                edits += _edits(text, root, {REQUESTER: changes})
            else:
                index = [p["name"] for p in data["providers"]].index(name)
                data["providers"][index] = _merged(data["providers"][index], changes)
                edits += _edits(text, _mapping(_entries(root)["providers"][1].value[index]), changes)
        for start, stop, new in sorted(edits, reverse=True):
            text = text[:start] + new + text[stop:]
        if yaml.safe_load(text) != data:
            raise ValueError("something else would change")
    except (OSError, ValueError, LookupError, AttributeError, TypeError, yaml.YAMLError) as exc:
        raise ScenarioError(
            f"{path}: figures cannot be written into a file of this form ({exc}): do it by hand"
        ) from exc
    write_atomically(path, text)


_Edit: TypeAlias = tuple[int, int, str]
"""Characters from, to, and what takes their place."""


def _merged(old: Mapping[str, object], new: Mapping[str, object]) -> dict[str, object]:
    """A mapping with some keys set, also those of mappings in it."""
    found = dict(old)
    for key, value in new.items():
        before = old.get(key)
        both = isinstance(value, Mapping) and isinstance(before, Mapping)
        found[key] = _merged(before, value) if both else value  # type: ignore[arg-type]
    return found


def _mapping(node: yaml.Node | None) -> yaml.MappingNode:
    if not isinstance(node, yaml.MappingNode):
        raise ValueError("no mapping")
    return node


def _entries(mapping: yaml.MappingNode) -> dict[str, tuple[yaml.Node, yaml.Node]]:
    """Keys and values of a mapping in a file."""
    return {key.value: (key, value) for key, value in mapping.value}


def _edits(text: str, mapping: yaml.MappingNode, changes: Mapping[str, object]) -> list[_Edit]:
    """How to set keys of a mapping: known ones where they stand, new ones behind the last that ends on its line."""
    entries, edits = _entries(mapping), list[_Edit]()
    new = {name: value for name, value in changes.items() if name not in entries}
    for name, value in changes.items():
        if name not in entries:
            continue
        old = entries[name][1]
        if isinstance(value, Mapping) and isinstance(old, yaml.MappingNode):
            edits += _edits(text, old, value)
        else:
            edits.append((old.start_mark.index, old.end_mark.index, _flow({name: value}).partition(": ")[2]))
    if new:
        key, last = [e for e in entries.values() if not isinstance(e[1], yaml.CollectionNode) or e[1].flow_style][-1]
        end = last.end_mark.index
        before, indent = ", ", ""
        if not mapping.flow_style:
            end += len(text[end:].partition("\n")[0])
            before, indent = "\n", " " * key.start_mark.column
        edits.append((end, end, "".join(f"{before}{indent}{_flow({name: value})}" for name, value in new.items())))
    return edits


def _flow(entry: Mapping[str, object]) -> str:
    """`key: value`, on one line."""
    return str(yaml.safe_dump(dict(entry), default_flow_style=True, sort_keys=False, width=math.inf)).strip()[1:-1]
