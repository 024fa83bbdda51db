"""The pods of workers, as plain dictionaries: restricted, probed, spread over nodes, and gone when their node is."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from tierflow.manifest import InferencePipeline, Rollout, TierSpec
from tierflow.tiers import Tier
from tierflow_operator.descriptors import TILES, Addresses

Manifest = dict[str, Any]
"""A Kubernetes object, as its YAML reads."""

DEFAULT_IMAGE: Final = "tierflow-worker:0.1.0"
"""Of this release, used where the manifest names none."""
PIPELINE_LABEL: Final = "tierflow.dev/pipeline"
COMPONENT_LABEL: Final = "app.kubernetes.io/component"
"""On every object: the tier that it belongs to; `entry` on the Service that clients use, `tiles` for tile workers."""

GRPC_PORT: Final = 8001
REST_PORT: Final = 8000
DESCRIPTOR_DIRECTORY: Final = "/etc/tierflow"
DESCRIPTOR_FILE: Final = "descriptor.json"
APPROVAL_DIRECTORY: Final = "/etc/tierflow-approval"
APPROVAL_FILE: Final = "approved"
APPROVAL_SUFFIX: Final = "-approved"
"""Behind the name of a descriptor's ConfigMap: the one whose being there makes its workers ready."""

_CACHE_DIRECTORY: Final = "/var/cache/tierflow"
_USER: Final = 65532
_PROBE_SECONDS: Final = 1
_PROBE_TIMEOUT_SECONDS: Final = 2
_LOST_NODE_SECONDS: Final = 10
"""After which a worker is replaced whose node is not ready or can't be reached; Kubernetes' own default is 300."""
_GRACE_SECONDS: Final = 5
"""Beyond the drain time, until the kubelet kills a worker that doesn't end."""
_DEFAULT_REQUESTS: Final = {"cpu": "100m", "memory": "128Mi"}
"""Where the manifest says nothing, so that the scheduler has something to go by."""


@dataclass(frozen=True, slots=True)
class Release:
    """What the release that renders brings along.

    Attributes:
        image: The workers' image, where the manifest names none.
        image_pull_policy: Of the workers' image; "" for Kubernetes' default.
        image_pull_secrets: Names of Secrets in the pipeline's namespace.
        addresses: Where workers reach each other; None for the Services' names.
        tile_workers: Where the edge's worker finds the tile workers; "" for their Service's name.
        approves: Whether workers get ready only once their descriptor is approved (`tierflow_operator.approvals`).
    """

    image: str = DEFAULT_IMAGE
    image_pull_policy: str = ""
    image_pull_secrets: tuple[str, ...] = field(default=())
    addresses: Addresses | None = None
    tile_workers: str = ""
    approves: bool = False


def labels_of(pipeline: InferencePipeline, component: str) -> dict[str, str]:
    """The labels of a pipeline's object."""
    return {
        "app.kubernetes.io/name": "tierflow-worker",
        "app.kubernetes.io/instance": pipeline.name,
        COMPONENT_LABEL: str(component),
        "app.kubernetes.io/managed-by": "tierflow",
        PIPELINE_LABEL: pipeline.name,
    }


def selector_of(pipeline: InferencePipeline, component: str) -> dict[str, str]:
    """The labels by which a component's pods are found."""
    return {PIPELINE_LABEL: pipeline.name, COMPONENT_LABEL: str(component)}


def worker_pod(pipeline: InferencePipeline, component: str, config_map: str, release: Release) -> Manifest:
    """The pod of a worker.

    Args:
        pipeline: What the user wants.
        component: A tier's name, or `tiles`.
        config_map: The one with the worker's descriptor.
        release: Image and how it is pulled.
    """
    tier = pipeline.spec.tier(Tier.EDGE if component == TILES else Tier(component))
    # Tile workers are found once they are ready, and a check that needs them begins then: nothing approves them.
    approval = config_map + APPROVAL_SUFFIX if release.approves and component != TILES else ""
    return {
        **restricted_pod(pipeline, tier, release),
        "terminationGracePeriodSeconds": pipeline.spec.rollout.drain_seconds + _GRACE_SECONDS,
        **_spreading(pipeline, component),
        "containers": [_container(pipeline, tier, release, approved=bool(approval))],
        "volumes": [
            {"name": "descriptor", "configMap": {"name": config_map}},
            *([{"name": "approval", "configMap": {"name": approval, "optional": True}}] if approval else []),
            {"name": "cache", "emptyDir": {}},
            {"name": "tmp", "emptyDir": {}},
        ],
        "tolerations": tolerations_of(tier),
    }


def restricted_pod(pipeline: InferencePipeline, tier: TierSpec, release: Release) -> Manifest:
    """What all pods have in common: a tier's nodes, no rights, no token."""
    pod: Manifest = {
        "serviceAccountName": pipeline.name,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "nodeSelector": dict(tier.selector),
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": _USER,
            "runAsGroup": _USER,
            "fsGroup": _USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }
    if release.image_pull_secrets:
        pod["imagePullSecrets"] = [{"name": name} for name in release.image_pull_secrets]
    return pod


