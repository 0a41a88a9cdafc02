"""What an experiment is: cases that yield rows, a picture, and claims of the paper judged by pure functions of rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

Value: TypeAlias = str | int | float | None
Row: TypeAlias = dict[str, Value]
Results: TypeAlias = Mapping[str, Sequence[Row]]
"""Rows by the experiment's name; what took how long by the name and `SECONDS`."""

SECONDS = ".seconds"
"""After an experiment's name: its rows of wall-clock times, kept apart since no two runs have the same."""

Verdict: TypeAlias = Literal["holds", "holds partly", "does not hold", "not run"]

OURS = ("osds", "osds-paper")
"""What stands for DistrEdge: this project's form of it, and the paper's algorithm to the letter."""


@dataclass(frozen=True)
class Effort:
    """How much work an experiment does. The same effort gives the same rows.

    `seeds`: runs of each method that draws random numbers. `paper_episodes`: of `osds-paper`; None: 4000, the paper's.
    `splitter`: who splits a given partition scheme (Fig. 4, 5). `methods`: only these; None: all that are compared.
    """

    name: str
    seed: int = 0
    seeds: int = 3
    paper_episodes: int | None = None
    splitter: Literal["osds", "annealing"] = "osds"
    anneal_steps: int = 200_000
    alpha_repeats: int = 5
    sample_repeats: int = 50
    dynamic_step_s: int = 10
    methods: tuple[str, ...] | None = None


FULL = Effort("full")
QUICK = Effort(
    "quick", seeds=1, paper_episodes=300, splitter="annealing", alpha_repeats=3, sample_repeats=20, dynamic_step_s=60
)


@dataclass(frozen=True)
class Judgement:
    """What came of a claim, and the figures that say so."""

    verdict: Verdict
    found: str


@dataclass(frozen=True)
class Claim:
    """What the paper says.

    `needs` are the experiments whose rows `judge` reads; it is called for each of `subjects` (methods that the claim
    may be about) and follows `rule`. `reasons` by verdict of the first subject: why it is so, as far as it is known.
    """

    name: str
    statement: str
    source: str
    needs: tuple[str, ...]
    rule: str
    judge: Callable[[Results, str], Judgement]
    subjects: tuple[str, ...] = ("",)
    reasons: Mapping[str, str] = field(default_factory=dict)

    def judged(self, results: Results) -> dict[str, Judgement]:
        """A judgement for each subject; `not run` where rows are missing."""
        if any(not results.get(name) for name in self.needs):
            missing = Judgement("not run", f"needs {', '.join(self.needs)}")
            return dict.fromkeys(self.subjects, missing)
        return {subject: self.judge(results, subject) for subject in self.subjects}


@dataclass(frozen=True)
class Shown:
    """A table of the report."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Value, ...], ...]


@dataclass(frozen=True)
class Experiment:
    """A figure or table of the paper.

    `key` names the columns that tell cases apart; `run` returns the rows of one case, which hold them. `columns` are
    those of the CSV with their types; `timed` columns hold wall-clock seconds and are kept apart. Experiments of the
    same `family` have the same rows for the same case, which is then run once. `cost_s`: about how long a case takes.
    `failure` names the column that says why a case failed, which is then tried again next time; without one the
    first failure ends the run.
    """

    name: str
    title: str
    paper: str
    here: str
    key: tuple[str, ...]
    columns: Mapping[str, type]
    cases: Callable[[Effort], list[Row]]
    run: Callable[[Row, Effort], list[Row]]
    cost_s: Callable[[Row, Effort], float]
    draw: Callable[[Sequence[Row], Path], None]
    table: Callable[[Sequence[Row]], Shown]
    timed: tuple[str, ...] = ()
    family: str = ""
    failure: str = ""

    def identity(self, row: Mapping[str, Value]) -> tuple[Value, ...]:
        """Which case a row is of."""
        return tuple(row[name] for name in self.key)


@dataclass(frozen=True)
class Page:
    """Experiments and claims that are shown together, in one file.

    `name` stands for all of its experiments on the command line. `asked` introduces what an experiment's `paper` says,
    `legend` (HTML) what the verdicts are about; `work` tells what an effort means for these experiments.
    """

    name: str
    file: str
    title: str
    asked: str
    legend: str
    work: Callable[[Effort], str]
    experiments: tuple[Experiment, ...]
    claims: tuple[Claim, ...]
