"""A star of network namespaces: a router in the middle, each node behind a link of its own. Routed, not bridged.

    node 3 [eth0 10.77.3.2] ===== [d3 10.77.3.1] router [d0 10.77.0.1] ===== [eth0 10.77.0.2] node 0

Both ends of a link are shaped to its rate: what leaves the node, and what leaves the router towards it. All links are
made inside the router's namespace, so that the machine's own network is never touched.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from types import TracebackType

from distredge.errors import InputError
from distredge.runtime.testbed.namespaces import Namespace
from distredge.runtime.testbed.shaping import QUEUE_PACKETS, reshape, shape

MAX_NODES = 250

CONGESTION = "cubic"
"""TCP's congestion control. A namespace can only choose from what its machine allows to all; a route can from all there
is, without a change to the machine, and decides for connections in both directions."""

NODE_DEVICE = "eth0"


class Star:
    """A router and nodes, each with the rate of its link in Mbit/s, None for an unshaped one; a context manager.

    Raises `InputError` for too many nodes, `RunError` if the machine refuses something.
    """

    def __init__(self, rates: Mapping[str, float | None]) -> None:
        if len(rates) > MAX_NODES:
            raise InputError(f"a test-bed has room for {MAX_NODES} nodes, the requester among them, not {len(rates)}")
        self._rates = dict(rates)
        self._places = {name: i for i, name in enumerate(rates)}
        self._nodes: dict[str, Namespace] = {}

    def __enter__(self) -> Star:
        """Make the namespaces and the links."""
        with ExitStack() as stack:
            self._router = stack.enter_context(Namespace())
            self._router.batch("ip", ["link set lo up", "route add blackhole default"])  # what is cut off hears nothing
            self._router.write("net/ipv4/ip_forward", "1")
            for name in self._rates:
                self._nodes[name] = stack.enter_context(Namespace())
            self._router.batch("ip", [line for name in self._rates for line in self._router_end(name)])
            for name, node in self._nodes.items():
                node.batch("ip", self._node_end(name))
            for name, rate in self._rates.items():
                if rate is not None:
                    self._router.batch("tc", shape(self._device(name), rate))
                    self._nodes[name].batch("tc", shape(NODE_DEVICE, rate))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let the namespaces go."""
        self._stack.close()

    def host(self, name: str) -> str:
        """The address of a node."""
        return f"10.77.{self._places[name]}.2"

    def prefix(self, name: str) -> tuple[str, ...]:
        """What a command is preceded by to run at a node."""
        return self._nodes[name].prefix

    def set_rates(self, rates: Mapping[str, float]) -> None:
        """Change the rates of shaped links, both ways; what waits there stays."""
        self._router.batch("tc", [line for name, rate in rates.items() for line in reshape(self._device(name), rate)])
        for name, rate in rates.items():
            self._nodes[name].batch("tc", reshape(NODE_DEVICE, rate))

    def cut(self, name: str) -> None:
        """Take a node's link down: what is sent either way is lost without a word."""
        self._router.batch("ip", [f"link set {self._device(name)} down"])

    def mend(self, name: str) -> None:
        """Take a node's link up again."""
        self._router.batch("ip", [f"link set {self._device(name)} up", self._neighbour(name, router=True)])

    def _device(self, name: str) -> str:
        """The router's end of a node's link."""
        return f"d{self._places[name]}"

    def _router_end(self, name: str) -> list[str]:
        device, pid = self._device(name), self._nodes[name].pid
        here, there = self._mac(name, router=True), self._mac(name, router=False)
        queue = f"txqueuelen {QUEUE_PACKETS}"
        return [
            f"link add name {device} address {here} {queue} type veth"
            f" peer name {NODE_DEVICE} address {there} {queue} netns {pid}",
            f"address add 10.77.{self._places[name]}.1/30 dev {device}",
            f"link set {device} up",
            self._neighbour(name, router=True),
        ]

    def _node_end(self, name: str) -> list[str]:
        return [
            "link set lo up",
            f"address add {self.host(name)}/30 dev {NODE_DEVICE}",
            f"link set {NODE_DEVICE} up",
            self._neighbour(name, router=False),
            f"route add default via 10.77.{self._places[name]}.1 congctl {CONGESTION}",
        ]

    def _neighbour(self, name: str, router: bool) -> str:
        """Who is at the other end, known for good: questions for it would queue among what is measured."""
        i = self._places[name]
        address, device = (f"10.77.{i}.2", self._device(name)) if router else (f"10.77.{i}.1", NODE_DEVICE)
        return f"neighbour replace {address} lladdr {self._mac(name, not router)} nud permanent dev {device}"

    def _mac(self, name: str, router: bool) -> str:
        return f"02:00:00:00:{self._places[name]:02x}:{1 if router else 2:02x}"
