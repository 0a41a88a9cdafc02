"""A page of experiments: each claim beside what was found here, then every experiment; in one file."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from distredge.experiments.base import OURS, SECONDS, Claim, Effort, Experiment, Judgement, Page, Results, Shown, Value
from distredge.experiments.reasons import REASONS
from distredge.experiments.store import CASE_SECONDS


@dataclass(frozen=True)
class Facts:
    """What the page says of the run: nothing in it is looked up while rendering."""

    version: str
    date: str
    effort: Effort
    calibrated: tuple[str, ...]


@dataclass(frozen=True)
class Judged:
    """A claim with what was found."""

    claim: Claim
    found: Mapping[str, Judgement]

    @property
    def verdict(self) -> str:
        """That of the first subject."""
        return next(iter(self.found.values())).verdict

    @property
    def reason(self) -> str:
        """Why, if it is known."""
        return REASONS.get((self.claim.name, self.verdict), "")


def judge(claims: Sequence[Claim], results: Results) -> list[Judged]:
    """All claims, judged on the rows there are."""
    return [Judged(claim, claim.judged(results)) for claim in claims]


def render(
    page: Page,
    judged: Sequence[Judged],
    results: Results,
    pictures: Mapping[str, bytes],
    facts: Facts,
) -> str:
    """The page as HTML; `pictures` are PNGs by the experiment's name."""
    parts = [
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(page.title)}</title><style>{_STYLE}</style></head><body><main>",
        f"<h1>{escape(page.title)}</h1>",
        _facts(page, facts, results),
        "<h2>Claims</h2>",
        _counts(judged),
        f"<p>{page.legend}</p>",
        _summary(page, judged),
        "<h2>The claims one by one</h2>",
        *(_claim(item) for item in judged),
        *(_experiment(page, e, results, pictures.get(e.name), judged) for e in page.experiments if results.get(e.name)),
        "</main></body></html>\n",
    ]
    return "\n".join(parts)


def _facts(page: Page, facts: Facts, results: Results) -> str:
    effort = facts.effort
    spent = sum(float(row[CASE_SECONDS] or 0.0) for e in page.experiments for row in results.get(e.name + SECONDS, ()))
    last = effort.seed + effort.seeds - 1
    seeds = f"seed {effort.seed}" if effort.seeds == 1 else f"seeds {effort.seed} to {last}"
    hint = " A quick run: for figures to quote, leave out --quick." if effort.name == "quick" else ""
    if effort.methods is not None:
        hint += f" Methods: {escape(', '.join(effort.methods))} only."
    items = [
        "<strong>Nothing here was measured on a board.</strong> The latencies of"
        f" {escape(', '.join(facts.calibrated))} are estimates, calibrated on published figures (profiles/README.md);"
        " times come from the simulator, which has no noise. A ratio between methods is worth more than any figure of"
        " its own.",
        f"Effort: <strong>{escape(effort.name)}</strong>, {seeds} for what draws random numbers;"
        f" {page.work(effort)}.{hint}",
        f"DistrEdge {escape(facts.version)}, {escape(facts.date)}; the cases took {spent / 60:.0f} minutes in all,"
        " each on one core.",
    ]
    return f'<ul class="facts">{"".join(f"<li>{item}</li>" for item in items)}</ul>'


def _counts(judged: Sequence[Judged]) -> str:
    verdicts = [item.verdict for item in judged]
    plural = {"holds": "hold", "holds partly": "hold partly", "does not hold": "do not hold", "not run": "were not run"}
    said = ", ".join(f"{verdicts.count(v)} {words}" for v, words in plural.items() if v in verdicts)
    return f"<p>Of {len(judged)} claims, {said}.</p>"


def _summary(page: Page, judged: Sequence[Judged]) -> str:
    """A line a claim: verdicts only."""
    lines = []
    letters = any(OURS[1] in item.found for item in judged)
    for item in judged:
        letter = item.found.get(OURS[1])
        cells = f"<td>{_badge(item.verdict)}</td>"
        if letters:
            cells += f"<td>{_badge(letter.verdict) if letter else ''}</td>"
        link = f'<a href="#claim-{escape(item.claim.name)}">{escape(item.claim.statement)}</a>'
        lines.append(f'<tr><td class="wide">{link}</td>{cells}</tr>')
    head = f"<tr><th>{page.asked}</th><th>Here</th>{'<th>Here, to the letter</th>' if letters else ''}</tr>"
    return f'<div class="scroll"><table><thead>{head}</thead><tbody>{"".join(lines)}</tbody></table></div>'


