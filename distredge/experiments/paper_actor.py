"""The paper's agent for a network that changes (section V-F): trained, and trained on after the partition has moved."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from distredge.errors import needing
from distredge.partitioning.lcpss import ALPHA, SAMPLES, lcpss
from distredge.planners.base import Task
from distredge.simulate.simulator import Simulator

if TYPE_CHECKING:
    from distredge.agents.actor_file import Actor


@dataclass(frozen=True, eq=False)
class Trained:
    """The actor of the best episode, the partition that it splits, and the state of both networks."""

    locations: tuple[int, ...]
    actor: Actor
    networks: dict[str, Any]


def train_on(task: Task, episodes: int, before: Trained | None = None) -> Trained:
    """LC-PSS, then so many episodes of Algorithm 2 on the task; the networks go on from what they were before.

    A fine-tuning explores as a training does: the paper says only that the actor is fine-tuned.
    """
    with needing("training an agent", "train"):
        from distredge.agents.osds import quiet_torch
        from distredge.agents.settings import load_settings
        from distredge.agents.training import Training
        from distredge.agents.watch import Watch
    settings = load_settings("paper").model_copy(update={"episodes": episodes})
    scheme = lcpss(task.graph, len(task.scenario.providers), ALPHA, SAMPLES, task.rng)
    simulator = Simulator(task.graph, task.scenario, scheme, task.costs)
    with quiet_torch(int(task.rng.integers(2**63))):
        training = Training(simulator, settings, task.rng, None, None, lambda share, ms: None, Watch())
        training.begin(None)
        if before is not None:
            training.agent.policy.load_state_dict(before.networks)
        result = training.run()
        networks = {name: value.clone() for name, value in training.agent.policy.state_dict().items()}
    return Trained(scheme.locations, result.actor, networks)
