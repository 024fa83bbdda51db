"""Slower links and slower nodes of a kind cluster, and nodes that go: what the world does to a pipeline."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from kindbed.admission import add_to_workers
from kindbed.cluster import Cluster, run

_UNLIMITED: Final = "10gbit"
_SMALLEST_BURST: Final = 4_000
"""Bytes."""
_BURST_SECONDS: Final = 0.001
"""What may pass at once after a rest, as time at the limit: far less than a probe, which would see no limit else."""


class Links:
    """Bandwidth limits between tiers, set with tc on what the lower tier's nodes send to the upper tier's pods."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._limits: dict[tuple[str, str], float] = {}

    def limit(self, lower: str, upper: str, megabits_per_second: float) -> None:
        """Limits what every node of `lower` can send to the pods of `upper`."""
        self._limits[lower, upper] = megabits_per_second
        ranges = self._pod_ranges()
        for node in self._cluster.nodes(lower):
            self._shape(node, {ranges[up]: rate for (low, up), rate in self._limits.items() if low == lower})

    def free(self) -> None:
        """Takes all limits back."""
        for lower in {lower for lower, _ in self._limits}:
            for node in self._cluster.nodes(lower):
                # A node that was restarted meanwhile has none.
                take_back = f"tc qdisc del dev {interface_of(self._cluster, node)} root 2>/dev/null || true"
                self._cluster.on_node(node, "bash", "-c", take_back)
        self._limits.clear()

    def _pod_ranges(self) -> dict[str, tuple[str, ...]]:
        nodes = self._cluster.objects("nodes", "tierflow.dev/tier")
        ranges: dict[str, tuple[str, ...]] = {}
        for node in nodes:
            tier = node["metadata"]["labels"]["tierflow.dev/tier"]
            ranges[tier] = (*ranges.get(tier, ()), node["spec"]["podCIDR"])
        return ranges

    def _shape(self, node: str, limits: dict[tuple[str, ...], float]) -> None:
        interface = interface_of(self._cluster, node)
        lines = [
            f"qdisc replace dev {interface} root handle 1: htb default 1",
            f"class replace dev {interface} parent 1: classid 1:1 htb rate {_UNLIMITED}",
        ]
        for number, (ranges, rate) in enumerate(limits.items(), start=2):
            burst = round(max(rate * 1e6 / 8 * _BURST_SECONDS, _SMALLEST_BURST))
            lines.append(
                f"class replace dev {interface} parent 1: classid 1:{number} "
                f"htb rate {rate:g}mbit burst {burst} cburst {burst}"
            )
            lines += [
                f"filter add dev {interface} parent 1: protocol ip prio 1 u32 match ip dst {pods} flowid 1:{number}"
                for pods in ranges
            ]
        # Afresh, since filters can only be added.
        commands = "; ".join(f"tc {line}" for line in lines)
        self._cluster.on_node(node, "bash", "-c", f"tc qdisc del dev {interface} root 2>/dev/null; set -e; {commands}")


def interface_of(cluster: Cluster, node: str) -> str:
    """By which a node reaches the others."""
    route = cluster.on_node(node, "ip", "-4", "route", "get", cluster.address(cluster.control_plane)).split()
    return route[route.index("dev") + 1]


@contextmanager
def stopped(cluster: Cluster, node: str) -> Iterator[None]:
    """A node that is dead; it comes back, and is waited for, at the end."""
    run("docker", "stop", "--time", "0", node)
    try:
        yield
    finally:
        run("docker", "start", node)
        _wait_ready(cluster, node)


@contextmanager
def disconnected(cluster: Cluster, node: str) -> Iterator[None]:
    """A node that nobody can reach, with all that runs on it; it is connected again, and waited for, at the end."""
    interface = interface_of(cluster, node)
    rules = (("INPUT", "-i"), ("OUTPUT", "-o"), ("FORWARD", "-i"), ("FORWARD", "-o"))

    def each(action: str) -> None:
        for chain, direction in rules:
            cluster.on_node(node, "iptables", "-w", action, chain, direction, interface, "-j", "DROP")

    each("-I")
    try:
        yield
    finally:
        each("-D")
        _wait_ready(cluster, node)


def _wait_ready(cluster: Cluster, node: str) -> None:
    def is_ready() -> bool:
        conditions = cluster.get("node", node)["status"]["conditions"]
        return any(entry["type"] == "Ready" and entry["status"] == "True" for entry in conditions)

    cluster.wait_for(f"{node} ready again", is_ready, 120)


def slow_down(cluster: Cluster, speeds: Mapping[str, float], namespace: str = "default") -> None:
    """Has workers that are created from now on compute as a slower machine would, by component.

    A limit on a node's processors doesn't: it slows long computations, and lets short ones go at full speed.
    """
    for component, speed in speeds.items():
        add_to_workers(cluster, f"slow-{component}", namespace, {"TIERFLOW_SPEED": f"{speed:g}"}, component)
