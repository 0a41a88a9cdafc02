"""What moves between frames while the devices stay the same: link rates, how slow each device is, its I/O delay."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from distredge.profiles.network import ms_per_byte
from distredge.profiles.wrapped import Slowed
from distredge.scenario import Scenario
from distredge.simulate import kernel
from distredge.simulate.kernel import FloatArray, IntArray, Problem
from distredge.simulate.simulator import Simulator, node_ms


@dataclass(frozen=True, eq=False)
class Conditions:
    """The state of P providers, or of a batch of n such: each array (P,) or (n, P), in the scenario's order.

    `mbps`      rate of each access link, Mbit/s, > 0
    `slowdown`  factor on all that a provider computes over what its profile says (throttling, co-tenants), > 0
    `io_ms`     what writing a message into a provider's memory takes beyond what the scenario says, in ms, >= 0

    The requester's link stays as the scenario has it.
    """

    mbps: FloatArray
    slowdown: FloatArray
    io_ms: FloatArray

    @classmethod
    def of(cls, scenario: Scenario) -> Conditions:
        """What the scenario says: its rates, no slowdown beyond its own, no delay on top."""
        count = len(scenario.providers)
        return cls(np.array([p.bandwidth_mbps for p in scenario.providers]), np.ones(count), np.zeros(count))

    def __len__(self) -> int:
        return len(self.mbps)

    def __getitem__(self, at: int | slice | IntArray | None) -> Conditions:
        """One, or some, of a batch; None makes a batch of one."""
        return Conditions(self.mbps[at], self.slowdown[at], self.io_ms[at])

    def reordered(self, order: tuple[int, ...] | IntArray) -> Conditions:
        """The same with the providers in another order."""
        at = np.asarray(order)
        return Conditions(self.mbps[..., at], self.slowdown[..., at], self.io_ms[..., at])

    def applied(self, scenario: Scenario) -> Scenario:
        """The scenario as it is under these conditions (one, not a batch)."""
        providers = tuple(
            p.model_copy(
                update={
                    "bandwidth_mbps": float(self.mbps[i]),
                    "slowdown": p.slowdown * float(self.slowdown[i]),
                    "io": p.io.model_copy(update={"write_ms": p.io.write_ms + float(self.io_ms[i])}),
                }
            )
            for i, p in enumerate(scenario.providers)
        )
        other = scenario.model_copy(update={"providers": providers})
        factors = [float(f) for f in self.slowdown]
        kinds = {(id(q), f): (q, f) for q, f in zip(scenario.profiles, factors, strict=True)}
        slowed = {key: q if f == 1.0 else Slowed(q, f) for key, (q, f) in kinds.items()}
        other.__dict__["profiles"] = tuple(slowed[id(q), f] for q, f in zip(scenario.profiles, factors, strict=True))
        return other


def under(simulator: Simulator, conditions: Conditions) -> Simulator:
    """The simulator under conditions (one, not a batch), with its tables shared; its `scenario` stays as it was."""
    return simulator.with_problem(
        simulator.problem._replace(
            node_ms=node_times(simulator.scenario, conditions[None])[0],
            slowdown=np.ascontiguousarray(conditions.slowdown),
        )
    )


def evaluate_under(simulator: Simulator, conditions: Conditions, cuts: IntArray) -> FloatArray:
    """Latency in ms, (n, batch), of `cuts` (batch, volumes, providers + 1) under each of n conditions.

    Raises `PlanError` as `Simulator.evaluate` does.
    """
    array, out = simulator.check(cuts), np.empty((len(conditions), len(cuts)))
    own: Problem = simulator.problem._replace(
        node_ms=np.empty_like(simulator.problem.node_ms), slowdown=np.empty(simulator.providers)
    )
    slowdown = np.ascontiguousarray(conditions.slowdown, dtype=np.float64)
    kernel.evaluate_under(own, node_times(simulator.scenario, conditions), slowdown, array, out)
    return out


def node_times(scenario: Scenario, conditions: Conditions) -> FloatArray:
    """(n, 6, P + 1): `Problem.node_ms` of a scenario under each of n conditions."""
    times = np.repeat(node_ms(scenario)[None], len(conditions), axis=0)
    times[:, kernel.UP_BYTE, :-1] = times[:, kernel.DOWN_BYTE, :-1] = ms_per_byte(1.0) / conditions.mbps
    times[:, kernel.WRITE, :-1] += conditions.io_ms
    return times
