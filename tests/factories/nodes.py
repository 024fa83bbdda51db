"""Nodes as the API server lists them."""

from collections.abc import Mapping, Sequence
from typing import Any

from tierflow.manifest import TIER_LABEL


def node(
    name: str,
    tier: str = "",
    labels: Mapping[str, str] | None = None,
    *,
    ready: str = "True",
    taints: Sequence[Mapping[str, str]] = (),
    cordoned: bool = False,
    leaving: bool = False,
) -> dict[str, Any]:
    """A node, ready and schedulable unless told otherwise; `tier` becomes its tier label."""
    metadata: dict[str, Any] = {"name": name, "labels": {**({TIER_LABEL: tier} if tier else {}), **(labels or {})}}
    if leaving:
        metadata["deletionTimestamp"] = "2026-11-23T09:00:00Z"
    spec: dict[str, Any] = {"taints": [dict(taint) for taint in taints]} if taints else {}
    if cordoned:
        spec["unschedulable"] = True
    conditions = [{"type": "MemoryPressure", "status": "False"}, {"type": "Ready", "status": ready}]
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": metadata,
        "spec": spec,
        "status": {"conditions": conditions},
    }
