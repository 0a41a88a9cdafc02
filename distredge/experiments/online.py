"""A stream through drift, on a real network: a link falls to a quarter, the controller is killed and started again.

Every part is real but the boards' speed: `distredge controller`, `distredge provider`, `distredge run --hold` in a
test-bed of network namespaces. What it should come to is measured there as well: the plan that a long search finds for
the new rate, run at that rate.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from distredge import api
from distredge.errors import RunError
from distredge.experiments.faults import Stream, exit_with
from distredge.model.graph import LayerGraph
from distredge.model.load import load_model
from distredge.profiles.profile import FloatArray
from distredge.resources import write_atomically
from distredge.runtime.testbed.bed import Testbed
from distredge.runtime.testbed.scale import write_scenario
from distredge.scenario import REQUESTER, Scenario, load_scenario

MODEL, SCENARIO = "vgg16", "db-50"

SHARE = 0.25
"""What is left of the link's rate."""

BEFORE_S = 8.0
"""The stream runs for so long before the link changes."""

DEAD_S = 2.0
"""The controller is killed so long before the link changes, and started again as long after it."""

BACK_S = 10.0
"""So long after the change latency is to be near the oracle's."""

SEEN_S = 10.0
"""The latency that it came to is the median of so many seconds from then on."""

NEAR = 0.10
"""Near: so much above the oracle's at most."""

STEADY = 20
"""Frames."""

ORACLE_S = 10.0
"""Budget of the search for the oracle's plan."""

IMAGES_OF_ORACLE = 60

_PATIENCE_S = 60.0


@dataclass(frozen=True)
class Passage:
    """How a stream went through it; latencies in ms, medians.

    `back_s`: from the change until the first frame that is near the oracle's, as is the median of the `STEADY` frames
    from it on, if ever.
    """

    images: int
    lost: int
    in_order: bool
    link: str
    mbps_before: float
    mbps_after: float
    before_ms: float
    worst_ms: float
    reached_ms: float
    oracle_ms: float
    back_s: float | None
    longest_pause_ms: float
    plans: tuple[str, ...]
    events: tuple[str, ...]

    @property
    def is_good(self) -> bool:
        """Whether it is as it should be."""
        is_near = self.reached_ms <= (1.0 + NEAR) * self.oracle_ms
        return self.lost == 0 and self.in_order and is_near and self.back_s is not None and self.back_s <= BACK_S


class Controller:
    """A `distredge controller` at the requester's place of a test-bed; it may be killed and started again."""

    def __init__(self, bed: Testbed) -> None:
        self.url = ""
        self._bed = bed
        self._listen = "127.0.0.1:0"
        self._log = bed.folder / "controller.log"

    def __enter__(self) -> Controller:
        """Start it; returns when it listens."""
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End it."""
        self.kill()

    def start(self) -> None:
        """Start it, at the address that it had."""
        state = self._bed.folder / "controller.sqlite"
        command = self._bed.requester_command(
            ["controller", "--json", "--listen", self._listen, "--state", str(state), "--log-format", "json"]
        )
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RunError(f"the controller did not start: {self._log.read_text().strip().splitlines()[-1:]}")
        self.url = str(json.loads(line)["url"])
        self._listen = self.url.removeprefix("http://")

    def kill(self) -> None:
        """End it at once."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        if self._process.stdout:
            self._process.stdout.close()

    def get(self, path: str) -> Any:
        """What it answers, asked from its own place."""
        code = (
            f"import sys, urllib.request; sys.stdout.buffer.write(urllib.request.urlopen({self.url + path!r}).read())"
        )
        command = self._bed.command_at(REQUESTER, [sys.executable, "-c", code])
        done = subprocess.run(command, capture_output=True, timeout=_PATIENCE_S, check=True)
        return json.loads(done.stdout)


def passage(
    graph: LayerGraph, scenario: Scenario, policy: Path | None = None, link: str | None = None, share: float = SHARE
) -> Passage:
    """Run a stream while one link, by default the one that carries most rows, falls to a share of its rate."""
    plan = api.plan(graph, scenario, method="search", seed=0)
    bound = plan.bind(graph)
    name = link or _busiest(bound.plan.predicted.transfer_ms if bound.plan.predicted else {})
    rate = next(p.bandwidth_mbps for p in scenario.providers if p.name == name)
    with Testbed(scenario) as bed, Controller(bed) as controller:
        options = ["--hold", "--controller", controller.url, *(["--policy", str(policy)] if policy else [])]
        seconds = BEFORE_S + BACK_S + SEEN_S
        images = round(1000.0 * seconds / (plan.predicted.latency_ms if plan.predicted else 100.0) * 1.2)
        stream = Stream(bed, bound, images, options, inflight=1)
        changed_s = _play(stream, bed, controller, {name: rate * share})
        report = stream.finish()
        events = [f"{e['kind']}: {e['reason']}" for e in controller.get("/v1/events?limit=500") if e["stream"]]
        bed.set_rates({name: rate * share})
        oracle_ms = _oracle_ms(bed, graph, scenario, name, rate * share)
    return _passage(stream.lines, report, changed_s, name, rate, share, oracle_ms, events)


