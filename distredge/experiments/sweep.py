"""A sweep: models x scenarios x methods x seeds from a file, as an experiment that the runner runs."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from distredge import __version__
from distredge.api import plan
from distredge.config import Frozen, Number, Version1, Whole, read_yaml
from distredge.errors import DependencyError, InputError
from distredge.experiments import methods
from distredge.experiments.base import SECONDS, Effort, Experiment, Results, Row, Shown
from distredge.experiments.methods import KEY, RANDOM
from distredge.model.graph import LayerGraph
from distredge.model.load import load_model
from distredge.planners import METHODS, planner
from distredge.scenario import Scenario, load_scenario

NAME = "results"
"""Of the files in the folder: results.csv, results.seconds.csv, results.json."""

MADE_WITH = "sweep.json"
"""What the rows in a folder were made with."""

ALL = "all"

COLUMNS: dict[str, type] = {
    **{name: methods.COLUMNS[name] for name in (*KEY, "latency_ms", "ips", "refusal")},
    "failure": str,
}


def _every(value: object) -> object:
    return list(METHODS) if value == ALL else value


def _counted(value: object) -> object:
    return list(range(value)) if isinstance(value, int) and not isinstance(value, bool) and value <= 10_000 else value


def _for_all(value: object) -> object:
    return {ALL: value} if isinstance(value, int | float) else value


Names = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1)]


class Sweep(Frozen):
    """What to plan (`schema_version` 1): each method on each model and scenario, for each seed."""

    schema_version: Version1 = 1
    name: str = Field(min_length=1)
    models: Names = Field(description="zoo names or .onnx files; paths are relative to this file")
    scenarios: Names = Field(description="shipped names or .yaml files")
    methods: Annotated[Names, BeforeValidator(_every)] = Field(description="names, or all")
    seeds: Annotated[tuple[Annotated[Whole, Field(ge=0)], ...], Field(min_length=1), BeforeValidator(_counted)] = Field(
        default=(0,), description="or how many, from 0; methods without random choices take the first only"
    )
    budget_s: Annotated[Mapping[str, Annotated[Number, Field(ge=0.1)]], BeforeValidator(_for_all)] = Field(
        default={}, description="of each method or one for all; without it a method does its own fixed work"
    )

    @model_validator(mode="after")
    def _once_each(self) -> Sweep:
        for key in ("models", "scenarios", "methods", "seeds"):
            values: Sequence[object] = getattr(self, key)
            for value in values:
                if values.count(value) > 1:
                    raise ValueError(f"{key} has '{value}' twice")
        for method in self.budget_s:
            if method not in (*self.methods, ALL):
                raise ValueError(f"budget_s is for '{method}', which is not among the methods")
        return self

    def budget(self, method: str) -> float | None:
        """Seconds that a method may take, if it can use them."""
        return self.budget_s.get(method, self.budget_s.get(ALL))

    def cases(self, effort: Effort) -> list[Row]:
        """In the order of the file; the effort's seed is added to each."""
        return [
            {"model": model, "scenario": scenario, "method": method, "seed": effort.seed + seed}
            for model in self.models
            for scenario in self.scenarios
            for method in self.methods
            for seed in (self.seeds if method in RANDOM else self.seeds[:1])
        ]

    def cost_s(self, case: Row, effort: Effort) -> float:
        """About how long a case takes on one core."""
        budget = self.budget(str(case["method"])) if case["method"] in RANDOM else None
        return budget or methods.cost_s(case, effort)


