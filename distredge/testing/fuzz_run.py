"""A long fuzz of the runtime, from inside to strangers on the network: `scripts/fuzz`. Prints a table; 1 on a fault.

Everything stays on loopback and ends by itself: each part after its messages, or after its share of `--minutes`.
"""

from __future__ import annotations

import argparse
import logging
import math
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import numpy as np

from distredge.model.load import load_model
from distredge.plans.plan import BoundPlan
from distredge.runtime.keys import Keys, create_keys
from distredge.runtime.launch import Launcher
from distredge.runtime.message import decode
from distredge.runtime.store import ModelStore
from distredge.runtime.transport import HANDSHAKE_MS
from distredge.scenario import REQUESTER
from distredge.testing.fuzz_inside import InsideProvider, Verdicts, fuzz_inside
from distredge.testing.fuzz_outside import (
    STALL_S,
    Attacker,
    Growth,
    HonestStream,
    free_address,
    listener,
    plain_provider,
)
from distredge.testing.fuzzing import Fuzzer, insight
from distredge.testing.providers import equal_plan
from distredge.testing.strangers import Strangers
from distredge.testing.toy_models import residual, save_model

FRAMES = 200_000

ROUNDS = 10
"""A part is done in so many rounds; after each of them sizes are taken."""


@dataclass
class Part:
    """How one part went."""

    name: str
    count: int = 0
    seconds: float = 0.0
    said: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Ground:
    """What all parts use: a plan for a toy model, keys, and how much there is to do."""

    bound: BoundPlan
    store: ModelStore
    keys: Path
    seed: int
    part_s: float


# Inside this process.


def decoded(ground: Ground, part: Part, count: int) -> None:
    """What takes frames."""
    _inside(part, Fuzzer(Random(ground.seed)), count, decode, ground.part_s)


def handled(ground: Ground, part: Part, count: int) -> None:
    """A provider's logic, by somebody who knows everything of its session."""
    known = insight(ground.bound, {name: "127.0.0.1:9" for name in (REQUESTER, "a", "b", "c")}, "session")
    provider = InsideProvider("a", ground.store)
    _inside(part, Fuzzer(Random(ground.seed + 1), known), count, provider.take, ground.part_s)


