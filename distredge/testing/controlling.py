"""A stream on four Nanos as a controller sees it, without anything that runs: for tests of the controller."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from distredge.control.schema import Latencies, PlanChange, Registration, StreamOpening, Telemetry, plan_sha256
from distredge.controller.jobs import Job, Outcome
from distredge.plans.plan import ModelRef, Plan, VolumePlan
from distredge.scenario import Provider, Scenario

NANOS = ("nano-0", "nano-1", "nano-2", "nano-3")
MBPS = 50.0


def four_nanos(profile: str = "jetson-nano") -> Scenario:
    """Four Nanos, 50 Mbit/s each."""
    providers = tuple(Provider(name=name, profile=profile, bandwidth_mbps=MBPS) for name in NANOS)
    return Scenario(name="four-nanos", providers=providers)


def some_plan(seed: int, providers: tuple[str, ...] = NANOS, model: ModelRef | None = None) -> Plan:
    """A plan that differs from those of other seeds; of a model that is nowhere unless one is given."""
    height = 8 * len(providers)
    cuts = tuple(8 * i for i in range(len(providers))) + (height,)
    return Plan(
        method="equal",
        seed=seed,
        model=model or ModelRef(name="nowhere", sha256="0" * 64, input_shape=(1, 3, height, 8)),
        scenario="four-nanos",
        providers=providers,
        volumes=(VolumePlan(layers=("conv",), cuts=cuts),),
        head_provider=providers[0],
    )


def opening(plan: Plan | None = None, requester: str = "camera") -> StreamOpening:
    """A requester that begins under a plan, by default that of seed 0."""
    return StreamOpening(requester=requester, scenario=four_nanos(), plan=plan or some_plan(0))


def registration(**values: Any) -> Registration:
    """A provider's."""
    return Registration(**{"protocol": 3, "version": "1.0", **values})


def telemetry(sequence: int, at_s: float, plan: Plan | None = None, **values: Any) -> Telemetry:
    """A message under a plan, by default that of seed 0: all are there and nothing is slow, unless `values` say so."""
    usual: dict[str, Any] = {
        "sequence": sequence,
        "at_s": at_s,
        "span_s": 0.5,
        "epoch": 0,
        "plan_sha256": plan_sha256(plan or some_plan(0)),
        "order_version": 0,
        "latency": Latencies(frames=5, p50=100.0, p90=110.0, p99=120.0, ips=10.0),
        "present": NANOS,
    }
    return Telemetry(**{**usual, **values})


def change(plan: Plan, epoch: int, at_s: float, source: str = "controller") -> PlanChange:
    """A plan came into force."""
    return PlanChange.model_validate(
        {
            "at_s": at_s,
            "epoch": epoch,
            "first_frame": 10 * epoch,
            "plan_sha256": plan_sha256(plan),
            "source": source,
            "reason": f"by {source}",
        }
    )


@dataclass
class VirtualClock:
    """Stands still unless it is set forward."""

    now_s: float = 1_000_000.0

    def __call__(self) -> float:
        """Unix seconds."""
        return self.now_s


@dataclass
class FakeReplanner:
    """Keeps jobs until they are answered by hand."""

    jobs: list[Job] = field(default_factory=list)
    done: list[Callable[[Outcome | str], None]] = field(default_factory=list)

    def start(self, job: Job, done: Callable[[Outcome | str], None]) -> None:
        """See `Replanner`."""
        self.jobs.append(job)
        self.done.append(done)

    def close(self) -> None:
        """See `Replanner`."""

    def answer(self, plan: Plan, latency_ms: float, current_ms: float) -> None:
        """The newest job's plan has been found."""
        outcome = Outcome(
            plan=plan,
            latency_ms=latency_ms,
            current_ms=current_ms,
            policy=None,
            methods={"search": latency_ms, "offload": float("inf")},
            training=((0.5, 120.0), (1.0, latency_ms)),
            seconds=2.5,
            how="found by a test",
        )
        self.done[-1](outcome)
