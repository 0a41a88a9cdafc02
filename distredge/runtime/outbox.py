"""How a node's logic says something to others: the interface that sockets and the in-memory network implement."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from distredge.runtime.message import Message

Parcel = tuple[str, Message, memoryview]
"""A receiver's name, what it is told, and the payload that goes with it (empty: none)."""

NOTHING = memoryview(b"")


@dataclass(frozen=True)
class Pace:
    """How fast a node sends payload: the rate of its own uplink, and of the downlinks of those that it sends to.

    Where the uplink never limits (infinite), each receiver is sent to at its own rate, all of them at once; otherwise
    messages leave one after the other. `emulated` links are not there: what goes over them leaves when it would have
    passed the uplink, after having been read out of a board's memory, which takes `read_ms` a message and
    `read_byte_ms` a byte. A real link needs the time itself: bytes are handed over as soon as it is free.
    """

    uplink_mbps: float = math.inf
    downlinks_mbps: Mapping[str, float] = field(default_factory=dict)
    emulated: bool = False
    read_ms: float = 0.0
    read_byte_ms: float = 0.0

    @property
    def is_limited(self) -> bool:
        """Whether anything is ever held back."""
        return math.isfinite(self.uplink_mbps) or any(map(math.isfinite, self.downlinks_mbps.values()))


class Outbox(ABC):
    """Takes messages and returns at once; nothing is promised about their arrival.

    Messages without payload overtake those with payload. To one receiver, either kind keeps its order.
    """

    @abstractmethod
    def open(self, addresses: Mapping[str, str], pace: Pace) -> None:
        """A session begins: talk to these nodes (name -> HOST:PORT) and to nobody else.

        Raises `InputError` for an address or a key that cannot be used.
        """

    @abstractmethod
    def keep_pace(self, pace: Pace) -> None:
        """Send at another pace from now on; what is queued leaves in its turn."""

    @abstractmethod
    def renew(self, oldest: int) -> None:
        """A new epoch: who was lost may be there again; payload of epochs older than `oldest` is thrown away."""

    @abstractmethod
    def put(self, peer: str, message: Message, payload: memoryview = NOTHING) -> None:
        """Send a message; one with payload is sent in chunks, each with its offset."""

    @abstractmethod
    def put_together(self, parcels: Iterable[Parcel]) -> None:
        """Send several messages; where no link of this node limits, no receiver waits for another's bytes."""

    @abstractmethod
    def beat(self, peer: str, message: Message) -> bool:
        """Send a small message past all that is queued, or drop it if there is no connection: then False."""

    @abstractmethod
    def answer(self, address: str, name: str, message: Message) -> None:
        """Send one message to the node `name`, which belongs to no session of this one."""

    @property
    @abstractmethod
    def bytes_out(self) -> int:
        """Payload bytes sent since the session began."""

    @property
    @abstractmethod
    def is_sending(self) -> bool:
        """Whether payload waits to be sent."""
