"""Gold: the best plans known, against which methods are measured, and the search that finds them.

    python -m distredge.experiments.gold --restarts 9            # all cases, in the order of CASES
    python -m distredge.experiments.gold --restarts 9 vgg16:lb   # one

Each case is searched anew and kept in `gold.json` if that is better than what is known; what the planners themselves
find may be offered too (`offer`). Whoever reads a reference checks its plan with the simulator.
"""

from __future__ import annotations

import argparse
from functools import lru_cache
from pathlib import Path

import numpy as np
from pydantic import Field

from distredge.api import make_task
from distredge.config import Frozen, read_json
from distredge.errors import InputError
from distredge.experiments.groups import DEVICES, LARGE, MODELS, NETWORKS
from distredge.experiments.methods import graph_of, scenario_of
from distredge.model.graph import LayerGraph
from distredge.planners.base import Strategy
from distredge.planners.candidates import candidate_schemes
from distredge.planners.search import ROUNDS, Candidate, JointSearch, candidate_orders
from distredge.plans.scheme import PartitionScheme
from distredge.resources import write_atomically
from distredge.scenario import Scenario

CASES = (
    *(("vgg16", scenario) for scenario in (*DEVICES, *NETWORKS, *LARGE)),
    *((model, scenario) for model in MODELS[1:] for scenario in ("db-50", "na-nano")),
)
"""Models and scenarios: Tables I to III with VGG-16, the paper's other models in two of them."""

FILE = Path(__file__).with_name("gold.json")


class Reference(Frozen):
    """The best plan known of a case; `found_by` says with how much work, or by which method."""

    model: str
    scenario: str
    latency_ms: float = Field(gt=0)
    locations: tuple[int, ...] = Field(description="indices of the layers at which volumes begin")
    order: tuple[str, ...] = Field(description="providers along the height")
    cuts: tuple[tuple[int, ...], ...] = Field(description="(volumes, providers + 1)")
    found_by: str

    def strategy(self) -> Strategy:
        """The plan, with the latency that the file says."""
        scenario = scenario_of(self.scenario)
        order = tuple(scenario.provider_names.index(name) for name in self.order)
        scheme = PartitionScheme(graph_of(self.model), self.locations)
        return Strategy(scheme, scenario.reordered(order), np.array(self.cuts, dtype=np.int64), self.latency_ms)


class References(Frozen):
    """The file `gold.json`."""

    schema_version: int = Field(default=1, ge=1, le=1)
    references: tuple[Reference, ...] = ()

    def of(self, model: str, scenario: str) -> Reference:
        """The reference of a case; raises `InputError` if there is none."""
        for reference in self.references:
            if (reference.model, reference.scenario) == (model, scenario):
                return reference
        raise InputError(f"no gold for {model} on {scenario}: python -m distredge.experiments.gold {model}:{scenario}")


@lru_cache(maxsize=1)
def references() -> References:
    """What is shipped."""
    return _read(FILE)


def gold(graph: LayerGraph, scenario: Scenario, restarts: int, seed: int = 0) -> tuple[Strategy, list[float]]:
    """The best of so many joint searches, whose pools are then varied together as long as one; and what each found.

    The searches are those of the method `search` with the seeds `seed`, `seed` + 1, ...; all is `restarts` + 1 times
    its work. The second value has their latencies in ms.
    """
    pools: list[list[Candidate]] = []
    for n in range(restarts):
        search = JointSearch(make_task(graph, scenario, seed + n, None, None))
        search.screen(candidate_schemes(search.task), candidate_orders(search))
        search.vary(ROUNDS)
        pools.append(search.pool)
    together = JointSearch(make_task(graph, scenario, seed + restarts, None, None))
    together.adopt([candidate for pool in pools for candidate in pool])
    together.vary(ROUNDS)
    return together.best(), [pool[0].score for pool in pools]


def offer(model: str, scenario: str, strategy: Strategy, found_by: str, path: Path = FILE) -> bool:
    """Keep a strategy in the file if it is faster than what that has; returns whether it is."""
    known = {(r.model, r.scenario): r for r in (_read(path).references if path.exists() else ())}
    old = known.get((model, scenario))
    if old is not None and old.latency_ms <= strategy.latency_ms * (1.0 + 1e-9):
        return False
    known[model, scenario] = Reference(
        model=model,
        scenario=scenario,
        latency_ms=strategy.latency_ms,
        locations=strategy.scheme.locations,
        order=strategy.scenario.provider_names,
        cuts=tuple(tuple(row) for row in strategy.cuts.tolist()),
        found_by=found_by,
    )
    rank = {case: n for n, case in enumerate(CASES)}
    ordered = sorted(known.items(), key=lambda item: (rank.get(item[0], len(rank)), item[0]))
    lines = ",\n".join(reference.model_dump_json() for _, reference in ordered)
    write_atomically(path, f'{{"schema_version": 1, "references": [\n{lines}\n]}}\n')
    return True


def _read(path: Path) -> References:
    return read_json(path, References, InputError)


def main(arguments: list[str] | None = None) -> None:
    """Search cases anew and keep what is better."""
    parser = argparse.ArgumentParser(description="Search for better references than those in gold.json.")
    parser.add_argument("--restarts", type=int, default=9)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("cases", nargs="*", metavar="MODEL:SCENARIO")
    chosen = parser.parse_args(arguments)
    for model, scenario in [tuple(case.split(":")) for case in chosen.cases] or CASES:
        strategy, alone = gold(graph_of(model), scenario_of(scenario), chosen.restarts, chosen.seed)
        better = offer(model, scenario, strategy, f"{chosen.restarts} restarts, seed {chosen.seed}")
        each = " ".join(f"{latency_ms:.4f}" for latency_ms in alone)
        news = ", better than known" if better else ""
        print(f"{model} {scenario} {strategy.latency_ms:.4f} ms (alone {each}){news}", flush=True)


if __name__ == "__main__":
    main()
