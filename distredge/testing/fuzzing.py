"""Frames as nobody should send them, by chance: what a node makes of them must be a message, or nothing.

Messages are made from the types in `runtime.message`, so that a new kind or field is covered without a word here. The
source of chance is a `random.Random`: seeded for many frames, from Hypothesis (`st.randoms()`) for few that shrink.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from random import Random
from typing import Any, TypeAlias, get_args

import msgspec
from msgspec import inspect

from distredge.geometry.interval import Interval
from distredge.plans.plan import BoundPlan
from distredge.runtime.assignment import assignments
from distredge.runtime.message import (
    MAX_PAYLOAD_BYTES,
    PROTOCOL,
    UNCHANGED,
    WITH_PAYLOAD,
    Message,
    Piece,
    Setup,
    Stage,
    decode,
)
from distredge.scenario import REQUESTER

Tree: TypeAlias = Any
"""A message, or part of one, as MessagePack has it: lists, maps, strings, numbers."""

ODD: tuple[Tree, ...] = (
    *(None, True, False, 0, 1, -1, 2**24, 2**24 + 1, 2**40, 2**40 + 1, 2**63 - 1, 2**64 - 1, -(2**63)),
    *(0.0, -0.5, 1e-300, 1e9, 1e300, math.nan, math.inf, -math.inf),
    *("", REQUESTER, "..", "../../a", "a/b", "\0", "x" * 5000, "\u00e9" * 40, ":", "127.0.0.1", "host:port:1", "int8"),
    *(b"", b"\xff" * 40, [], [[]], [0] * 300, {}, {"": ""}, {1: [2]}),
)
"""Values that some field will not like."""

HELD_MS = 50.0
"""A message never tells a provider to emulate a board that takes longer than this for anything."""

MAX_CHUNK_BYTES = 128 * 1024

NESTED = b"\x91" * 3000
"""Arrays in arrays, deeper than anybody reads by recursion."""

SPLINTERS = (
    *(b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xc1"),
    *(b"\xc0", b"\xcb\x7f\xf8" + bytes(6), b"\xcf" + b"\xff" * 8, b"\xa1\xff", b"\xd6\xff" + bytes(4), NESTED),
)
"""Bytes that mean something in MessagePack: endless lengths, what is no type, no text or no number, deep nesting."""

_KINDS = {kind.cls.__name__: kind for kind in inspect.type_info(Message).types}  # type: ignore[attr-defined]
_SHARES = {"Setup": 12, "RowsChunk": 12, "ResultChunk": 6, "Stop": 1}
_OFTEN = [name for name in _KINDS for _ in range(_SHARES.get(name, 3))]
_STAGES = 1 + [f.name for f in _KINDS["Setup"].fields].index("stages")
_WITH_PAYLOAD = {kind.__name__ for kind in get_args(WITH_PAYLOAD)}


@dataclass(frozen=True)
class Insight:
    """What somebody knows of a session who wants to harm it; nothing by default.

    `fields` are likely values by the name of a field, `setups` what providers are told. `addresses` are those that a
    `Setup` may name.
    """

    fields: Mapping[str, Sequence[Tree]] = field(default_factory=dict)
    setups: Sequence[Setup] = ()
    addresses: frozenset[str] = frozenset()


def insight(bound: BoundPlan, addresses: Mapping[str, str], session: str) -> Insight:
    """All there is to know of a session that runs this plan; `addresses` are of all its nodes, the requester too."""
    stages = assignments(bound)
    graph = bound.graph
    common = Setup(
        session=session,
        epoch=0,
        oldest=0,
        protocol=PROTOCOL,
        addresses=dict(addresses),
        model_sha256=graph.sha256,
        input_shape=graph.input_shape,
        outputs=tuple((output.name, output.shape) for output in graph.head.outputs if output.layer is None),
        stages=(),
        wire="float32",
        emulation=None,
        threads=1,
    )
    setups = [msgspec.structs.replace(common, stages=own) for own in stages.values()]
    fields: dict[str, Sequence[Tree]] = {
        "session": [session],
        "sender": list(addresses),
        "peer": list(addresses),
        "addresses": [dict(addresses)],
        "model_sha256": [graph.sha256],
        "sha256": [graph.sha256],
        "protocol": [PROTOCOL],
        "wire": ["float32"],
        "files": [[["model.onnx", 8]], [["model.onnx", 4], ["model.data", 100]]],
        **dict.fromkeys(("epoch", "oldest", "frame", "output", "file", "offset"), [0, 0, 0, 1, 2]),
    }
    return Insight(fields, setups, frozenset(addresses.values()))


class Fuzzer:
    """Makes frames: one in three a message that means something, the others damaged in one of many ways."""

    def __init__(self, rng: Random, known: Insight = Insight()) -> None:
        self._rng, self.known = rng, known
        self._told: Setup | None = None

    def frames(self) -> list[bytes]:
        """The frames of one message; a `Setup` names known addresses only, and holds nothing for over `HELD_MS`."""
        ways = (self._sound, self._sound, self._changed, self._changed, self._damaged, self._odd)
        while True:
            frames = self._rng.choice(ways)()
            setup = _setup_in(frames)
            if setup is None or not _is_harmful(setup, self.known.addresses):
                self._told = setup or self._told
                return frames

    # A message and its payload.

    def message(self) -> tuple[Tree, bytes]:
        """A message of any kind, with values that its types allow and that are likely, and a payload if it has one."""
        rng, known = self._rng, self.known
        kind = _KINDS[rng.choice(_OFTEN)]
        if kind.cls is Setup and known.setups and rng.random() < 0.8:
            setup = msgspec.structs.replace(rng.choice(known.setups), epoch=rng.choice((0, 0, 0, 1, 2)))
            return msgspec.msgpack.decode(msgspec.msgpack.encode(setup)), b""
        values = {f.name: self._value(f.type, f.name) for f in kind.fields}
        payload = rng.randbytes(rng.choice((1, 4, 100, 4096))) if kind.cls.__name__ in _WITH_PAYLOAD else b""
        if "layer" in values and (stages := self._stages()):
            stage = rng.choice(stages)
            if stage.inputs:
                piece = rng.choice(stage.inputs)
                values.update(
                    epoch=self._told.epoch if self._told else 0,
                    boundary=stage.boundary,
                    layer=piece.layer,
                    rows=piece.rows,
                    offset=0,
                )
                payload = bytes(_likely_bytes(piece))
        return [kind.cls.__name__, *values.values()], payload

    def _stages(self) -> tuple[Stage, ...]:
        """Those of which a provider was told last, or of which all know."""
        if self._told and self._rng.random() < 0.7:
            return self._told.stages
        return self._rng.choice(self.known.setups).stages if self.known.setups else ()

    def _value(self, kind: inspect.Type, name: str) -> Tree:
        """A value of a type, for the field `name`."""
        rng = self._rng
        if name in self.known.fields and rng.random() < 0.9:
            return rng.choice(self.known.fields[name])
        match kind:
            case inspect.IntType():
                return self._integer(kind)
            case inspect.FloatType():
                return rng.choice((0.0, 0.5, 1.0, 20.0, 1e3, 1e9))
            case inspect.StrType():
                return rng.choice([odd for odd in ODD if isinstance(odd, str)])
            case inspect.BoolType():
                return rng.random() < 0.5
            case inspect.LiteralType():
                return rng.choice(kind.values)
            case inspect.UnionType():
                return self._value(rng.choice(kind.types), name)
            case inspect.DictType():
                return {
                    self._value(kind.key_type, ""): self._value(kind.value_type, "") for _ in range(rng.randint(0, 3))
                }
            case inspect.TupleType():
                return [self._value(item, "") for item in kind.item_types]
            case inspect.VarTupleType():
                return [self._value(kind.item_type, "") for _ in range(rng.randint(0, kind.max_length or 3))]
            case inspect.StructType():
                return [self._value(f.type, f.name) for f in kind.fields]
        return None

    def _integer(self, kind: inspect.IntType) -> int:
        """Small, or a bound."""
        low, high = kind.ge if kind.ge is not None else -(2**31), kind.le if kind.le is not None else 2**31
        return self._rng.choice((low, high, *(min(high, max(low, n)) for n in (0, 1, 2, 3, 7, 16, 224, 65536))))

    # Ways to send it.

    def _sound(self) -> list[bytes]:
        tree, payload = self.message()
        return _packed(tree, payload)

    def _changed(self) -> list[bytes]:
        """Some of its values are others, of any type."""
        tree, payload = self.message()
        tree = deepcopy(tree)
        part = tree[_STAGES] if tree[0] == "Setup" and self._rng.random() < 0.7 and tree[_STAGES] else tree
        for _ in range(self._rng.randint(1, 3)):
            self._change(part, first=0 if part is not tree else 1)
        return _packed(tree, payload)

    def _change(self, items: list[Tree], first: int) -> None:
        """Replace, remove or repeat something at any depth; what stands before `first` stays."""
        rng = self._rng
        while True:
            place = rng.randrange(first, len(items)) if len(items) > first else None
            if place is None:
                items.append(deepcopy(rng.choice(ODD)))
                return
            inner = items[place]
            if not (isinstance(inner, list) and inner and rng.random() < 0.8):
                break
            items, first = inner, 0
        match rng.randrange(7):
            case 0:
                del items[place]
            case 1:
                items.insert(place, items[place])
            case 2 | 3:
                items[place] = deepcopy(rng.choice(ODD))
            case _:
                items[place] = self._nudged(items[place])

    def _nudged(self, value: Tree) -> Tree:
        """Another value of the same type, as far as that can be."""
        rng = self._rng
        if isinstance(value, int | float):
            return rng.choice((value + 1, value - 1, value * 1000, 0, 1)) if abs(value) < 2**50 else 2
        if isinstance(value, list):
            return rng.sample(value, rng.randint(0, len(value)))
        return rng.choice([odd for odd in ODD if type(odd) is type(value)] or ODD)

    def _damaged(self) -> list[bytes]:
        """Some bytes of its header are others, more or fewer, and so may be those of its payload."""
        header, payload = _packed(*self.message())[0], self._payload()
        for _ in range(self._rng.randint(1, 4)):
            header = self._damage(header)
        return [header, payload] if payload else [header]

    def _damage(self, data: bytes) -> bytes:
        rng = self._rng
        at = rng.randint(0, len(data))
        to = min(len(data), at + rng.choice((1, 1, 2, 8)))
        match rng.randrange(5):
            case 0:
                return data[:at] + rng.randbytes(to - at) + data[to:]
            case 1:
                return data[:at] + data[to:]
            case 2:
                return data[:to] + data[at:]
            case 3:
                return data[:at]
            case _:
                return data[:at] + rng.choice(SPLINTERS) + data[rng.choice((at, to)) :]

    def _odd(self) -> list[bytes]:
        """A message with more or fewer frames than it has, another payload, more fields, or none at all."""
        rng, frames = self._rng, self._sound()
        match rng.randrange(5):
            case 0:
                return [frames[0], self._payload()]
            case 1:
                return frames * rng.randint(2, 40)
            case 2:
                return [frames[0], *(rng.randbytes(rng.choice((0, 1, 30))) for _ in range(rng.randint(0, 4)))]
            case 3:
                tail = rng.choice(SPLINTERS)
                return [_one_more(frames[0]) + tail, *frames[1:]]
            case _:
                return [rng.randbytes(rng.choice((0, 1, 10, 300))) for _ in range(rng.randint(1, 3))]

    def _payload(self) -> bytes:
        """Of any size, seldom of more than is allowed."""
        rng = self._rng
        sizes = (0, 1, 3, 4, 1000, 65536) if rng.random() < 0.998 else (MAX_PAYLOAD_BYTES, MAX_PAYLOAD_BYTES + 1)
        return bytes(rng.choice(sizes))


def _packed(tree: Tree, payload: bytes) -> list[bytes]:
    header = msgspec.msgpack.encode(tree)
    return [header, payload] if payload else [header]


def _one_more(header: bytes) -> bytes:
    """A header whose array says that it has one element more."""
    if 0x90 <= header[0] < 0x9F:
        return bytes([header[0] + 1]) + header[1:]
    return header


def _likely_bytes(piece: Piece) -> int:
    """Of a chunk with all rows of a piece, or as many of them as it can hold."""
    channels, _, width = piece.shape
    return max(1, min(4 * channels * width * Interval(*piece.rows).size, MAX_CHUNK_BYTES))


def _setup_in(frames: list[bytes]) -> Setup | None:
    try:
        message, _ = decode(frames)
    except Exception:
        return None
    return message if isinstance(message, Setup) else None


def _is_harmful(setup: Setup, addresses: frozenset[str]) -> bool:
    """Whether a node that was told so would do what it must and harm others by it, or only hold the test up.

    It would talk to somebody who is not known, or stand in for a slow board for as long as it was told to.
    """
    emulation = setup.emulation or UNCHANGED
    held_ms = max((*emulation.hold_ms, *emulation.write_ms, emulation.read_ms, emulation.read_byte_ms * 1e6), default=0)
    return held_ms > HELD_MS or not addresses.issuperset(setup.addresses.values())
