"""What the controller keeps for others: plans, policies, profiles, scenarios. Here scenarios find their profiles."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

from safetensors import SafetensorError

from distredge.agents.moving.file import KEY, unpack
from distredge.agents.tensors import read_tensors
from distredge.controller.store import PolicyEntry, Store
from distredge.errors import InputError, ProfileError, ScenarioError
from distredge.plans.nodes import NODE_NAME
from distredge.plans.plan import Plan
from distredge.profiles.board import BoardProfile
from distredge.profiles.profile import Profile
from distredge.profiles.store import list_profiles, load_profile
from distredge.profiles.table import TableProfile
from distredge.profiles.wrapped import Slowed
from distredge.scenario import Scenario

MAX_NAME = 64
"""Characters."""

PLANS_AT_HAND = 1000
"""Kept in memory."""


class NotKnown(InputError):
    """No such device, stream, plan, policy, profile or scenario here."""


class Library:
    """Stores and finds by hash or name. May be used by several threads."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._plan = lru_cache(PLANS_AT_HAND)(self._stored_plan)
        self._profile = lru_cache(PLANS_AT_HAND)(parse_profile)
        self._shipped = {str(p["name"]) for p in list_profiles()}

    def add_plan(self, plan: Plan) -> str:
        """Store one; gives its SHA-256 (`control.schema.plan_sha256`)."""
        return self.store.add_plan(plan)

    def plan(self, sha256: str) -> Plan:
        """A stored plan; raises `NotKnown`."""
        return self._plan(sha256)

    def add_policy(self, blob: bytes) -> PolicyEntry:
        """Store a policy, the content of a .safetensors file; raises `InputError` if it is none, or damaged."""
        entry = read_policy(blob)
        self.store.add_policy(entry, blob)
        return entry

    def policy(self, sha256: str) -> bytes:
        """The content of a policy's file; raises `NotKnown`."""
        blob = self.store.policy(sha256)
        if blob is None:
            raise NotKnown(f"there is no policy {sha256[:12]} here: PUT /v1/policies stores one")
        return blob

    def policies(self) -> tuple[PolicyEntry, ...]:
        """All that are stored, oldest first."""
        return self.store.policies()

    def add_profile(self, name: str, text: str) -> None:
        """Store a profile: JSON of a measured table or YAML of a board; raises `InputError` if it is neither.

        A scenario refers to it by this name, or by the path of a file of this name (`lab/NAME.json`).
        """
        check_name("profile", name)
        if name in self._shipped:
            raise InputError(f"'{name}' is the name of a shipped profile: give it another one")
        parse_profile(text)
        self.store.put("profiles", name, text)

    def profile(self, name: str) -> str:
        """The text of a stored profile; raises `NotKnown`."""
        text = self.store.get("profiles", name)
        if text is None:
            raise NotKnown(f"there is no profile '{name}' here: PUT /v1/profiles/{name} stores one")
        return text

    def profiles(self) -> tuple[str, ...]:
        """Names of the stored profiles (the shipped ones are `distredge.profiles.store.list_profiles`)."""
        return self.store.names("profiles")

    def add_scenario(self, name: str, scenario: Scenario) -> None:
        """Store a scenario; raises `InputError` if a profile of it is neither shipped nor stored."""
        check_name("scenario", name)
        self.resolved(scenario)
        self.store.put("scenarios", name, scenario.model_dump_json())

    def scenario(self, name: str) -> Scenario:
        """A stored scenario, as it was given; raises `NotKnown`."""
        text = self.store.get("scenarios", name)
        if text is None:
            raise NotKnown(f"there is no scenario '{name}' here: PUT /v1/scenarios/{name} stores one")
        return Scenario.model_validate_json(text)

    def scenarios(self) -> tuple[str, ...]:
        """Names of the stored scenarios."""
        return self.store.names("scenarios")

    def resolved(self, scenario: Scenario) -> Scenario:
        """The same scenario with its profiles at hand: shipped and stored ones, never any other file of this machine.

        Raises `InputError` naming the profile that is neither, and how to store it.
        """
        found = {p.profile: self._named(p.profile, p.name) for p in scenario.providers}
        return with_profiles(scenario, found)

    def _named(self, reference: str, provider: str) -> Profile:
        if reference in self._shipped:
            return _shipped(reference)
        name = PurePosixPath(reference).name
        name = name.rsplit(".", 1)[0] if name.endswith((".json", ".yaml", ".yml")) else name
        text = self.store.get("profiles", name)
        if text is None:
            raise ScenarioError(
                f"the profile '{reference}' of {provider} is neither shipped nor known to this controller:"
                f" store it with PUT /v1/profiles/{name}"
            )
        return self._profile(text)

    def _stored_plan(self, sha256: str) -> Plan:
        plan = self.store.plan(sha256)
        if plan is None:
            raise NotKnown(f"there is no plan {sha256[:12]} here: PUT /v1/plans stores one")
        return plan


@lru_cache
def _shipped(name: str) -> Profile:
    return load_profile(name)


def with_profiles(scenario: Scenario, profiles: Mapping[str, Profile]) -> Scenario:
    """A scenario with the profiles that its names stand for, instead of those in its folder; the same share one."""
    kinds = {(p.profile, p.slowdown): profiles[p.profile] for p in scenario.providers}
    slowed = {key: q if key[1] == 1.0 else Slowed(q, key[1]) for key, q in kinds.items()}
    other = scenario.model_copy()
    other.__dict__["profiles"] = tuple(slowed[p.profile, p.slowdown] for p in scenario.providers)
    return other


def check_name(kind: str, name: str) -> None:
    """Raise `InputError` for a name that is none."""
    if len(name) > MAX_NAME or not re.match(NODE_NAME, name) or name.endswith("\n"):
        raise InputError(
            f"no {kind} can be named '{name[:MAX_NAME]}': use at most {MAX_NAME} letters, digits, '_', '.' and '-'"
        )


def parse_profile(text: str) -> Profile:
    """A profile of its text, JSON or YAML; raises `ProfileError` with one line."""
    is_json = text.lstrip().startswith("{")
    with TemporaryDirectory() as folder:
        path = Path(folder) / ("profile.json" if is_json else "profile.yaml")
        path.write_text(text, encoding="utf-8")
        try:
            return TableProfile.load(path) if is_json else BoardProfile.load(path)
        except ProfileError as exc:
            raise ProfileError(str(exc).replace(f"{path}: ", "the profile: ")) from None


def read_policy(blob: bytes) -> PolicyEntry:
    """What a policy's file says that it is for; raises `InputError` if it is none, or damaged."""
    sha256 = hashlib.sha256(blob).hexdigest()
    where = sha256[:12]
    try:
        about, _ = read_tensors(blob)
        if json.loads(about[KEY]).get("kind") == "moving":
            header = unpack(blob, where).header
            return PolicyEntry(sha256=sha256, kind="moving", model=header.model.name, scenario=header.scenario)
        from distredge.agents.actor_file import unpack as unpack_actor  # Numba, which the moving agent needs not

        card = unpack_actor(blob, where).card
        return PolicyEntry(sha256=sha256, kind="osds", model=card.model, scenario=card.scenario)
    except (InputError, SafetensorError, KeyError, AttributeError, ValueError) as exc:
        raise InputError(f"this is no policy, or damaged: {exc}") from exc
