"""What one frame costs under a plan: latency, energy, money, reliability, redundant work, memory.

The formulas are those of the survey of 2026, section 2.3 (Latency, Energy, Cost and Reliability Modeling). Where it
leaves something open, or has in mind another kind of plan:

- Energy `E = E_c + E_t`: a provider's whole power while it computes, its radio's power while its link is busy with the
  frame, sending *or receiving* (the survey counts the sender). The requester counts nothing: nobody says what it draws.
  What the providers that take part draw while they wait is a figure of its own, as the survey has no such term.
- Cost `C = C_c + C_t`: the price of a provider's time while it computes, of its link's while that is busy, either way.
- Reliability: the survey has a factor for each partition and each hop. Here every provider that takes part, and its
  link, counts once: they work or fail for the whole frame.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from distredge.geometry.interval import Interval
from distredge.geometry.split import SplitPart, Volume
from distredge.plans.plan import BoundPlan
from distredge.profiles.network import ms_per_byte
from distredge.profiles.power import Power
from distredge.profiles.profile import Profile
from distredge.scenario import Provider, Scenario
from distredge.simulate.memory import memory_mb
from distredge.simulate.timeline import Timeline

HOUR_MS = 3.6e6
"""Milliseconds."""

KWH_J = 3.6e6
"""Joules."""


def compute_s(operations: float, operations_per_s: float) -> float:
    """A summand of `L_c`: work by computational power."""
    return operations / operations_per_s


def transfer_s(payload_bytes: float, mbps: float) -> float:
    """A summand of `L_t`: bytes by bandwidth."""
    return payload_bytes * 8.0 / (mbps * 1e6)


def queue_s(arrivals_per_s: float, services_per_s: float) -> float:
    """A summand of `L_que`: expected time in an M/M/1 queue, service included; infinite if more arrives than leaves."""
    return 1.0 / (services_per_s - arrivals_per_s) if services_per_s > arrivals_per_s else math.inf


def over_time(rates_and_times: Iterable[tuple[float, float]]) -> float:
    """`E_c`, `E_t` (watts, s -> J), `C_c` or `C_t` (price of a second, s): the sum of rate by time."""
    return sum(rate * time for rate, time in rates_and_times)


def reliability(failure_probabilities: Iterable[float]) -> float:
    """`R`: the product of `1 - p` over the nodes and links that a frame needs."""
    return math.prod(1.0 - p for p in failure_probabilities)


@dataclass(frozen=True)
class Quality:
    """What a frame costs; None where a provider that takes part lacks a figure.

    `idle_j`, drawn while waiting, is not part of `energy_j`. `memory_mb` is by provider that takes part, in 10^6 bytes.
    """

    latency_ms: float
    energy_j: float | None
    idle_j: float | None
    cost: float | None
    reliability: float | None
    redundant_share: float
    memory_mb: dict[str, float]


def quality(bound: BoundPlan, timeline: Timeline, scenario: Scenario) -> Quality:
    """What a frame costs under a plan, of which `timeline` is the trace on the scenario."""
    compute_ms, air_ms = busy_ms(timeline, scenario)
    taking = {p.name: (p, power(p, q)) for p, q in zip(scenario.providers, scenario.profiles, strict=True)}
    taking = {name: pair for name, pair in taking.items() if name in compute_ms}
    draws = {name: w for name, (_, w) in taking.items() if w is not None}
    priced = {name: p.price_per_hour for name, (p, _) in taking.items() if p.price_per_hour is not None}
    chances = [p.failure_probability for p, _ in taking.values() if p.failure_probability is not None]
    links = [p.link_failure_probability for p, _ in taking.values()]
    energy_j = idle_j = cost = None
    if len(draws) == len(taking):
        energy_j = over_time((w.active_w, compute_ms[n] / 1000) for n, w in draws.items())
        energy_j += over_time((w.radio_w, air_ms[n] / 1000) for n, w in draws.items())
        idle_j = over_time((w.idle_w, (timeline.latency_ms - compute_ms[n]) / 1000) for n, w in draws.items())
    if len(priced) == len(taking):
        cost = over_time((price, compute_ms[n] / HOUR_MS) for n, price in priced.items())
        cost += over_time((p.link_price_per_hour, air_ms[n] / HOUR_MS) for n, (p, _) in taking.items())
    return Quality(
        latency_ms=timeline.latency_ms,
        energy_j=energy_j,
        idle_j=idle_j,
        cost=cost,
        reliability=reliability([*chances, *links]) if len(chances) == len(taking) else None,
        redundant_share=redundant_share(bound),
        memory_mb={name: memory_mb(bound, name) for name in taking},
    )


def busy_ms(timeline: Timeline, scenario: Scenario) -> tuple[dict[str, float], dict[str, float]]:
    """How long each provider computes, and how long its link is busy; only providers that do are named."""
    compute_ms: dict[str, float] = defaultdict(float)
    air_ms: dict[str, float] = defaultdict(float)
    for work in timeline.work:
        compute_ms[work.provider] += work.compute_ms
    byte_ms = {p.name: ms_per_byte(p.bandwidth_mbps) for p in scenario.providers}
    for message in timeline.transfers:
        for name in (message.sender, message.receiver):
            air_ms[name] += message.payload_bytes * byte_ms.get(name, 0.0)
    return compute_ms, air_ms


def redundant_share(bound: BoundPlan) -> float:
    """Multiply-accumulates beyond those of one provider that computes everything, as a share of those; heads apart."""
    done = alone = 0.0
    for v, volume in enumerate(bound.volumes):
        parts = [part for i in range(len(bound.plan.providers)) if (part := bound.part(v, i))]
        done += sum(part_macs(volume, part) for part in parts)
        alone += part_macs(volume, volume.part(Interval(0, volume.height)))
    return max(0.0, done / alone - 1.0) if alone else 0.0


def part_macs(volume: Volume, part: SplitPart) -> float:
    """Multiply-accumulates of a split-part, halo included."""
    return sum(layer.macs / layer.height * rows.size for layer, rows in zip(volume.layers, part.rows, strict=True))


def power(provider: Provider, profile: Profile) -> Power | None:
    """What a provider draws: as its scenario says, else its profile; None if neither does."""
    if provider.power is None:
        return profile.power
    return Power(provider.power.idle_w, provider.power.active_w, provider.power.radio_w)