def _play(stream: Stream, bed: Testbed, controller: Controller, rates: dict[str, float]) -> float:
    """Kill the controller, change the link, start the controller again; when the link changed."""
    stream.wait_for(0)
    stream.wait(BEFORE_S - DEAD_S)
    controller.kill()
    stream.wait(DEAD_S)
    bed.set_rates(rates)
    changed_s = time.monotonic()
    stream.wait(DEAD_S)
    controller.start()
    return changed_s


def _busiest(transfer_ms: Mapping[str, float]) -> str:
    """The provider whose link is in use longest."""
    return max((name for name in transfer_ms if name != REQUESTER), key=lambda name: transfer_ms[name])


def _oracle_ms(bed: Testbed, graph: LayerGraph, scenario: Scenario, name: str, mbps: float) -> float:
    """What a frame takes under the plan that a long search finds for the changed link, run over it."""
    providers = tuple(
        p.model_copy(update={"bandwidth_mbps": mbps}) if p.name == name else p for p in scenario.providers
    )
    changed = scenario.model_copy(update={"providers": providers})
    plan = api.plan(graph, changed, method="search", seed=1, budget_s=ORACLE_S)
    stream = Stream(
        bed,
        plan.bind(graph),
        IMAGES_OF_ORACLE,
        ["--hold", "--keep-plan", "--scenario", _written(bed, changed)],
        inflight=1,
    )
    return float(stream.finish()["latency_ms"]["p50"])


def _written(bed: Testbed, scenario: Scenario) -> str:
    """A scenario's file."""
    folder = bed.folder / "oracle"
    folder.mkdir()
    return str(write_scenario(scenario, folder))


def _passage(
    lines: Sequence[dict[str, Any]], report: Mapping[str, Any], changed_s: float, link: str, mbps: float, share: float,
    oracle_ms: float, events: Sequence[str],
) -> Passage:  # fmt: skip
    at = np.array([line["t_s"] for line in lines]) - changed_s
    ms = np.array([line["latency_ms"] for line in lines])
    indices = [line["index"] for line in lines]
    after = (at > BACK_S) & (at <= BACK_S + SEEN_S)
    return Passage(
        images=report["images"],
        lost=report["images"] - len({*indices}),
        in_order=indices == list(range(report["images"])),
        link=link,
        mbps_before=mbps,
        mbps_after=mbps * share,
        before_ms=float(np.median(ms[at < 0.0])),
        worst_ms=float(ms.max()),
        reached_ms=float(np.median(ms[after])),
        oracle_ms=oracle_ms,
        back_s=_back_s(at, ms, (1.0 + NEAR) * oracle_ms),
        longest_pause_ms=report["longest_pause_ms"],
        plans=tuple(f"{e['reason']} (from image {e['first_image']})" for e in report["epochs"]),
        events=tuple(events),
    )


def _back_s(at_s: FloatArray, ms: FloatArray, near_ms: float) -> float | None:
    """When, after moment 0, the first frame came that is near, as is the median of the `STEADY` ones from it on."""
    for i in np.flatnonzero((at_s > 0.0) & (ms <= near_ms)):
        if len(ms) - i >= STEADY and np.median(ms[i : i + STEADY]) <= near_ms:
            return float(at_s[i])
    return None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it, write `online.json`; 1 if an image was lost or the latency is not back in time."""
    parser = argparse.ArgumentParser(description="A stream whose link falls to a quarter; needs root.")
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--scenario", default=SCENARIO)
    parser.add_argument("--policy", type=Path, help="a file of `distredge pretrain` for them")
    parser.add_argument("--link", help="whose link; by default the busiest")
    parser.add_argument("--share", type=float, default=SHARE)
    parser.add_argument("--out", type=Path, default=Path("online"))
    chosen = parser.parse_args(arguments)
    found = passage(load_model(chosen.model), load_scenario(chosen.scenario), chosen.policy, chosen.link, chosen.share)
    chosen.out.mkdir(parents=True, exist_ok=True)
    write_atomically(chosen.out / "online.json", json.dumps(asdict(found), indent=2) + "\n")
    print(json.dumps(asdict(found), indent=2))
    return 0 if found.is_good else 1


if __name__ == "__main__":
    exit_with(main)
