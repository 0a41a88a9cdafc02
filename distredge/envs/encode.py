"""How the split MDP is shown to an agent: what it observes, what its action means, what it is rewarded for.

Two formulations. `PaperFormulation` is DistrEdge's own (Eq. 6 to 9). `ShareFormulation` is the one that learns well:
actions are shares around a capability prior, rewards telescope to the logarithm of the latency. The formulas that a
step needs are compiled, in `compiled.py`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from distredge.envs import compiled
from distredge.envs.compiled import REACH, Positions, Shares
from distredge.errors import InputError
from distredge.simulate.kernel import FloatArray, IntArray, Problem, make_state
from distredge.simulate.simulator import Simulator
from distredge.simulate.starts import capability, proportional_cuts

Float32Array = npt.NDArray[np.float32]
Constants = TypeVar("Constants", Positions, Shares)


class Compiled(NamedTuple):
    """The compiled parts of a formulation: a whole step, what is seen, what an action stands for."""

    step: Callable[..., Any]
    see: Callable[..., Any]
    split: Callable[..., Any]


class Formulation(ABC, Generic[Constants]):
    """One way to show the MDP of a simulator.

    Observations are float32 (batch, observation_size), finite; actions are floats (batch, action_size) in [-1, 1].
    `constants` are what it takes from the simulator; a trained agent brings those that it was trained with. Raises
    `InputError` if there is only one provider.
    """

    name: ClassVar[str]
    compiled: ClassVar[Compiled]
    observation_size: int
    action_size: int

    def __init__(self, simulator: Simulator, constants: Constants | None = None) -> None:
        if simulator.providers < 2:
            raise InputError("splitting needs at least two providers: use --method offload for one")
        self.heights = simulator.heights
        self.providers = simulator.providers
        self.constants: Constants = self.measure(simulator) if constants is None else constants

    @classmethod
    @abstractmethod
    def measure(cls, simulator: Simulator) -> Constants:
        """The constants of a simulator."""

    @abstractmethod
    def actions(self, cuts: IntArray) -> FloatArray:
        """(volumes, action_size) actions in [-1, 1] whose `cuts` are those given, (volumes, providers + 1)."""

    def step(
        self,
        problem: Problem,
        volume: int,
        actions: FloatArray,
        cuts: IntArray,
        states: FloatArray,
        seen: Float32Array,
        rewards: FloatArray,
        latency_ms: FloatArray,
    ) -> None:
        """Split a volume in a batch of episodes, by `actions` (batch, action_size).

        Writes its row of `cuts` (batch, volumes, providers + 1), carries the kernel's `states` (batch, 4,
        providers + 1) over it, and writes what is `seen` then (batch, observation_size), the `rewards` (batch,) and, at
        the last volume, `latency_ms` (batch,) of the frames, after which the states are of no use.
        """
        self.compiled.step(problem, self.constants, volume, actions, cuts, states, seen, rewards, latency_ms)

    def first(self) -> Float32Array:
        """(observation_size,) what is seen before the first volume, always the same."""
        seen, nothing = np.empty(self.observation_size, np.float32), np.zeros(self.providers + 1, np.int64)
        self.compiled.see(self.constants, 0, nothing, make_state(self.providers), seen)
        return seen

    def cuts(self, volume: int, actions: FloatArray) -> IntArray:
        """(batch, providers + 1) cuts of a volume that the actions stand for."""
        found = np.empty((len(actions), self.providers + 1), np.int64)
        for action, cuts in zip(np.asarray(actions, np.float64), found, strict=True):
            self.compiled.split(self.constants, volume, action, cuts)
        return found


class PaperFormulation(Formulation[Positions]):
    """DistrEdge to the letter: state (T, H, C, F, S) (Eq. 7), absolute cuts (Eq. 9), reward 1/T at the end (Eq. 8).

    The paper gives no units: T is in units of the fastest single provider's latency, H, C, F and S in units of the
    model's largest, the reward is 1/T in images a second.
    """

    name = "paper"
    compiled = Compiled(compiled.step_positions, compiled.see_positions, compiled.positions_to_cuts)

    def __init__(self, simulator: Simulator, constants: Positions | None = None) -> None:
        super().__init__(simulator, constants)
        self.observation_size = self.providers + 4
        self.action_size = self.providers - 1

    @classmethod
    def measure(cls, simulator: Simulator) -> Positions:
        """See `Formulation`."""
        last = [simulator.graph.layers[part.stop - 1] for part in simulator.scheme.parts]
        config = np.array([[x.height, x.out_shape[0], x.kernel[0], x.stride[0]] for x in last], dtype=np.float64)
        return Positions(simulator.heights, _fastest_alone_ms(simulator), config / config.max(axis=0))

    def actions(self, cuts: IntArray) -> FloatArray:
        """See `Formulation`."""
        return 2.0 * cuts[:, 1:-1] / cuts[:, -1:] - 1.0


CLOSED = -0.05
"""The prior of a provider that is left out, and what a closed one's share is before it is cut off at 0: small noise
does not open it."""


class ShareFormulation(Formulation[Shares]):
    """Actions are shares, `max(0, prior + 1.2 a)` over their sum, so that a provider can be left out altogether.

    Observed: each provider's lag behind the slowest and the slowest itself in units of the fastest single provider's
    latency, the previous cuts as fractions, the volume one-hot.
    """

    name = "default"
    compiled = Compiled(compiled.step_shares, compiled.see_shares, compiled.shares_to_cuts)

    def __init__(self, simulator: Simulator, constants: Shares | None = None) -> None:
        super().__init__(simulator, constants)
        self.observation_size = 2 * self.providers + len(self.heights)
        self.action_size = self.providers

    @classmethod
    def measure(cls, simulator: Simulator) -> Shares:
        """See `Formulation`."""
        return Shares(simulator.heights, _fastest_alone_ms(simulator), _prior(simulator))

    def actions(self, cuts: IntArray) -> FloatArray:
        """See `Formulation`."""
        shares = np.diff(cuts, axis=1) / cuts[:, -1:]
        return (np.where(shares > 0, shares, CLOSED) - self.constants.prior) / REACH


class EvenFormulation(ShareFormulation):
    """`ShareFormulation` around equal shares: shows what the capability prior is worth."""

    name = "even"

    @classmethod
    def measure(cls, simulator: Simulator) -> Shares:
        """See `Formulation`."""
        return super().measure(simulator)._replace(prior=np.full(simulator.providers, 1.0 / simulator.providers))


AnyFormulation = ShareFormulation | PaperFormulation

FORMULATIONS: dict[str, type[AnyFormulation]] = {
    kind.name: kind for kind in (ShareFormulation, EvenFormulation, PaperFormulation)
}


def _fastest_alone_ms(simulator: Simulator) -> float:
    return float(simulator.evaluate(simulator.single_device_cuts()).min())


def _prior(simulator: Simulator) -> FloatArray:
    """(providers,) shares proportional to capability on the best k providers, k by simulation; the others `CLOSED`."""
    rates = capability(simulator)
    ranking = np.argsort(-rates, kind="stable")
    choices = []
    for k in range(1, len(rates) + 1):
        shares = np.zeros_like(rates)
        shares[ranking[:k]] = rates[ranking[:k]]
        choices.append(shares / shares.sum())
    latency = simulator.evaluate(np.stack([proportional_cuts(simulator.heights, s) for s in choices]))
    best = choices[int(np.argmin(latency))]
    return np.where(best > 0, best, CLOSED)
