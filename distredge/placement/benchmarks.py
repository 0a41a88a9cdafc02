"""Block benchmarks of resources on three tiers, and the links between them: from CSV, or from profiles."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from distredge.errors import InputError
from distredge.placement.rank import FloatArray

TIERS = ("device", "edge", "cloud")
"""In the order in which they may compute."""

INPUT_BYTES = 150_000.0
"""Of the paper's image."""

_BLOCK_COLUMNS = ("tier", "resource", "block", "first_layer", "last_layer", "time_s", "output_bytes")
_LINK_COLUMNS = ("source", "destination", "ping_ms", "bandwidth_mbps")


@dataclass(frozen=True, eq=False)
class Resource:
    """A device of a tier with what it was measured at: `time_s` and `output_bytes`, both (blocks,)."""

    tier: str
    name: str
    time_s: FloatArray
    output_bytes: FloatArray


@dataclass(frozen=True, eq=False)
class Benchmarks:
    """The blocks of a model, by first and last layer, on some resources."""

    layers: tuple[tuple[int, int], ...]
    resources: tuple[Resource, ...]

    def of_tier(self, tier: str) -> tuple[int, ...]:
        """Positions of a tier's resources."""
        return tuple(i for i, resource in enumerate(self.resources) if resource.tier == tier)


@dataclass(frozen=True)
class Link:
    """A direct connection; its time for some bytes is `ping_ms / 1000 + bytes * 8 / (bandwidth_mbps * 10^6)` s."""

    ping_ms: float
    bandwidth_mbps: float

    @property
    def latency_s(self) -> float:
        """Fixed time of a transfer."""
        return self.ping_ms / 1000.0

    @property
    def byte_s(self) -> float:
        """Time of a byte on top."""
        return 8.0 / (self.bandwidth_mbps * 1e6)


@dataclass(frozen=True)
class Network:
    """Links by source and destination, each a resource's name or a tier; a name goes before a tier."""

    links: Mapping[tuple[str, str], Link] = field(default_factory=dict)

    def between(self, source: Sequence[str], destination: Sequence[str]) -> Link | None:
        """The link from one to another, each given by its name (if it has one) and its tier."""
        pairs = ((a, b) for a in source for b in destination)
        return next((self.links[pair] for pair in pairs if pair in self.links), None)


def _preset(latency_ms: float, mbps: float) -> Network:
    edge_cloud = Link(25.0, 50.0)
    return Network(
        {
            ("device", "edge"): Link(latency_ms, mbps),
            ("device", "cloud"): Link(latency_ms + edge_cloud.ping_ms, mbps),
            ("edge", "cloud"): edge_cloud,
        }
    )


NETWORKS = {"3g": _preset(67.0, 1.6), "4g": _preset(55.0, 12.4), "wired": _preset(20.0, 20.0)}
"""The paper's networks (section IV-A).

It names a device's access link and the link from edge to cloud. From device to cloud both latencies are taken to add
up: its Table IV fits no other figure (339 ms for ResNet-50 on device and cloud means 45 ms for wired).
"""


def read_network(name: str) -> Network:
    """One of `NETWORKS` by its name, else a CSV file; raises `InputError` naming file and line."""
    if name in NETWORKS:
        return NETWORKS[name]
    path = Path(name)
    if not path.suffix and not path.exists():
        raise InputError(f"unknown network '{name}': give {', '.join(NETWORKS)} or the path of a CSV file")
    links: dict[tuple[str, str], Link] = {}
    for row in _rows(path, _LINK_COLUMNS, {"ping(ms)": "ping_ms", "bandwidth(mbps)": "bandwidth_mbps"}):
        pair = row.text("source"), row.text("destination")
        if pair in links:
            raise row.wrong(f"the link from '{pair[0]}' to '{pair[1]}' is given twice")
        links[pair] = Link(row.number("ping_ms"), row.number("bandwidth_mbps", positive=True))
    return Network(links)


