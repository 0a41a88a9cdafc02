"""Keeps what decides in step with what is stored."""

from __future__ import annotations

import logging
import re
from contextlib import suppress

from pydantic import ValidationError

from distredge.control.schema import DecisionRequest
from distredge.controller.core import Core
from distredge.controller.decisions import Decider
from distredge.controller.library import read_policy
from distredge.controller.store import PolicyEntry
from distredge.errors import InputError
from distredge.scenario import Scenario, load_scenario

log = logging.getLogger(__name__)


class Policies:
    """The stored policies, of which `decider` knows those by which it can decide. May be used by several threads."""

    def __init__(self, core: Core, decider: Decider) -> None:
        self.decider, self._core = decider, core
        self._known: set[tuple[str, bool]] = set()
        """Hash, and whether its scenario was stored."""

    def add(self, blob: bytes) -> PolicyEntry:
        """Store a policy and decide by it at once; raises `InputError` if that cannot be."""
        entry = read_policy(blob)
        is_stored = entry.scenario in self._core.scenarios()
        self._take(entry, blob, is_stored)
        self._known.add((entry.sha256, is_stored))
        return self._core.add_policy(blob)

    def refresh(self) -> None:
        """Take in those that are new, as re-planning makes them, and those whose scenario has become known."""
        stored = self._core.scenarios()
        for entry in self._core.policies():
            is_stored = entry.scenario in stored
            if (entry.sha256, is_stored) in self._known:
                continue
            self._known.add((entry.sha256, is_stored))
            try:
                self._take(entry, self._core.policy(entry.sha256), is_stored)
            except InputError as exc:
                log.warning("no decisions by the policy %s: %s", entry.sha256[:12], exc)

    def _take(self, entry: PolicyEntry, blob: bytes, is_stored: bool) -> None:
        """Decide by it once already: what that compiles and loads must not keep the first who asks waiting."""
        self.decider.add(blob, self._usual(entry.scenario, is_stored))
        with suppress(InputError, ValidationError):  # some decide no whole plan, or have a name too long to ask for
            self.decider.decide(DecisionRequest(model=entry.model, scenario=entry.scenario, policy_sha256=entry.sha256))

    def _usual(self, name: str, is_stored: bool) -> Scenario | None:
        """The stored scenario, or else a shipped one, of this name; None if there is neither."""
        if is_stored:
            return self._core.resolved(self._core.scenario(name))
        try:
            return load_scenario(name) if re.fullmatch(r"[\w-]+", name) else None
        except InputError:
            return None
