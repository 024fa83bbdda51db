"""The check of a plan before it takes traffic: a pod that asks its workers, and the approval that makes them ready.

`tierflow-check` in the workers' image computes the whole model's answer to an input, has the plan's workers compute
theirs, and writes into its termination message how the two compare. Here is how that pod is made and read.
"""

import hashlib
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Final

import msgspec

from tierflow.descriptor import SegmentDescriptor, WorkerDescriptor
from tierflow.manifest import InferencePipeline
from tierflow.network import Network
from tierflow.tiers import TIERS, Tier
from tierflow.units import Bytes
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
WORKERS_ANNOTATION: Final = "tierflow.dev/workers"
"""On the pod that checks: whom it asks, once that is known."""

_MISMATCH: Final = 1
_WORTH_SECONDS: Final = 2.0  # that the edge has to save, where computing the whole model may take longer
_DESCRIPTORS: Final = "/etc/tierflow"
_WORKERS_FOLDER: Final = "/etc/tierflow-workers"
_WORKERS_FILE: Final = "workers"


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


def place_of(workers: Mapping[str, WorkerDescriptor], network: Network, *, among: Sequence[Tier]) -> Tier:
    """The tier whose nodes a check is best made on.

    All that a worker accepts and makes crosses the link between it and the check. Nearest to the cloud there is most
    room for the whole model; only where that way is much slower the edge is better. On the device it is made where no
    other tier is left.

    Args:
        workers: By tier, what the workers serve that take part.
        network: The links between the tiers.
        among: The tiers to choose from, device first; at least one.
    """

    def seconds(tier: Tier) -> float:
        elsewhere = [(Tier(part), descriptor.segments[0]) for part, descriptor in workers.items() if part != tier]
        return sum(
            network.link(*sorted((part, tier), key=TIERS.index)).transfer_seconds(_crossing(segment))
            for part, segment in elsewhere
        )

    *others, best = among
    if best is Tier.CLOUD and Tier.EDGE in others and seconds(Tier.CLOUD) - seconds(Tier.EDGE) > _WORTH_SECONDS:
        return Tier.EDGE
    return best


def _crossing(segment: SegmentDescriptor) -> Bytes:
    """What is sent to a worker that is checked, and comes from it."""
    sends = segment.sends.tensors if segment.sends is not None else ()
    return Bytes(sum(tensor.size for tensor in (*segment.accepts.tensors, *sends, *segment.results)))


def check_pod(
    pipeline: InferencePipeline,
    release: Release,
    config_maps: Mapping[Tier, str],
    *,
    workers: Mapping[Tier, str] | None,
    runs_on: Tier,
    attempt: int,
) -> Manifest:
    """The pod that checks.

    It may be made before its workers run: the whole model's answer takes as long as their start.

    Args:
        pipeline: What the user wants.
        release: The workers' image.
        config_maps: With the descriptors of the tiers that take part.
        workers: The address of one worker of each of these; None where it is told later, by `workers_annotation`.
        runs_on: The tier on whose nodes it runs: it has to reach the workers, and computes the whole model.
        attempt: Number of this check among those of the same workers.
    """
    tier = pipeline.spec.tier(runs_on)
    arguments = ["--timeout-seconds", str(pipeline.spec.rollout.progress_deadline_seconds), *cache_arguments()]
    arguments += ["--workers-file", f"{_WORKERS_FOLDER}/{_WORKERS_FILE}"]
    told = {"path": _WORKERS_FILE, "fieldRef": {"fieldPath": f"metadata.annotations['{WORKERS_ANNOTATION}']"}}
    volumes: list[Manifest] = [
        {"name": "cache", "emptyDir": {}},
        {"name": "tmp", "emptyDir": {}},
        {"name": "workers", "downwardAPI": {"items": [told]}},
    ]
    mounts = [*writable_mounts(), {"name": "workers", "mountPath": _WORKERS_FOLDER, "readOnly": True}]
    for part in TIERS:
        if part in config_maps:
            folder = f"{_DESCRIPTORS}/{part}"
            arguments += ["--descriptor", f"{part}={folder}/{DESCRIPTOR_FILE}"]
            volumes.append({"name": str(part), "configMap": {"name": config_maps[part]}})
            mounts.append({"name": str(part), "mountPath": folder, "readOnly": True})
    name = _digest(subject_of(config_maps), str(attempt), str(runs_on))
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
    metadata = metadata_of(pipeline, f"{pipeline.name}-{CHECK}-{name}", CHECK)
    if workers is not None:
        metadata["annotations"] = workers_annotation(workers)
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": pod}


def workers_annotation(workers: Mapping[Tier, str]) -> dict[str, str]:
    """What tells the pod that checks whom to ask: the address of a worker of each tier that takes part."""
    return {WORKERS_ANNOTATION: " ".join(f"{tier}={workers[tier]}" for tier in TIERS if tier in workers)}


def workers_told(pod: Manifest) -> frozenset[tuple[str, str]]:
    """Tier and address of the workers that a pod was told to check; none where it wasn't told yet."""
    words = str((pod["metadata"].get("annotations") or {}).get(WORKERS_ANNOTATION, "")).split()
    return frozenset((tier, address) for tier, _, address in (word.partition("=") for word in words))


def read_check(pod: Manifest | None, subject: str) -> tuple[CheckState, Verdict | None, str]:
    """How the check of a pod stands, its verdict where there is one, and what to say of it."""
    if pod is None:
        return CheckState.MISSING, None, ""
    status = pod.get("status") or {}
    containers: list[Manifest] = list(status.get("containerStatuses") or ())
    # Its container doesn't start again; the phase follows a second later, once the kubelet has taken the pod down.
    ended = containers[0].get("state", {}).get("terminated") or {} if containers else {}
    if not ended and status.get("phase") not in ("Succeeded", "Failed"):
        if pod["metadata"].get("deletionTimestamp"):
            return CheckState.BROKEN, None, "its pod is being deleted"
        return CheckState.RUNNING, None, ""
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