def _inside(part: Part, fuzzer: Fuzzer, count: int, take: Callable[[list[bytes]], object], part_s: float) -> None:
    deadline_s = time.monotonic() + part_s
    growth = Growth({"this process": os.getpid()})
    verdicts = Verdicts()
    for _ in range(ROUNDS):
        fuzz_inside(fuzzer, count // ROUNDS, take, deadline_s, verdicts)
        growth.note()
    part.count = verdicts.taken + verdicts.refused + verdicts.faults.total()
    part.said.append(f"{verdicts.taken} taken, {verdicts.refused} refused")
    part.faults += [f"{times} x {fault}" for fault, times in verdicts.faults.most_common()] + growth.faults()


# Over sockets.


def plain(ground: Ground, part: Part, count: int) -> None:
    """A provider without keys, by somebody on its machine who knows everything of its session."""
    with listener(None) as here, plain_provider("a", os.environ) as (address, pid):
        known = insight(ground.bound, {REQUESTER: here, "a": address}, "session")
        attacker = Attacker(Fuzzer(Random(ground.seed + 2), known), {"a": address}, None)
        _outside(part, attacker.send, count, {"a": pid}, ground.part_s)
        attacker.close()
        part.faults += attacker.problems
        _still_serves(part, ground, {"a": address}, None)


def as_requester(ground: Ground, part: Part, count: int) -> None:
    """Providers with keys, by somebody who has the requester's."""
    keys = Keys.load(ground.keys, REQUESTER)
    with listener(keys) as here, Launcher(["a", "b"], ground.keys) as launcher:
        known = insight(ground.bound, {REQUESTER: here, **launcher.addresses}, "session")
        attacker = Attacker(Fuzzer(Random(ground.seed + 3), known), launcher.addresses, keys)
        _outside(part, attacker.send, count, launcher.process_ids(), ground.part_s)
        attacker.close()
        part.faults += attacker.problems
        _still_serves(part, ground, launcher.addresses, keys)


def as_member(ground: Ground, part: Part, count: int) -> None:
    """Providers and requester with keys, by somebody who has those of a node without a part; a stream goes on."""
    with _honest(ground, part) as (stream, here, launcher):
        targets = {REQUESTER: here, **launcher.addresses}
        known = insight(ground.bound, targets, stream.session)
        attacker = Attacker(Fuzzer(Random(ground.seed + 4), known), targets, Keys.load(ground.keys, "c"))
        _outside(part, attacker.send, count, launcher.process_ids(), ground.part_s)
        attacker.close()
        part.faults += attacker.problems


def strangers(ground: Ground, part: Part, count: int) -> None:
    """Connections of all kinds by somebody without a key; a stream goes on."""
    with _honest(ground, part) as (_, here, launcher):
        keys = Keys.load(ground.keys, REQUESTER)
        doors = [(address, keys.of(name)) for name, address in {REQUESTER: here, **launcher.addresses}.items()]
        crowd = Strangers(Random(ground.seed + 5), doors)
        kinds: Counter[str] = Counter()

        def knock(times: int, deadline_s: float) -> int:
            for knocked in range(times):
                kinds[crowd.knock()] += 1
                if time.monotonic() > deadline_s:
                    return knocked + 1
            return times

        try:
            _outside(part, knock, count, launcher.process_ids(), ground.part_s)
        finally:
            crowd.close()
        part.said.append(f"{len(kinds)} kinds")


PARTS: dict[str, tuple[float, Callable[[Ground, Part, int], None]]] = {
    "frames decoded": (0.3, decoded),
    "handled inside a provider": (0.25, handled),
    "to a provider without keys": (0.15, plain),
    "with the requester's key": (0.1, as_requester),
    "with another node's key": (0.1, as_member),
    "strangers' connections": (0.1, strangers),
}
"""The parts, with their shares of the messages."""


@contextmanager
def _honest(ground: Ground, part: Part) -> Iterator[tuple[HonestStream, str, Launcher]]:
    """A stream over two providers, which must go on right; with it, where its requester listens."""
    here = free_address()
    with Launcher(["a", "b"], ground.keys) as launcher:
        stream = HonestStream(ground.bound, launcher.addresses, Keys.load(ground.keys, REQUESTER), here)
        stream.start()
        stream.wait_for(1)
        try:
            yield stream, here, launcher
        finally:
            stream.finish()
        part.said.append(f"{stream.images} images right beside it, longest pause {stream.longest_s:.1f} s")
        part.faults += stream.problems if len(stream.problems) <= 3 else [*stream.problems[:3], "..."]
        if not stream.images:
            part.faults.append("no image came back")
        if stream.longest_s > STALL_S:
            part.faults.append(f"the stream stood still for {stream.longest_s:.1f} s")


def _outside(
    part: Part, attack: Callable[[int, float], int], count: int, processes: dict[str, int], part_s: float
) -> None:
    """Attack in rounds; the processes must be there after each, and no larger at the end than in the first half."""
    deadline_s = time.monotonic() + part_s
    growth = Growth(processes)
    for _ in range(ROUNDS):
        part.count += attack(count // ROUNDS, deadline_s)
        growth.note()
    time.sleep(HANDSHAKE_MS / 1000.0 + 1.0)
    growth.note()
    part.faults += growth.faults()


def _still_serves(part: Part, ground: Ground, addresses: dict[str, str], keys: Keys | None) -> None:
    """After all that providers must serve whoever comes next."""
    stream = HonestStream(equal_plan(ground.bound.graph, list(addresses)), addresses, keys, "127.0.0.1:0")
    stream.start()
    stream.wait_for(20)
    stream.finish()
    if stream.images < 20:
        part.faults.append(f"serves nobody afterwards: {stream.problems[:2]}")
    else:
        part.said.append("serves afterwards")


def run(frames: int, seed: int, minutes: float, names: Iterable[str] = PARTS) -> list[Part]:
    """All parts, one after the other, in a folder of their own; each is printed when it is done."""
    parts = []
    with tempfile.TemporaryDirectory(prefix="distredge-fuzz-") as folder, _own_cache(Path(folder)):
        graph = load_model(save_model(residual(np.random.default_rng(seed)), Path(folder)))
        create_keys(Path(folder) / "keys", [REQUESTER, "a", "b", "c"])
        store = ModelStore()
        store.offer(graph)
        for name in names:
            share, work = PARTS[name]
            ground = Ground(equal_plan(graph, ["a", "b"]), store, Path(folder) / "keys", seed, minutes * 60.0 * share)
            part, begun_s = Part(name), time.monotonic()
            work(ground, part, math.ceil(frames * share))
            part.seconds = time.monotonic() - begun_s
            _show(part)
            parts.append(part)
    return parts


@contextmanager
def _own_cache(folder: Path) -> Iterator[None]:
    """What providers keep is kept there, not among the user's models."""
    before = os.environ.get("DISTREDGE_CACHE")
    os.environ["DISTREDGE_CACHE"] = str(folder / "cache")
    try:
        yield
    finally:
        if before is None:
            del os.environ["DISTREDGE_CACHE"]
        else:
            os.environ["DISTREDGE_CACHE"] = before


def _show(part: Part) -> None:
    print(f"{part.name:<28}{part.count:>9}{part.seconds:>8.1f} s  {'; '.join(part.said)}", flush=True)
    for fault in part.faults:
        print(f"  FAULT: {fault}", flush=True)


def main(arguments: list[str] | None = None) -> int:
    """Run from a command line; 1 if anything was at fault."""
    parser = argparse.ArgumentParser(prog="scripts/fuzz", description=__doc__)
    parser.add_argument("--frames", type=int, default=FRAMES, help="messages and connections in all")
    parser.add_argument("--minutes", type=float, default=30.0, help="stop before all are done after so long")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--part", action="append", choices=PARTS, help="only this part; may be given more than once")
    options = parser.parse_args(arguments)
    logging.disable(logging.CRITICAL)
    parts = run(options.frames, options.seed, options.minutes, options.part or PARTS)
    print(f"{'in all':<28}{sum(part.count for part in parts):>9}{sum(part.seconds for part in parts):>8.1f} s")
    return 1 if any(part.faults for part in parts) else 0


if __name__ == "__main__":
    sys.exit(main())
