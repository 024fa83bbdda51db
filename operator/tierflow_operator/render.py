"""From a plan to the Kubernetes objects that serve it, as plain dictionaries.

Deterministic, and without an epoch or a figure in any object: an object changes only where its worker has to.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from tierflow.descriptor import WorkerDescriptor, decode, encode
from tierflow.graph import Graph
from tierflow.manifest import API_VERSION, KIND, InferencePipeline, TierSpec
from tierflow.manifest_values import model_reference
from tierflow.plan import Plan
from tierflow.tiers import TIERS, Tier
from tierflow_operator.descriptors import TILES, Addresses, worker_descriptors

Manifest = dict[str, Any]
"""A Kubernetes object, as its YAML reads."""

DEFAULT_IMAGE: Final = "tierflow-worker:0.1.0"
"""Of this release, used where the manifest names none."""

PIPELINE_LABEL: Final = "tierflow.dev/pipeline"
COMPONENT_LABEL: Final = "app.kubernetes.io/component"
"""On every object: the tier that it belongs to; `entry` on the Service that clients use, `tiles` for tile workers."""
CONTENT_ANNOTATION: Final = "tierflow.dev/content"
"""On every object: a hash of all the rest, by which a field that is wanted no more is noticed."""

GRPC_PORT: Final = 8001
REST_PORT: Final = 8000
DESCRIPTOR_DIRECTORY: Final = "/etc/tierflow"
DESCRIPTOR_FILE: Final = "descriptor.json"
_CACHE_DIRECTORY: Final = "/var/cache/tierflow"
_USER: Final = 65532
_PROBE_SECONDS: Final = 2
_GRACE_SECONDS: Final = 5
"""Beyond the drain time, until the kubelet kills a worker that doesn't end."""


@dataclass(frozen=True, slots=True)
class Release:
    """What the release that renders brings along.

    Attributes:
        image: The workers' image, where the manifest names none.
        addresses: Where workers reach each other; None for the Services' names.
        tile_workers: Where the edge's worker finds the tile workers; "" for their Service's name.
    """

    image: str = DEFAULT_IMAGE
    addresses: Addresses | None = None
    tile_workers: str = ""


def render(
    pipeline: InferencePipeline,
    graph: Graph,
    plan: Plan,
    live: Mapping[str, WorkerDescriptor] | None = None,
    release: Release | None = None,
    *,
    edge_workers: int = 1,
) -> tuple[Manifest, ...]:
    """All objects that serve `plan`: ConfigMaps, Services and Deployments, each tier's in the order of the tiers.

    Args:
        pipeline: What the user wants.
        graph: The model's graph.
        plan: The wanted plan.
        live: The descriptors in force (`live_descriptors`); a tier whose segment changes serves its present one on.
        release: Image and addresses.
        edge_workers: How many share the tiles of a plan that has some, the edge's own worker among them. They are the
            replicas of one Deployment and stand nowhere else.
    """
    chosen = release or Release()
    described = worker_descriptors(
        pipeline=pipeline.name,
        namespace=pipeline.namespace,
        model=model_reference(pipeline.spec.model, plan.model),
        graph=graph,
        plan=plan,
        addresses=chosen.addresses or _service_addresses(pipeline),
        tile_workers=chosen.tile_workers or _service_address(pipeline, TILES),
        live=live or {},
    )
    config_maps = {
        component: _config_map(pipeline, component, descriptor) for component, descriptor in described.items()
    }
    services = [_service(pipeline, pipeline.name, Tier.DEVICE, component="entry")]
    services += [_service(pipeline, f"{pipeline.name}-{tier}", tier, component=tier) for tier in TIERS]
    if TILES in described:
        services.append(_tile_service(pipeline))
    deployments = [
        _deployment(pipeline, component, config_map["metadata"]["name"], chosen.image, edge_workers=edge_workers)
        for component, config_map in config_maps.items()
    ]
    return tuple(_with_content_hash(manifest) for manifest in (*config_maps.values(), *services, *deployments))


