"""Answers split decisions by the policies that it knows, in memory: about a tenth of a millisecond each.

An agent for a moving network (`agents.moving`) decides whole plans from link rates, slowdowns and I/O delays, and looks
at nothing else. One for a single case (`agents.actor_file`, the paper's kind) decides volume by volume from accumulated
latencies, in which the links show; asked for a whole plan it goes through the simulator.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np

from distredge.agents.moving.file import unpack as unpack_moving
from distredge.agents.moving.policy import FloatArray, IntArray, MovingAgent
from distredge.control.schema import Decision, DecisionRequest, VolumeDecision
from distredge.controller.library import NotKnown, read_policy
from distredge.controller.store import PolicyEntry
from distredge.errors import InputError
from distredge.model.graph import LayerGraph
from distredge.plans.plan import ModelRef
from distredge.scenario import Scenario

if TYPE_CHECKING:
    from distredge.agents.actor_file import TrainedAgent

Graphs = Callable[[ModelRef], LayerGraph]

MOST = 256
"""Policies in memory; the oldest go first."""


class Decider:
    """Knows policies by hash, and for each model and scenario the one that was added last.

    May be used by several threads. `graphs` finds the models of policies that decide volume by volume.
    """

    def __init__(self, graphs: Graphs) -> None:
        self._graphs = graphs
        self._lock = Lock()
        self._by_hash: dict[str, _Policy] = {}
        self._newest: dict[tuple[str, str], _Policy] = {}

    def add(self, blob: bytes, scenario: Scenario | None = None) -> PolicyEntry:
        """Take a policy, the content of its file.

        `scenario`, with its profiles, is what the policy is for: it says the usual rates of links, and lets a policy of
        the paper's kind decide whole plans. Raises `InputError` if the policy is none, or for something else.
        """
        entry = read_policy(blob)
        policy = self._read(entry, blob, scenario)
        with self._lock:
            self._by_hash.pop(entry.sha256, None)
            self._by_hash[entry.sha256] = self._newest[entry.model, entry.scenario] = policy
            while len(self._by_hash) > MOST:
                oldest = self._by_hash.pop(next(iter(self._by_hash)))
                self._newest = {of: known for of, known in self._newest.items() if known is not oldest}
        return entry

    def decide(self, request: DecisionRequest) -> Decision:
        """Raises `NotKnown` if there is no such policy, `InputError` if it cannot decide that."""
        policy = self._policy(request)
        named = {*request.mbps, *request.slowdown, *request.io_ms, *request.accumulated_ms}
        if unknown := named - policy.nodes:
            raise InputError(f"the policy knows no node '{min(unknown)}': it is for {', '.join(policy.names)}")
        return policy.decide(request)

    def _read(self, entry: PolicyEntry, blob: bytes, scenario: Scenario | None) -> _Policy:
        if entry.kind == "moving":
            return _Moving(entry, unpack_moving(blob, entry.sha256[:12]), scenario)
        from distredge.agents.actor_file import unpack as unpack_actor

        trained = unpack_actor(blob, entry.sha256[:12])
        model = ModelRef(name=trained.card.model, sha256=trained.card.model_sha256, input_shape=())
        return _Osds(entry, trained, self._graphs(model), scenario)

    def _policy(self, request: DecisionRequest) -> _Policy:
        sha256, wanted = request.policy_sha256, (request.model, request.scenario)
        found = self._newest.get(wanted) if sha256 is None else self._by_hash.get(sha256)
        if found is not None and found.serves == wanted:
            return found
        if found is not None:
            raise InputError(f"the policy {found.sha256[:12]} is for '{found.serves[0]}' on '{found.serves[1]}'")
        if sha256 is not None:
            raise NotKnown(f"there is no policy {sha256[:12]} here: PUT /v1/policies stores one")
        known = ", ".join(f"'{model}' on '{scenario}'" for model, scenario in sorted(self._newest)[:20]) or "none"
        raise NotKnown(
            f"there is no policy for '{request.model}' on '{request.scenario}' here (known: {known}):"
            " PUT /v1/policies stores one"
        )


class _Policy(ABC):
    """One for a model on a scenario (`serves`), that decides for the providers `names`."""

    def __init__(self, entry: PolicyEntry, names: tuple[str, ...]) -> None:
        self.sha256, self.serves = entry.sha256, (entry.model, entry.scenario)
        self.names, self.nodes = names, frozenset(names)

    @abstractmethod
    def decide(self, request: DecisionRequest) -> Decision:
        """See `Decider`."""

    def values(self, named: Mapping[str, float], usual: float) -> FloatArray:
        """(P,): what is said of each provider."""
        return np.array([named.get(name, usual) for name in self.names], dtype=np.float64)


class _Moving(_Policy):
    """A volume is one of the plan's for the conditions: what has accumulated changes nothing."""

    def __init__(self, entry: PolicyEntry, agent: MovingAgent, scenario: Scenario | None) -> None:
        super().__init__(entry, agent.header.names)
        if scenario is not None:
            agent.header.check_scenario(scenario)
        self._agent = agent
        self._usual = {p.name: p.bandwidth_mbps for p in scenario.providers} if scenario else {}
        self._volumes = tuple(
            _volumes(agent.header.layers, plan.locations, plan.cuts, range(len(plan.cuts))) for plan in agent.library
        )

    def decide(self, request: DecisionRequest) -> Decision:
        mbps = {**self._usual, **request.mbps}
        if missing := [name for name in self.names if name not in mbps]:
            raise InputError(
                f"say in `mbps` how fast the links of {', '.join(missing)} are: the scenario '{self.serves[1]}' is not"
                " known here"
            )
        decision = self._agent.decide(
            self.values(mbps, 1.0), self.values(request.slowdown, 1.0), self.values(request.io_ms, 0.0)
        )
        volumes = self._volumes[decision.plan]
        if request.volume is not None:
            _check_volume(request.volume, len(volumes))
            volumes = (volumes[request.volume],)
        return Decision(
            policy_sha256=self.sha256,
            kind="moving",
            providers=tuple(self.names[i] for i in self._agent.whole_plan(decision).order),
            volumes=volumes,
            expected_ms=None if request.volume is not None else decision.latency_ms,
        )


