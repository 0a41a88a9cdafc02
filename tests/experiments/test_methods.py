"""The methods of the comparison: who is compared, and what belongs to the experiments alone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from distredge.api import make_task
from distredge.experiments.aofl_all import AoflAll
from distredge.experiments.base import FULL, QUICK
from distredge.experiments.methods import graph_of, methods_for, run, scenario_of
from distredge.planners import METHODS
from distredge.planners.base import make_plan
from distredge.plans.scheme import PartitionScheme
from distredge.simulate.simulator import Simulator


def test_exact_is_compared_on_two_providers() -> None:
    four = scenario_of("db-50")
    two = four.model_copy(update={"providers": four.providers[:2]})
    assert "exact" not in methods_for(four, QUICK) and "exact" in methods_for(two, QUICK)
    assert set(methods_for(two, QUICK)) - {"aofl-all"} <= set(METHODS)
    assert methods_for(two, replace(QUICK, methods=("aofl", "exact"))) == ["aofl", "exact"]


@pytest.mark.parametrize("place", ["db-50", "lb"])
def test_aofl_all_leaves_out_fewer_devices_than_aofl(place: str) -> None:
    graph, scenario = graph_of("vgg16"), scenario_of(place)
    task = make_task(graph, scenario, 0, None, None)
    strategy = AoflAll().plan(task)
    simulator = Simulator(graph, scenario, PartitionScheme(graph, strategy.scheme.locations))
    assert strategy.latency_ms == pytest.approx(float(simulator.evaluate(strategy.cuts[None])[0]))
    assert make_plan(task, strategy, "aofl-all", 0).predicted is not None
    (mine,), (theirs,) = (
        run({"model": "vgg16", "scenario": place, "method": m, "seed": 0}, FULL) for m in ("aofl-all", "aofl")
    )
    assert len(str(mine["workers"]).split()) > len(str(theirs["workers"]).split())
    assert mine["latency_ms"] == pytest.approx(strategy.latency_ms)


def test_a_case_that_cannot_be_served_is_a_row_with_the_reason() -> None:
    (row,) = run({"model": "vgg16", "scenario": "db-50", "method": "exact", "seed": 0}, QUICK)
    assert row["latency_ms"] is None or float(row["latency_ms"]) > 0
    assert (row["latency_ms"] is None) == bool(row["refusal"])
