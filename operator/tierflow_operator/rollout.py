"""How far Kubernetes has come with what was applied: the state of Deployments and pods, read from their objects."""

from collections.abc import Iterable
from typing import Final

from tierflow_operator.pods import GRPC_PORT, Manifest
from tierflow_operator.render import component_of, config_map_of

_DESCRIPTOR_VOLUME: Final = "descriptor"


def deployments_of(live: Iterable[Manifest]) -> dict[str, Manifest]:
    """The Deployments by component."""
    return {component_of(entry): entry for entry in live if entry["kind"] == "Deployment"}


def is_complete(deployment: Manifest) -> bool:
    """Whether all pods are of the present template and ready, and none of an older one is left."""
    status = deployment.get("status") or {}
    wanted = deployment["spec"].get("replicas", 1)
    return bool(
        status.get("observedGeneration", 0) >= deployment["metadata"].get("generation", 1)
        and status.get("updatedReplicas", 0) == wanted
        and status.get("replicas", 0) == wanted
        # Not the available ones: tile workers are that some seconds later, and no older ones are left to wait for.
        and status.get("readyReplicas", 0) >= wanted
    )


def is_available(deployment: Manifest | None) -> bool:
    """Whether at least one pod, of whatever template, is available."""
    return deployment is not None and (deployment.get("status") or {}).get("availableReplicas", 0) > 0


def failure_of(deployment: Manifest) -> str:
    """Why Kubernetes gave a rollout up, or can't create its pods; "" where it didn't."""
    for condition in (deployment.get("status") or {}).get("conditions") or ():
        gave_up = condition["type"] == "Progressing" and condition["status"] == "False"
        refused = condition["type"] == "ReplicaFailure" and condition["status"] == "True"
        if gave_up or refused:
            return str(condition.get("message") or condition.get("reason", ""))
    return ""


def pods_of(live: Iterable[Manifest], component: str, config_map: str) -> tuple[Manifest, ...]:
    """A component's pods that stay and serve the descriptor in a ConfigMap, ready ones first, then the newest."""
    found = [pod for pod in _staying(live, component) if _serves(pod, config_map)]
    # Stable sorts, the second one deciding first.
    found.sort(key=lambda pod: str(pod["metadata"].get("creationTimestamp", "")), reverse=True)
    return tuple(sorted(found, key=lambda pod: not is_ready(pod)))


def serve_alone(live: Iterable[Manifest], component: str, config_map: str, replicas: int) -> bool:
    """Whether at least so many of a component's pods are there, all ready and with the descriptor in a ConfigMap."""
    pods = _staying(live, component)
    return len(pods) >= replicas and all(is_ready(pod) and _serves(pod, config_map) for pod in pods)


def _staying(live: Iterable[Manifest], component: str) -> list[Manifest]:
    """A component's pods but those that are being deleted."""
    return [
        entry
        for entry in live
        if entry["kind"] == "Pod" and component_of(entry) == component and "deletionTimestamp" not in entry["metadata"]
    ]


def used_config_maps(live: Iterable[Manifest]) -> frozenset[str]:
    """The descriptors that Deployments and pods, those that leave included, have mounted."""
    used = set()
    for entry in live:
        template = entry["spec"]["template"] if entry["kind"] == "Deployment" else entry
        if entry["kind"] in ("Deployment", "Pod"):
            used |= {volume["configMap"]["name"] for volume in _volumes(template) if "configMap" in volume}
    return frozenset(used)


def is_ready(pod: Manifest) -> bool:
    """Whether a pod takes requests."""
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)


def address_of(pod: Manifest) -> str | None:
    """Where a pod's worker answers gRPC; None before its container runs."""
    status = pod.get("status") or {}
    runs = any("running" in (state.get("state") or {}) for state in status.get("containerStatuses") or ())
    address = status.get("podIP", "")
    if not runs or not address:
        return None
    return f"[{address}]:{GRPC_PORT}" if ":" in address else f"{address}:{GRPC_PORT}"


def trouble_of(pods: Iterable[Manifest]) -> str:
    """Why one of these pods doesn't run, in the words of the scheduler or the kubelet; "" where nothing is known."""
    for pod in pods:
        status = pod.get("status") or {}
        for condition in status.get("conditions") or ():
            if condition["type"] == "PodScheduled" and condition["status"] == "False":
                return f"{pod['metadata']['name']} can't be scheduled: {condition.get('message', '')}"
        for container in status.get("containerStatuses") or ():
            waiting = (container.get("state") or {}).get("waiting") or {}
            if waiting.get("reason") not in (None, "ContainerCreating", "PodInitializing"):
                return f"{pod['metadata']['name']} waits: {waiting['reason']}: {waiting.get('message', '')}"
    return ""


def _serves(pod: Manifest, config_map: str) -> bool:
    has_one = any(volume["name"] == _DESCRIPTOR_VOLUME for volume in _volumes(pod))
    return has_one and config_map_of({"spec": {"template": pod}}) == config_map


def _volumes(pod: Manifest) -> list[Manifest]:
    return list(pod["spec"].get("volumes") or ())
