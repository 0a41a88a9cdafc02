"""Sweeps: what a file may say, what becomes of failed cases, which rows stay, and their summary."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from distredge.errors import DependencyError, DistrEdgeError, InputError, RunError
from distredge.experiments import sweep as sweeps
from distredge.experiments.base import FULL, Row
from distredge.experiments.engines import Processes
from distredge.experiments.ray_engine import ray_engine
from distredge.experiments.runner import run
from distredge.experiments.store import claim
from distredge.experiments.sweep import Material, document, load_sweep, summary

TINY = "name: tiny\nmodels: [vgg16]\nscenarios: [db-50, na-nano]\nmethods: [offload, equal, coedge]\n"
ONE = "name: one\nproviders: [{name: a, profile: jetson-nano, bandwidth_mbps: 50}]\n"


def sweep_of(folder: Path, text: str = TINY) -> Material:
    (folder / "sweep.yaml").write_text(text)
    return load_sweep(folder / "sweep.yaml")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (TINY + "seed: 3\n", "unknown key 'seed', did you mean 'seeds'"),
        (TINY + "seeds: 0\n", "seeds"),
        (TINY + "seeds: true\n", "seeds"),
        (TINY + "seeds: [1, 1]\n", "seeds has '1' twice"),
        (TINY + "budget_s: {search: 5}\n", "budget_s is for 'search'"),
        (TINY + "budget_s: -1\n", "budget_s"),
        (TINY + "schema_version: 2\n", "schema_version"),
        (TINY.replace("coedge", "coedg"), "did you mean 'coedge'"),
        (TINY.replace("vgg16", "vgg17"), "unknown model 'vgg17'"),
        (TINY.replace("db-50", "db-51"), "did you mean 'db-50'"),
        (TINY.replace("[vgg16]", "[]"), "models"),
        ("- 1\n", "expected a mapping"),
    ],
)
def test_what_is_wrong_in_a_file_is_said_in_one_line(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(InputError, match=says) as found:
        sweep_of(tmp_path, text)
    assert "\n" not in str(found.value)


def test_cases_and_budgets(tmp_path: Path) -> None:
    text = TINY.replace("equal", "search") + "seeds: 3\nbudget_s: {search: 5, all: 2}\n"
    sweep = sweep_of(tmp_path, text).sweep
    cases = [tuple(case.values()) for case in sweep.cases(replace(FULL, seed=10))]
    once = [("offload", 10), ("search", 10), ("search", 11), ("search", 12), ("coedge", 10)]
    assert cases == [("vgg16", place, method, seed) for place in ("db-50", "na-nano") for method, seed in once]
    assert [sweep.budget(method) for method in sweep.methods] == [2.0, 5.0, 2.0]
    assert len(sweep_of(tmp_path, TINY.replace("[offload, equal, coedge]", "all")).sweep.methods) > 10


def test_files_are_found_beside_the_sweep(tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text(ONE)
    material = sweep_of(tmp_path, TINY.replace("na-nano", "one.yaml"))
    rows = run([material.experiment()], tmp_path / "out", FULL)["results"]
    mine = [row for row in rows if row["scenario"] == "one.yaml"]
    assert len(mine) == 3 and all(float(row["latency_ms"] or 0) > 0 for row in mine if row["method"] == "offload")


def test_an_interrupted_sweep_goes_on_and_two_processes_give_the_same_bytes(tmp_path: Path) -> None:
    material = sweep_of(tmp_path)

    def stop_halfway(what: str, share: float, left_s: float) -> None:
        if share > 0.4:
            raise KeyboardInterrupt

    run([material.experiment()], tmp_path / "whole", FULL, Processes(2))
    whole = (tmp_path / "whole" / "results.csv").read_bytes()
    with pytest.raises(KeyboardInterrupt):
        run([material.experiment()], tmp_path / "halves", FULL, progress=stop_halfway)
    path = tmp_path / "halves" / "results.csv"
    assert path.read_bytes() == b"".join(whole.splitlines(keepends=True)[:4])
    run([material.experiment()], tmp_path / "halves", FULL)
    assert path.read_bytes() == whole


def failing(on: str, error: Exception, asked: list[str]) -> Callable[..., Any]:
    """`plan` that fails for a method, and notes whom it was asked for."""
    plan = sweeps.plan

    def planned(graph: Any, scenario: Any, method: str, *rest: Any) -> Any:
        asked.append(method)
        if method == on:
            raise error
        return plan(graph, scenario, method, *rest)

    return planned


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (MemoryError("too\nlarge"), "MemoryError: too large"),
        (DependencyError("x", "torch", "train"), "x needs torch: pip install 'distredge[train]'"),
    ],
)
def test_a_failed_case_is_noted_and_tried_again_next_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, says: str
) -> None:
    material, asked = sweep_of(tmp_path), list[str]()
    with monkeypatch.context() as patched:
        patched.setattr(sweeps, "plan", failing("equal", error, []))
        rows = run([material.experiment()], tmp_path / "out", FULL)["results"]
    assert [row["failure"] for row in rows] == ["", says, ""] * 2
    assert [row["latency_ms"] is None for row in rows] == [False, True, False] * 2
    monkeypatch.setattr(sweeps, "plan", failing("", error, asked))
    run([material.experiment()], tmp_path / "out", FULL)
    assert asked == ["equal", "equal"]
    run([material.experiment()], tmp_path / "other", FULL)
    assert (tmp_path / "out" / "results.csv").read_bytes() == (tmp_path / "other" / "results.csv").read_bytes()


def test_what_a_method_cannot_serve_is_a_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    material, asked = sweep_of(tmp_path), list[str]()
    monkeypatch.setattr(sweeps, "plan", failing("equal", InputError("not for this"), asked))
    results = run([material.experiment()], tmp_path, FULL)
    assert run([material.experiment()], tmp_path, FULL)["results"] == results["results"] and len(asked) == 6
    lines = document(material.sweep, results)["summary"]
    assert [line["why"] for line in lines] == ["", "not for this", ""] * 2


def test_a_folder_grows_with_its_file(tmp_path: Path) -> None:
    run([sweep_of(tmp_path).experiment()], tmp_path, FULL)
    more = sweep_of(tmp_path, TINY.replace("coedge", "coedge, aofl"))
    said: list[str] = []
    run([more.experiment()], tmp_path, FULL, progress=lambda what, share, left: said.append(what))
    assert said[0] == "2 cases" and len(said) == 3


def test_a_folder_takes_no_rows_that_were_made_otherwise(tmp_path: Path) -> None:
    text = TINY.replace("na-nano", "one.yaml")
    (tmp_path / "one.yaml").write_text(ONE)
    claim(tmp_path / "made", sweep_of(tmp_path, text).made_with())
    claim(tmp_path / "made", sweep_of(tmp_path, text.replace("coedge", "coedge, aofl")).made_with())
    with pytest.raises(InputError, match="made otherwise .budget of offload None"):
        claim(tmp_path / "made", sweep_of(tmp_path, text + "budget_s: 5\n").made_with())
    (tmp_path / "one.yaml").write_text(ONE.replace("50", "60"))
    with pytest.raises(InputError, match="made otherwise .scenario one.yaml"):
        claim(tmp_path / "made", sweep_of(tmp_path, text).made_with())


def rows_of(method: str, *latencies: float | None) -> list[Row]:
    case: Row = {"model": "m", "scenario": "s", "method": method, "refusal": "", "failure": ""}
    return [
        {**case, "seed": k, "latency_ms": ms, "ips": 1000 / ms if ms else None, "refusal": "" if ms else "no"}
        for k, ms in enumerate(latencies)
    ]


def test_the_summary_is_over_the_seeds_and_the_best_method() -> None:
    lines = summary([*rows_of("a", 30.0, 10.0, 20.0), *rows_of("b", 10.0), *rows_of("c", None)])
    figures = [(line["seeds"], line["median_ms"], line["min_ms"], line["max_ms"], line["over_best"]) for line in lines]
    assert figures == [(3, 20.0, 10.0, 30.0, 2.0), (1, 10.0, 10.0, 10.0, 1.0), (0, None, None, None, None)]
    assert [line["why"] for line in lines] == ["", "", "no"]


@pytest.mark.parametrize(
    ("address", "token", "error", "says"),
    [
        ("127.0.0.1:6379", None, InputError, "no token .* RAY_AUTH_TOKEN_PATH"),
        ("127.0.0.1:6379", "", InputError, "no token"),
        ("127.0.0.1", "0", InputError, "give auto, HOST:PORT or ray://HOST:PORT"),
        ("127.0.0.1:1", "0", RunError, "no Ray at 127.0.0.1:1"),
        (None, None, DependencyError, r"needs Ray: pip install 'distredge\[ray\]'"),
    ],
)
def test_no_ray_without_a_token_a_cluster_and_the_package(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    address: str | None,
    token: str | None,
    error: type[DistrEdgeError],
    says: str,
) -> None:
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_MODE", "RAY_USAGE_STATS_ENABLED", "RAY_NUM_REDIS_GET_RETRIES"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setitem(sys.modules, "ray", None)
    if token is not None:
        (tmp_path / "token").write_text(token)
    with pytest.raises(error, match=says), ray_engine(address, 1):
        pass
