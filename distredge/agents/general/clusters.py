"""Random clusters and partition schemes: what the general agent is trained and judged on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from distredge.model.graph import LayerGraph
from distredge.model.load import load_model
from distredge.partitioning.lcpss import greedy, scorer
from distredge.plans.scheme import PartitionScheme
from distredge.profiles.store import list_profiles
from distredge.scenario import Provider, Requester, Scenario
from distredge.simulate.conditions import Conditions, under
from distredge.simulate.costs import VolumeCosts
from distredge.simulate.kernel import FloatArray, IntArray
from distredge.simulate.simulator import Simulator
from distredge.simulate.starts import capability

MOST_VOLUMES = 14
"""A scheme of more loses some of its locations."""

SCHEME_SAMPLES = 50
"""Random split decisions that LC-PSS averages over here."""

MBPS = (10.0, 500.0)
"""Links are drawn between these, uniformly in the logarithm."""

SLOWDOWN = 0.4
"""Standard deviation of the logarithm of the speeds, where devices are not just the boards."""

IO_MS = (0.05, 2.0)
"""Delay of a message on top, where there is one."""

REQUESTER_MBPS = (50.0, 1000.0)


@dataclass(frozen=True, eq=False)
class Cluster:
    """P devices: `kinds` (P,) which boards they are, their conditions, the requester's rate (None: infinite)."""

    kinds: IntArray
    conditions: Conditions
    requester_mbps: float | None

    def reordered(self, order: IntArray) -> Cluster:
        """The same with its devices in another order."""
        return Cluster(self.kinds[order], self.conditions.reordered(order), self.requester_mbps)


def draw_cluster(providers: int, kinds: int, rng: np.random.Generator) -> Cluster:
    """A cluster of up to four of the kinds of board, links alike or not, slowed down or not."""
    known = rng.choice(kinds, int(rng.integers(1, 5)), replace=False)
    chosen = rng.choice(known, providers)
    mbps = _log_uniform(MBPS, 1 if rng.random() < 0.3 else providers, rng)
    slowdown = np.exp(SLOWDOWN * rng.standard_normal(providers)) if rng.random() < 0.6 else np.ones(providers)
    io_ms = _log_uniform(IO_MS, 1, rng) if rng.random() < 0.3 else np.zeros(1)
    conditions = Conditions(*(np.broadcast_to(x, providers).copy() for x in (mbps, slowdown, io_ms)))
    requester = float(_log_uniform(REQUESTER_MBPS, 1, rng)[0]) if rng.random() < 0.2 else None
    return Cluster(chosen, conditions, requester)


def _log_uniform(between: tuple[float, float], count: int, rng: np.random.Generator) -> FloatArray:
    low, high = between
    found: FloatArray = low * (high / low) ** rng.random(count)
    return found


class Ground:
    """A model under one partition scheme, where clusters of all boards can be placed cheaply: they share its tables."""

    def __init__(self, graph: LayerGraph, scheme: PartitionScheme, costs: VolumeCosts, scenario: Scenario) -> None:
        self._base = Simulator(graph, scenario, scheme, costs)
        self.kinds = len(scenario.providers)

    def place(self, cluster: Cluster) -> Simulator:
        """The simulator of a cluster."""
        base, at = self._base, cluster.kinds
        problem = base.problem
        other = base.with_problem(
            problem._replace(
                compute_at=np.ascontiguousarray(problem.compute_at[:, at]), head_ms=problem.head_ms[at].copy()
            )
        )
        other.scenario = base.scenario.model_copy(
            update={
                "providers": tuple(base.scenario.providers[k] for k in at),
                "requester": Requester(bandwidth_mbps=cluster.requester_mbps),
            }
        )
        return under(other, cluster.conditions)

    def draw(self, providers: int, rng: np.random.Generator, ordered: float = 1.0) -> Simulator:
        """The simulator of a random cluster; a share `ordered` of them in `preferred_order`, the others in any."""
        cluster = draw_cluster(providers, self.kinds, rng)
        simulator = self.place(cluster)
        if rng.random() >= ordered:
            return simulator
        order = preferred_order(simulator)
        return self.place(cluster.reordered(order if rng.random() < 0.5 else order[::-1]))


def preferred_order(simulator: Simulator) -> IntArray:
    """(providers,) which provider stands at each place: the strongest in the middle, weaker ones to both sides.

    Parts inside have a halo on both sides, those at the ends on one.
    """
    ranking = np.argsort(-capability(simulator.unbarred()), kind="stable")
    return np.concatenate([ranking[1::2][::-1], ranking[::2]])


class Grounds:
    """Models under random schemes; what can be shared between them is made once."""

    def __init__(self) -> None:
        names = [str(p["name"]) for p in list_profiles() if p["kind"] == "calibrated"]  # they know every layer
        self._scenario = Scenario(
            name="all-boards", providers=tuple(Provider(name=n, profile=n, bandwidth_mbps=100.0) for n in names)
        )
        self._models: dict[str, tuple[LayerGraph, VolumeCosts]] = {}

    def of(self, model: str, rng: np.random.Generator) -> Ground:
        """A model under a random scheme."""
        if model not in self._models:
            graph = load_model(model)
            self._models[model] = graph, VolumeCosts(graph, self._scenario.profiles)
        graph, costs = self._models[model]
        return Ground(graph, draw_scheme(graph, rng), costs, self._scenario)


def draw_scheme(graph: LayerGraph, rng: np.random.Generator) -> PartitionScheme:
    """LC-PSS at a random alpha, in a third of the cases with locations moved, now and then the whole model."""
    if rng.random() < 0.1:
        return PartitionScheme(graph, (0,))
    alpha = float(rng.uniform(0.25, 1.0))
    found = set(greedy(scorer(graph, int(rng.integers(2, 17)), alpha, SCHEME_SAMPLES, rng)).locations) - {0}
    inner = [p for p in graph.cut_points if p > 0]
    if rng.random() < 1 / 3:
        found ^= set(rng.choice(inner, min(len(inner), int(rng.integers(1, 4))), replace=False).tolist())
    if len(found) >= MOST_VOLUMES:
        found = set(rng.choice(sorted(found), MOST_VOLUMES - 1, replace=False).tolist())
    return PartitionScheme(graph, (0, *sorted(int(p) for p in found)))
