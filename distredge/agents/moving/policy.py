"""The agent for a moving network as it decides: numpy alone, no simulator.

Observed are, for each provider, the rate of its link, how slow it is and its I/O delay. Providers that could stand
for one another (same profile, I/O, memory) are first sorted by what each would take alone, so that a plan known for
one arrangement serves all. The actor proposes a point in an embedding of plans; the critic judges the plans next to
it and picks.

For fixed cuts the simulator is nearly a max-plus system: a frame takes as long as its slowest chain of transfers,
reads and computations, each linear in 1 / rate, slowdown or delay. So the critic says of a plan

    latency_ms = max over pieces j of w[plan, j] . z,     z = (50 / mbps, slowdown, io_ms of every provider, 1),  w >= 0
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from distredge.agents.moving.header import Header
from distredge.plans.plan import Plan, VolumePlan

UNIT_MBPS = 50.0
"""The link rate at which its feature is 1."""

Float32Array = npt.NDArray[np.float32]
FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


class WholePlan(NamedTuple):
    """A plan with nothing left open: partition locations, order of the providers (places in the scenario), cuts."""

    locations: tuple[int, ...]
    order: tuple[int, ...]
    cuts: IntArray

    @property
    def key(self) -> tuple[object, ...]:
        """Two plans with the same key are the same."""
        return (self.locations, self.order, self.cuts.tobytes())

    def played_by(self, cast: IntArray) -> WholePlan:
        """The plan with provider `cast[i]` (P,) in the role of provider i."""
        return self._replace(order=tuple(int(cast[i]) for i in self.order))


class Roles(NamedTuple):
    """Who can stand for whom, and what sorts them.

    `kinds` (P,) providers of the same number are interchangeable; `alone` (P, 2) what a provider alone takes for a
    frame, in ms: by its link at 1 Mbit/s, and by computing at no slowdown.
    """

    kinds: IntArray
    alone: FloatArray

    def cast(self, mbps: FloatArray, slowdown: FloatArray, io_ms: FloatArray) -> IntArray:
        """(..., P): which provider plays each role, under conditions (..., P); of a kind the quickest comes first."""
        alone_ms = self.alone[:, 0] / mbps + self.alone[:, 1] * slowdown + io_ms
        cast = np.empty(alone_ms.shape, dtype=np.int64)
        kinds = self.kinds if alone_ms.ndim == 1 else np.broadcast_to(self.kinds, alone_ms.shape)
        cast[..., np.argsort(self.kinds, kind="stable")] = np.lexsort((alone_ms, kinds), axis=-1)
        return cast


class Decision(NamedTuple):
    """What the agent decides: a plan of its library by number, who plays which role (P,), the latency it expects."""

    plan: int
    cast: IntArray
    latency_ms: float


@dataclass(frozen=True, eq=False)
class Networks:
    """What is learnt, float32. Features F = 3 P + 1, inputs of the actor 4 P, embedding of D dimensions.

    `critic` (plans, pieces, F); `actor` its layers' weights (in, out) and biases (out,); `embedding` (plans, D).
    """

    critic: Float32Array
    actor: tuple[tuple[Float32Array, Float32Array], ...]
    embedding: Float32Array

    @cached_property
    def half_norms(self) -> Float32Array:
        """(plans,): half the square of each plan's distance from the embedding's origin."""
        half: Float32Array = 0.5 * np.square(self.embedding).sum(axis=1)
        return half

    def latency_ms(self, z: Float32Array, plans: IntArray | slice = slice(None)) -> Float32Array:
        """(plans,): what the critic says of some plans, `z` (F,)."""
        answers: Float32Array = (self.critic[plans] @ z).max(axis=1)
        return answers

    def propose(self, x: Float32Array) -> Float32Array:
        """(D,): the actor's proposal, `x` (4 P,)."""
        for weights, biases in self.actor[:-1]:
            x = np.maximum(x @ weights + biases, 0.0)
        weights, biases = self.actor[-1]
        return x @ weights + biases


def features(mbps: FloatArray, slowdown: FloatArray, io_ms: FloatArray) -> Float32Array:
    """(..., 3 P + 1): z, what the critic's linear forms are of; conditions (..., P) in the order of the roles."""
    shape = np.shape(mbps)
    count = shape[-1]
    z = np.empty((*shape[:-1], 3 * count + 1), dtype=np.float32)
    z[..., :count] = UNIT_MBPS / np.asarray(mbps)
    z[..., count : 2 * count], z[..., 2 * count : -1], z[..., -1] = slowdown, io_ms, 1.0
    return z


def actor_inputs(z: Float32Array) -> Float32Array:
    """(..., 4 P): what the actor sees of features z (..., 3 P + 1): logarithms beside the rates."""
    count = z.shape[-1] // 3
    link, slow, delay = z[..., :count], z[..., count : 2 * count], z[..., 2 * count : -1]
    return np.concatenate([np.log(link), link, np.log(slow), delay], axis=-1)


@dataclass(frozen=True, eq=False)
class MovingAgent:
    """An agent for one model on one set of providers; its library's plans are for roles, not providers."""

    header: Header
    roles: Roles
    library: tuple[WholePlan, ...]
    networks: Networks

    def decide(self, mbps: FloatArray, slowdown: FloatArray, io_ms: FloatArray) -> Decision:
        """The plan for conditions, each (P,), in the order of the header's providers."""
        cast = self.roles.cast(mbps, slowdown, io_ms)
        z = features(mbps[cast], slowdown[cast], io_ms[cast])
        near = self.shortlist(z)
        answers = self.networks.latency_ms(z, near)
        best = int(np.argmin(answers))
        return Decision(int(near[best]), cast, float(answers[best]))

    def shortlist(self, z: Float32Array) -> IntArray:
        """Numbers of the plans next to what the actor proposes for features z, in no order."""
        embedding, most = self.networks.embedding, self.header.candidates
        if most >= len(embedding):
            return np.arange(len(embedding))
        # Half of the square of the distance, less what is the same for all.
        far = self.networks.half_norms - embedding @ self.networks.propose(actor_inputs(z))
        return np.argpartition(far, most)[:most]

    def whole_plan(self, decision: Decision) -> WholePlan:
        """The plan of a decision, providers by their places in the header."""
        return self.library[decision.plan].played_by(decision.cast)

    def plan(self, whole: WholePlan) -> Plan:
        """A plan as a plan file's value, without a prediction."""
        layers, names = self.header.layers, tuple(self.header.names[i] for i in whole.order)
        stops = (*whole.locations[1:], len(layers))
        volumes = tuple(
            VolumePlan(layers=layers[start:stop], cuts=tuple(int(c) for c in cuts))
            for start, stop, cuts in zip(whole.locations, stops, whole.cuts, strict=True)
        )
        return Plan(
            method="moving",
            model=self.header.model,
            scenario=self.header.scenario,
            providers=names,
            volumes=volumes,
            head_provider=names[int(np.argmax(np.diff(whole.cuts[-1])))],
        )
