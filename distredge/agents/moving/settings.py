"""Hyper-parameters of the agent for a moving network: data, read from `agents/moving-*.yaml` or a user's file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from distredge.agents.presets import load_preset
from distredge.config import Frozen, Number


def _rising(pair: tuple[float, float]) -> tuple[float, float]:
    if pair[0] > pair[1]:
        raise ValueError(f"should go from low to high, got {list(pair)}")
    return pair


Positive = Annotated[tuple[Annotated[Number, Field(gt=0)], Annotated[Number, Field(gt=0)]], AfterValidator(_rising)]
"""From, to; both above 0."""

NotNegative = Annotated[tuple[Annotated[Number, Field(ge=0)], Annotated[Number, Field(ge=0)]], AfterValidator(_rising)]
"""From, to; none below 0."""


class Ranges(Frozen):
    """The conditions that an agent is made for."""

    mbps: Positive = Field(description="rate of each access link, log-uniform")
    slowdown: Positive = Field(description="of each provider, the least for half of them, else log-uniform")
    io_ms: NotNegative = Field(description="delay of a message into each provider's memory, uniform")
    links_only: float = Field(ge=0, le=1, description="part of the conditions in which nothing moves but the rates")


class Noise(Frozen):
    """How wrong the conditions are that the agent is told: the world has others, log-normal around them."""

    estimate_sigma: float = Field(ge=0, le=2, description="of a link rate's logarithm")
    compute_sigma: float = Field(ge=0, le=2, description="of a slowdown's logarithm")
    risk: float | None = Field(
        gt=0, lt=1, description="critic predicts this quantile of the latency; null: the mean of its logarithm"
    )

    @property
    def any(self) -> bool:
        """Whether the world differs from what is told."""
        return self.estimate_sigma > 0 or self.compute_sigma > 0


class LibrarySettings(Frozen):
    """How whole plans are searched for."""

    screens: int = Field(ge=1, description="conditions for which all schemes and orders are tried at the beginning")
    rounds: int = Field(ge=1, description="each with fresh conditions")
    conditions: int = Field(ge=1, description="in a round: for each, one of its best plans is varied and annealed")
    steps: int = Field(ge=1, description="evaluations of that")
    try_on: int = Field(ge=1, description="conditions on which all plans are tried when it is decided which stay")
    keep: int = Field(ge=2, le=4096, description="plans in the library at most")


class CriticSettings(Frozen):
    """The critic: a plan's latency as the largest of some linear forms of the conditions."""

    pieces: int = Field(ge=1, le=256, description="linear forms of a plan")
    slopes_at: int = Field(ge=1, description="conditions at which the simulator's slopes are taken to begin with")
    conditions: int = Field(ge=2, description="sampled for the training")
    unsorted: float = Field(
        ge=0, le=1, description="part of them in which interchangeable providers do not stand exactly in order"
    )
    steps: int = Field(ge=0, description="gradient steps")
    batch: int = Field(ge=1)
    learning_rate: float = Field(gt=0, description="Adam's, in ms for a unit of a feature; falls to 2 % of it")
    relevant: float = Field(
        gt=0, description="a plan slower than the best by this share weighs 1/e times as much in the loss"
    )


class ActorSettings(Frozen):
    """The actor: proposes a point in an embedding of plans, whose nearest plans the critic then judges."""

    layers: tuple[Annotated[int, Field(ge=1, le=4096)], ...] = Field(min_length=1)
    dimensions: int = Field(ge=1, le=64, description="of the embedding")
    cap: float = Field(gt=0, description="of a plan's logarithm of latency over the best, before the embedding")
    candidates: int = Field(ge=1, description="plans next to the proposal that the critic judges")
    steps: int = Field(ge=0, description="gradient steps")
    batch: int = Field(ge=1)
    learning_rate: float = Field(gt=0, lt=1, description="Adam's; falls to 2 % of it")


class MovingSettings(Frozen):
    """Everything that decides how an agent is pre-trained, but the seed."""

    ranges: Ranges
    noise: Noise
    library: LibrarySettings
    critic: CriticSettings
    actor: ActorSettings


def load_moving_settings(name: str | Path = "default") -> MovingSettings:
    """A shipped preset (`default`), or a YAML file; raises `UnknownNameError` or `InputError`."""
    return load_preset(MovingSettings, "moving", name)
