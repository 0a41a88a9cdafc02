"""The transfer model's constants: one home for the simulator, the pacing sender and the emulated links.

They were measured on a star of network namespaces whose links were shaped by token buckets, with a paced sender
(docs/simulator.md): a tandem of two queues, the sender's uplink and the receiver's downlink.
"""

from __future__ import annotations

WIRE_OVERHEAD = 1.0456
"""Bytes on the wire per payload byte: TCP/IP and Ethernet headers, 1514 / 1448."""

PACE = 0.98
"""Share of a link's rate that a sender uses, so that no queue builds up in buffers that it cannot see."""

QUANTUM_BYTES = 4 * 1024
"""A message travels in quanta of this size; a quantum is forwarded when it has wholly arrived. Packets are smaller, but
the shapers of both ends let a bucket of this size pass at once."""

PACED_BYTES = 16 * 1024
"""A paced sender hands over so many bytes at a time."""

MESSAGE_MS = 0.25
"""Fixed cost of a message at its receiver, in ms, on top of its bytes."""


TIE_MS = 1e-9
"""Arrivals at a link that differ by less are at the same moment; equal devices often have such."""


def ms_per_byte(rate_mbps: float) -> float:
    """Time that a payload byte occupies a paced link of `rate_mbps`; 0 for an infinite rate."""
    return 8.0 * WIRE_OVERHEAD / (PACE * rate_mbps * 1000.0)


def occupancy_ms(payload_bytes: float, rate_mbps: float) -> float:
    """Time that a payload occupies a paced link of `rate_mbps`; 0 for an infinite rate."""
    return payload_bytes * ms_per_byte(rate_mbps)


def wire_mbps(payload_ms_per_byte: float, pace: float = 1.0) -> float:
    """Rate of a link on which a payload byte takes so long, headers counted; `pace` is the share of it in use."""
    return 8.0 * WIRE_OVERHEAD / (pace * payload_ms_per_byte * 1000.0)
