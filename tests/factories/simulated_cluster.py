"""A cluster in memory for the pure steps of a reconcile: Deployments get pods, pods get ready, checks get a verdict.

What it does happens in `tick`, one thing at a time and in the order that a seed gives, so that a test can look at every
state between. A write can be made the last one before the operator is ended.
"""

import json
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tierflow.descriptor import WorkerDescriptor, decode
from tierflow.tiers import TIERS, Tier
from tierflow_operator.checks import CHECK, workers_told
from tierflow_operator.descriptors import TILES
from tierflow_operator.keys import PipelineKey
from tierflow_operator.pods import APPROVAL_SUFFIX, Manifest
from tierflow_operator.render import component_of, config_map_of

GOOD = {"holds": True, "bitIdentical": True, "largestRelativeDifference": 0.0, "message": "all bits are the same"}
BAD = {"holds": False, "bitIdentical": False, "largestRelativeDifference": 0.5, "message": "output y differs by 0.5"}


class EndedError(BaseException):
    """The operator was killed before this write."""


@dataclass
class SimulatedCluster:
    """In the place of `tierflow_operator.kube.Kube`; `nodes_ready` by tier."""

    manifest: Manifest
    nodes_ready: dict[Tier, int] = field(default_factory=lambda: dict.fromkeys(TIERS, 1))
    verdict: Mapping[str, Any] = field(default_factory=lambda: GOOD)
    seed: int = 0
    broken: set[str] = field(default_factory=set)
    """Components whose new pods never run."""
    broken_images: set[str] = field(default_factory=set)
    cut_off: set[str] = field(default_factory=set)
    """Tiers whose nodes nobody reaches: their pods stay as they are."""
    reads: list[str] = field(default_factory=list)
    writes: list[str] = field(default_factory=list)
    writes_left: int | None = None

    def __post_init__(self) -> None:
        self.objects: dict[tuple[str, str], Manifest] = {}
        self._number = 0
        self._random = random.Random(self.seed)

    # ---------------------------------------------------------------------------------------- what reconcile calls

    def pipeline(self, key: PipelineKey) -> Manifest:
        self.reads.append("pipeline")
        return json.loads(json.dumps(self.manifest))

    def nodes(self) -> tuple[Manifest, ...]:
        self.reads.append("nodes")
        return tuple(
            {
                "metadata": {"name": f"{tier}-{number}", "labels": {"tierflow.dev/tier": str(tier)}},
                "status": {"conditions": [{"type": "Ready", "status": "True"}]},
            }
            for tier, count in self.nodes_ready.items()
            for number in range(count)
        )

    def owned(self, key: PipelineKey) -> tuple[Manifest, ...]:
        self.reads.append("owned")
        return tuple(json.loads(json.dumps(entry)) for entry in self.objects.values())

    def create(self, manifest: Manifest) -> Manifest:
        return self.apply(manifest)

    def apply(self, manifest: Manifest) -> Manifest:
        self._write(f"apply {manifest['kind']} {manifest['metadata']['name']}")
        key = manifest["kind"], manifest["metadata"]["name"]
        entry = json.loads(json.dumps(manifest))
        before = self.objects.get(key)
        if before is not None and before.get("immutable"):
            assert before["data"] == entry["data"], f"{key} is immutable"
        self._number += 1
        entry["metadata"]["uid"] = before["metadata"]["uid"] if before else str(self._number)
        entry["metadata"]["creationTimestamp"] = f"{self._number:08}"
        entry["metadata"]["generation"] = self._number
        if entry["kind"] == "Deployment":
            entry["spec"].setdefault("replicas", 1 if before is None else before["spec"]["replicas"])
            entry["status"] = (before or {}).get("status", {})
        self.objects[key] = entry
        self._observe()
        return entry

    def delete(self, manifest: Manifest) -> None:
        self._write(f"delete {manifest['kind']} {manifest['metadata']['name']}")
        self.objects.pop((manifest["kind"], manifest["metadata"]["name"]), None)
        if manifest["kind"] == "Deployment":
            for pod in list(self.pods(component_of(manifest))):
                del self.objects["Pod", pod["metadata"]["name"]]

    def annotate_pod(self, manifest: Manifest, annotations: Mapping[str, str]) -> None:
        self._write(f"annotate Pod {manifest['metadata']['name']}")
        pod = self.objects["Pod", manifest["metadata"]["name"]]
        pod["metadata"].setdefault("annotations", {}).update(annotations)

    def patch_status(self, key: PipelineKey, status: Mapping[str, Any]) -> Manifest:
        self._write("status")
        self.manifest["status"] = json.loads(json.dumps(status))
        return self.pipeline(key)

    def _write(self, what: str) -> None:
        if self.writes_left is not None:
            if not self.writes_left:
                raise EndedError(what)
            self.writes_left -= 1
        self.writes.append(what)

    # ------------------------------------------------------------------------------------------ what a cluster does

    def tick(self) -> bool:
        """One thing that a cluster does by itself; False where there is nothing left to do."""
        possible = list(self._possible())
        if possible:
            self._random.choice(possible)()
            self._observe()
        return bool(possible)

    def settle(self) -> None:
        while self.tick():
            pass

    def _possible(self) -> Iterator[Any]:
        for deployment in self._deployments():
            pods = list(self.pods(component_of(deployment)))
            new = [pod for pod in pods if self._is_new(pod, deployment)]
            wanted = deployment["spec"]["replicas"]
            ready = [pod for pod in pods if is_ready(pod)]
            if len(new) < wanted and len(pods) <= wanted:
                yield lambda deployment=deployment: self._start(deployment)
            surplus = [pod for pod in pods if not self._is_new(pod, deployment)] + new[wanted:]
            for pod in surplus:
                if not is_ready(pod) or len(ready) > wanted:
                    yield lambda pod=pod: self.objects.pop(("Pod", pod["metadata"]["name"]))
        for entry in list(self.objects.values()):
            if entry["kind"] == "Pod" and (step := self._next(entry)) is not None:
                yield step

    def _start(self, deployment: Manifest) -> None:
        self._number += 1
        template = json.loads(json.dumps(deployment["spec"]["template"]))
        metadata = {
            **template["metadata"],
            "name": f"{deployment['metadata']['name']}-{self._number}",
            "creationTimestamp": f"{self._number:08}",
            "uid": str(self._number),
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "any", "uid": "any"}],
        }
        self.objects["Pod", metadata["name"]] = {"kind": "Pod", "metadata": metadata, "spec": template["spec"]}

    def _next(self, pod: Manifest) -> Any:
        phase = pod.get("status", {}).get("phase")
        component = component_of(pod)
        if pod["spec"].get("nodeSelector", {}).get("tierflow.dev/tier") in self.cut_off:
            return None
        if component == CHECK:
            if phase is None and "deletionTimestamp" not in pod["metadata"] and workers_told(pod):
                return lambda: self._end_check(pod)
            return None
        image = pod["spec"]["containers"][0]["image"]
        if phase is None and component not in self.broken and image not in self.broken_images:
            return lambda: pod.update(status=_running(pod))
        if phase == "Running" and not is_ready(pod) and self._is_approved(pod):
            return lambda: pod["status"].update(conditions=[{"type": "Ready", "status": "True"}])
        return None

    def _end_check(self, pod: Manifest) -> None:
        ended = {"exitCode": 0 if self.verdict.get("holds") else 1, "message": json.dumps(self.verdict)}
        # As a kubelet says it at first: the phase follows once it has taken the pod down.
        pod["status"] = {"phase": "Running", "containerStatuses": [{"state": {"terminated": ended}}]}

    def _is_approved(self, pod: Manifest) -> bool:
        volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
        return "approval" not in volumes or ("ConfigMap", volumes["approval"]["configMap"]["name"]) in self.objects

    def _observe(self) -> None:
        """What the Deployment controller says of its pods."""
        for deployment in self._deployments():
            pods = list(self.pods(component_of(deployment)))
            deployment["status"] = {
                "observedGeneration": deployment["metadata"]["generation"],
                "replicas": len(pods),
                "updatedReplicas": sum(self._is_new(pod, deployment) for pod in pods),
                "readyReplicas": sum(map(is_ready, pods)),
                "availableReplicas": sum(map(is_ready, pods)),
            }

    def _deployments(self) -> list[Manifest]:
        return [entry for entry in self.objects.values() if entry["kind"] == "Deployment"]

    def _is_new(self, pod: Manifest, deployment: Manifest) -> bool:
        return bool(pod["spec"] == deployment["spec"]["template"]["spec"])

    # ---------------------------------------------------------------------------------------------- what a test asks

    def stop(self, component: str) -> None:
        """The nodes of a component are lost: its pods are gone, and none gets to run."""
        self.broken.add(component)
        for pod in self.pods(component):
            del self.objects["Pod", pod["metadata"]["name"]]
        self._observe()

    def pods(self, component: str) -> Iterator[Manifest]:
        """A component's pods."""
        for entry in list(self.objects.values()):
            if entry["kind"] == "Pod" and component_of(entry) == component:
                yield entry

    def served(self, component: str) -> list[WorkerDescriptor]:
        """What the ready pods of a component serve."""
        found = []
        for pod in self.pods(component):
            if is_ready(pod):
                name = config_map_of({"spec": {"template": pod}})
                found.append(decode(self.objects["ConfigMap", name]["data"]["descriptor.json"].encode()))
        return found

    def condition(self, kind: str) -> Mapping[str, Any] | None:
        """A condition of the status."""
        conditions = self.manifest.get("status", {}).get("conditions", [])
        return next((condition for condition in conditions if condition["type"] == kind), None)

    def check_chains(self) -> None:
        """Whichever ready worker a request comes to, on each tier: its boundary is known there."""
        for device in self.served(Tier.DEVICE):
            self._follow(device.segments[0])

    def _follow(self, segment: Any) -> None:
        if segment.downstream is None:
            return
        for above in self.served(segment.downstream.tier):
            known = {part.accepts.id: part for part in above.segments}
            assert segment.sends.id in known, f"{segment.downstream.tier} doesn't know what is sent to it"
            self._follow(known[segment.sends.id])


def is_ready(pod: Manifest) -> bool:
    return any(entry["status"] == "True" for entry in pod.get("status", {}).get("conditions", ()))


def _running(pod: Manifest) -> Manifest:
    return {
        "phase": "Running",
        "podIP": f"10.0.0.{int(pod['metadata']['uid']) % 250}",
        "containerStatuses": [{"state": {"running": {}}}],
    }


def names_of(cluster: SimulatedCluster, kind: str, *components: str) -> set[str]:
    """The names of the objects of a kind, of workers alone."""
    wanted = components or (*TIERS, TILES)
    return {
        entry["metadata"]["name"]
        for entry in cluster.objects.values()
        if entry["kind"] == kind and component_of(entry) in wanted
    }


__all__ = ["APPROVAL_SUFFIX", "BAD", "GOOD", "EndedError", "SimulatedCluster", "is_ready", "names_of"]