def read_benchmarks(path: Path) -> Benchmarks:
    """Blocks measured elsewhere; raises `InputError` naming file and line if they are malformed."""
    found: dict[tuple[str, str], list[_Row]] = {}
    for row in _rows(path, _BLOCK_COLUMNS):
        tier, name = row.text("tier"), row.text("resource")
        row.text("block")
        if tier not in TIERS:
            raise row.wrong(f"unknown tier '{tier}': give {', '.join(TIERS)}")
        found.setdefault((tier, name), []).append(row)
    layers: list[tuple[int, int]] = []
    for (_, name), rows in found.items():
        mine = _layers(rows)
        layers = layers or mine
        for row, here, there in zip(rows, mine, layers, strict=False):
            if here != there:
                raise row.wrong(
                    f"'{name}' has a block of layers {_span(here)} where the first resource has {_span(there)}"
                )
        if len(mine) < len(layers):
            missing = _span(layers[len(mine)])
            raise rows[-1].wrong(f"'{name}' has no block of layers {missing}, which the first resource has")
        if len(mine) > len(layers):
            raise rows[len(layers)].wrong(f"'{name}' has more blocks than the first resource")
    return Benchmarks(
        tuple(layers),
        tuple(
            Resource(
                tier,
                name,
                np.array([row.number("time_s") for row in rows]),
                np.array([row.number("output_bytes") for row in rows]),
            )
            for (tier, name), rows in sorted(found.items(), key=lambda item: TIERS.index(item[0][0]))
        ),
    )


def _layers(rows: list[_Row]) -> list[tuple[int, int]]:
    """First and last layer of each block of a resource, which must follow each other."""
    found: list[tuple[int, int]] = []
    for row in rows:
        first, last = row.whole("first_layer"), row.whole("last_layer")
        if last < first:
            raise row.wrong(f"last_layer {last} stands before first_layer {first}")
        if found and first != found[-1][1] + 1:
            name = row.text("resource")
            raise row.wrong(
                f"the block of '{name}' must begin at layer {found[-1][1] + 1}, not {first}: blocks in order"
            )
        found.append((first, last))
    return found


def _span(layers: tuple[int, int]) -> str:
    return f"{layers[0]}-{layers[1]}"


@dataclass(frozen=True)
class _Row:
    """A line of a CSV file, whose fields are asked for by their column."""

    path: Path
    line: int
    fields: Mapping[str, str]

    def wrong(self, problem: str) -> InputError:
        return InputError(f"{self.path}:{self.line}: {problem}")

    def text(self, column: str) -> str:
        if not self.fields[column]:
            raise self.wrong(f"{column} is empty")
        return self.fields[column]

    def number(self, column: str, positive: bool = False) -> float:
        value = math.nan
        try:
            value = float(self.fields[column])
        except ValueError:
            pass
        if not math.isfinite(value) or value < 0.0 or (positive and value == 0.0):
            raise self.wrong(f"{column} '{self.fields[column]}' must be a number {'above 0' if positive else '>= 0'}")
        return value

    def whole(self, column: str) -> int:
        if not (self.fields[column].isascii() and self.fields[column].isdigit()):
            raise self.wrong(f"{column} '{self.fields[column]}' must be a whole number >= 0")
        return int(self.fields[column])


def _rows(path: Path, columns: Sequence[str], other_names: Mapping[str, str] | None = None) -> Iterator[_Row]:
    """The lines of a CSV file with such columns, in any order; at least one."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "it is not a text file"
        raise InputError(f"cannot read '{path}': {reason}") from exc
    reader = csv.reader(text.splitlines())
    header: list[str] | None = None
    count = 0
    try:
        for cells in reader:
            values = [cell.strip() for cell in cells]
            if not any(values):
                continue
            if header is None:
                header = [(other_names or {}).get(value, value) for value in values]
                missing = [column for column in columns if column not in header]
                if missing:
                    raise InputError(f"{path}:{reader.line_num}: no column '{missing[0]}': give {','.join(columns)}")
                continue
            if len(values) != len(header):
                raise InputError(f"{path}:{reader.line_num}: {len(values)} fields, expected {len(header)}")
            count += 1
            yield _Row(path, reader.line_num, dict(zip(header, values, strict=True)))
    except csv.Error as exc:
        raise InputError(f"{path}:{reader.line_num}: {exc}") from exc
    if count == 0:
        raise InputError(f"{path}:{max(reader.line_num, 1)}: no lines: give {','.join(columns)} and a line for each")