def live_descriptors(objects: Iterable[Manifest]) -> dict[str, WorkerDescriptor]:
    """The descriptors that the Deployments among `objects` give their workers, by component: a tier's name, or `tiles`.

    A Deployment whose ConfigMap is not among them counts as none.
    """
    found = list(objects)
    data = {entry["metadata"]["name"]: entry["data"] for entry in found if entry["kind"] == "ConfigMap"}
    described = {}
    for entry in found:
        if entry["kind"] != "Deployment":
            continue
        document = data.get(config_map_of(entry), {}).get(DESCRIPTOR_FILE)
        if document is not None:
            described[component_of(entry)] = decode(document.encode())
    return described


def component_of(manifest: Manifest) -> str:
    """What a rendered object belongs to: a tier's name, `tiles`, or `entry`; "" where it isn't ours."""
    return str(manifest["metadata"].get("labels", {}).get(COMPONENT_LABEL, ""))


def config_map_of(deployment: Manifest) -> str:
    """The name of the ConfigMap that a rendered Deployment mounts."""
    volumes = deployment["spec"]["template"]["spec"]["volumes"]
    return str(next(volume["configMap"]["name"] for volume in volumes if volume["name"] == "descriptor"))


def _service_addresses(pipeline: InferencePipeline) -> Addresses:
    return lambda _, receiver: _service_address(pipeline, receiver)


def _service_address(pipeline: InferencePipeline, component: str) -> str:
    return f"{pipeline.name}-{component}.{pipeline.namespace}.svc:{GRPC_PORT}"


def _labels(pipeline: InferencePipeline, component: str) -> dict[str, str]:
    return {
        "app.kubernetes.io/name": "tierflow-worker",
        "app.kubernetes.io/instance": pipeline.name,
        COMPONENT_LABEL: component,
        "app.kubernetes.io/managed-by": "tierflow",
        PIPELINE_LABEL: pipeline.name,
    }


def _selector(pipeline: InferencePipeline, component: str) -> dict[str, str]:
    return {PIPELINE_LABEL: pipeline.name, COMPONENT_LABEL: str(component)}


def _metadata(pipeline: InferencePipeline, name: str, component: str) -> Manifest:
    metadata: Manifest = {"name": name, "namespace": pipeline.namespace, "labels": _labels(pipeline, component)}
    if pipeline.metadata.uid:
        metadata["ownerReferences"] = [
            {
                "apiVersion": API_VERSION,
                "kind": KIND,
                "name": pipeline.name,
                "uid": pipeline.metadata.uid,
                "controller": True,
                "blockOwnerDeletion": True,
            }
        ]
    return metadata


def _config_map(pipeline: InferencePipeline, component: str, descriptor: WorkerDescriptor) -> Manifest:
    document = encode(descriptor)
    content = hashlib.sha256(document).hexdigest()[:10]
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": _metadata(pipeline, f"{pipeline.name}-{component}-{content}", str(component)),
        "immutable": True,
        "data": {DESCRIPTOR_FILE: document.decode()},
    }


def _service(pipeline: InferencePipeline, name: str, tier: Tier, *, component: str) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(pipeline, name, str(component)),
        "spec": {
            "selector": _selector(pipeline, tier),
            "ports": _service_ports(),
            # Clients and workers alike are served by the nearest worker.
            "trafficDistribution": "PreferClose",
        },
    }


