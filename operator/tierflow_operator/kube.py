"""The cluster, as the reconcile sees it: what it reads and what it writes, as plain dictionaries.

Every call is bounded in time, blocks, may come from any thread and raises `KubeError`. Timestamps stay text. What is
returned may be shared between callers and is not to be changed.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple
from urllib.parse import quote

from tierflow.manifest import API_VERSION, KIND
from tierflow_operator.keys import PipelineKey
from tierflow_operator.kube_client import APPLY, JSON, MERGE, KubeClient
from tierflow_operator.kube_errors import ExpiredError, NotFoundError, RefusedError
from tierflow_operator.node_list import NodeList
from tierflow_operator.pods import PIPELINE_LABEL, Manifest

FIELD_MANAGER: Final = "tierflow"
_PAGE: Final = 250
_METADATA_ONLY: Final = f"{JSON};as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"


class Resource(NamedTuple):
    """Where objects of a kind are found; `plural` as in paths and rights."""

    api_version: str
    kind: str
    plural: str

    def path(self, namespace: str = "", name: str = "", subresource: str = "") -> str:
        """Of one object, or of all in a namespace or in the cluster."""
        group = f"/apis/{self.api_version}" if "/" in self.api_version else f"/api/{self.api_version}"
        parts = (["namespaces", namespace] if namespace else []) + [self.plural]
        parts += [part for part in (name, subresource) if part]
        return "/".join([group, *(quote(part, safe="") for part in parts)])


PIPELINES: Final = Resource(API_VERSION, KIND, "inferencepipelines")
NODES: Final = Resource("v1", "Node", "nodes")
OWNED: Final = (
    Resource("v1", "ConfigMap", "configmaps"),
    Resource("v1", "Service", "services"),
    Resource("v1", "ServiceAccount", "serviceaccounts"),
    Resource("v1", "Pod", "pods"),
    Resource("apps/v1", "Deployment", "deployments"),
    Resource("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets"),
)
"""The kinds of objects that a pipeline may own."""

_BY_KIND: Final = {resource.kind: resource for resource in (PIPELINES, NODES, *OWNED)}


class Kube:
    """Reads and writes the cluster.

    Args:
        client: Sends the requests, and counts them.
        clock: Seconds of any monotonic origin.
    """

    def __init__(self, client: KubeClient, clock: Callable[[], float] = time.monotonic) -> None:
        self._client = client
        self._clock = clock
        self._nodes: tuple[Manifest, ...] = ()
        self._nodes_began = float("-inf")
        self._nodes_changed = float("-inf")
        self._listing_nodes = threading.Lock()

    def pipeline(self, key: PipelineKey) -> Manifest | None:
        """The pipeline as it is now; None where there is none."""
        return self._get(PIPELINES, key.namespace, key.name)

    def pipelines(self, namespace: str | None = None) -> tuple[Manifest, ...]:
        """All pipelines of a namespace, or of the cluster."""
        return tuple(self._list(PIPELINES, namespace or ""))

    def pipeline_keys(self, namespace: str | None = None) -> tuple[PipelineKey, ...]:
        """The names of all pipelines of a namespace, or of the cluster, without reading the pipelines."""
        listed = self._list(PIPELINES, namespace or "", accept=_METADATA_ONLY)
        return tuple(PipelineKey(entry["metadata"]["namespace"], entry["metadata"]["name"]) for entry in listed)

    def nodes(self, max_age_seconds: float = 1.0) -> tuple[Manifest, ...]:
        """All nodes, as `ListedNode` has them; read anew where the last reading began more than `max_age_seconds` ago.

        Pipelines that ask at the same time share one reading, unless a node has changed since it began.
        """
        asked = self._clock()
        with self._listing_nodes:
            if self._nodes_began < asked - max_age_seconds or self._nodes_began <= self._nodes_changed:
                began = self._clock()
                self._nodes = tuple(self._list(NODES, "", shape=NodeList))
                self._nodes_began = began
            return self._nodes

    def nodes_changed(self) -> None:
        """Says that a node was seen to change: who asks from now on gets no reading that began before."""
        self._nodes_changed = self._clock()

    def owned(self, key: PipelineKey) -> tuple[Manifest, ...]:
        """All objects that carry the pipeline's label, of the kinds that a pipeline may own."""
        query = {"labelSelector": f"{PIPELINE_LABEL}={key.name}"}
        return tuple(found for resource in OWNED for found in self._list(resource, key.namespace, query))

    def config_map(self, namespace: str, name: str) -> Manifest | None:
        """A ConfigMap; None where there is none."""
        return self._get(_BY_KIND["ConfigMap"], namespace, name)

    def create(self, manifest: Manifest) -> Manifest:
        """Applies an object that was not found among a pipeline's own, unless somebody else has one of that name.

        Raises:
            RefusedError: somebody else has.
        """
        resource, namespace, name = _place(manifest)
        subject, own = _subject(resource, namespace, name), _owners_of(manifest)
        for found in self._list(resource, namespace, {"fieldSelector": f"metadata.name={name}"}):
            owners = _owners_of(found)
            if own.keys().isdisjoint(owners):
                whose = ", ".join(sorted(owners.values())) or "somebody else"
                raise RefusedError(
                    f"{subject} is there already and belongs to {whose}: delete or rename that, or give the pipeline "
                    "another name",
                    subject=subject,
                )
        return self._applied(manifest)

    def apply(self, manifest: Manifest) -> Manifest:
        """Creates an object, or makes the fields that `manifest` names as it says and takes back those it named before.

        Returns:
            The object as it is now.
        """
        return self._applied(manifest)

    def patch_status(self, key: PipelineKey, status: Mapping[str, Any]) -> Manifest:
        """Makes a pipeline's status what `status` says; what was written before and isn't in it is dropped.

        Raises:
            NotFoundError: the pipeline is gone.
        """
        manifest = {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "metadata": {"name": key.name, "namespace": key.namespace},
            "status": status,
        }
        return self._applied(manifest, "status")

    def delete(self, manifest: Manifest) -> None:
        """Deletes this very object, and what it owns in the background; one that is gone already is fine.

        Raises:
            ConflictError: another object has taken its name.
        """
        resource, namespace, name = _place(manifest)
        options: Manifest = {"propagationPolicy": "Background"}
        if uid := manifest["metadata"].get("uid"):
            options["preconditions"] = {"uid": uid}
        try:
            self._client.request(
                "delete",
                resource.path(namespace, name),
                kind=resource.kind,
                subject=_subject(resource, namespace, name),
                body=options,
            )
        except NotFoundError:
            return

    def annotate_pod(self, manifest: Manifest, annotations: Mapping[str, str]) -> None:
        """Sets annotations on this very pod; one that is gone already is fine.

        Raises:
            ConflictError: another pod has taken its name.
        """
        resource, namespace, name = _place(manifest)
        metadata: Manifest = {"annotations": dict(annotations)}
        if uid := manifest["metadata"].get("uid"):
            metadata["uid"] = uid  # the API server refuses to change it, and so to patch another pod
        try:
            self._client.request(
                "patch",
                resource.path(namespace, name),
                kind=resource.kind,
                subject=_subject(resource, namespace, name),
                query={"fieldManager": FIELD_MANAGER},
                body={"metadata": metadata},
                content_type=MERGE,
            )
        except NotFoundError:
            return

    def _get(self, resource: Resource, namespace: str, name: str) -> Manifest | None:
        subject = _subject(resource, namespace, name)
        try:
            found = self._client.request("get", resource.path(namespace, name), kind=resource.kind, subject=subject)
        except NotFoundError:
            return None
        return _without_field_managers(found)

    def _list(
        self,
        resource: Resource,
        namespace: str,
        query: Mapping[str, str] | None = None,
        accept: str = JSON,
        shape: Any = Any,
    ) -> list[Manifest]:
        try:
            return list(self._pages(resource, namespace, query or {}, accept, shape))
        except ExpiredError:
            return list(self._pages(resource, namespace, query or {}, accept, shape))

    def _pages(
        self, resource: Resource, namespace: str, query: Mapping[str, str], accept: str, shape: Any
    ) -> Iterator[Manifest]:
        subject = f"the list of {resource.plural}" + (f" of the namespace {namespace}" if namespace else "")
        page = {**query, "limit": str(_PAGE)}
        while True:
            answer = self._client.request(
                "list",
                resource.path(namespace),
                kind=resource.kind,
                subject=subject,
                query=page,
                accept=accept,
                shape=shape,
            )
            for entry in answer.get("items") or ():
                yield _without_field_managers({"apiVersion": resource.api_version, "kind": resource.kind} | entry)
            if not (token := answer["metadata"].get("continue")):
                return
            page["continue"] = token

    def _applied(self, manifest: Manifest, subresource: str = "") -> Manifest:
        resource, namespace, name = _place(manifest)
        answer = self._client.request(
            "apply",
            resource.path(namespace, name, subresource),
            kind=resource.kind,
            subject=_subject(resource, namespace, name) + (f" ({subresource})" if subresource else ""),
            query={"fieldManager": FIELD_MANAGER, "force": "true"},
            body=manifest,
            content_type=APPLY,
        )
        return _without_field_managers(answer)


def _place(manifest: Manifest) -> tuple[Resource, str, str]:
    metadata = manifest["metadata"]
    return _BY_KIND[manifest["kind"]], metadata.get("namespace", ""), metadata["name"]


def _owners_of(manifest: Manifest) -> dict[str, str]:
    """The owners of an object by their uid, with kind and name."""
    owners = manifest["metadata"].get("ownerReferences") or ()
    return {owner["uid"]: f"{owner['kind']} {owner['name']}" for owner in owners}


def _subject(resource: Resource, namespace: str, name: str) -> str:
    return f"{resource.kind} {namespace}/{name}" if namespace else f"{resource.kind} {name}"


def _without_field_managers(manifest: Manifest) -> Manifest:
    """Drops what only other writers need, and what is often half of an object."""
    manifest["metadata"].pop("managedFields", None)
    return manifest