def restricted_container(pipeline: InferencePipeline, release: Release) -> Manifest:
    """What all containers have in common: the workers' image, and no more rights than they need."""
    container: Manifest = {"image": pipeline.spec.worker.image or release.image}
    if release.image_pull_policy:
        container["imagePullPolicy"] = release.image_pull_policy
    return container | {
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
    }


def writable_mounts() -> list[Manifest]:
    """Where a worker's program may write: its cache, and the place for temporary files."""
    return [
        {"name": "cache", "mountPath": _CACHE_DIRECTORY},
        {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - the pod's own
    ]


def cache_arguments() -> list[str]:
    """Tells a worker's program where it may keep models."""
    return ["--cache-dir", _CACHE_DIRECTORY]


def tolerations_of(tier: TierSpec) -> list[Manifest]:
    """The manifest's, and how long a pod outlives its node where the manifest doesn't say."""
    given = [without_defaults(msgspec.to_builtins(toleration)) for toleration in tier.tolerations]
    lost = ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")
    said = {toleration.get("key") for toleration in given}
    return given + [
        {"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": _LOST_NODE_SECONDS}
        for key in lost
        if key not in said
    ]


def _spreading(pipeline: InferencePipeline, component: str) -> Manifest:
    """One tile worker per node of the edge, away from the edge's own worker where that is possible.

    That one is avoided, not excluded: it must find a node when its own is lost, whatever computes tiles there.
    """
    spread: Manifest = {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "DoNotSchedule" if component == TILES else "ScheduleAnyway",
        "nodeTaintsPolicy": "Honor",
        "labelSelector": {"matchLabels": selector_of(pipeline, component)},
        # Those of the rollout before, which leave anyway, don't count.
        "matchLabelKeys": ["pod-template-hash"],
    }
    pod: Manifest = {"topologySpreadConstraints": [spread]}
    other = {TILES: str(Tier.EDGE), str(Tier.EDGE): TILES}.get(str(component))
    if other is not None:
        term = {
            "labelSelector": {"matchLabels": selector_of(pipeline, other)},
            "topologyKey": "kubernetes.io/hostname",
        }
        pod["affinity"] = {
            "podAntiAffinity": {
                "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100, "podAffinityTerm": term}]
            }
        }
    return pod


def _container(pipeline: InferencePipeline, tier: TierSpec, release: Release, *, approved: bool) -> Manifest:
    rollout = pipeline.spec.rollout
    container: Manifest = {
        "name": "worker",
        "command": ["tierflow-worker"],
        "args": [
            "--descriptor",
            f"{DESCRIPTOR_DIRECTORY}/{DESCRIPTOR_FILE}",
            "--drain-seconds",
            str(rollout.drain_seconds),
            *(["--approval-file", f"{APPROVAL_DIRECTORY}/{APPROVAL_FILE}"] if approved else []),
            *cache_arguments(),
        ],
        "env": [
            {
                # The limit, rounded up; without one, what the node has.
                "name": "TIERFLOW_THREADS",
                "valueFrom": {
                    "resourceFieldRef": {"containerName": "worker", "resource": "limits.cpu", "divisor": "1"}
                },
            }
        ],
        "ports": [
            {"name": "grpc", "containerPort": GRPC_PORT, "protocol": "TCP"},
            {"name": "http", "containerPort": REST_PORT, "protocol": "TCP"},
        ],
        **_probes(rollout),
        "volumeMounts": [
            {"name": "descriptor", "mountPath": DESCRIPTOR_DIRECTORY, "readOnly": True},
            *([{"name": "approval", "mountPath": APPROVAL_DIRECTORY, "readOnly": True}] if approved else []),
            *writable_mounts(),
        ],
        "resources": _resources(tier),
    }
    return container | restricted_container(pipeline, release)


def _resources(tier: TierSpec) -> Manifest:
    given = without_defaults(msgspec.to_builtins(tier.resources))
    return given or {"requests": dict(_DEFAULT_REQUESTS)}


def _probes(rollout: Rollout) -> Manifest:
    attempts = max(1, rollout.progress_deadline_seconds // _PROBE_SECONDS)
    return {
        "startupProbe": _probe("live", failures=attempts),
        "readinessProbe": _probe("ready", failures=3),
        "livenessProbe": _probe("live", failures=20),
    }


def _probe(endpoint: str, *, failures: int) -> Manifest:
    return {
        "httpGet": {"path": f"/v2/health/{endpoint}", "port": "http"},
        "periodSeconds": _PROBE_SECONDS,
        "timeoutSeconds": _PROBE_TIMEOUT_SECONDS,
        "failureThreshold": failures,
    }


def without_defaults(fields: Mapping[str, Any]) -> Manifest:
    """The fields that say something."""
    return {name: value for name, value in fields.items() if value not in (None, "", {}, [])}
