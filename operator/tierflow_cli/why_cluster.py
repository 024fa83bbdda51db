"""What a cluster says of one pipeline: the object and the Events about it. No other module of the commands asks one."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from tierflow.errors import InvalidInputError
from tierflow.manifest import API_VERSION, KIND

if TYPE_CHECKING:
    from tierflow_operator.kube_client import KubeClient

Document = dict[str, Any]

_SECONDS: Final = 15.0
_MOST_EVENTS: Final = "500"


@dataclass(frozen=True, slots=True)
class Seen:
    """A pipeline as the cluster has it.

    Attributes:
        pipeline: The object.
        events: Those about it, in no order.
        unread: Why its events could not be read; "" where they were.
    """

    pipeline: Document
    events: tuple[Document, ...]
    unread: str = ""


def seen(name: str, namespace: str, kubeconfig: Path | None, context: str) -> Seen:
    """Asks the cluster.

    Args:
        name: The pipeline's name.
        namespace: Its namespace; "" for the one that the context of the kubeconfig names, as kubectl takes it.
        kubeconfig: The file that says where the cluster is; None for $KUBECONFIG or ~/.kube/config.
        context: Of that file; "" for its current one.

    Raises:
        InvalidInputError: where the client isn't installed, no cluster is named, or there is no such pipeline.
        KubeError: where the cluster doesn't answer, or doesn't allow it.
    """
    client = _client(kubeconfig, context)
    from tierflow_operator.kube_errors import KubeError, NotFoundError

    where = namespace or namespace_of(kubeconfig, context, os.environ)
    subject = f"{KIND} {where}/{name}"
    path = f"/apis/{API_VERSION}/namespaces/{quote(where, safe='')}/inferencepipelines/{quote(name, safe='')}"
    try:
        pipeline = client.request("get", path, kind=KIND, subject=subject)
    except NotFoundError as error:
        raise InvalidInputError(
            f"{error.message}; `kubectl get ipl --all-namespaces` lists those that there are, -n names a namespace",
            subject=name,
        ) from error
    selector = f"involvedObject.kind={KIND},involvedObject.name={name}"
    try:
        listed = client.request(
            "list",
            f"/api/v1/namespaces/{quote(where, safe='')}/events",
            kind="Event",
            subject=f"events about {subject}",
            query={"fieldSelector": selector, "limit": _MOST_EVENTS},
        )
    except KubeError as error:  # whoever may read a pipeline may not be allowed to read events
        return Seen(pipeline, (), error.message)
    return Seen(pipeline, tuple(listed.get("items") or ()))


def namespace_of(kubeconfig: Path | None, context: str, environment: Mapping[str, str]) -> str:
    """The namespace that a kubeconfig's context names; `default` where it names none."""
    import yaml

    given = str(kubeconfig) if kubeconfig else environment.get("KUBECONFIG") or str(Path.home() / ".kube" / "config")
    contexts: dict[str, str] = {}
    current = context
    for file in filter(None, given.split(os.pathsep)):
        try:
            document = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError):
            continue  # the client has read it, or has said what is wrong with it
        if isinstance(document, dict):
            current = current or str(document.get("current-context") or "")
            for entry in document.get("contexts") or ():
                contexts.setdefault(entry.get("name", ""), (entry.get("context") or {}).get("namespace") or "")
    return contexts.get(current) or "default"


def _client(kubeconfig: Path | None, context: str) -> "KubeClient":
    try:
        from tierflow_operator.kube_client import KubeClient, read_configuration
        from tierflow_operator.telemetry import Telemetry
    except ModuleNotFoundError as error:
        raise InvalidInputError(
            f"the package {error.name} is not installed, with which clusters are asked; "
            "install `pip install 'tierflow[operator]'`",
            subject=error.name or "kubernetes",
        ) from error
    return KubeClient(read_configuration(kubeconfig, context, os.environ), Telemetry(), timeout_seconds=_SECONDS)
