"""The experiments by name, all claims, and the pages that show them."""

from __future__ import annotations

from distredge.errors import UnknownNameError
from distredge.experiments import breakdown, dynamic, groups, nonlinear, schemes, tables
from distredge.experiments.agent_page import AGENT
from distredge.experiments.base import Claim, Effort, Experiment, Page


def _paper_work(effort: Effort) -> str:
    splitter = "annealing" if effort.splitter == "annealing" else "the agent"
    return (
        f"osds-paper trains for {effort.paper_episodes or 4000} episodes (the paper: 4000; Fig. 12 says its own);"
        f" Fig. 4 has {effort.alpha_repeats} and Fig. 5 {effort.sample_repeats} repeats, split by {splitter}; no method"
        " has a time limit"
    )


_PAPER = (schemes, groups, dynamic, nonlinear, breakdown, tables)

PAPER = Page(
    name="all",
    file="report.html",
    title="DistrEdge: the paper's claims and what was found here",
    asked="In the paper",
    legend=(
        "DistrEdge is <code>osds</code>, this project&#8217;s form: a search over partition schemes and orders of "
        "the providers, then the agent. <code>osds-paper</code> is the paper&#8217;s algorithm to the letter. The "
        "verdict of a claim is that of <code>osds</code>; the other stands beside it. A reason is given where one "
        "is known: likely, not proven."
    ),
    work=_paper_work,
    experiments=tuple(e for module in _PAPER for e in module.EXPERIMENTS),
    claims=(
        *groups.CLAIMS,
        *schemes.CLAIMS,
        *dynamic.CLAIMS,
        *nonlinear.CLAIMS,
        *breakdown.CLAIMS,
        *tables.CLAIMS,
    ),
)

PAGES = (PAPER, AGENT)

EXPERIMENTS: dict[str, Experiment] = {e.name: e for page in PAGES for e in page.experiments}

CLAIMS: tuple[Claim, ...] = tuple(claim for page in PAGES for claim in page.claims)


def experiments(names: list[str]) -> list[Experiment]:
    """The experiments of these names, or all of a page; raises `UnknownNameError` for another name."""
    pages = {page.name: page for page in PAGES}
    for name in names:
        if name not in pages and name not in EXPERIMENTS:
            raise UnknownNameError("experiment", name, (*EXPERIMENTS, *pages))
    chosen = {e.name for name in names if name in pages for e in pages[name].experiments} | {*names}
    return [e for e in EXPERIMENTS.values() if e.name in chosen]
