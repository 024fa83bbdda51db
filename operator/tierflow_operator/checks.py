"""The check of a plan before it takes traffic: a pod that asks its workers, and the approval that makes them ready.

`tierflow-check` in the workers' image computes the whole model's answer to an input, has the plan's workers compute
theirs, and writes into its termination message how the two compare. Here is how that pod is made and read.
"""

import hashlib
from collections.abc import Mapping
from enum import StrEnum
from typing import Final

import msgspec

from tierflow.manifest import InferencePipeline
from tierflow.tiers import TIERS, Tier
from tierflow_operator.pods import (
    APPROVAL_FILE,
    APPROVAL_SUFFIX,
    DESCRIPTOR_FILE,
    Manifest,
    Release,
    cache_arguments,
    restricted_container,
    restricted_pod,
    tolerations_of,
    writable_mounts,
)
from tierflow_operator.record import Verdict
from tierflow_operator.render import metadata_of, with_content_hash

CHECK: Final = "check"
"""The component of the pod that checks."""
APPROVED_ANNOTATION: Final = "tierflow.dev/approved"
"""On a pod whose approval is new: what changes a pod has the kubelet look at its volumes at once."""

_MISMATCH: Final = 1
_DESCRIPTORS: Final = "/etc/tierflow"


class CheckState(StrEnum):
    """How a check stands."""

    MISSING = "missing"
    RUNNING = "running"
    DONE = "done"
    """There is a verdict."""
    BROKEN = "broken"
    """It ended without one and has to be made again."""


def subject_of(config_maps: Mapping[Tier, str]) -> str:
    """What names the workers that a verdict is about: the descriptors of the tiers that take part."""
    return " ".join(config_maps[tier] for tier in TIERS if tier in config_maps)


def check_pod(
    pipeline: InferencePipeline,
    release: Release,
    config_maps: Mapping[Tier, str],
    workers: Mapping[Tier, str],
    *,
    runs_on: Tier,
    attempt: int,
) -> Manifest:
    """The pod that checks.

    Args:
        pipeline: What the user wants.
        release: The workers' image.
        config_maps: With the descriptors of the tiers that take part.
        workers: The address of one worker of each of these.
        runs_on: The tier on whose nodes it runs: it has to reach the workers, and computes the whole model.
        attempt: Number of this check among those of the same workers.
    """
    tier = pipeline.spec.tier(runs_on)
    arguments = ["--timeout-seconds", str(pipeline.spec.rollout.progress_deadline_seconds), *cache_arguments()]
    volumes: list[Manifest] = [{"name": "cache", "emptyDir": {}}, {"name": "tmp", "emptyDir": {}}]
    mounts = writable_mounts()
    for part in TIERS:
        if part in config_maps:
            folder = f"{_DESCRIPTORS}/{part}"
            arguments += ["--descriptor", f"{part}={folder}/{DESCRIPTOR_FILE}", "--worker", f"{part}={workers[part]}"]
            volumes.append({"name": str(part), "configMap": {"name": config_maps[part]}})
            mounts.append({"name": str(part), "mountPath": folder, "readOnly": True})
    addresses = (f"{part}={workers[part]}" for part in config_maps)
    name = _digest(subject_of(config_maps), *addresses, str(attempt), str(runs_on))
    pod = restricted_pod(pipeline, tier, release) | {
        "restartPolicy": "Never",
        "activeDeadlineSeconds": pipeline.spec.rollout.progress_deadline_seconds,
        "terminationGracePeriodSeconds": 1,
        "containers": [
            {
                "name": CHECK,
                "command": ["tierflow-check"],
                "args": arguments,
                "volumeMounts": mounts,
                "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}},
            }
            | restricted_container(pipeline, release)
        ],
        "volumes": volumes,
        "tolerations": tolerations_of(tier),
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata_of(pipeline, f"{pipeline.name}-{CHECK}-{name}", CHECK),
        "spec": pod,
    }


def read_check(pod: Manifest | None, subject: str) -> tuple[CheckState, Verdict | None, str]:
    """How the check of a pod stands, its verdict where there is one, and what to say of it."""
    if pod is None:
        return CheckState.MISSING, None, ""
    status = pod.get("status") or {}
    if status.get("phase") not in ("Succeeded", "Failed"):
        if pod["metadata"].get("deletionTimestamp"):
            return CheckState.BROKEN, None, "its pod is being deleted"
        return CheckState.RUNNING, None, ""
    containers: list[Manifest] = list(status.get("containerStatuses") or ())
    ended = containers[0].get("state", {}).get("terminated") or {} if containers else {}
    try:
        said = msgspec.json.decode(ended.get("message") or "{}")
        verdict = Verdict(
            checked=subject,
            holds=bool(said["holds"]),
            bit_identical=bool(said["bitIdentical"]),
            largest_relative_difference=f"{float(said['largestRelativeDifference']):.3g}",
            message=str(said.get("message", "")),
        )
    except (msgspec.DecodeError, KeyError, TypeError, ValueError):
        why = ended.get("message") or status.get("message") or ended.get("reason") or "it said nothing"
        return CheckState.BROKEN, None, str(why)
    if ended.get("exitCode") not in (0, _MISMATCH):
        return CheckState.BROKEN, None, verdict.message
    return CheckState.DONE, verdict, verdict.message


def approval(pipeline: InferencePipeline, component: str, config_map: str) -> Manifest:
    """The ConfigMap that makes the workers of a component ready that serve the descriptor in `config_map`."""
    return with_content_hash(
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": metadata_of(pipeline, config_map + APPROVAL_SUFFIX, component),
            "immutable": True,
            "data": {APPROVAL_FILE: "yes"},
        }
    )


def _digest(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:10]
