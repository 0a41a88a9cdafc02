"""Every error that DistrEdge raises on purpose, in one tree.

    DistrEdgeError                    caught by the command line, printed as one line
    +-- InputError                    what the user gave cannot be used            exit code 2
    |   +-- UnknownNameError          no such model, scenario, profile, method
    |   +-- ModelError                an ONNX file that cannot be planned
    |   |   +-- UnsupportedOperatorError   an operator that cannot be split, with its node
    |   +-- PlanError                 a plan that does not fit its model, scenario or rule
    |   +-- ScenarioError             a malformed scenario
    |   +-- ProfileError              a malformed profile
    |   |   +-- ProfileMissingError   a layer that a measured profile does not know
    |   +-- DependencyError           an optional dependency that is not installed
    +-- RunError                      something failed while it ran                exit code 1
        +-- ProviderLostError         a provider is not there, or stopped answering
        +-- VerificationError         the distributed result differs from the undivided one

The message of each says what to do about it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class DistrEdgeError(Exception):
    """Base of all; `exit_code` is what the command line returns."""

    exit_code = 1


class InputError(DistrEdgeError):
    """What the user gave cannot be used."""

    exit_code = 2


class UnknownNameError(InputError):
    """A name that stands for nothing; the message names the nearest ones that do."""

    def __init__(self, kind: str, name: str, known: Iterable[str], hint: str = "") -> None:
        names = sorted(known)
        near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
        guess = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(names)}"
        super().__init__(f"unknown {kind} '{name}': {guess}{' ' + hint if hint else ''}")


class ModelError(InputError):
    """An ONNX file that cannot be planned."""


class UnsupportedOperatorError(ModelError):
    """An operator that cannot be split by rows although convolutions follow it."""


class PlanError(InputError):
    """A plan, or cuts, that do not fit their model, scenario or rule."""


class ScenarioError(InputError):
    """A malformed scenario."""


class ProfileError(InputError):
    """A malformed profile."""


class ProfileMissingError(ProfileError):
    """A measured profile that does not hold a layer."""


class DependencyError(InputError):
    """An optional dependency is needed and not installed."""

    def __init__(self, what: str, package: str, extra: str) -> None:
        super().__init__(f"{what} needs {package}: pip install 'distredge[{extra}]'")


@contextmanager
def needing(what: str, extra: str) -> Iterator[None]:
    """Around imports: a library that is missing is a `DependencyError`, as `what` needs the extra that has it."""
    try:
        yield
    except ModuleNotFoundError as exc:
        if (exc.name or "").startswith("distredge"):
            raise
        raise DependencyError(what, str(exc.name), extra) from exc


class RunError(DistrEdgeError):
    """Something failed while it ran."""


class ProviderLostError(RunError):
    """A provider is not there, or stopped answering."""


class VerificationError(RunError):
    """The distributed result differs from the undivided model's."""
