"""The references: every plan is worth what the file says, none is lost to a worse one; and rows measured by them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from distredge.agents.settings import load_settings
from distredge.errors import InputError
from distredge.experiments.agent_single import WITHOUT, ablation_cases, over_time, without
from distredge.experiments.base import QUICK
from distredge.experiments.gold import CASES, References, gold, offer, references
from distredge.experiments.methods import graph_of
from distredge.model.load import load_model
from distredge.planners.base import Strategy
from distredge.simulate.simulator import Simulator
from distredge.testing.toy_devices import random_scenario
from distredge.testing.toy_models import residual, save_model


@pytest.mark.parametrize("model", list(dict.fromkeys(model for model, _ in CASES)))
def test_every_reference_is_worth_what_it_says(model: str) -> None:
    for scenario in (scenario for m, scenario in CASES if m == model):
        reference = references().of(model, scenario)
        strategy = reference.strategy()
        simulator = Simulator(graph_of(model), strategy.scenario, strategy.scheme)
        assert simulator.evaluate(strategy.cuts[None])[0] == pytest.approx(reference.latency_ms, rel=1e-9)
        assert reference.latency_ms <= simulator.evaluate(simulator.single_device_cuts()).min() * (1.0 + 1e-9)


def test_gold_is_at_least_as_good_as_each_of_its_searches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distredge.experiments.gold.ROUNDS", 2)
    graph = load_model(save_model(residual(np.random.default_rng(0), height=32), tmp_path))
    strategy, alone = gold(graph, random_scenario(np.random.default_rng(3), 3), 2)
    assert len(alone) == 2
    assert strategy.latency_ms <= min(alone)


def test_only_better_plans_are_kept(tmp_path: Path) -> None:
    path, (model, scenario) = tmp_path / "gold.json", ("vgg16", "db-50")
    found = references().of(model, scenario).strategy()
    slower = replace(found, latency_ms=found.latency_ms * 1.01)
    assert offer(model, scenario, slower, "first", path)
    assert not offer(model, scenario, slower, "again", path)
    assert offer("vgg16", "na-nano", references().of("vgg16", "na-nano").strategy(), "another", path)
    assert offer(model, scenario, found, "second", path)
    kept = References.model_validate_json(path.read_text())
    assert [r.found_by for r in kept.references] == ["second", "another"]
    assert_same(kept.of(model, scenario).strategy(), found)


def assert_same(one: Strategy, other: Strategy) -> None:
    assert one.scheme.locations == other.scheme.locations
    assert one.scenario.provider_names == other.scenario.provider_names
    assert one.cuts.tolist() == other.cuts.tolist()


def test_a_case_without_gold_names_the_command() -> None:
    with pytest.raises(InputError, match="distredge.experiments.gold alexnet:nowhere"):
        References().of("alexnet", "nowhere")


def test_each_ingredient_can_be_left_out_alone() -> None:
    whole = load_settings("default")
    others = [without(whole, ingredient) for ingredient in WITHOUT]
    assert others[0] == whole
    assert len({settings.model_dump_json() for settings in others}) == len(WITHOUT)
    bare = without(whole, "screen", "seeded elites", "polish")
    assert bare.screen is None and bare.polish is None and bare.elites == whole.elites


def test_cases_of_the_ablation_differ_and_begin_with_everything() -> None:
    cases = ablation_cases(replace(QUICK, seeds=2))
    assert len({tuple(case.values()) for case in cases}) == len(cases)
    assert cases[0]["without"] == "nothing"


def test_more_annealing_is_nearer_to_gold_but_not_below() -> None:
    rows = over_time({"model": "vgg16", "scenario": "db-300", "method": "annealing", "seed": 0}, QUICK)
    ratios = [float(row["ratio"] or 0.0) for row in rows]
    assert ratios[-1] <= ratios[0]
    assert min(ratios) >= 1.0 - 1e-9


def test_time_is_told_whenever_a_plan_is_better(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distredge.planners.search.ROUNDS", 3)
    rows = over_time({"model": "vgg16", "scenario": "na-nano", "method": "search", "seed": 0}, QUICK)
    latencies, spent = ([float(row[name] or 0.0) for row in rows] for name in ("latency_ms", "cpu_s"))
    assert latencies == sorted(latencies, reverse=True)
    assert spent == sorted(spent)
    assert rows[-1]["share"] == 1.0