class _Osds(_Policy):
    """What it sees, and what it means, is computed by the environment's own functions: exactly as in its training."""

    def __init__(self, entry: PolicyEntry, trained: TrainedAgent, graph: LayerGraph, scenario: Scenario | None) -> None:
        from distredge.envs.encode import FORMULATIONS

        super().__init__(entry, trained.card.providers)
        self._locations, self._actor = trained.card.locations, trained.actor
        self._layers = graph.names(0, len(graph.layers))
        self._compiled = FORMULATIONS[trained.card.formulation].compiled
        self._simulator = None if scenario is None else trained.simulator(graph, scenario)
        self._cuts(0, self.values({}, 0.0), np.zeros(len(self.names) + 1, np.int64))  # compiles

    def decide(self, request: DecisionRequest) -> Decision:
        expected_ms: float | None = None
        if request.volume is None:
            cuts, expected_ms = self._whole(request)
            volumes = _volumes(self._layers, self._locations, cuts, range(len(cuts)))
        else:
            _check_volume(request.volume, len(self._locations))
            before = self._before(request.volume, request.cuts_before)
            cuts = self._cuts(request.volume, self.values(request.accumulated_ms, 0.0), before)[None]
            volumes = _volumes(self._layers, self._locations, cuts, (request.volume,))
        return Decision(
            policy_sha256=self.sha256, kind="osds", providers=self.names, volumes=volumes, expected_ms=expected_ms
        )

    def _cuts(self, volume: int, accumulated_ms: FloatArray, before: IntArray) -> IntArray:
        """(P + 1,): the decision for a volume, after accumulated latencies (P,) and the cuts `before` it."""
        constants = self._actor.constants
        state = np.zeros((4, len(self.names) + 1))
        state[0, :-1] = accumulated_ms
        seen = np.empty((1, self._actor.layers[0][0].shape[1]), np.float32)
        self._compiled.see(constants, volume, before, state, seen[0])
        cuts = np.empty(len(self.names) + 1, np.int64)
        self._compiled.split(constants, volume, self._actor.actions(seen)[0].astype(np.float64), cuts)
        return cuts

    def _before(self, volume: int, cuts: tuple[int, ...] | None) -> IntArray:
        """The cuts of the volume before."""
        if volume == 0:
            return np.zeros(len(self.names) + 1, np.int64)
        height = int(self._actor.constants.heights[volume - 1])
        whole = cuts is not None and len(cuts) == len(self.names) + 1 and sorted(cuts) == [*cuts]
        if cuts is None or not whole or (cuts[0], cuts[-1]) != (0, height):
            raise InputError(
                f"give `cuts_before`, those of volume {volume - 1}: {len(self.names) + 1} numbers that do not"
                f" decrease, from 0 to {height}"
            )
        return np.array(cuts, np.int64)

    def _whole(self, request: DecisionRequest) -> tuple[IntArray, float]:
        """(volumes, P + 1) cuts and the latency in ms, by the simulator."""
        from distredge.simulate.conditions import Conditions, under

        if self._simulator is None:
            raise InputError(
                "this policy decides volume by volume: give `volume` and `accumulated_ms` (and from the second volume"
                f" on `cuts_before`), or have the scenario '{self.serves[1]}' stored"
            )
        usual = {p.name: p.bandwidth_mbps for p in self._simulator.scenario.providers}
        now = Conditions(
            self.values({**usual, **request.mbps}, 1.0),
            self.values(request.slowdown, 1.0),
            self.values(request.io_ms, 0.0),
        )
        return self._actor.rollout(under(self._simulator, now))


def _check_volume(volume: int, count: int) -> None:
    if volume >= count:
        raise InputError(f"there is no volume {volume}: the plan has volumes 0 to {count - 1}")


def _volumes(
    layers: tuple[str, ...], locations: tuple[int, ...], cuts: IntArray, numbers: range | tuple[int, ...]
) -> tuple[VolumeDecision, ...]:
    """Volumes of some numbers, with their cuts (as many, P + 1)."""
    stops = (*locations[1:], len(layers))
    return tuple(
        VolumeDecision(volume=v, layers=(layers[locations[v]], layers[stops[v] - 1]), cuts=tuple(row))
        for v, row in zip(numbers, cuts.tolist(), strict=True)
    )
