"""What is asked of the re-planner and what it answers: the border of the controller's core and its background work.

The core knows nothing of methods, training or processes, and the re-planner nothing of streams and events.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from distredge.plans.plan import Plan
from distredge.scenario import Scenario


@dataclass(frozen=True)
class Job:
    """A better plan is wanted for a stream, as things are now.

    `mbps` are rates of nodes' access links in Mbit/s and `slowdown` factors on the providers' compute times, both as
    measured: what is not named is as `scenario` says. `present` are the providers that may be used. The scenario has
    its profiles with it, some of which may be in no file: it goes to another process pickled, not as JSON.
    """

    stream: str
    scenario: Scenario
    plan: Plan
    """In force."""
    policy: bytes | None
    """The policy that the requester decides by, as a .safetensors file; None: it has none."""
    present: tuple[str, ...]
    mbps: dict[str, float] = field(default_factory=dict)
    slowdown: dict[str, float] = field(default_factory=dict)
    banned: tuple[Plan, ...] = ()
    """Plans that reality has refused under such conditions: not to be proposed, whatever they are predicted to take."""
    seed: int = 0


@dataclass(frozen=True)
class Outcome:
    """The best plan found, and what it is compared with; all latencies by the simulator under the job's conditions."""

    plan: Plan
    latency_ms: float
    current_ms: float
    """Of the job's plan; infinite if it needs a provider that is not present."""
    policy: bytes | None
    """The fine-tuned policy; None: it stays as it was."""
    methods: dict[str, float]
    """Latency in ms of each method's plan that was tried."""
    training: tuple[tuple[float, float], ...]
    """Of the fine-tuning: (seconds since its start, latency in ms of what the policy decides)."""
    seconds: float
    """That all of it took."""
    how: str
    """Which method made the plan, and from what, in words."""


class Replanner(Protocol):
    """Does jobs in the background; at most one per stream is under way."""

    def start(self, job: Job, done: Callable[[Outcome | str], None]) -> None:
        """Begins; `done` is called once, from another thread, with what was found or, in one line, why nothing was."""

    def close(self) -> None:
        """Ends what is under way; `done` is not called any more."""
