"""Throughput and I/O delay of links, from timed transfers of the sizes that plans use.

The clocks of two machines cannot be compared. So a transfer is a round trip that one node times, with next to nothing
on all legs but the measured one, and each node tells how long it worked on the bytes itself: reading them out of memory
before they leave, writing them into memory once they are there. What is left is the links' time, a straight line in
the size: its slope is the throughput, its intercept, shared evenly among the legs, the fixed delay.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import TypeAlias

import numpy as np

from distredge.profiles.network import wire_mbps
from distredge.scenario import MB, REQUESTER, Io

Route: TypeAlias = "tuple[tuple[str, int], ...]"
"""Nodes, the requester last, and the bytes that each is sent."""

Transfer: TypeAlias = "Callable[[Route], tuple[float, tuple[tuple[float, float], ...]]]"
"""Carries out a transfer: its time in ms, and what writing and reading took each node on the way, the requester first
and last (see `runtime.prober`)."""

SIZES = tuple(4096 * 4**k for k in range(6))
"""Bytes, 4 KiB to 4 MiB: from a few rows of a late layer to a whole early one."""

REPEATS = 6

TINY = 4
"""Bytes on the legs that are not measured."""

LONGEST_MS = 3000.0
"""Sizes that take longer are left out."""

MIN_SAMPLES = 8
MAX_SPREAD = 0.2
MAX_RESIDUAL = 0.1


@dataclass(frozen=True)
class Line:
    """Time in ms of a message of some bytes: `fixed_ms + bytes * byte_ms`, and the fit's median relative residual."""

    fixed_ms: float
    byte_ms: float
    residual: float
    samples: int


@dataclass(frozen=True)
class LinkFigures:
    """A link in one direction: Mbit/s on the wire (median, 10th and 90th percentile) and fixed delay of a message.

    `doubt` says why not to trust it, if there is a reason. `largest` is the largest size that was sent.
    """

    sender: str
    receiver: str
    mbps: float
    mbps_p10: float
    mbps_p90: float
    fixed_ms: float
    residual: float
    samples: int
    largest: int
    doubt: str | None


@dataclass(frozen=True)
class NodeFigures:
    """What a scenario says of a node.

    `bandwidth_mbps` is what its link carries in both directions at once, at least: the faster one where it was measured
    with several nodes. `doubts` are those of its links.
    """

    name: str
    bandwidth_mbps: float
    io: Io
    doubts: tuple[str, ...]


@dataclass(frozen=True)
class LinkReport:
    """All that was measured. `requester_limits`: providers are faster with each other than with the requester."""

    links: tuple[LinkFigures, ...]
    nodes: tuple[NodeFigures, ...]
    requester_limits: bool


def measure_links(
    providers: Sequence[str],
    transfer: Transfer,
    rng: np.random.Generator,
    *,
    sizes: Iterable[int] = SIZES,
    repeats: int = REPEATS,
    between: bool = False,
    progress: Callable[[float, float], None] = lambda share, ms: None,
) -> LinkReport:
    """Measure the links from the requester to each provider and back, `between` also those among the providers.

    Each size is sent `repeats` times over each link, all in random order, after a first time that warms up and
    does not count. `progress` is told the share that is done and what the last transfer took in ms.
    """
    pairs = [pair for name in providers for pair in ((REQUESTER, name), (name, REQUESTER))]
    pairs += permutations(providers, 2) if between else ()
    todo = [(pair, size) for pair in pairs for size in _bearable(pair, sorted(set(sizes)), transfer)]
    link_ms: dict[tuple[str, str], list[tuple[int, float]]] = defaultdict(list)
    read_ms: dict[str, list[tuple[int, float]]] = defaultdict(list)
    write_ms: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for done in range(repeats):
        for count, k in enumerate(rng.permutation(len(todo))):
            (sender, receiver), size = todo[k]
            route = _route(sender, receiver, size)
            total_ms, spent_ms = transfer(route)
            leg = route.index((receiver, size))
            read_ms[sender].append((size, spent_ms[leg][1]))
            write_ms[receiver].append((size, spent_ms[leg + 1][0]))
            link_ms[sender, receiver].append((size, total_ms - sum(map(sum, spent_ms))))
            progress((done + (count + 1) / len(todo)) / repeats, total_ms)
    links = tuple(_figures(sender, receiver, samples) for (sender, receiver), samples in sorted(link_ms.items()))
    nodes = tuple(_node(name, links, fit(read_ms[name]), fit(write_ms[name])) for name in (REQUESTER, *providers))
    return LinkReport(links, nodes, _requester_limits(links))


