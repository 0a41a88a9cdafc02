"""Pictures and the page, from the rows in a folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from distredge.experiments.base import SECONDS, Effort, Row
from distredge.experiments.nonlinear import PROFILES
from distredge.experiments.registry import CLAIMS, EXPERIMENTS
from distredge.experiments.report import Facts, Judged, judge, render
from distredge.experiments.store import Store
from distredge.profiles.store import load_profile
from distredge.resources import write_atomically

PAGE = "report.html"


def publish(folder: Path, effort: Effort, version: str, date: str) -> list[Judged]:
    """Draw every experiment whose rows are all there, write the page, and return the claims with their verdicts.

    Raises `DependencyError` without matplotlib.
    """
    results: dict[str, Sequence[Row]] = {}
    pictures: dict[str, bytes] = {}
    for name, experiment in EXPERIMENTS.items():
        store = Store(experiment, folder)
        if not store.rows or any(experiment.identity(case) not in store.rows for case in experiment.cases(effort)):
            continue
        results[name], results[name + SECONDS] = store.all_rows(), store.all_seconds()
        picture = folder / f"{name}.png"
        experiment.draw(results[name], picture)
        pictures[name] = picture.read_bytes()
    judged = judge(CLAIMS, results)
    calibrated = tuple(name for name in PROFILES if load_profile(name).kind == "calibrated")
    facts = Facts(version, date, effort, calibrated)
    write_atomically(folder / PAGE, render(judged, list(EXPERIMENTS.values()), results, pictures, facts))
    return judged
