"""Which plan a stream should run under: what its policy decides, what measurements say of it, what it is ordered.

Pure: told of frames, plans and changes, it answers proposals; whoever asks carries them out between frames. A plan
that was taken because it should be better is judged by the frames that follow: if they take longer than those before,
under conditions that have not changed, the plan before comes back and this one is not taken again while they last.
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from distredge.plans.plan import BoundPlan
from distredge.runtime.conductor import EpochBegun, FrameDone, same
from distredge.runtime.policy import Policy
from distredge.runtime.replan import GAIN
from distredge.runtime.watch import Situation

SETTLING = 3
"""Frames of a new plan by which it is not judged: some were sent while the old one was in force."""

JUDGED = 25
"""So many of the frames after them decide whether it stays."""

COMPARED = 5
"""So many frames of the plan before must be known to judge it by."""

RECENT = 40
"""Frames that tell how long one takes now."""

WORSE = 0.05
"""A plan is given up if frames take longer by so much: more than two medians of the same differ by chance."""

Source: TypeAlias = Literal["first", "crew", "policy", "search", "controller", "rollback"]
"""Who had the idea of a plan: `crew` is whoever was left when somebody was lost."""


@dataclass(frozen=True)
class Proposal:
    """A plan to change to, whose idea it is, why, and the latency that it should have (None: unknown)."""

    bound: BoundPlan
    source: Source
    reason: str
    latency_ms: float | None = None


class Steering:
    """See the module; for one stream."""

    def __init__(self, policy: Policy | None = None) -> None:
        self.policy = policy
        self.pinned = False
        self.current: Proposal | None = None
        self._epoch = 0
        self._taken: dict[int, Proposal] = {}
        self._before: Proposal | None = None
        self._before_ms: float | None = None
        self._refused: list[BoundPlan] = []
        self._settling = 0
        self._recent: deque[float] = deque(maxlen=RECENT)

    def taken(self, epoch: int, proposal: Proposal) -> None:
        """A proposal will come into force as this epoch."""
        self._taken[epoch] = proposal

    def begun(self, told: EpochBegun) -> Proposal:
        """A plan is in force; whose idea it was."""
        first: Source = "crew" if self._epoch else "first"
        proposal = self._taken.pop(told.epoch, Proposal(told.bound, first, told.reason))
        self._taken = {epoch: taken for epoch, taken in self._taken.items() if epoch > told.epoch}
        is_choice = proposal.source in ("policy", "search", "controller") and not self.pinned
        self._before = self.current if is_choice else None
        self._before_ms = statistics.median(self._recent) if is_choice and len(self._recent) >= COMPARED else None
        self.current, self._epoch, self._settling = proposal, told.epoch, SETTLING
        self._recent.clear()
        return proposal

    def done(self, frame: FrameDone) -> None:
        """A frame is done."""
        if frame.epoch != self._epoch:
            return
        if self._settling:
            self._settling -= 1
        else:
            self._recent.append((frame.done_s - frame.started_s) * 1000.0)

    def changed(self) -> None:
        """The world has changed: what was measured before says nothing of it, and no plan is refused any more."""
        self._recent.clear()
        self._refused.clear()
        self._before = self._before_ms = None

    def accepts(self, bound: BoundPlan) -> bool:
        """Whether a plan may be changed to of one's own accord."""
        return not self.pinned and not any(same(bound, refused) for refused in self._refused)

    def decide(self, situation: Situation, mbps: Mapping[str, float]) -> Proposal | None:
        """What the policy would rather do, if by its own account that is enough better to be worth a change."""
        if self.policy is None or self.current is None or self.pinned:
            return None
        found = self.policy.decide(situation, mbps)
        now_ms = self.policy.latency_ms(self.current.bound, situation, mbps)
        if found is None or now_ms is None or same(found[0], self.current.bound) or not self.accepts(found[0]):
            return None
        bound, latency_ms = found
        if latency_ms > (1.0 - GAIN) * now_ms:
            return None
        reason = f"the policy expects {latency_ms:.1f} ms, {now_ms:.1f} ms with the plan in force"
        return Proposal(bound, "policy", reason, latency_ms)

    def verdict(self) -> Proposal | None:
        """Back to the plan before, if the one in force has turned out worse."""
        if self._before is None or self._before_ms is None or self.current is None or len(self._recent) < JUDGED:
            return None
        now_ms, before_ms, before, failed = statistics.median(self._recent), self._before_ms, self._before, self.current
        self._before = self._before_ms = None
        if now_ms <= (1.0 + WORSE) * before_ms:
            return None
        self._refused.append(failed.bound)
        reason = f"a frame took {before_ms:.1f} ms before, {now_ms:.1f} ms since"
        return Proposal(before.bound, "rollback", reason, before_ms)
