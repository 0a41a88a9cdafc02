"""Scission's queries: what a placement must keep to, and which demand cannot be met (section III-B, step 6)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from distredge.errors import InputError, UnknownNameError
from distredge.placement.benchmarks import TIERS, Benchmarks, Network
from distredge.placement.rank import FloatArray, IntArray
from distredge.placement.tiers import UNUSED, Placements, placements

BoolArray = npt.NDArray[np.bool_]

_SLACK = 1e-9
"""Share by which a cap may be passed: sums of times are not exact."""


@dataclass(frozen=True)
class Demand:
    """One demand on a tier, in the words in which it was given.

    `kind`: `layer` (number `value` must, or must not, run on the tier), `name` (only, or none of, the resources
    `names`), `used`, `upload` (bytes at most), `time` (seconds at most) or `share` (percent of all computing at most).
    """

    words: str
    tier: int
    kind: str
    value: float = 0.0
    names: tuple[str, ...] = ()
    negated: bool = False

    @property
    def is_cap(self) -> bool:
        """Whether it bounds a number."""
        return self.kind in _UNITS

    def measured(self, found: Placements) -> FloatArray:
        """(N,) the number that a cap bounds, in its unit."""
        if self.kind == "upload":
            return np.asarray(found.upload_bytes[:, self.tier])
        mine = found.time_s[:, self.tier]
        if self.kind == "time":
            return np.asarray(mine)
        total = found.time_s.sum(axis=1)
        return np.asarray(100.0 * mine / np.where(total > 0.0, total, 1.0))

    def allows(self, found: Placements) -> BoolArray:
        """(N,) which placements meet it."""
        resource = found.resource[:, self.tier]
        if self.is_cap:
            return np.asarray(self.measured(found) <= self.value * (1.0 + _SLACK))
        if self.kind == "used":
            met = resource != UNUSED
        elif self.kind == "name":
            wanted = [i for i, r in enumerate(found.benchmarks.resources) if r.name in self.names]
            met = np.isin(resource, wanted)
        else:
            block = _block_of(found.benchmarks, int(self.value))
            met = (found.start[:, self.tier] <= block) & (block < found.stop[:, self.tier])
        return np.asarray(met != self.negated)


_UNITS = {"upload": (1e6, "MB"), "time": (1.0, "s"), "share": (1.0, "%")}


def parse_tier(option: str, tier: str, expression: str, benchmarks: Benchmarks) -> list[Demand]:
    """The demands of an expression on a tier, a comma list.

    `10`: this layer must run on it; `!10`: must not; `NAME`: the tier is used, and no other of its resources; `!NAME`:
    not this one; `-1`: it must stay unused; `!-1`: must be used. A number that is no layer may be a resource's name.
    Raises `InputError` for what is none of these.
    """
    number, demands, names = TIERS.index(tier), list[Demand](), list[str]()
    for item in (part.strip() for part in expression.split(",")):
        words, negated, body = f"{option} {item}", item.startswith("!"), item.removeprefix("!").strip()
        known = [r.name for r in benchmarks.resources if r.tier == tier]
        if not body:
            raise InputError(f"{option} '{expression}': an item is empty: give layers, names, -1, or ! before one")
        if body == "-1":
            demands.append(Demand(words, number, "used", negated=not negated))
        elif body.isascii() and body.isdigit() and not (body in known and _block_of(benchmarks, int(body)) < 0):
            if _block_of(benchmarks, int(body)) < 0:
                first, last = benchmarks.layers[0][0], benchmarks.layers[-1][1]
                raise InputError(f"{option} {item}: there is no layer {body}: give {first} to {last}")
            demands.append(Demand(words, number, "layer", value=int(body), negated=negated))
        elif body not in known:
            raise UnknownNameError(f"{tier} resource", body, known, f"(in {option} '{expression}')")
        elif negated:
            demands.append(Demand(words, number, "name", names=(body,), negated=True))
        else:
            names.append(body)
    if names:
        demands.append(Demand(f"{option} {','.join(names)}", number, "name", names=tuple(names)))
    return demands


def parse_caps(option: str, given: Sequence[str], kind: str) -> list[Demand]:
    """The demands of `TIER=MB` (`kind` "upload") or of `TIER=S` and `TIER=P%` (`kind` "time"); raises `InputError`."""
    demands = []
    for item in (part.strip() for text in given for part in text.split(",")):
        tier, _, amount = (part.strip() for part in item.partition("="))
        form = "TIER=MB" if kind == "upload" else "TIER=SECONDS or TIER=PERCENT%"
        if tier not in TIERS:
            raise InputError(f"{option} '{item}': give {form}, the tier being {', '.join(TIERS)}")
        percent = kind == "time" and amount.endswith("%")
        unit = "share" if percent else kind
        value = _amount(amount.removesuffix("%") if percent else amount)
        if value is None:
            raise InputError(f"{option} '{item}': give {form}, a number >= 0")
        demands.append(Demand(f"{option} {item}", TIERS.index(tier), unit, value * _UNITS[unit][0]))
    return demands


def _amount(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0.0 <= value < float("inf") else None


def _block_of(benchmarks: Benchmarks, layer: int) -> int:
    """The block that holds a layer, -1 if none does."""
    return next((k for k, (first, last) in enumerate(benchmarks.layers) if first <= layer <= last), -1)


@dataclass(frozen=True, eq=False)
class Answer:
    """All placements, and the places of those that meet every demand, best first."""

    placements: Placements
    order: IntArray


def query(benchmarks: Benchmarks, network: Network, input_bytes: float, demands: Sequence[Demand]) -> Answer:
    """Rank what meets all the demands; raises `InputError` in one line that names those that cannot be met."""
    barred = {n for d in demands if d.kind == "name" and d.negated and d.tier == 0 for n in d.names}
    devices = benchmarks.of_tier("device")
    sources = [i for i in devices if benchmarks.resources[i].name not in barred] or devices
    found = placements(benchmarks, network, input_bytes, sources)
    met = np.ones(len(found), dtype=bool)
    for demand in demands:
        met &= demand.allows(found)
    if not met.any():
        raise InputError(_why_not(found, demands))
    ranking = found.ranking()
    return Answer(found, ranking[met[ranking]])


def _why_not(found: Placements, demands: Sequence[Demand]) -> str:
    """Which demands cannot be met: a set of which every one matters, as few as one."""
    allowed = [demand.allows(found) for demand in demands]
    alone = [i for i, mine in enumerate(allowed) if not mine.any()]
    core = alone[:1] or list(range(len(demands)))
    for i in tuple(core):
        rest = [j for j in core if j != i]
        if rest and not np.all([allowed[j] for j in rest], axis=0).any():
            core = rest
    core.sort(key=lambda i: not demands[i].is_cap)
    first, others = demands[core[0]], [demands[i] for i in core[1:]]
    words = f"{first.words} cannot be met"
    if others:
        words += f" together with {' and '.join(other.words for other in others)}"
    if first.is_cap:
        kept = np.ones(len(found), dtype=bool)
        for i in core[1:]:
            kept &= allowed[i]
        factor, unit = _UNITS[first.kind]
        words += f": it takes at least {float(first.measured(found)[kept].min()) / factor:.4g} {unit}"
    return words