def _claim(item: Judged) -> str:
    claim = item.claim
    lines = []
    for subject, judgement in item.found.items():
        name = f"<code>{escape(subject)}</code> " if subject else ""
        lines.append(f"<p>{name}{_badge(judgement.verdict)} {escape(judgement.found)}</p>")
    reason = f'<p class="reason">Likely reason: {escape(item.reason)}</p>' if item.reason else ""
    return (
        f'<section class="claim" id="claim-{escape(claim.name)}"><div class="paper"><p>&#8220;{escape(claim.statement)}'
        f'&#8221;</p><p class="small">{escape(claim.source)}</p></div><div class="found">{"".join(lines)}'
        f'<p class="small">Judged by: {escape(claim.rule)}.</p>{reason}</div></section>'
    )


def _badge(verdict: str) -> str:
    return f'<span class="badge {verdict.replace(" ", "-")}">{verdict}</span>'


def _prose(text: str) -> str:
    """Text as HTML, what stands between backticks as code."""
    return re.sub("`([^`]*)`", r"<code>\1</code>", escape(text))


def _experiment(
    page: Page, experiment: Experiment, results: Results, picture: bytes | None, judged: Sequence[Judged]
) -> str:
    mine = [item for item in judged if experiment.name in item.claim.needs]
    links = ", ".join(
        f'<a href="#claim-{escape(i.claim.name)}">{escape(i.claim.name)}</a> {_badge(i.verdict)}' for i in mine
    )
    claims = f"<p><strong>Claims:</strong> {links}</p>" if links else ""
    image = ""
    if picture is not None:
        data = base64.b64encode(picture).decode()
        image = f'<img alt="{escape(experiment.title)}" src="data:image/png;base64,{data}">'
    return (
        f'<section id="{experiment.name}"><h2>{escape(experiment.title)}</h2>'
        f"<p><strong>{page.asked}:</strong> {_prose(experiment.paper)}</p>"
        f"<p><strong>Here:</strong> {_prose(experiment.here)}</p>{claims}{image}"
        f"{_table(experiment.table(results[experiment.name]))}"
        f'<p class="small">Rows: {experiment.name}.csv</p></section>'
    )


def _table(shown: Shown) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in shown.columns)
    body = "".join(f"<tr>{''.join(_cell(value) for value in row)}</tr>" for row in shown.rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _cell(value: Value) -> str:
    if isinstance(value, str):
        return f"<td>{escape(value)}</td>"
    if value is None:
        return '<td class="number">-</td>'
    text = str(value) if isinstance(value, int) else f"{value:.4g}" if abs(value) < 1e4 else f"{value:.0f}"
    return f'<td class="number">{text}</td>'


_STYLE = """
:root{color-scheme:light}
*{box-sizing:border-box}
body{margin:0;background:#fff;color:#1b1b1b;font:16px/1.5 system-ui,sans-serif}
main{max-width:72rem;margin:0 auto;padding:1rem}
h1{font-size:1.6rem;line-height:1.2}h2{font-size:1.25rem;margin:2.5rem 0 .5rem;line-height:1.3}
p{margin:.3rem 0}code{font-size:.95em;background:#f1f1f1;padding:0 .2em}
.facts{background:#fff6dc;border-left:4px solid #b58900;margin:1rem 0;padding:.6rem .8rem .6rem 2rem}
.claim{display:grid;grid-template-columns:minmax(0,2fr) minmax(0,3fr);gap:.3rem 1.5rem;border-top:1px solid #ccc}
.claim{padding:.6rem 0}
.small{font-size:.85rem;color:#555}.reason{border-left:3px solid #999;padding-left:.6rem}
.badge{display:inline-block;padding:0 .5em;border-radius:.3em;font-size:.85rem;font-weight:600;white-space:nowrap}
.holds{background:#d7f0dd;color:#0b4d1e}.holds-partly{background:#fdecc0;color:#5c4100}
.does-not-hold{background:#f9d6d5;color:#7a1210}.not-run{background:#e5e5e5;color:#444}
.scroll{overflow-x:auto;margin:.6rem 0}table{border-collapse:collapse;font-size:.85rem}
th,td{border:1px solid #ddd;padding:.2rem .4rem;text-align:left;white-space:nowrap}td.wide{white-space:normal}
th{background:#f5f5f5;white-space:normal;vertical-align:bottom}.number{text-align:right;font-variant-numeric:tabular-nums}
img{max-width:100%;height:auto;display:block;margin:.6rem 0}
@media(max-width:700px){.claim{grid-template-columns:minmax(0,1fr)}
td .badge{white-space:normal}th,td{padding:.2rem .35rem}}
"""
