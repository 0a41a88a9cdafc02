"""Pictures and the pages, from the rows in a folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from distredge.experiments.base import SECONDS, Effort, Page, Row
from distredge.experiments.nonlinear import PROFILES
from distredge.experiments.registry import PAGES
from distredge.experiments.report import Facts, Judged, judge, render
from distredge.experiments.store import Store
from distredge.profiles.store import load_profile
from distredge.resources import write_atomically


def publish(folder: Path, effort: Effort, version: str, date: str) -> dict[str, list[Judged]]:
    """Draw every experiment whose rows are all there, and write the pages that have such.

    Returns the claims with their verdicts by the page's file. Raises `DependencyError` without matplotlib.
    """
    calibrated = tuple(name for name in PROFILES if load_profile(name).kind == "calibrated")
    facts, found = Facts(version, date, effort, calibrated), dict[str, list[Judged]]()
    for page in PAGES:
        results, pictures = _drawn(page, folder, effort)
        if results:
            found[page.file] = judge(page.claims, results)
            write_atomically(folder / page.file, render(page, found[page.file], results, pictures, facts))
    return found


def _drawn(page: Page, folder: Path, effort: Effort) -> tuple[dict[str, Sequence[Row]], dict[str, bytes]]:
    """Rows and pictures of a page's complete experiments."""
    results: dict[str, Sequence[Row]] = {}
    pictures: dict[str, bytes] = {}
    for experiment in page.experiments:
        store = Store(experiment, folder)
        if not store.rows or any(experiment.identity(case) not in store.rows for case in experiment.cases(effort)):
            continue
        results[experiment.name], results[experiment.name + SECONDS] = store.all_rows(), store.all_seconds()
        picture = folder / f"{experiment.name}.png"
        experiment.draw(results[experiment.name], picture)
        pictures[experiment.name] = picture.read_bytes()
    return results, pictures