def _tile_service(pipeline: InferencePipeline) -> Manifest:
    """A headless Service: its name resolves to all tile workers that are ready."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(pipeline, f"{pipeline.name}-{TILES}", TILES),
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": False,
            "selector": _selector(pipeline, TILES),
            "ports": _service_ports(),
        },
    }


def _service_ports() -> list[Manifest]:
    return [
        {"name": "grpc", "port": GRPC_PORT, "targetPort": "grpc", "protocol": "TCP", "appProtocol": "grpc"},
        {"name": "http", "port": REST_PORT, "targetPort": "http", "protocol": "TCP", "appProtocol": "http"},
    ]


def _deployment(
    pipeline: InferencePipeline, component: str, config_map: str, image: str, *, edge_workers: int
) -> Manifest:
    rollout = pipeline.spec.rollout
    labels = _labels(pipeline, str(component))
    is_tiles = component == TILES
    tier = pipeline.spec.tier(Tier.EDGE if is_tiles else Tier(component))
    pod = _pod(pipeline, tier, config_map, pipeline.spec.worker.image or image)
    if is_tiles:
        pod["topologySpreadConstraints"] = [_one_per_node(pipeline)]
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": _metadata(pipeline, f"{pipeline.name}-{component}", str(component)),
        "spec": {
            "replicas": edge_workers - 1 if is_tiles else tier.replicas,
            "revisionHistoryLimit": 2,
            "progressDeadlineSeconds": rollout.progress_deadline_seconds,
            "selector": {"matchLabels": _selector(pipeline, component)},
            # A worker leaves only when its successor is ready.
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }


def _one_per_node(pipeline: InferencePipeline) -> Manifest:
    """Spreads tile workers over the edge's nodes, away from the edge's own worker too."""
    return {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "DoNotSchedule",
        "nodeTaintsPolicy": "Honor",
        "labelSelector": {
            "matchLabels": {PIPELINE_LABEL: pipeline.name},
            "matchExpressions": [{"key": COMPONENT_LABEL, "operator": "In", "values": [str(Tier.EDGE), TILES]}],
        },
    }


def _pod(pipeline: InferencePipeline, tier: TierSpec, config_map: str, image: str) -> Manifest:
    rollout = pipeline.spec.rollout
    pod: Manifest = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "nodeSelector": dict(tier.selector),
        "terminationGracePeriodSeconds": rollout.drain_seconds + _GRACE_SECONDS,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": _USER,
            "runAsGroup": _USER,
            "fsGroup": _USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(pipeline, tier, image)],
        "volumes": [
            {"name": "descriptor", "configMap": {"name": config_map}},
            {"name": "cache", "emptyDir": {}},
            {"name": "tmp", "emptyDir": {}},
        ],
    }
    if tier.tolerations:
        pod["tolerations"] = [_without_defaults(msgspec.to_builtins(toleration)) for toleration in tier.tolerations]
    return pod


def _container(pipeline: InferencePipeline, tier: TierSpec, image: str) -> Manifest:
    rollout = pipeline.spec.rollout
    attempts = max(1, rollout.progress_deadline_seconds // _PROBE_SECONDS)
    container: Manifest = {
        "name": "worker",
        "image": image,
        "command": ["tierflow-worker"],
        "args": [
            "--descriptor",
            f"{DESCRIPTOR_DIRECTORY}/{DESCRIPTOR_FILE}",
            "--drain-seconds",
            str(rollout.drain_seconds),
            "--cache-dir",
            _CACHE_DIRECTORY,
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
        "startupProbe": _probe("live", failures=attempts),
        "readinessProbe": _probe("ready", failures=2),
        "livenessProbe": _probe("live", failures=10),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {"name": "descriptor", "mountPath": DESCRIPTOR_DIRECTORY, "readOnly": True},
            {"name": "cache", "mountPath": _CACHE_DIRECTORY},
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - the pod's own
        ],
    }
    resources = _without_defaults(msgspec.to_builtins(tier.resources))
    if resources:
        container["resources"] = resources
    return container


def _probe(endpoint: str, *, failures: int) -> Manifest:
    return {
        "httpGet": {"path": f"/v2/health/{endpoint}", "port": "http"},
        "periodSeconds": _PROBE_SECONDS,
        "timeoutSeconds": _PROBE_SECONDS,
        "failureThreshold": failures,
    }


def _without_defaults(fields: Mapping[str, Any]) -> Manifest:
    return {name: value for name, value in fields.items() if value not in (None, "", {}, [])}


def _with_content_hash(manifest: Manifest) -> Manifest:
    content = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()[:16]
    return {**manifest, "metadata": {**manifest["metadata"], "annotations": {CONTENT_ANNOTATION: content}}}
