"""Nodes of a test: real Node objects, without machines behind them."""

import itertools
from typing import Final

from testbed.rest import ApiServer, Manifest

TIER_LABEL: Final = "tierflow.dev/tier"
_NOT_READY_TAINT: Final = "node.kubernetes.io/not-ready"
_ROOM: Final = {"cpu": "64", "memory": "256Gi", "pods": "500", "ephemeral-storage": "100Gi"}


class Nodes:
    """Makes nodes and changes them as an administrator or a kubelet would; removes them all in the end.

    Args:
        api: The server.
        prefix: Of their names.
    """

    def __init__(self, api: ApiServer, prefix: str) -> None:
        self._api = api
        self._prefix = prefix
        self._numbers = itertools.count(1)
        self._names: list[str] = []

    def add(self, tier: str, count: int = 1, *, labels: dict[str, str] | None = None) -> list[str]:
        """Adds Ready nodes of a tier; their names."""
        return [self._add({TIER_LABEL: tier, **(labels or {})}) for _ in range(count)]

    def add_all(self, *, edge: int = 1) -> list[str]:
        """One node for the device and one for the cloud, and so many at the edge."""
        return [*self.add("device"), *self.add("edge", edge), *self.add("cloud")]

    def remove(self, name: str) -> None:
        """Takes a node out of the cluster."""
        self._api.delete(f"/api/v1/nodes/{name}")

    def label(self, name: str, labels: dict[str, str | None]) -> None:
        """Changes labels; None removes one."""
        self._api.patch(f"/api/v1/nodes/{name}", {"metadata": {"labels": labels}})

    def cordon(self, name: str, *, on: bool = True) -> None:
        """Makes a node unschedulable, or schedulable again."""
        self._api.patch(f"/api/v1/nodes/{name}", {"spec": {"unschedulable": on or None}})

    def set_ready(self, name: str, *, ready: bool) -> None:
        """Makes a node Ready or NotReady, with the taint that the node controller would put on it."""
        condition = {"type": "Ready", "status": "True" if ready else "False", "reason": "Test"}
        taints = [] if ready else [{"key": _NOT_READY_TAINT, "effect": "NoSchedule"}]
        self._api.patch(f"/api/v1/nodes/{name}/status", {"status": {"conditions": [condition]}})
        self._api.patch(f"/api/v1/nodes/{name}", {"spec": {"taints": taints or None}})

    def remove_all(self) -> None:
        """Takes all its nodes out of the cluster."""
        for name in self._names:
            self.remove(name)
        self._names.clear()

    def _add(self, labels: dict[str, str]) -> str:
        name = f"{self._prefix}-{next(self._numbers)}"
        node: Manifest = {
            "metadata": {
                "name": name,
                "labels": {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", **labels},
            },
        }
        self._api.create("/api/v1/nodes", node)
        self._names.append(name)
        self._api.patch(f"/api/v1/nodes/{name}/status", {"status": {"capacity": _ROOM, "allocatable": _ROOM}})
        self.set_ready(name, ready=True)  # also takes away the taint that every new node has
        return name
