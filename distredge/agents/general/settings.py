"""Settings of the general agent and of its training: data, read from `agents/general-*.yaml` or the user's own file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from distredge.agents.presets import load_preset
from distredge.config import Frozen

Models = Annotated[tuple[str, ...], Field(min_length=1)]


class Network(Frozen):
    """Sizes of the network."""

    width: int = Field(ge=8, le=512, description="of a token inside")
    heads: int = Field(ge=1, le=16, description="of each attention; they share the width")
    hidden: int = Field(ge=8, le=2048, description="width between the two layers that see a token by itself")
    blocks: int = Field(ge=1, le=8)

    @model_validator(mode="after")
    def _heads_divide_width(self) -> Network:
        if self.width % self.heads:
            raise ValueError("heads must divide width")
        return self


class Teacher(Frozen):
    """Short annealing of the best plan known of a cluster: what it finds is what the network is drawn to.

    Evaluations are for each pair of a volume and a provider; warmth is the starting temperature over the latency.
    """

    first_steps: int = Field(ge=1, description="evaluations from the best proportional plan")
    first_warmth: float = Field(gt=0, lt=1)
    more_steps: int = Field(ge=1, description="evaluations in every round, from the best plan so far, the agent's too")
    more_warmth: float = Field(gt=0, lt=1)


class Settings(Frozen):
    """Everything that decides how the agent is trained, but the seed."""

    network: Network
    models: Models = Field(description="of the zoo, trained on")
    held_out: Models = Field(description="of the zoo, never trained on: what the figures are of")
    schemes: int = Field(ge=1, description="partition schemes of each model")
    steps: int = Field(ge=1, description="of the training; with a time budget it ends when that is spent, if earlier")
    groups: int = Field(ge=1, description="pairs of a scheme and a number of providers in a step")
    clusters: int = Field(ge=1, description="of each group")
    rounds: int = Field(ge=1, description="times that the agent improves on each cluster's plan, learning each time")
    many: float = Field(ge=0, le=1, description="part of the groups with 9 to 16 providers; the others have 2 to 8")
    ordered: float = Field(ge=0, le=1, description="part of the clusters with the strongest in the middle")
    best_first: float = Field(ge=0, le=1, description="part that begin with the best proportional plan, not with any")
    teacher: Teacher
    share_weight: float = Field(gt=0, description="of the error in shares, against that in who takes part")
    learning_rate: float = Field(gt=0, lt=1, description="Adam's, at its highest")
    warm_up: int = Field(ge=1, description="steps in which it rises; then it falls as a cosine to a fiftieth")
    weight_decay: float = Field(ge=0, lt=1)
    judge_every: int = Field(ge=1, description="steps between looks at clusters and models not trained on")
    judge_cases: int = Field(ge=1, description="clusters that are looked at")

    @model_validator(mode="after")
    def _held_out_apart(self) -> Settings:
        both = sorted({*self.models} & {*self.held_out})
        if both:
            raise ValueError(f"{', '.join(both)} cannot be trained on and held out")
        return self


def load_settings(name: str | Path) -> Settings:
    """Shipped settings (`default`), or a YAML file; raises `UnknownNameError` or `InputError`."""
    return load_preset(Settings, "general", name)
