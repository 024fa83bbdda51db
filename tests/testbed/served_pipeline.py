"""One InferencePipeline as its user sees it: applied, edited, waited for, and looked at with all that it owns."""

import json
from typing import Any, Final

from testbed.pipelines import collection, pipeline
from testbed.process import wait_for
from testbed.rest import ApiServer, Manifest, RefusedError
from testbed.stillness import Unchanged, all_available

OWNED: Final = {
    "ConfigMap": "/api/v1/namespaces/{}/configmaps",
    "Service": "/api/v1/namespaces/{}/services",
    "ServiceAccount": "/api/v1/namespaces/{}/serviceaccounts",
    "Pod": "/api/v1/namespaces/{}/pods",
    "Deployment": "/apis/apps/v1/namespaces/{}/deployments",
    "ReplicaSet": "/apis/apps/v1/namespaces/{}/replicasets",
    "PodDisruptionBudget": "/apis/policy/v1/namespaces/{}/poddisruptionbudgets",
}
"""Collections in which something of a pipeline may be, what Kubernetes makes of its Deployments included."""
_LABEL: Final = "tierflow.dev/pipeline"
_COMPONENT: Final = "app.kubernetes.io/component"
_VOLATILE: Final = ("uid", "resourceVersion", "creationTimestamp", "managedFields", "generation", "selfLink")
_OF_THE_CLUSTER: Final = ("clusterIP", "clusterIPs")
_STILL_SECONDS: Final = 3.0
"""For so long nothing has to change before it is taken to be at rest."""


