"""Rates of a star's links from transfers between pairs: which end limits, what has changed, what is kept."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distredge.profiles.network import WIRE_OVERHEAD
from distredge.runtime.link_rates import MIN_BYTES, LinkRates, RateChange

BYTES = 200_000

FRAME_S = 0.05

NEAR = 1.25
"""Estimates of true rates are within this factor."""

Pairs = Sequence[tuple[str, str]]


class Star:
    """Nodes on links, and a stream whose every frame uses some pairs; what is told goes to a `LinkRates`."""

    def __init__(self, assumed: Mapping[str, float], pairs: Pairs, noise: float = 0.05, seed: int = 0) -> None:
        self.links = LinkRates(assumed)
        self.rates = dict(assumed)
        self.pairs = pairs
        self.now = 100.0
        self._noise, self._rng = noise, np.random.default_rng(seed)

    def stream(self, seconds: float, headroom: float = math.inf) -> Star:
        """Frames of so much time: the slower link limits, or the pace at which both ends are sent to."""
        for _ in range(round(seconds / FRAME_S)):
            self.now += FRAME_S
            for k, (a, b) in enumerate(self.pairs):
                pace = headroom * min(self.links.assumed.get(n, math.inf) for n in (a, b))
                mbps = min(self.rates.get(a, math.inf), self.rates.get(b, math.inf), pace)
                slower = math.exp(self._rng.normal(0.0, self._noise))
                if self._rng.random() < 0.05:
                    slower *= self._rng.uniform(2.0, 5.0)
                ms = BYTES * 8 * WIRE_OVERHEAD / (mbps * 1000.0) * slower
                self.links.took(self.now + k * 1e-4, a, b, BYTES, ms)
        return self


def names(changes: Sequence[RateChange]) -> set[str]:
    return {change.node for change in changes}


def test_a_node_whose_link_halves_is_found_and_no_other() -> None:
    """Each has its rows from the requester, and they exchange halos."""
    star = Star({"a": 100.0, "b": 100.0, "c": 200.0}, [("r", "a"), ("r", "b"), ("r", "c"), ("a", "b"), ("b", "c")])
    assert star.stream(20.0).links.changes() == []
    began, star.rates["b"] = star.now, 50.0
    (change,) = star.stream(3.0).links.changes()
    assert change.node == "b" and change.before_mbps == 100.0
    assert change.after_mbps == pytest.approx(50.0, rel=0.1)
    assert change.at_s == pytest.approx(began, abs=0.75)
    assert star.links.assumed["b"] == change.after_mbps
    assert star.stream(20.0).links.changes() == []
    assert star.links.rates() == pytest.approx({"a": 100.0, "b": 50.0, "c": 200.0}, rel=0.1)


def test_a_node_that_was_faster_is_blamed_if_the_other_one_goes_on_as_before() -> None:
    """The pair's slower end is assumed to limit, but with somebody else it is as fast as ever."""
    star = Star({"a": 100.0, "b": 300.0}, [("r", "a"), ("a", "b")])
    star.stream(10.0)
    star.rates["b"] = 30.0
    assert names(star.stream(3.0).links.changes()) == {"b"}
    assert star.links.rates() == pytest.approx({"a": 100.0, "b": 30.0}, rel=0.1)


def test_a_node_that_is_slow_with_everybody_explains_its_pairs() -> None:
    """Its partner may be as fast as before: nobody has seen that it is not."""
    star = Star({"a": 100.0, "b": 100.0}, [("r", "a"), ("a", "b")])
    star.stream(10.0)
    star.rates["a"] = 30.0
    assert names(star.stream(3.0).links.changes()) == {"a"}
    assert star.links.rates() == pytest.approx({"a": 30.0, "b": 100.0}, rel=0.1)


@pytest.mark.parametrize(
    ("assumed", "blamed"),
    [({"a": 100.0, "b": 200.0}, {"a"}), ({"a": 100.0, "b": 100.0}, {"a", "b"}), ({"b": 100.0}, {"b"})],
)
def test_if_nothing_tells_the_slower_one_is_blamed_or_both(assumed: dict[str, float], blamed: set[str]) -> None:
    star = Star(assumed, [("a", "b")])
    star.stream(10.0)
    star.rates["b"] = 50.0
    assert names(star.stream(4.0).links.changes()) == blamed
    for name in blamed:
        assert star.links.rates()[name] == pytest.approx(50.0, rel=0.1)
    for name in assumed.keys() - blamed:
        assert star.links.rates()[name] == assumed[name]


def test_what_a_shaper_lets_through_and_nonsense_tell_nothing() -> None:
    links = LinkRates({"a": 100.0, "r": math.inf})
    for k in range(1000):
        links.took(k * 0.01, "r", "a", MIN_BYTES - 1, 0.01)
        links.took(k * 0.01, "r", "a", BYTES, 0.0)
        links.took(k * 0.01, "r", "a", BYTES, math.inf)
        links.took(k * 0.01, "r", "stranger", BYTES, 1.0)
    assert links.rates() == {"a": 100.0} and links.changes() == []


def test_a_faster_link_is_found_in_steps_of_the_headroom() -> None:
    star = Star({"a": 20.0}, [("r", "a")])
    star.stream(5.0, headroom=1.5)
    star.links.changes()
    star.rates["a"] = 100.0
    steps = [change.after_mbps for change in star.stream(30.0, headroom=1.5).links.changes()]
    assert steps == sorted(steps) and steps[0] < 20.0 * 1.5 * NEAR
    assert star.links.rates()["a"] == pytest.approx(100.0, rel=0.1)


