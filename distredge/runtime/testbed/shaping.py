"""How a link is shaped: a token bucket at each end of it. Pure: lines for `tc -batch`."""

from __future__ import annotations

FAST_MBPS = 300.0
"""From this rate on a shaper's bucket is larger."""

QUEUE_BYTES = 1_500_000
"""What waits at a shaper at most; with 30 to 100 KB packets are dropped and connections stall for 200 ms."""

QUEUE_PACKETS = 1000
"""The same in packets of 1514 bytes: what counts once the queue is `pfifo_fast`."""

HOST_MBPS = 650.0
"""About what two cores carry, all links together; beyond it measured times say more of the machine than of the plan."""


def burst_bytes(mbps: float) -> int:
    """Size of a shaper's bucket: what an idle link lets pass at once."""
    return 8192 if mbps >= FAST_MBPS else 4096


def shape(device: str, mbps: float) -> list[str]:
    """Shape what leaves a device. Packets that ask for low delay, such as acknowledgements marked so, pass first."""
    return [f"qdisc add {_bucket(device, mbps)}", f"qdisc add dev {device} parent 1:1 handle 10: pfifo_fast"]


def reshape(device: str, mbps: float) -> list[str]:
    """Change the rate of a device that is shaped; what waits there stays."""
    return [f"qdisc change {_bucket(device, mbps)}"]


def _bucket(device: str, mbps: float) -> str:
    rate = max(8, round(mbps * 1e6))
    return f"dev {device} root handle 1: tbf rate {rate}bit burst {burst_bytes(mbps)} limit {QUEUE_BYTES}"
