"""Hyper-parameters of the agent: data, read from `agents/osds-*.yaml` or a file of the user's own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError

from distredge.agents.presets import load_preset
from distredge.config import Frozen, validate
from distredge.errors import InputError


class Network(Frozen):
    """A fully connected network with ReLU between its layers, trained by Adam."""

    layers: tuple[Annotated[int, Field(ge=1, le=4096)], ...] = Field(
        min_length=1, description="widths of hidden layers"
    )
    learning_rate: float = Field(gt=0, lt=1, description="Adam's, at the beginning")
    final_learning_rate: float = Field(gt=0, lt=1, description="Adam's at the end; in between it falls geometrically")


class EpsilonNoise(Frozen):
    """Algorithm 2, lines 7 to 13: Gaussian noise with probability epsilon = 1 - (episode * delta_epsilon)^2."""

    kind: Literal["epsilon"]
    delta_epsilon: float = Field(gt=0, lt=1)
    variance: float = Field(gt=0, description="sigma^2 with up to `few_providers` providers")
    variance_many: float = Field(gt=0, description="sigma^2 with more")
    few_providers: int = Field(ge=2)

    def variance_for(self, providers: int) -> float:
        """sigma^2 for a number of providers."""
        return self.variance if providers <= self.few_providers else self.variance_many


class SpreadNoise(Frozen):
    """Gaussian noise of another size in each of the episodes that run together, from `smallest` to `largest`."""

    kind: Literal["spread"]
    smallest: float = Field(gt=0, lt=2, description="standard deviation, in units of the action")
    largest: float = Field(gt=0, lt=2)
    shared: float = Field(ge=0, le=1, description="part of the variance that stays the same throughout an episode")
    sparse_episodes: float = Field(
        ge=0, le=1, description="part of the episodes in which few providers' shares are varied"
    )
    elite_episodes: float = Field(
        ge=0, le=1, description="part of the episodes that vary an elite plan, not the policy's"
    )


class Elites(Frozen):
    """The best distinct plans seen: they bound the critic from below and draw the actor."""

    keep: int = Field(ge=1, le=1024)
    batch: int = Field(
        ge=1, le=4096, description="transitions of elites in a gradient step, beside those of the buffer"
    )
    pull: float = Field(ge=0, description="weight of the actor's distance to the elites' actions")
    closeness: float = Field(
        gt=0, lt=1, description="an elite slower than the best by this share draws the actor 1/e times as much"
    )


class Polish(Frozen):
    """Short annealing of an elite plan: search inside the learning (not in the paper)."""

    every: int = Field(ge=1, description="batches of episodes between polishes")
    runs: int = Field(ge=1, description="elites that are polished")
    steps: int = Field(ge=1, description="evaluations of each")
    warmth: float = Field(gt=0, lt=1, description="starting temperature, as a share of the elite's latency")


class Distillation(Frozen):
    """At the end the actor learns the best plan's decisions by regression, until the greedy policy makes them."""

    steps: int = Field(ge=1, description="gradient steps at most")
    learning_rate: float = Field(gt=0, lt=1)


class Screen(Frozen):
    """Before the training, a short search chooses partition scheme and order of the providers (not in the paper)."""

    share: float = Field(gt=0, lt=1, description="of a time budget; without one, a fixed number of evaluations")
    rounds: int = Field(ge=1, description="rounds of variation when there is no time budget")
    seed_elites: bool = Field(description="whether the agent's elites begin with the plans that the search found")


class Settings(Frozen):
    """Everything that decides how an agent is trained, but the seed. Optional sections: null turns them off."""

    formulation: Literal["default", "even", "paper"] = Field(description="of the MDP, see distredge/envs/encode.py")
    screen: Screen | None = Field(description="null: LC-PSS at alpha 0.75, providers in the scenario's order")
    episodes: int = Field(ge=1, description="in all; with a time budget see `until_budget`")
    until_budget: bool = Field(
        description="with a time budget: train until it is spent, however many episodes that are"
    )
    environments: int = Field(ge=1, le=1024, description="episodes that run together")
    buffer: int = Field(ge=1, le=10_000_000, description="transitions kept, the oldest replaced first")
    batch: int = Field(ge=1, le=65536, description="N_b, transitions of the buffer in a gradient step")
    gradient_steps: int = Field(
        ge=1, description="after every step of all environments, once `batch` transitions are there"
    )
    gamma: float = Field(gt=0, le=1)
    tau: float = Field(gt=0, le=1, description="by which the target networks follow in a gradient step")
    first_actions: float = Field(gt=0, le=1, description="factor on the initial weights of the actor's last layer")
    actor: Network
    critic: Network
    noise: Annotated[EpsilonNoise | SpreadNoise, Field(discriminator="kind")]
    elites: Elites | None = None
    polish: Polish | None = None
    distillation: Distillation | None = None


def load_settings(name: str | Path, changes: Sequence[str] = ()) -> Settings:
    """A shipped preset (`default`, `paper`), or a YAML file; raises `UnknownNameError` or `InputError`.

    Each of `changes` is `KEY=VALUE`: a key with dots for what lies deeper, a value in YAML, for example
    `actor.learning_rate=3e-4` or `polish=null`. Raises `InputError` naming the key and what is allowed.
    """
    settings = load_preset(Settings, "osds", name)
    return changed(settings, changes) if changes else settings


def changed(settings: Settings, changes: Sequence[str]) -> Settings:
    """The settings with some of them changed: see `load_settings`."""
    data = settings.model_dump(mode="json")
    for change in changes:
        key, equals, text = change.partition("=")
        *above, last = key.split(".")
        if not equals or not last:
            raise InputError(f"'{change}' is not of the form KEY=VALUE, such as actor.learning_rate=3e-4")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as exc:
            raise InputError(f"'{change}': the value is not valid YAML") from exc
        at = data
        for name in above:
            if not isinstance(at.get(name), dict):
                at[name] = {}  # a section that was off, or none: what is missing or wrong is said below
            at = at[name]
        at[last] = value
    try:
        return validate(data, Settings, InputError, "the changed settings")
    except InputError as exc:
        raise InputError(f"{exc}{_allowed(exc.__cause__)}") from exc


def _allowed(cause: BaseException | None) -> str:
    """The range of the field that a validation names first, in words."""
    if not isinstance(cause, ValidationError):
        return ""
    part: dict[str, Any] = (schema := Settings.model_json_schema())
    for step in cause.errors()[0]["loc"]:
        choices = [_resolved(schema, c) for c in (part, *part.get("anyOf", ()), *part.get("oneOf", ()))]
        inner = (c["properties"][step] for c in choices if step in c.get("properties", {}))
        part = next(inner, part)  # the tag of a union and the place in a list change nothing
    bounds = [f"{words} {part[name]:g}" for name, words in _BOUNDS.items() if name in part]
    return f" (allowed: {', '.join(bounds)})" if bounds else ""


def _resolved(schema: dict[str, Any], part: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = schema["$defs"][part["$ref"].rsplit("/", 1)[1]] if "$ref" in part else part
    return found


_BOUNDS = {
    "minimum": "at least",
    "exclusiveMinimum": "more than",
    "maximum": "at most",
    "exclusiveMaximum": "less than",
}
