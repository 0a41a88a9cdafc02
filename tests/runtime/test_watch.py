"""What a stream tells of the world: links followed by their transfers and by probes, devices by their stages."""

from __future__ import annotations

import math

import numpy as np
import pytest

from distredge.profiles.network import occupancy_ms, wire_mbps
from distredge.runtime.link_rates import LinkRates
from distredge.runtime.message import Heartbeat, Hop, Probe, Stint, Transfer
from distredge.runtime.sounding import BACK_BYTES, SOUND_S, Sounding
from distredge.runtime.watch import Watch
from distredge.scenario import REQUESTER
from distredge.testing.memory_network import MemoryNetwork, MemoryOutbox

NAMES = ("a", "b", "c")


class World:
    """A watch, told every 0.1 s what nodes with such links and such a pace would tell."""

    def __init__(self, headroom: float = 1.5) -> None:
        self.now, self.mbps = 100.0, dict.fromkeys(NAMES, 50.0)
        self.rng = np.random.default_rng(0)
        self.watch = Watch(lambda: self.now, LinkRates(dict.fromkeys(NAMES, 50.0)), headroom)

    def run(self, seconds: float, who: tuple[str, ...] = NAMES) -> list[str]:
        """Rows go from the requester to each of them; what is found, in words."""
        for _ in range(round(seconds * 10)):
            self.now += 0.1
            for name in who:
                pace = self.watch.pace_mbps(name)
                assert pace is not None
                rate = min(pace, self.mbps[name]) * math.exp(0.05 * self.rng.standard_normal())
                sent = [Transfer(REQUESTER, 100_000, occupancy_ms(100_000, rate)) for _ in range(2)]
                self.watch.heard(Heartbeat("s", name, transfers=tuple(sent)))
            self.watch.changed()
        return [f"{c.node} {c.before:.0f} {c.after:.0f}" for c in self.watch.take_changes()]


def test_a_link_that_falls_is_found_and_one_that_rises_in_steps() -> None:
    world = World()
    assert world.run(60.0) == []
    assert world.watch.situation(NAMES).mbps == {}
    world.mbps["b"] = 12.5
    assert [found.split()[0] for found in world.run(3.0)] == ["b"]
    assert world.watch.situation(NAMES).mbps["b"] == pytest.approx(12.5, rel=0.1)
    assert world.watch.pace_mbps("b") == pytest.approx(1.5 * 12.5, rel=0.1)
    world.mbps["b"] = 50.0
    assert {found.split()[0] for found in world.run(15.0)} == {"b"}
    assert world.watch.situation(NAMES).mbps["b"] > 50.0 / 1.3  # what is left to the rate is small drift
    assert world.watch.rates()["b"] == pytest.approx(50.0, rel=0.1)


def test_small_drift_is_seen_without_being_a_change() -> None:
    world = World()
    world.run(3.0)
    world.mbps["a"] = 45.0
    assert world.run(10.0) == []
    assert world.watch.rates()["a"] == pytest.approx(45.0, rel=0.05)
    assert world.watch.situation(NAMES).mbps == {}


def test_without_headroom_a_faster_link_cannot_be_seen() -> None:
    world = World(headroom=1.0)
    world.mbps["a"] = 200.0
    assert world.run(20.0) == []


def test_links_that_are_not_followed_have_no_pace() -> None:
    watch = Watch(lambda: 0.0)
    assert (watch.pace_mbps("a"), watch.rates(), watch.changed()) == (None, {}, False)


def test_a_device_that_slows_is_found_and_small_stages_do_not_count() -> None:
    now = [100.0]
    watch = Watch(lambda: now[0])
    watch.pacemaker.expect(1, {("a", 0): 20.0, ("a", 1): 0.1})

    def run(seconds: float, factor: float, small_ms: float) -> None:
        for _ in range(round(seconds * 10)):
            now[0] += 0.1
            watch.heard(Heartbeat("s", "a", work=(Stint(1, 0, 2, 40.0 * factor), Stint(1, 1, 2, small_ms))))
            watch.changed()

    run(5.0, 1.0, 0.2)
    run(20.0, 1.0, 2.0)  # ten times as long, and it does not matter
    assert watch.situation(("a",)).slowdown == {}
    run(3.0, 5.0, 2.0)
    assert watch.situation(("a",)).slowdown["a"] == pytest.approx(5.0, rel=0.15)
    run(3.0, 1.0, 2.0)
    assert watch.situation(("a",)).slowdown.get("a", 1.0) == pytest.approx(1.0, rel=0.15)


class Probed:
    """A sounding, whose probes come back over a link of such a rate."""

    def __init__(self) -> None:
        self.network = MemoryNetwork()
        self.asked: list[Probe] = []
        self.found: list[tuple[str, float]] = []
        outbox = MemoryOutbox(self.network, REQUESTER)
        outbox.open(dict.fromkeys(NAMES, ""), None)  # type: ignore[arg-type]
        outbox.put = lambda peer, message, payload=b"": self.asked.append(message)  # type: ignore[method-assign,assignment,arg-type,misc]
        self.sounding = Sounding("s", outbox, "float16", lambda node, size, ms: self.found.append((node, size / ms)))

    def back(self, mbps: float) -> None:
        probe = self.asked[-1]
        assert probe.route == (Hop(REQUESTER, BACK_BYTES),)
        at_s, chunk = 1.0, 16 * 1024
        for offset in range(0, BACK_BYTES, chunk):
            part = Probe("s", probe.number, BACK_BYTES, offset, (), ())
            self.sounding.came(part, chunk, at_s)
            at_s += occupancy_ms(chunk, mbps) / 1000.0


def test_those_that_stand_by_are_asked_in_turn_and_two_probes_that_agree_are_believed() -> None:
    probed = Probed()
    for n in range(6):
        probed.sounding.tick(n * SOUND_S, ["a", "b"])
        probed.sounding.tick(n * SOUND_S + 0.1, ["a", "b"])  # not yet
        assert len(probed.asked) == n + 1
        probed.back(50.0 if n % 2 else (20.0, 80.0, 82.0)[n // 2])
    assert [node for node, _ in probed.found] == ["b", "a", "b"]  # of a, the first two did not agree
    for _, per_ms in probed.found:
        assert wire_mbps(1.0 / per_ms, 0.98) in (pytest.approx(50.0, rel=0.01), pytest.approx(82.0, rel=0.01))


def test_nobody_is_asked_while_all_have_a_part_and_old_probes_count_for_nothing() -> None:
    probed = Probed()
    probed.sounding.tick(0.0, [])
    assert probed.asked == []
    probed.sounding.tick(0.0, ["a"])
    probed.sounding.tick(10.0, ["a"])
    probed.asked.pop()
    probed.back(50.0)
    assert probed.found == []