def test_what_somebody_knows_better_is_believed_and_followed() -> None:
    star = Star({"a": 100.0}, [("r", "a")])
    star.stream(5.0)
    star.links.assume(star.now, "a", 40.0)
    assert star.links.changes() == [RateChange(star.now, "a", 100.0, 40.0)]
    assert star.links.rates() == {"a": 40.0}
    (change,) = star.stream(3.0).links.changes()
    assert (change.node, change.before_mbps) == ("a", 40.0)
    assert change.after_mbps == pytest.approx(100.0, rel=0.1)


def test_a_small_drift_is_no_change_but_seen() -> None:
    star = Star({"a": 100.0}, [("r", "a")])
    star.stream(10.0)
    star.rates["a"] = 88.0
    assert star.stream(20.0).links.changes() == []
    assert star.links.rates()["a"] == pytest.approx(88.0, rel=0.05)
    assert star.links.assumed["a"] == 100.0


@st.composite
def stars(draw: st.DrawFn) -> tuple[dict[str, float], list[tuple[str, str]], float]:
    """A star's rates, at least a quarter apart, the pairs that a plan uses, and the noise."""
    count = draw(st.integers(2, 6))
    nodes = [f"n{i}" for i in range(count)]
    steps = draw(st.permutations(range(count)))
    rates = {name: 20.0 * 1.4**step for name, step in zip(nodes, steps, strict=True)}
    every = [(a, b) for a in [*nodes, "requester"] for b in nodes if a != b]
    pairs = draw(st.lists(st.sampled_from(every), min_size=1, max_size=12, unique=True))
    return rates, pairs, draw(st.sampled_from([0.02, 0.1, 0.2]))


def fastest(rates: Mapping[str, float], pairs: Pairs) -> Iterator[tuple[str, float]]:
    """What was the most that each node was used at."""
    for name in rates:
        used = [min(rates[name], rates.get(b if a == name else a, math.inf)) for a, b in pairs if name in (a, b)]
        yield name, max(used, default=0.0)


@settings(max_examples=20)
@given(stars(), st.integers(0, 1000))
def test_right_estimates_stay_whatever_pairs_are_used(
    star: tuple[dict[str, float], list[tuple[str, str]], float], seed: int
) -> None:
    rates, pairs, noise = star
    streamed = Star(rates, pairs, noise, seed).stream(10.0)
    assert streamed.links.changes() == []
    for name, mbps in streamed.links.rates().items():
        assert 1.0 / NEAR < mbps / rates[name] < NEAR


@settings(max_examples=20)
@given(stars(), st.integers(0, 1000), st.data())
def test_who_limits_for_sure_is_found_from_any_assumption_and_nobody_is_below_what_was_seen(
    star: tuple[dict[str, float], list[tuple[str, str]], float], seed: int, data: st.DataObject
) -> None:
    """For sure: in a pair whose other end never limits, or was seen to be faster."""
    rates, pairs, noise = star
    wrong = {name: mbps * data.draw(st.sampled_from([0.3, 0.5, 1.0, 2.0, 3.0])) for name, mbps in rates.items()}
    streamed = Star(wrong, pairs, noise, seed)
    streamed.rates = rates
    found = streamed.stream(15.0).links.rates()
    seen = dict(fastest(rates, pairs))
    for name in rates:
        assert found[name] > seen[name] / NEAR
        others = [b if a == name else a for a, b in pairs if name in (a, b)]
        if any(seen.get(other, math.inf) > rates[name] * 1.3 for other in others):
            assert found[name] == pytest.approx(rates[name], rel=NEAR - 1.0)
        elif name not in {n for pair in pairs for n in pair}:
            assert found[name] == wrong[name]


def test_it_keeps_up_with_hundreds_of_transfers_a_second_and_forgets_old_pairs() -> None:
    """Memory is bounded by the pairs of the last seconds, however many there were."""
    nodes = [f"n{i}" for i in range(20)]
    star = Star(dict.fromkeys(nodes, 100.0), [])
    for a, b in zip(nodes, nodes[1:], strict=False):
        star.pairs = [(a, b)]
        star.stream(2.0)
    assert len(star.links._seen) <= 5
    assert star.links.changes() == []


@pytest.mark.parametrize("seed", range(15))
def test_in_any_star_whose_nodes_all_hear_of_the_requester_the_one_that_halves_is_found_in_time(seed: int) -> None:
    rng = np.random.default_rng(seed)
    nodes = [f"n{i}" for i in range(int(rng.integers(3, 6)))]
    halos = [(a, b) for a in nodes for b in nodes if a < b and rng.random() < 0.5]
    star = Star(
        {name: float(rng.choice([50.0, 100.0, 200.0])) for name in nodes},
        [*halos, *(("requester", name) for name in nodes)],
        noise=0.1,
        seed=seed,
    )
    assert star.stream(8.0).links.changes() == []
    slow = str(rng.choice(nodes))
    star.rates[slow] /= 2.0
    assert names(star.stream(3.0).links.changes()) == {slow}
    assert star.links.rates() == pytest.approx(star.rates, rel=0.15)
