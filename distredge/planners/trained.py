"""What a trained agent decides, as a planner: no search, only its greedy policy."""

from __future__ import annotations

from pathlib import Path

from distredge.agents.actor_file import load_agent
from distredge.planners.base import Planner, Strategy, Task


class TrainedOsds(Planner):
    """The agent in a file that `distredge train` wrote; raises `InputError` if it is damaged.

    `plan` raises it if the agent was trained for another model or other providers. On other links or profiles than it
    was trained with, its plan is what it is.
    """

    name = "osds"

    def __init__(self, path: Path) -> None:
        self._agent = load_agent(path)

    def plan(self, task: Task) -> Strategy:
        """The plan that the agent makes."""
        simulator = self._agent.simulator(task.graph, task.scenario)
        return Strategy(simulator.scheme, simulator.scenario, *self._agent.actor.rollout(simulator))
