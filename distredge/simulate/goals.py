"""What a plan is to be good at, and what it must keep to.

`Goals` is what a user asks. What can be said of a volume and a provider alone (excluded providers, layers that only one
may compute, image rows that only some may see) is built into the scenario that planners get (`Goals.scenario`), so that
every planner which trusts its simulator keeps to it. The rest is an `Aim`: arrays from which compiled code tells a
split decision's score (`Simulator.score`), the weighted sum of the goals and a penalty for limits that are broken.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from distredge.errors import InputError, UnknownNameError
from distredge.model.graph import IMAGE, LayerGraph
from distredge.plans.plan import BoundPlan
from distredge.profiles.profile import Profile
from distredge.scenario import Scenario
from distredge.simulate.costs import Barred
from distredge.simulate.quality import Quality, power

GOALS = ("latency", "energy", "cost", "redundant", "failures")
"""What may be minimised, in ms, J, the prices' currency, and shares: of work done twice, of frames that are lost."""

LIMITS = ("max_latency_ms", "max_energy_j", "max_cost", "max_redundant_share")
"""What limits the goals but the last, which `min_reliability` does."""

LATENCY, ENERGY, COST, REDUNDANT, FAILURES = range(5)

PENALTY = 1000.0
"""Of a limit that is broken by its own size, in units of `Aim.scale`."""

BROKEN = 1000.0
"""On top, once: no plan that breaks a limit, however little, beats one that keeps all."""

TOLERANCE = 1e-9
"""By what share a limit may be passed: sums in another order differ as much."""


