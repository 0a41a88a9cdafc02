"""Keeps a stream under the plan that it should have: asks, at the right moments, all who may know a better one.

Three do. The policy answers at once, when the world has changed and every second (small drift). The improver looks with
the simulator, in a process of its own, when the world has changed. A controller gives orders. What is taken becomes the
conductor's next epoch. Its methods are called with the session's lock held.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from distredge.control.schema import Orders, Telemetry
from distredge.plans.plan import BoundPlan, Plan
from distredge.runtime.account import Account
from distredge.runtime.conductor import Conductor, EpochBegun, FrameDone, Offer, same
from distredge.runtime.policy import Policy
from distredge.runtime.replan import Better, Improvement, Improver
from distredge.runtime.steering import Proposal, Steering
from distredge.runtime.watch import Situation, Watch

DECIDE_S = 1.0
"""The policy is asked so often."""

log = logging.getLogger(__name__)


class Helm:
    """See the module. `found` is called by another thread, without the lock, with what the improver finds.

    Without an improver the simulator is not asked.
    """

    def __init__(
        self,
        first: BoundPlan,
        watch: Watch,
        improver: Improver | None,
        policy: Policy | None,
        found: Callable[[Better], None],
        deadline_ms: float | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.steering = Steering(policy)
        self.account = Account(clock(), deadline_ms)
        self.orders = Orders()
        self._first, self._watch, self._improver, self._clock = first, watch, improver, clock
        self._improvement = Improvement(improver, found) if improver else None
        self._decide_s = 0.0
        self._wanted: tuple[Offer, Proposal] | None = None
        """What is to come into force as soon as it can."""

    def begin(self, conductor: Conductor) -> None:
        """The first plan is being made ready for."""
        self._conductor = conductor
        if self._improver:
            self._watch.pacemaker.expect(1, self._improver.expected(self._first))
        predicted = self._first.plan.predicted
        self.steering.taken(
            1, Proposal(self._first, "first", "the first plan", predicted.latency_ms if predicted else None)
        )
        if self._improvement and self.steering.policy:
            self._improvement.warm_up()

    def told(self, told: object) -> None:
        """A plan is in force, or a frame is done."""
        if isinstance(told, EpochBegun):
            self.account.begun(told, self.steering.begun(told))
        elif isinstance(told, FrameDone):
            self.steering.done(told)
            self.account.done(told)

    def situation_changed(self, situation: Situation) -> None:
        """A better plan may be looked for."""
        changes = self._watch.take_changes()
        self.account.found(changes)
        if not self.steering.pinned:
            self._wanted = None
        for change in changes:
            log.info(
                "the %s of %s went from %.3g to %.3g", change.kind, change.node, change.before, change.after,
                extra={"epoch": self.account.epoch, "peer": change.node},
            )  # fmt: skip
        self.steering.changed()
        self._decide(situation)
        if self._improvement and not self.steering.pinned:
            policy = self.steering.policy
            proposed = policy.decide(situation, self._watch.rates()) if policy else None
            self._improvement.look(situation, self._conductor.bound, proposed[0] if proposed else None)

    def tick(self) -> None:
        """Whatever has become due."""
        now = self._clock()
        if proposal := self.steering.verdict():
            self._wanted = self._offer(proposal), proposal
        bound = self._conductor.bound
        if self._wanted and bound and not same(self._wanted[1].bound, bound):
            self._take(*self._wanted)
        if now >= self._decide_s:
            self._decide(self._conductor.situation())

    def better(self, found: Better) -> None:
        """What the improver has found; it is for a situation that may be past."""
        if self.steering.accepts(found.bound):
            offer = Offer(found.bound, found.expected_ms, found.reason, found.situation)
            self._take(offer, Proposal(found.bound, "search", found.reason, found.latency_ms))

    def obey(self, orders: Orders, plan: Plan | None, policy: Policy | None) -> None:
        """Carry out a controller's orders; a plan that cannot come into force now does so when it can.

        Raises `PlanError` for a plan of another model.
        """
        bound = plan.bind(self._first.graph) if plan else None
        if policy is not None:
            self.steering.policy = policy
        self.steering.pinned, self.orders, self._wanted = orders.pinned, orders, None
        if bound is not None:
            predicted = bound.plan.predicted.latency_ms if bound.plan.predicted else None
            proposal = Proposal(bound, "controller", orders.reason, predicted)
            self._wanted = self._offer(proposal), proposal

    def telemetry(self) -> Telemetry:
        """All since the last time this was asked, to be told."""
        now, bound, current = self._clock(), self._conductor.bound, self.steering.current
        return self.account.told(
            now,
            time.time(),
            (bound or self._first).plan,
            current.latency_ms if current else None,
            self._conductor.situation(),
            self._watch.rates(),
            self.orders.version,
        )

    def close(self) -> None:
        """End what was started."""
        if self._improvement:
            self._improvement.stop()

    def _decide(self, situation: Situation) -> None:
        """Ask the policy."""
        self._decide_s = self._clock() + DECIDE_S
        if proposal := self.steering.decide(situation, self._watch.rates()):
            self._take(self._offer(proposal), proposal)

    def _offer(self, proposal: Proposal) -> Offer:
        """A proposal for the conductor; takes as long as one simulated frame."""
        expected = self._improver.expected(proposal.bound) if self._improver else {}
        return Offer(proposal.bound, expected, proposal.reason)

    def _take(self, offer: Offer, proposal: Proposal) -> None:
        epoch = self._conductor.offer(offer)
        if epoch is None:
            return
        if self._wanted and proposal is self._wanted[1] and not self.steering.pinned:
            self._wanted = None
        if epoch > self.account.epoch:
            self.steering.taken(epoch, proposal)
