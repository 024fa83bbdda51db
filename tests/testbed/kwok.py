"""Nodes by the thousand: real Node objects that kwok keeps alive with statuses and leases, as their kubelets would.

Pods are left alone: kwok knows no approvals and no verdicts, `testbed.kubelet` does.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from testbed.binaries import ensure
from testbed.nodes import TIER_LABEL
from testbed.process import Server, wait_for
from testbed.rest import ApiServer, Manifest

_LEASE_SECONDS: Final = 200
"""kwok renews a lease four times in that time, a kubelet every ten seconds: two cores have no room for that."""
_IMAGES: Final = 20
_HEALTHY: Final = {"MemoryPressure": "False", "DiskPressure": "False", "PIDPressure": "False", "Ready": "True"}
_ROOM: Final = {"cpu": "64", "memory": "256Gi", "pods": "250", "ephemeral-storage": "100Gi"}


class KwokNodes:
    """Runs kwok for all nodes of a cluster.

    Args:
        api: The cluster.
        kubeconfig: Of the same.
        folder: For kwok's configuration and its log.
    """

    def __init__(self, api: ApiServer, kubeconfig: Path, folder: Path) -> None:
        self._api = api
        self._made = 0
        config = folder / "kwok.yaml"
        config.write_text(json.dumps(_stage()))
        self._server = Server(
            "kwok",
            [
                ensure("kwok")["kwok"],
                f"--kubeconfig={kubeconfig}",
                f"--config={config}",
                "--manage-all-nodes=true",
                f"--node-lease-duration-seconds={_LEASE_SECONDS}",
                "--server-address=127.0.0.1:0",
            ],
            folder / "kwok.log",
            folder=folder,
        )

    def add(self, tier: str, count: int, *, labels: Mapping[str, str] | None = None, seconds: float = 120.0) -> None:
        """Adds nodes of a tier, and waits until kwok has made all of them Ready."""
        names = [f"kwok-{self._made + number:04}" for number in range(count)]
        self._made += count
        for name in names:
            own = {TIER_LABEL: tier, "kubernetes.io/hostname": name, "kubernetes.io/os": "linux", **(labels or {})}
            self._api.create("/api/v1/nodes", {"metadata": {"name": name, "labels": own}})
        wanted = set(names)
        wait_for(f"{count} nodes to be Ready", lambda: wanted <= self._usable(), seconds=seconds)

    def stop(self) -> None:
        """Ends kwok; the nodes stay."""
        self._server.kill()

    def _usable(self) -> set[str]:
        return {node["metadata"]["name"] for node in self._api.items("/api/v1/nodes") if _is_usable(node)}


def _is_usable(node: Manifest) -> bool:
    conditions = node["status"].get("conditions", [])
    is_ready = any(entry["type"] == "Ready" and entry["status"] == "True" for entry in conditions)
    return is_ready and not node["spec"].get("taints")


def _stage() -> Manifest:
    """What kwok does with a node of which nothing is known: says what a kubelet would, with images as that has them."""
    now = "{{ Now }}"
    dates = {"lastHeartbeatTime": now, "lastTransitionTime": now, "reason": "Kubelet", "message": "all is well"}
    digest = "0123456789abcdef" * 4
    status = {
        "phase": "Running",
        "conditions": [{"type": kind, "status": value, **dates} for kind, value in _HEALTHY.items()],
        "addresses": [{"type": "Hostname", "address": "{{ .metadata.name }}"}],
        "allocatable": _ROOM,
        "capacity": _ROOM,
        "images": [
            {
                "names": [f"registry.example/{number}@sha256:{digest}", f"registry.example/{number}:1"],
                "sizeBytes": 10**8,
            }
            for number in range(_IMAGES)
        ],
    }
    return {
        "apiVersion": "kwok.x-k8s.io/v1alpha1",
        "kind": "Stage",
        "metadata": {"name": "node-comes-up"},
        "spec": {
            "resourceRef": {"apiGroup": "v1", "kind": "Node"},
            "selector": {
                "matchExpressions": [{"key": ".status.phase", "operator": "NotIn", "values": ["Running"]}],
            },
            "next": {
                "patches": [
                    {"subresource": "status", "root": "status", "template": json.dumps(status), "type": "merge"},
                    # Every new node has this taint; where node life is emulated nobody else takes it away.
                    {"root": "spec", "template": json.dumps({"taints": None}), "type": "merge"},
                ]
            },
        },
    }
