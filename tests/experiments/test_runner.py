"""Rows as they come: interruption, resumption, families, the same bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from distredge.errors import InputError
from distredge.experiments.base import QUICK, SECONDS, Effort, Experiment, Row, Shown
from distredge.experiments.engines import Processes
from distredge.experiments.registry import PAPER
from distredge.experiments.runner import run
from distredge.experiments.store import Store, claim_folder

TINY = replace(
    QUICK, alpha_repeats=1, sample_repeats=2, anneal_steps=100, dynamic_step_s=600, methods=("offload", "coedge")
)


class Toy:
    """An experiment of four cases with two rows each, that counts the cases that it runs."""

    def __init__(self, name: str = "toy", family: str = "") -> None:
        self.ran: list[object] = []
        self.experiment = Experiment(
            name=name, title="Toy", paper="", here="", key=("case",), columns={"case": int, "place": str, "ms": float},
            cases=lambda effort: [{"case": k} for k in range(4)], run=self.work, cost_s=lambda case, effort: 1.0,
            draw=lambda rows, path: None, table=lambda rows: Shown((), ()), family=family,
        )  # fmt: skip

    def work(self, case: Row, effort: Effort) -> list[Row]:
        self.ran.append(case["case"])
        k = int(case["case"] or 0)
        return [{**case, "place": place, "ms": (k + 1) / 3 if place else None} for place in ("", "a, b")]


def test_rows_are_written_in_the_order_of_the_cases_and_read_back(tmp_path: Path) -> None:
    toy = Toy()
    results = run([toy.experiment], tmp_path, QUICK)
    assert [(r["case"], r["place"]) for r in results["toy"]] == [(k, p) for k in range(4) for p in ("", "a, b")]
    assert results["toy"][0]["ms"] is None and results["toy"][1]["ms"] == pytest.approx(1 / 3, rel=1e-5)
    assert [r["case"] for r in results["toy" + SECONDS]] == [0, 1, 2, 3]
    assert (tmp_path / "toy.csv").read_text().splitlines()[:3] == ["case,place,ms", "0,,", '0,"a, b",0.333333']
    again = run([toy.experiment], tmp_path, QUICK)
    assert again == results and len(toy.ran) == 4


def test_an_interrupted_run_goes_on_and_ends_with_the_same_bytes(tmp_path: Path) -> None:
    whole, halves = Toy(), Toy()
    run([whole.experiment], tmp_path / "whole", QUICK)

    def stop_after_two(what: str, share: float, left_s: float) -> None:
        if share >= 0.5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run([halves.experiment], tmp_path / "halves", QUICK, progress=stop_after_two)
    assert len((tmp_path / "halves" / "toy.csv").read_text().splitlines()) == 1 + 2 * 2
    run([halves.experiment], tmp_path / "halves", QUICK)
    assert halves.ran == [0, 1, 2, 3]
    assert (tmp_path / "halves" / "toy.csv").read_bytes() == (tmp_path / "whole" / "toy.csv").read_bytes()


@pytest.mark.parametrize("cut", [3, 15])
def test_a_case_whose_rows_were_cut_off_is_run_again(tmp_path: Path, cut: int) -> None:
    toy = Toy()
    run([toy.experiment], tmp_path, QUICK)
    path = tmp_path / "toy.csv"
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    run([toy.experiment], tmp_path, QUICK)
    assert path.read_bytes() == whole
    assert toy.ran[4:] == [3]


def test_experiments_of_a_family_run_a_case_once(tmp_path: Path) -> None:
    first, second, third = Toy("first", "them"), Toy("second", "them"), Toy("third", "them")
    results = run([first.experiment, second.experiment], tmp_path, QUICK)
    assert results["first"] == results["second"] and len(first.ran) + len(second.ran) == 4
    assert run([first.experiment, third.experiment], tmp_path, QUICK)["third"] == results["first"]
    assert third.ran == []


def test_a_failure_ends_the_run_where_no_column_tells_of_it(tmp_path: Path) -> None:
    def work(case: Row, effort: Effort) -> list[Row]:
        if case["case"] == 1:
            raise ValueError("broken\nin two")
        return [{**case, "place": "here", "ms": 1.0}]

    strict = replace(Toy().experiment, run=work)
    with pytest.raises(ValueError, match="broken"):
        run([strict], tmp_path / "strict", QUICK)
    assert len((tmp_path / "strict" / "toy.csv").read_text().splitlines()) == 1 + 1
    rows = run([replace(strict, failure="place")], tmp_path / "lenient", QUICK)["toy"]
    assert [row["place"] for row in rows] == ["here", "ValueError: broken in two", "here", "here"]


def test_progress_says_what_is_left(tmp_path: Path) -> None:
    said: list[tuple[str, float, float]] = []
    run([Toy().experiment], tmp_path, QUICK, progress=lambda *what: said.append(what))
    assert said[0] == ("4 cases", 0.0, 4.0)
    assert [share for _, share, _ in said] == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert said[-1][2] == 0.0


@pytest.mark.parametrize("other", [replace(QUICK, seed=1), replace(QUICK, methods=("aofl",))])
def test_a_folder_belongs_to_one_effort(tmp_path: Path, other: Effort) -> None:
    claim_folder(tmp_path, QUICK, "1")
    claim_folder(tmp_path, QUICK, "1")
    with pytest.raises(InputError, match="made otherwise .* another folder"):
        claim_folder(tmp_path, other, "1")


def test_a_file_of_other_columns_is_refused(tmp_path: Path) -> None:
    (tmp_path / "toy.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="no rows of this experiment"):
        Store(Toy().experiment, tmp_path)


def bytes_of(folder: Path, names: Sequence[str]) -> dict[str, bytes]:
    return {name: (folder / f"{name}.csv").read_bytes() for name in names}


def test_every_experiment_of_the_paper_runs_and_the_same_seed_gives_the_same_bytes_on_one_process_and_on_two(
    tmp_path: Path,
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    few = [small(e) for e in PAPER.experiments]
    results = run(few, one, TINY)
    assert all(results[e.name] for e in few)
    quick = [e for e in few if e.name in ("fig6", "fig12", "fig13", "table1")]
    run(quick, two, TINY, Processes(2))
    names = [e.name for e in quick]
    assert bytes_of(one, names) == bytes_of(two, names)


def small(experiment: Experiment) -> Experiment:
    """Its first eight cases only."""
    return replace(experiment, cases=lambda effort: experiment.cases(effort)[:8])