def fit(samples: Sequence[tuple[int, float]], legs: int = 1) -> Line:
    """The line through (bytes, ms) of two sizes or more, whose fixed part counts `legs` times.

    Robust: the slope is Theil's and Sen's, the median over all pairs. The intercept is the median over the smaller
    sizes; in the larger ones it drowns in their noise.
    """
    from scipy.stats import theilslopes

    size, ms = np.array(samples, dtype=np.float64).T
    byte_ms = max(float(theilslopes(ms, size).slope), 1e-12)
    small = size <= np.median(size)
    fixed_ms = max(0.0, float(np.median((ms - byte_ms * size)[small]))) / legs
    off = np.abs((legs * fixed_ms + byte_ms * size) / np.maximum(ms, 1e-6) - 1.0)
    return Line(fixed_ms, byte_ms, float(np.median(off)), len(ms))


def _route(sender: str, receiver: str, size: int) -> Route:
    first = ((sender, TINY),) if sender != REQUESTER else ()
    last = ((REQUESTER, TINY),) if receiver != REQUESTER else ()
    return (*first, (receiver, size), *last)


def _bearable(pair: tuple[str, str], sizes: Sequence[int], transfer: Transfer) -> list[int]:
    """The sizes, the smallest two and those that do not take too long, each sent once to warm up."""
    kept: list[int] = []
    for size in sizes:
        total_ms, _ = transfer(_route(*pair, size))
        if total_ms > LONGEST_MS and len(kept) >= 2:
            break
        kept.append(size)
    return kept


def _figures(sender: str, receiver: str, samples: Sequence[tuple[int, float]]) -> LinkFigures:
    legs = len(_route(sender, receiver, TINY))
    line = fit(samples, legs)
    size, ms = np.array(samples, dtype=np.float64).T
    large = size >= np.median(size)  # in small ones the fixed part drowns the rate
    byte_ms = np.maximum(ms[large] - legs * line.fixed_ms, 1e-6) / size[large]
    p10, p90 = (wire_mbps(float(p)) for p in np.percentile(byte_ms, (90, 10)))
    mbps = wire_mbps(line.byte_ms)
    doubt = _doubt(line, (p90 - p10) / mbps)
    return LinkFigures(
        sender, receiver, mbps, p10, p90, line.fixed_ms, line.residual, line.samples, int(size.max()), doubt
    )


def _doubt(line: Line, spread: float) -> str | None:
    if line.samples < MIN_SAMPLES:
        return f"only {line.samples} transfers"
    if spread > MAX_SPREAD:
        return f"its throughput varied by {spread:.0%}"
    if line.residual > MAX_RESIDUAL:
        return f"its times are no straight line in the size ({line.residual:.0%} off)"
    return None


def _node(name: str, links: Sequence[LinkFigures], reading: Line, writing: Line) -> NodeFigures:
    """A node as a scenario has it: the network's fixed delay counts as writing's, as that of the receiver."""
    own = [link for link in links if name in (link.sender, link.receiver)]
    both_ways: dict[str, float] = {}
    for link in own:
        peer = link.receiver if link.sender == name else link.sender
        both_ways[peer] = min(link.mbps, both_ways.get(peer, np.inf))
    delay_ms = float(np.median([link.fixed_ms for link in own if link.receiver == name]))
    io = Io(
        read_ms=reading.fixed_ms,
        read_ms_per_mb=reading.byte_ms * MB,
        write_ms=writing.fixed_ms + delay_ms,
        write_ms_per_mb=writing.byte_ms * MB,
    )
    doubts = tuple(f"{link.sender} -> {link.receiver}: {link.doubt}" for link in own if link.doubt)
    return NodeFigures(name, max(both_ways.values()), io, doubts)


def _requester_limits(links: Sequence[LinkFigures]) -> bool:
    """Whether two providers have a faster link than the requester has with any."""
    asked = [link.mbps for link in links if REQUESTER in (link.sender, link.receiver)]
    others = [link.mbps for link in links if REQUESTER not in (link.sender, link.receiver)]
    return max(others, default=0.0) > (1.0 + MAX_SPREAD) * max(asked)
