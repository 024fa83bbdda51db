"""From a plan to the Kubernetes objects that serve it, as plain dictionaries.

Deterministic, and without an epoch or a figure in any object: an object changes only where its worker has to. What a
worker's pod is made of is in `tierflow_operator.pods`.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Final

from tierflow.descriptor import WorkerDescriptor, decode, encode
from tierflow.graph import Graph
from tierflow.manifest import API_VERSION, KIND, InferencePipeline
from tierflow.manifest_values import model_reference
from tierflow.plan import Plan
from tierflow.tiers import TIERS, Tier
from tierflow_operator.descriptors import TILES, Addresses, worker_descriptors
from tierflow_operator.pods import (
    APPROVAL_SUFFIX,
    COMPONENT_LABEL,
    DESCRIPTOR_FILE,
    GRPC_PORT,
    PIPELINE_LABEL,
    REST_PORT,
    Manifest,
    Release,
    labels_of,
    selector_of,
    worker_pod,
)

CONTENT_ANNOTATION: Final = "tierflow.dev/content"
"""On every object: a hash of all the rest, by which a field that is wanted no more is noticed."""
_SCALED: Final = "replicas"
"""Of a Deployment, not in that hash: it is one field, written alone where only the number of workers changes."""

_FOUND_SECONDS: Final = 10
"""Until then a tile worker that has become ready is found by the edge's, and holds the runs."""


def render(
    pipeline: InferencePipeline,
    graph: Graph,
    plan: Plan,
    live: Mapping[str, WorkerDescriptor] | None = None,
    release: Release | None = None,
    *,
    edge_workers: int = 1,
) -> tuple[Manifest, ...]:
    """All objects that serve `plan`, those of each kind in the order of the tiers.

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
        _deployment(pipeline, component, config_map["metadata"]["name"], chosen, edge_workers=edge_workers)
        for component, config_map in config_maps.items()
    ]
    shared = (_service_account(pipeline), _disruption_budget(pipeline))
    return tuple(with_content_hash(manifest) for manifest in (*shared, *config_maps.values(), *services, *deployments))


def live_descriptors(objects: Iterable[Manifest]) -> dict[str, WorkerDescriptor]:
    """The descriptors that the Deployments among `objects` give their workers, by component: a tier's name, or `tiles`.

    A Deployment whose ConfigMap is not among them counts as none.
    """
    found = list(objects)
    named = {component_of(entry): config_map_of(entry) for entry in found if entry["kind"] == "Deployment"}
    return descriptors_named(found, named)


def descriptors_named(objects: Iterable[Manifest], names: Mapping[str, str]) -> dict[str, WorkerDescriptor]:
    """The descriptors in the named ConfigMaps, by component; one that isn't among `objects` is left out."""
    data = {entry["metadata"]["name"]: entry["data"] for entry in objects if entry["kind"] == "ConfigMap"}
    return {
        component: decode(data[name][DESCRIPTOR_FILE].encode())
        for component, name in names.items()
        if DESCRIPTOR_FILE in data.get(name, {})
    }


def approved_config_maps(objects: Iterable[Manifest]) -> dict[str, str]:
    """By component, the ConfigMap whose descriptor its Deployment has and that was approved; tile workers need none."""
    found = list(objects)
    there = {entry["metadata"]["name"] for entry in found if entry["kind"] == "ConfigMap"}
    named = {component_of(entry): config_map_of(entry) for entry in found if entry["kind"] == "Deployment"}
    return {
        component: name
        for component, name in named.items()
        if name in there and (component == TILES or name + APPROVAL_SUFFIX in there)
    }


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


def metadata_of(pipeline: InferencePipeline, name: str, component: str) -> Manifest:
    """Name, labels and owner of a pipeline's object."""
    metadata: Manifest = {"name": name, "namespace": pipeline.namespace, "labels": labels_of(pipeline, component)}
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
        "metadata": metadata_of(pipeline, f"{pipeline.name}-{component}-{content}", str(component)),
        "immutable": True,
        "data": {DESCRIPTOR_FILE: document.decode()},
    }


def _service(pipeline: InferencePipeline, name: str, tier: Tier, *, component: str) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata_of(pipeline, name, str(component)),
        "spec": {
            "selector": selector_of(pipeline, tier),
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
        "metadata": metadata_of(pipeline, f"{pipeline.name}-{TILES}", TILES),
        "spec": {
            "clusterIP": "None",
            "selector": selector_of(pipeline, TILES),
            "ports": _service_ports(),
        },
    }


def _service_ports() -> list[Manifest]:
    return [
        {"name": "grpc", "port": GRPC_PORT, "targetPort": "grpc", "protocol": "TCP", "appProtocol": "grpc"},
        {"name": "http", "port": REST_PORT, "targetPort": "http", "protocol": "TCP", "appProtocol": "http"},
    ]


def _deployment(
    pipeline: InferencePipeline, component: str, config_map: str, release: Release, *, edge_workers: int
) -> Manifest:
    tiles = component == TILES
    replicas = edge_workers - 1 if tiles else pipeline.spec.tier(Tier(component)).replicas
    deadline = pipeline.spec.rollout.progress_deadline_seconds
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata_of(pipeline, f"{pipeline.name}-{component}", component),
        "spec": {
            # Where the manifest gives no number, whoever scales the Deployment has the field to himself.
            **({} if replicas is None else {"replicas": replicas}),
            "revisionHistoryLimit": 2,
            "progressDeadlineSeconds": deadline,
            # The edge's worker finds a tile worker and has it load the runs; until then those before it stay.
            **({"minReadySeconds": min(_FOUND_SECONDS, deadline - 1)} if tiles and deadline > 1 else {}),
            "selector": {"matchLabels": selector_of(pipeline, component)},
            # A worker leaves only when its successor is ready. Tile workers start all at once: a move waits for them.
            "strategy": {
                "type": "RollingUpdate",
                "rollingUpdate": {"maxSurge": "100%" if tiles else 1, "maxUnavailable": 0},
            },
            "template": {
                "metadata": {"labels": labels_of(pipeline, component)},
                "spec": worker_pod(pipeline, component, config_map, release),
            },
        },
    }


def _service_account(pipeline: InferencePipeline) -> Manifest:
    """Whom the pods run as: nobody that the API server gives anything to."""
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": metadata_of(pipeline, pipeline.name, "entry"),
        "automountServiceAccountToken": False,
    }


def _disruption_budget(pipeline: InferencePipeline) -> Manifest:
    """Lets nodes be drained, but only one of the pipeline's workers at a time."""
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": metadata_of(pipeline, pipeline.name, "entry"),
        "spec": {
            "maxUnavailable": 1,
            "selector": {
                "matchLabels": {PIPELINE_LABEL: pipeline.name},
                "matchExpressions": [{"key": COMPONENT_LABEL, "operator": "In", "values": [*map(str, TIERS), TILES]}],
            },
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
        },
    }


def with_content_hash(manifest: Manifest) -> Manifest:
    """The object with a hash of its content among its annotations."""
    hashed = {**manifest}
    if manifest["kind"] == "Deployment":
        hashed["spec"] = {name: value for name, value in manifest["spec"].items() if name != _SCALED}
    content = hashlib.sha256(json.dumps(hashed, sort_keys=True).encode()).hexdigest()[:16]
    return {**manifest, "metadata": {**manifest["metadata"], "annotations": {CONTENT_ANNOTATION: content}}}