class ServedPipeline:
    """A pipeline of a namespace.

    Args:
        api: The cluster, as its administrator.
        namespace: Where it is.
        name: Its name.
    """

    def __init__(self, api: ApiServer, namespace: str, name: str = "small") -> None:
        self.api = api
        self.namespace = namespace
        self.name = name
        self.path = f"{collection(namespace)}/{name}"

    def create(self, *, annotations: dict[str, str] | None = None, **spec: Any) -> "ServedPipeline":
        """Creates it, with `spec` merged into the smallest one."""
        self.api.create(collection(self.namespace), pipeline(self.name, annotations=annotations, **spec))
        return self

    def edit(self, **spec: Any) -> int:
        """Merges `spec` into its own; the generation that this makes."""
        return int(self.api.patch(self.path, {"spec": spec})["metadata"]["generation"])

    def cut(self, device: str, edge: str) -> int:
        """Asks for a cut by hand, by the last layers of device and edge; the generation that this makes."""
        return self.edit(planning={"mode": "Manual", "manual": {"deviceLastLayer": device, "edgeLastLayer": edge}})

    def delete(self) -> None:
        """Deletes it, as kubectl does."""
        self.api.delete(self.path)

    def get(self) -> Manifest:
        """The object."""
        return self.api.get(self.path)

    @property
    def status(self) -> Manifest:
        """Its status; empty before there is one."""
        status: Manifest = self.get().get("status") or {}
        return status

    def condition(self, kind: str) -> Manifest:
        """One of its conditions; empty where it has none of that kind."""
        found: list[Manifest] = [entry for entry in self.status.get("conditions", []) if entry["type"] == kind]
        return found[0] if found else {}

    def is_settled(self) -> bool:
        """Whether the present spec is served and nothing is under way."""
        manifest = self.get()
        status = manifest.get("status") or {}
        conditions = {entry["type"]: entry for entry in status.get("conditions", [])}
        return (
            status.get("observedGeneration") == manifest["metadata"]["generation"]
            and conditions.get("Ready", {}).get("status") == "True"
            and "Reconciling" not in conditions
            and "Stalled" not in conditions
        )

    def wait_settled(self, *, epoch: int | None = None, seconds: float = 120.0) -> Manifest:
        """Waits until it is served as its spec says, by the plan of that epoch, with nothing left over; its status."""

        def is_there() -> bool:
            return self.is_settled() and epoch in (None, self.status["plan"]["epoch"]) and not self.leftovers()

        self._wait(f"epoch {epoch}" if epoch else "a plan in force", is_there, seconds)
        return self.status

    def wait_given_up(self) -> Manifest:
        """Waits until a move was given up; returns that decision, which others may have followed since."""

        def rollbacks() -> list[Manifest]:
            return [entry for entry in self.status["decisions"] if entry["decision"] == "Rollback"]

        wait_for("the move to be given up", rollbacks, seconds=120)
        return rollbacks()[0]

    def wait_condition(self, kind: str, *, status: str = "True", reason: str = "", seconds: float = 120.0) -> Manifest:
        """Waits for a condition; it."""

        def holds() -> bool:
            found = self.condition(kind)
            return found.get("status") == status and reason in ("", found.get("reason"))

        self._wait(f"{kind}={status} {reason}", holds, seconds)
        return self.condition(kind)

    def owned(self, kind: str) -> dict[str, Manifest]:
        """Its objects of a kind, by name."""
        items = self.api.items(OWNED[kind].format(self.namespace), labelSelector=f"{_LABEL}={self.name}")
        return {item["metadata"]["name"]: item for item in items}

    def owners(self) -> set[str]:
        """The uids of those whom its objects belong to, what Kubernetes makes of its Deployments aside."""
        kinds = ("ConfigMap", "Service", "ServiceAccount", "Deployment", "PodDisruptionBudget")
        owned = [item["metadata"] for kind in kinds for item in self.owned(kind).values()]
        return {owner["uid"] for metadata in owned for owner in metadata.get("ownerReferences") or [{"uid": ""}]}

    def deployment(self, component: str) -> Manifest:
        """A component's Deployment."""
        return self.api.get(self.path_of("Deployment", f"{self.name}-{component}"))

    def path_of(self, kind: str, name: str) -> str:
        """The path of one of its objects."""
        return f"{OWNED[kind].format(self.namespace)}/{name}"

    def leftovers(self) -> list[str]:
        """What a finished move should have taken away: pods that leave or check, and ConfigMaps that nobody mounts."""
        pods = self.owned("Pod").values()
        used = {
            volume["configMap"]["name"]
            for entry in [*pods, *(item["spec"]["template"] for item in self.owned("Deployment").values())]
            for volume in entry["spec"].get("volumes", [])
            if "configMap" in volume
        }
        kept = (f"{self.name}-plan", f"{self.name}-model")
        found = [name for name in self.owned("ConfigMap") if name not in used and not name.startswith(kept)]
        for pod in pods:
            if pod["metadata"]["labels"][_COMPONENT] == "check" or "deletionTimestamp" in pod["metadata"]:
                found.append(pod["metadata"]["name"])
        return found

    def record(self) -> Manifest:
        """What the operator remembers."""
        config_map = self.api.get(self.path_of("ConfigMap", f"{self.name}-plan"))
        return dict(json.loads(config_map["data"]["record.json"]))

    def final_state(self) -> Manifest:
        """All that is there in the end, without what differs from run to run."""
        found: Manifest = {}
        for kind in ("ConfigMap", "Service", "ServiceAccount", "Deployment", "PodDisruptionBudget"):
            for name, manifest in self.owned(kind).items():
                if name != f"{self.name}-plan":
                    found[f"{kind} {name}"] = _without_volatile(manifest)
        served = sorted(_serves(pod) for pod in self.owned("Pod").values())
        record, status = self.record(), self.status
        found["pods"] = served
        found["record"] = {
            "segments": [segment["id"] for segment in record["target"]["plan"]["segments"]],
            "settled": record["settled"],
            "in_force": record["in_force"],
        }
        found["status"] = {
            "conditions": [(entry["type"], entry["status"], entry["reason"]) for entry in status["conditions"]],
            "segments": status["plan"]["segments"],
        }
        return found

    def wait_still(self, seconds: float = 120.0) -> dict[str, str]:
        """Waits until it is settled and neither operator nor controllers have more to say of it; all its versions.

        Kubernetes has for a while: tile workers are available only some seconds after they are ready.
        """

        def complete() -> dict[str, str] | None:
            is_complete = all_available(self.owned("Deployment").values(), len(self.owned("Pod")))
            return self.versions() if is_complete and self.is_settled() else None

        unchanged = Unchanged(complete, _STILL_SECONDS)
        self._wait("all to stay as it is", unchanged, seconds)
        return unchanged.seen

    def versions(self) -> dict[str, str]:
        """The resourceVersion of everything that is its, itself included, by kind and name."""
        found = {
            f"{kind} {name}": item["metadata"]["resourceVersion"]
            for kind in OWNED
            for name, item in self.owned(kind).items()
        }
        return found | {"InferencePipeline": self.get()["metadata"]["resourceVersion"]}

    def is_gone(self) -> bool:
        """Whether nothing of it is left."""
        return self.api.find(self.path) is None and not any(self.owned(kind) for kind in OWNED)

    def _wait(self, what: str, condition: Any, seconds: float) -> None:
        try:
            wait_for(what, condition, seconds=seconds)
        except TimeoutError as error:
            try:
                shown = json.dumps(self.status.get("conditions"), indent=1)
            except RefusedError as refused:
                shown = str(refused)
            raise TimeoutError(
                f"{error}; {self.namespace}/{self.name}: {shown}; left over: {self.leftovers()}"
            ) from None


def _serves(pod: Manifest) -> str:
    """What a pod is, and the descriptor that it serves."""
    mounted = [entry["configMap"]["name"] for entry in pod["spec"]["volumes"] if "configMap" in entry]
    return f"{pod['metadata']['labels'][_COMPONENT]}: {' '.join(mounted)}"


def _without_volatile(manifest: Manifest) -> Manifest:
    metadata = {name: value for name, value in manifest["metadata"].items() if name not in _VOLATILE}
    metadata["ownerReferences"] = [
        {name: value for name, value in owner.items() if name != "uid"} for owner in metadata["ownerReferences"]
    ]
    annotations = metadata.get("annotations", {})
    metadata["annotations"] = {name: value for name, value in annotations.items() if "kubernetes.io" not in name}
    kept = {name: value for name, value in manifest.items() if name not in ("metadata", "status")}
    if manifest.get("spec"):
        kept["spec"] = {name: value for name, value in manifest["spec"].items() if name not in _OF_THE_CLUSTER}
    return {"metadata": metadata, **kept}