@dataclass(frozen=True)
class Material:
    """A sweep with its models and scenarios loaded, so that it can be sent to whoever does the cases."""

    sweep: Sweep
    graphs: Mapping[str, LayerGraph]
    scenarios: Mapping[str, Scenario]

    def run(self, case: Row, effort: Effort) -> list[Row]:
        """Plan a case; without a budget the same seed gives the same row."""
        model, scenario, method = (str(case[name]) for name in KEY[:3])
        row: Row = {**case, "latency_ms": None, "ips": None, "refusal": "", "failure": "", "seconds": None}
        began = time.perf_counter()
        try:
            made = plan(
                self.graphs[model], self.scenarios[scenario], method, int(case["seed"] or 0), self.sweep.budget(method)
            )
        except DependencyError:  # may be installed by the next time
            raise
        except InputError as exc:
            return [row | {"refusal": " ".join(str(exc).split()), "seconds": time.perf_counter() - began}]
        assert made.predicted is not None
        ms = made.predicted.latency_ms
        return [row | {"latency_ms": ms, "ips": 1000.0 / ms, "seconds": time.perf_counter() - began}]

    def made_with(self) -> dict[str, object]:
        """What rows depend on, besides the case."""
        budgets = {f"budget of {method}": self.sweep.budget(method) for method in self.sweep.methods}
        models = {f"model {name}": graph.sha256 for name, graph in self.graphs.items()}
        scenarios = {
            f"scenario {name}": hashlib.sha256(scenario.model_dump_json().encode()).hexdigest()
            for name, scenario in self.scenarios.items()
        }
        return {"version": __version__, **budgets, **models, **scenarios}

    def experiment(self) -> Experiment:
        """For the runner."""
        return Experiment(
            name=NAME, title=self.sweep.name, paper="", here="", key=KEY, columns=COLUMNS, cases=self.sweep.cases,
            run=self.run, cost_s=self.sweep.cost_s, draw=draw, table=shown, timed=("seconds",), failure="failure",
        )  # fmt: skip


def load_sweep(path: Path) -> Material:
    """The sweep of a YAML file, with all that it names; raises `InputError` for what is malformed or unknown."""
    sweep = read_yaml(path, Sweep, InputError)
    for method in sweep.methods:
        planner(method)
    scenarios = {name: load_scenario(_found(path.parent, name)) for name in sweep.scenarios}
    for scenario in scenarios.values():
        _ = scenario.profiles  # loaded here, as other machines may not have their files
    graphs = {name: load_model(_found(path.parent, name)) for name in sweep.models}
    return Material(sweep, graphs, scenarios)


def _found(folder: Path, name: str) -> str:
    return str(folder / name) if Path(name).suffix in {".onnx", ".yaml", ".yml"} else name


def summary(rows: Sequence[Row]) -> list[Row]:
    """A row for each model, scenario and method: latencies over the seeds, and the median by the best method's.

    `median_ms`, `min_ms`, `max_ms` and `over_best` are None where no seed gave a plan; `why` then says so.
    """
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((str(row["model"]), str(row["scenario"]), str(row["method"])), []).append(row)
    known = {case: [float(r["latency_ms"]) for r in found if r["latency_ms"]] for case, found in groups.items()}
    medians = {case: median(ms) for case, ms in known.items() if ms}
    summed: list[Row] = []
    for case, ms in known.items():
        best = min((m for other, m in medians.items() if other[:2] == case[:2]), default=None)
        why = next((str(r["failure"] or r["refusal"]) for r in groups[case] if not r["latency_ms"]), "")
        summed.append(
            {
                "model": case[0],
                "scenario": case[1],
                "method": case[2],
                "seeds": len(ms),
                "median_ms": medians.get(case),
                "min_ms": min(ms, default=None),
                "max_ms": max(ms, default=None),
                "over_best": medians[case] / best if best and ms else None,
                "why": why,
            }
        )
    return summed


def shown(rows: Sequence[Row]) -> Shown:
    """The summary."""
    lines = summary(rows)
    return Shown(tuple(lines[0]), tuple(tuple(line.values()) for line in lines))


def draw(rows: Sequence[Row], path: Path) -> None:
    """Bars: images a second of each method, the median of the seeds, a panel a model."""
    from distredge.plots import draw_comparison

    lines = [{**line, "ips": 1000.0 / float(line["median_ms"] or math.inf)} for line in summary(rows)]
    draw_comparison(lines, path)


def document(sweep: Sweep, results: Results) -> dict[str, Any]:
    """What results.json holds: the sweep's `name`, its `rows` with the `seconds` of each, and their `summary`."""
    seconds = {tuple(row[k] for k in KEY): row["seconds"] for row in results[NAME + SECONDS]}
    rows = [row | {"seconds": seconds.get(tuple(row[k] for k in KEY))} for row in results[NAME]]
    return {"name": sweep.name, "rows": rows, "summary": summary(rows)}
