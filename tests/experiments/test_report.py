"""The page: every claim, valid, self-contained."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest

from distredge.experiments.base import QUICK, Row
from distredge.experiments.reasons import REASONS
from distredge.experiments.registry import PAPER
from distredge.experiments.report import Facts, judge, render

VOID = {"meta", "img", "br", "link", "input", "hr"}

FACTS = Facts("1.2.3", "2026-01-02", QUICK, ("jetson-nano",))


class Page(HTMLParser):
    """Checks that tags close in order; notes what is outside the page, identities and links into the page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.outside: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        if tag in ("script", "link", "iframe", "object"):
            self.outside.append(tag)
        for name, value in attrs:
            if name == "src" and not (value or "").startswith("data:image/png;base64,"):
                self.outside.append(value or "")
            if name == "href":
                self.links.append(value or "")
            if name == "id":
                self.ids.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def page(results: dict[str, list[Row]]) -> tuple[Page, str]:
    text = render(PAPER, judge(PAPER.claims, results), results, {"fig6": b"\x89PNG"}, FACTS)
    return Page(text), text


def rows_of_fig6() -> list[Row]:
    return [
        {
            "model": "vgg16", "scenario": scenario, "method": method, "seed": 0, "latency_ms": ms, "ips": 1000 / ms,
            "volumes": 1, "workers": "<nano>", "max_transmission_ms": 1.0, "max_compute_ms": 1.0, "refusal": "",
        }
        for scenario in ("da-50", "db-50", "dc-50")
        for method, ms in (("aofl", 20.0), ("osds", 10.0), ("osds-paper", 40.0))
    ]  # fmt: skip


@pytest.mark.parametrize("results", [{}, {"fig6": rows_of_fig6()}], ids=["nothing", "fig6"])
def test_the_page_is_whole_and_needs_nothing_else(results: dict[str, list[Row]]) -> None:
    parsed, text = page(results)
    assert parsed.outside == []
    assert "http" not in text.replace("http-equiv", "") and "@import" not in text and "url(" not in text
    assert len(parsed.ids) == len(set(parsed.ids))
    assert {link.removeprefix("#") for link in parsed.links} <= set(parsed.ids)
    words = " ".join(parsed.words)
    for claim in PAPER.claims:
        assert claim.statement in words and f"claim-{claim.name}" in parsed.ids
    assert "Nothing here was measured on a board" in words
    assert "2026-01-02" in words and "1.2.3" in words and "quick" in words


def test_verdicts_pictures_and_tables_of_what_was_run() -> None:
    parsed, text = page({"fig6": rows_of_fig6()})
    words = " ".join(parsed.words)
    assert "2.00 times; 2 of 2 cases in the range" in words
    assert "0.50 times" in words
    assert text.count("data:image/png") == 1 and 'id="fig6"' in text and 'id="fig7"' not in text


def test_reasons_are_of_claims_and_verdicts_that_there_are() -> None:
    for name, verdict in REASONS:
        assert name in {claim.name for claim in PAPER.claims}
        assert verdict in ("holds", "holds partly", "does not hold")