@dataclass(frozen=True)
class Goals:
    """What to minimise, limits, and who may do what. The default is the least latency, nothing else.

    `minimise` weighs the names of `GOALS` by unit (ms, J, ...): with latency 1 and energy 2 a joule is as bad as 2 ms.
    `pin` are providers that must compute something. `layers_on` has layers that only the named provider may compute.
    Only the providers `raw_to`, if given, may get rows of the image. The providers' own `memory_mb` always counts.
    """

    minimise: Mapping[str, float] = field(default_factory=lambda: {"latency": 1.0})
    max_latency_ms: float | None = None
    max_energy_j: float | None = None
    max_cost: float | None = None
    max_redundant_share: float | None = None
    min_reliability: float | None = None
    exclude: tuple[str, ...] = ()
    pin: tuple[str, ...] = ()
    layers_on: Mapping[str, str] = field(default_factory=dict)
    raw_to: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        """Raises `InputError` for what no plan can be measured by."""
        for name, weight in self.minimise.items():
            if name not in GOALS:
                raise UnknownNameError("goal", name, GOALS)
            if not 0.0 <= weight < math.inf:
                raise InputError(f"the weight of '{name}' must be a number that is not negative, got {weight:g}")
        if not any(self.minimise.values()):
            raise InputError(f"nothing is to be minimised: give one of {', '.join(GOALS)} a weight")
        for key in LIMITS:
            limit = getattr(self, key)
            if limit is not None and not 0.0 <= limit < math.inf:
                raise InputError(f"{key} must be a number that is not negative, got {limit:g}")
        if self.min_reliability is not None and not 0.0 <= self.min_reliability <= 1.0:
            raise InputError(f"min_reliability must lie between 0 and 1, got {self.min_reliability:g}")
        if both := set(self.exclude) & {*self.pin, *self.layers_on.values()}:
            raise InputError(f"provider '{min(both)}' is to be left out and to take part: choose one")

    @property
    def weights(self) -> tuple[float, ...]:
        """By `GOALS`."""
        return tuple(float(self.minimise.get(name, 0.0)) for name in GOALS)

    @property
    def limits(self) -> tuple[float | None, ...]:
        """By `GOALS`."""
        lost = None if self.min_reliability is None else 1.0 - self.min_reliability
        return (*(getattr(self, key) for key in LIMITS), lost)

    def limited(self, goal: int, limit: float) -> Goals:
        """The same with a limit to a goal, by its place."""
        changes: dict[str, Any] = {"min_reliability": 1.0 - limit} if goal == FAILURES else {LIMITS[goal]: limit}
        return replace(self, **changes)

    @property
    def latency_only(self) -> bool:
        """Whether plans are judged by latency alone, among those that a scenario allows."""
        return not any(self.weights[1:]) and all(limit is None for limit in self.limits) and not self.pin

    def uses(self, goal: int) -> bool:
        """Whether a goal, by its place, is weighed or limited."""
        return self.weights[goal] > 0.0 or self.limits[goal] is not None

    def scenario(self, graph: LayerGraph, scenario: Scenario) -> Scenario:
        """The scenario with what of it a plan may use.

        Excluded providers are missing, others take `BARRED_MS` longer for what they must not compute. Raises
        `InputError` for unknown names, for figures that the scenario lacks, or if nobody is left.
        """
        names = scenario.provider_names
        for name in (*self.exclude, *self.pin, *self.layers_on.values(), *(self.raw_to or ())):
            if name not in names:
                raise UnknownNameError("provider", name, names)
        for layer in self.layers_on:
            if layer not in graph.index or graph.index[layer] == IMAGE:
                raise UnknownNameError("layer", layer, [x.name for x in graph.layers])
        kept = [i for i, name in enumerate(names) if name not in self.exclude]
        if not kept:
            raise InputError("no provider is left: exclude fewer")
        if self.raw_to is not None and not any(names[i] in self.raw_to for i in kept):
            raise InputError("nobody may have the image: name a provider that is not excluded in raw_to")
        found = scenario.reordered(tuple(kept)) if self.exclude else scenario
        self._check_figures(found)
        return self._barred(graph, found)

    def _check_figures(self, scenario: Scenario) -> None:
        """Raise `InputError` if a goal needs a figure that a provider lacks, or none can be reliable enough."""
        for provider, profile in zip(scenario.providers, scenario.profiles, strict=True):
            for goal, missing, key in (
                (ENERGY, power(provider, profile) is None, "power: {idle_w: .., active_w: .., radio_w: ..}"),
                (COST, provider.price_per_hour is None, "price_per_hour: .."),
                (FAILURES, provider.failure_probability is None, "failure_probability: .."),
            ):
                if missing and self.uses(goal):
                    raise InputError(
                        f"{GOALS[goal]} cannot be told of provider '{provider.name}':"
                        f" give it `{key}` in scenario '{scenario.name}', or exclude it"
                    )
        if self.min_reliability is not None:
            working = dict(zip(scenario.provider_names, survival(scenario), strict=True))
            needed = {*self.pin, *self.layers_on.values()}
            most = math.prod(working[name] for name in needed) if needed else max(working.values())
            if most < self.min_reliability * (1.0 - TOLERANCE):
                raise InputError(
                    f"min_reliability {self.min_reliability:g} cannot be met: at most {most:g} is possible"
                )

    def _barred(self, graph: LayerGraph, scenario: Scenario) -> Scenario:
        """The scenario, with profiles that tell planners who must not compute what."""
        bars = [self.barred_layers(graph, name) for name in scenario.provider_names]
        if not any(bars):
            return scenario
        made: dict[tuple[int, frozenset[int]], Profile] = {}
        for profile, bar in zip(scenario.profiles, bars, strict=True):
            made.setdefault((id(profile), bar), Barred(profile, bar) if bar else profile)
        other = scenario.reordered(tuple(range(len(bars))))
        other.__dict__["profiles"] = tuple(
            made[id(profile), bar] for profile, bar in zip(scenario.profiles, bars, strict=True)
        )
        return other

    def barred_layers(self, graph: LayerGraph, provider: str) -> frozenset[int]:
        """Layers that a provider must not compute, and `IMAGE` if it must not get rows of that."""
        barred = {graph.index[layer] for layer, owner in self.layers_on.items() if owner != provider}
        return frozenset(barred | ({IMAGE} if self.raw_to is not None and provider not in self.raw_to else set()))

    def check_parts(self, bound: BoundPlan) -> None:
        """Raise `InputError` if somebody computes, or gets, what it must not, or a pinned provider does nothing."""
        names, graph, volumes = bound.plan.providers, bound.graph, len(bound.volumes)
        for i, name in enumerate(names):
            barred = self.barred_layers(graph, name)
            for v, volume in enumerate(bound.volumes):
                touched = {*range(volume.start, volume.stop), *bound.needs(v, i)} if bound.part(v, i) else set()
                if IMAGE in barred & touched:
                    raise InputError(f"'{bound.plan.method}' {_CANNOT} raw_to: '{name}' would get rows of the image")
                if hit := barred & touched & set(range(volume.start, volume.stop)):
                    layer = graph.layers[min(hit)].name
                    owner = self.layers_on[layer]
                    raise InputError(f"'{bound.plan.method}' {_CANNOT} pin {layer}={owner}: '{name}' would compute it")
            if IMAGE in barred & set(bound.needs(volumes, i)):
                raise InputError(f"'{bound.plan.method}' {_CANNOT} raw_to: the head on '{name}' reads the image")
        for name in self.pin:
            i = names.index(name)
            if not any(bound.owned(v, i).size for v in range(volumes)):
                raise InputError(f"'{bound.plan.method}' {_CANNOT} pin {name}: the provider would have no part")

    def check_limits(self, found: Quality, method: str, lower_bound_ms: float) -> None:
        """Raise `InputError`, naming the limit and what was reached, if a plan by `method` breaks one."""
        reached = (found.latency_ms, found.energy_j, found.cost, found.redundant_share)
        units = (" ms", " J", "", "")
        for key, limit, value, unit in zip(LIMITS, self.limits[:-1], reached, units, strict=True):
            if limit is not None and value is not None and value > loosened(limit, TOLERANCE):
                bound = f", and no split of its volumes beats {lower_bound_ms:.4g} ms" if key == LIMITS[LATENCY] else ""
                raise InputError(
                    f"'{method}' {_CANNOT} {key} {limit:g}{unit}: the best that it found has {value:.6g}{unit}{bound}"
                )
        least, works = self.min_reliability, found.reliability
        if least is not None and works is not None and works < least - TOLERANCE:
            raise InputError(f"'{method}' {_CANNOT} min_reliability {least:g}: the best that it found has {works:.6g}")


_CANNOT = "found no plan that keeps to"


def loosened(limit: float, share: float) -> float:
    """A limit that may be passed by a share of itself, or of 1 if it is 0."""
    return limit * (1.0 + share) if limit else share


def survival(scenario: Scenario) -> list[float]:
    """Probability that each provider and its link work; certain where nobody says anything."""
    return [(1.0 - (p.failure_probability or 0.0)) * (1.0 - p.link_failure_probability) for p in scenario.providers]
