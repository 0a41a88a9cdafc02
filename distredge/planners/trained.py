"""What trained agents decide, as planners: no search."""

from __future__ import annotations

from pathlib import Path

from distredge.agents.actor_file import load_agent
from distredge.agents.general.clusters import preferred_order
from distredge.agents.general.policy import GeneralPolicy, propose, shipped_policy
from distredge.planners.base import Planner, Strategy, Task, simulator_for
from distredge.planners.candidates import candidate_schemes
from distredge.plans.scheme import PartitionScheme

GENERAL = "general"
"""Names the shipped agent for any cluster where a trained agent's file may be named."""


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


class GeneralAgent(Planner):
    """The agent for any cluster: the answer of last resort, where none was trained and there is no time to search."""

    name = "osds"
    weighs = True

    def __init__(self, policy: GeneralPolicy | None = None) -> None:
        self._policy = policy or shipped_policy()

    def plan(self, task: Task) -> Strategy:
        """The best that it proposes under LC-PSS's schemes, the providers as given or the strongest in the middle."""
        found = []
        for locations in candidate_schemes(task):
            scheme = PartitionScheme(task.graph, locations)
            given = simulator_for(task, scheme)
            order = tuple(int(i) for i in preferred_order(given))
            for simulator in (given, simulator_for(task, scheme, task.scenario.reordered(order))):
                cuts = propose(simulator, 1, self._policy)[0]
                found.append((float(simulator.score(cuts[None])[0]), simulator, cuts))
        _, simulator, cuts = min(found, key=lambda item: item[0])
        return Strategy(simulator.scheme, simulator.scenario, cuts, float(simulator.evaluate(cuts[None])[0]))


def trained(name: str) -> Planner:
    """The agent for any cluster (`general`), or that of a file."""
    return GeneralAgent() if name == GENERAL else TrainedOsds(Path(name))
