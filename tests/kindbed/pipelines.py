"""Pipelines in the cluster: what tests apply, wait for, and see of them."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any, Final

import yaml

from kindbed.cluster import ROOT, Cluster, Manifest
from testbed.stillness import Unchanged, all_available

SAMPLE: Final = ROOT / "samples" / "resnet18.yaml"
COMPONENTS: Final = ("device", "edge", "cloud", "tiles")
_STEADY_SECONDS: Final = 30
"""For so long nothing has to happen before measurements are taken for settled."""
_STILL_SECONDS: Final = 5
"""For so long nothing of a Deployment has to change, where no pod is to come or to go, before it is taken for still."""

_OWNED: Final = "deployments,services,configmaps,serviceaccounts,poddisruptionbudgets,pods,replicasets,endpointslices"


@dataclass(frozen=True)
class Footprint:
    """What must not change of a Deployment that isn't written.

    Attributes:
        generation: Of the Deployment.
        resource_version: Of the Deployment.
        pods: The names of its pods, and how often their containers were restarted.
    """

    generation: int
    resource_version: str
    pods: Mapping[str, int]


class Pipeline:
    """An InferencePipeline by its name."""

    def __init__(self, cluster: Cluster, name: str = "resnet18", namespace: str = "default") -> None:
        self.cluster = cluster
        self.name = name
        self.namespace = namespace

    @cached_property
    def label(self) -> str:
        """Selects what it owns."""
        return f"tierflow.dev/pipeline={self.name}"

    def apply(self, **spec: Any) -> None:
        """Applies the sample under this name; `spec` replaces fields of its spec."""
        manifest = yaml.safe_load(SAMPLE.read_text())
        manifest["metadata"] |= {"name": self.name, "namespace": self.namespace}
        manifest["spec"] |= spec
        self.cluster.apply(manifest, namespace=self.namespace)

    def patch(self, **spec: Any) -> None:
        """Changes fields of its spec, as a user with `kubectl patch` does."""
        body = yaml.safe_dump({"spec": spec})
        self.cluster.kubectl("patch", "ipl", self.name, "-n", self.namespace, "--type=merge", f"--patch={body}")

    def delete(self) -> None:
        """Deletes it, and waits until nothing of it is left."""
        self.cluster.kubectl("delete", "ipl", self.name, "-n", self.namespace, "--ignore-not-found")
        self.cluster.wait_for(f"nothing left of {self.name}", lambda: not self.owned(), 120)

    def owned(self) -> list[str]:
        """Kind and name of all that carries its label."""
        found = self.cluster.objects(_OWNED, self.label, self.namespace)
        return [f"{entry['kind']}/{entry['metadata']['name']}" for entry in found]

    def object(self) -> Manifest:
        """It as it is now."""
        return self.cluster.pipeline(self.name, self.namespace)

    def condition(self, kind: str) -> Manifest:
        """One of its conditions; {} where it isn't there."""
        conditions = self.object().get("status", {}).get("conditions", ())
        return next((entry for entry in conditions if entry["type"] == kind), {})

    def plan(self) -> Manifest:
        """The plan in its status; {} before there is one."""
        return dict(self.object().get("status", {}).get("plan", {}))

    @property
    def epoch(self) -> int:
        """The number of its plan; 0 before there is one."""
        return int(self.plan().get("epoch", 0))

    def wait_ready(self, seconds: float = 180) -> None:
        """Waits until the plan of its present spec serves, and nothing is under way."""
        self.cluster.kubectl(
            "wait", f"ipl/{self.name}", "-n", self.namespace, "--for=condition=Ready", f"--timeout={seconds:g}s",
            seconds=seconds + 10,
        )  # fmt: skip

    def is_settled(self) -> bool:
        """Whether its present spec serves, and nothing is under way."""
        manifest = self.object()
        status = manifest.get("status", {})
        true = {entry["type"] for entry in status.get("conditions", ()) if entry["status"] == "True"}
        return (
            status.get("observedGeneration") == manifest["metadata"]["generation"]
            and "Ready" in true
            and "Reconciling" not in true
        )

    def wait_settled(self, seconds: float = 120) -> None:
        """Waits until its present spec serves, and nothing is under way."""
        self.cluster.wait_for(f"{self.name} settled", self.is_settled, seconds)

    def wait_epoch(self, above: int, seconds: float = 120) -> int:
        """Waits until a plan with a higher number is in force; returns the number."""
        began = time.monotonic()
        self.cluster.wait_for(f"an epoch above {above}", lambda: self.epoch > above, seconds)
        self.wait_settled(max(seconds - (time.monotonic() - began), 10))
        return self.epoch

    def decided_at(self) -> datetime:
        """When the plan in force was decided on; whole seconds, as the status says."""
        decisions = self.object()["status"]["decisions"]
        return datetime.fromisoformat(next(entry["time"] for entry in decisions if entry["decision"] == "Move"))

    def moved_within(self) -> float:
        """Seconds from the decision for the plan in force until it came into force; whole ones, as the status says."""
        in_force = datetime.fromisoformat(self.object()["status"]["lastPlanTime"])
        return (in_force - self.decided_at()).total_seconds()

    def wait_steady(self, seconds: float = 300) -> None:
        """Waits until measurements are there and one plan has been in force for a while."""

        def measured_plan() -> int | None:
            is_measured = self.condition("MetricsAvailable").get("status") == "True"
            return self.epoch if is_measured and self.is_settled() else None

        self.cluster.wait_for(f"a steady plan of {self.name}", Unchanged(measured_plan, _STEADY_SECONDS), seconds)

    def still_footprints(self, seconds: float = 120) -> dict[str, Footprint]:
        """Of its Deployments, once controllers have no more to say of them: a status changes their resourceVersion.

        It does until the last new pod has been available for its time, and the last old one has ended.
        """

        def complete() -> dict[str, Footprint] | None:
            now = self.footprints()
            return now if self._is_complete() else None

        unchanged = Unchanged(complete, _STILL_SECONDS)
        self.cluster.wait_for(f"Deployments of {self.name} that stay as they are", unchanged, seconds)
        return unchanged.seen

    def _is_complete(self) -> bool:
        """Whether it is settled, all its workers are available, and no pod of an earlier plan is left."""
        deployments = self.cluster.objects("deployments", self.label, self.namespace)
        return self.is_settled() and all_available(deployments, len(self._all_pods()))

    def layers(self) -> dict[str, int]:
        """How many layers each tier computes."""
        return {segment["tier"]: segment["layers"] for segment in self.plan().get("segments", ())}

    def tile_workers(self) -> int:
        """How many workers share tiles with the edge's own, as its Deployment has it; 0 without tiles."""
        name = f"{self.name}-tiles"
        found = [entry for entry in self.cluster.objects("deployments", self.label, self.namespace)
                 if entry["metadata"]["name"] == name]  # fmt: skip
        return int(found[0]["spec"]["replicas"]) if found else 0

    def pods(self, component: str = "") -> list[Manifest]:
        """Its workers' pods that aren't on their way out; of one component, where it is named."""
        return [pod for pod in self._all_pods(component) if not pod["metadata"].get("deletionTimestamp")]

    def _all_pods(self, component: str = "") -> list[Manifest]:
        """Its workers' pods, those on their way out as well; of one component, where it is named."""
        chosen = f"={component}" if component else f" in ({','.join(COMPONENTS)})"
        selector = f"{self.label},app.kubernetes.io/component{chosen}"
        return self.cluster.objects("pods", selector, self.namespace)

    def nodes_of(self, component: str) -> set[str]:
        """Where a component's pods run."""
        return {pod["spec"].get("nodeName", "") for pod in self.pods(component)}

    def footprints(self) -> dict[str, Footprint]:
        """Of each Deployment of its, by component."""
        deployments = self.cluster.objects("deployments", self.label, self.namespace)
        return {
            entry["metadata"]["labels"]["app.kubernetes.io/component"]: Footprint(
                entry["metadata"]["generation"],
                entry["metadata"]["resourceVersion"],
                {
                    pod["metadata"]["name"]: sum(c["restartCount"] for c in pod["status"].get("containerStatuses", ()))
                    for pod in self.pods(entry["metadata"]["labels"]["app.kubernetes.io/component"])
                },
            )
            for entry in deployments
        }
