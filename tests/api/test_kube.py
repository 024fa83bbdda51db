"""The operator's client against a real API server: what it writes, what it doesn't, and what it says of a failure."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from testbed.control_plane import ControlPlane
from testbed.nodes import Nodes
from testbed.pipelines import collection, pipeline
from testbed.process import free_ports, wait_for
from testbed.rest import ApiServer, Manifest
from tierflow_operator import kube as kube_module
from tierflow_operator.keys import PipelineKey
from tierflow_operator.kube import Kube
from tierflow_operator.kube_client import KubeClient, read_configuration
from tierflow_operator.kube_errors import (
    ConflictError,
    FencedError,
    KubeError,
    NotFoundError,
    RefusedError,
    UnavailableError,
)
from tierflow_operator.telemetry import Telemetry

LABEL = "tierflow.dev/pipeline"


@pytest.fixture
def telemetry() -> Telemetry:
    return Telemetry()


@pytest.fixture
def client(control_plane: ControlPlane, telemetry: Telemetry) -> KubeClient:
    return KubeClient(read_configuration(control_plane.kubeconfig, "", {}), telemetry)


@pytest.fixture
def kube(client: KubeClient) -> Kube:
    return Kube(client)


def config_map(namespace: str, name: str = "plan", owner: str = "resnet18", **data: str) -> Manifest:
    metadata = {"name": name, "namespace": namespace, "labels": {LABEL: owner}}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


def version(manifest: Manifest | None) -> str:
    assert manifest is not None
    return str(manifest["metadata"]["resourceVersion"])


def test_applying_the_same_again_writes_nothing(kube: Kube, namespace: str) -> None:
    first = kube.apply(config_map(namespace, epoch="1"))
    again = kube.apply(config_map(namespace, epoch="1"))
    assert version(again) == version(first)
    assert "managedFields" not in again["metadata"]


def test_applying_takes_back_what_others_changed_and_leaves_alone_what_they_added(
    kube: Kube, api: ApiServer, namespace: str
) -> None:
    kube.apply(config_map(namespace, epoch="1"))
    path = f"/api/v1/namespaces/{namespace}/configmaps/plan"
    api.patch(path, {"data": {"epoch": "7", "note": "mine"}, "metadata": {"annotations": {"team": "vision"}}})
    applied = kube.apply(config_map(namespace, epoch="1"))
    assert applied["data"] == {"epoch": "1", "note": "mine"}
    assert applied["metadata"]["annotations"] == {"team": "vision"}


def test_a_field_that_is_named_no_more_is_dropped(kube: Kube, namespace: str) -> None:
    kube.apply(config_map(namespace, epoch="1", reason="Initial"))
    assert kube.apply(config_map(namespace, epoch="1"))["data"] == {"epoch": "1"}


def test_a_config_map_is_read_as_it_is_and_none_where_there_is_none(kube: Kube, namespace: str) -> None:
    assert kube.config_map(namespace, "plan") is None
    kube.apply(config_map(namespace, epoch="1"))
    found = kube.config_map(namespace, "plan")
    assert found is not None
    assert found["data"] == {"epoch": "1"}
    assert isinstance(found["metadata"]["creationTimestamp"], str)


@pytest.mark.parametrize("name", ["../configmaps/plan", "plan?x=1", "plan#x", "plan/status"])
def test_a_name_leads_to_no_other_path(kube: Kube, namespace: str, name: str) -> None:
    kube.apply(config_map(namespace, epoch="1"))
    assert kube.config_map(namespace, name) is None


def test_the_status_is_written_once_and_the_spec_never(kube: Kube, api: ApiServer, namespace: str) -> None:
    key = PipelineKey(namespace, "resnet18")
    api.create(collection(namespace), pipeline("resnet18"))
    ready = {"type": "Ready", "status": "True", "reason": "ServingPlan", "message": "", "observedGeneration": 1}
    ready["lastTransitionTime"] = "2026-11-26T04:00:00Z"
    status = {"observedGeneration": 1, "conditions": [ready]}
    first = kube.patch_status(key, status)
    assert version(kube.patch_status(key, status)) == version(first)
    assert first["metadata"]["generation"] == 1
    stalled = ready | {"type": "Stalled"}
    kube.patch_status(key, {"observedGeneration": 1, "conditions": [ready, stalled]})
    kube.patch_status(key, status)
    read = kube.pipeline(key)
    assert read is not None
    assert [condition["type"] for condition in read["status"]["conditions"]] == ["Ready"]


def test_the_status_of_a_pipeline_that_is_gone_is_not_found(kube: Kube, namespace: str) -> None:
    with pytest.raises(NotFoundError) as raised:
        kube.patch_status(PipelineKey(namespace, "gone"), {"observedGeneration": 1})
    assert raised.value.subject == f"InferencePipeline {namespace}/gone (status)"


def test_pipelines_are_listed_by_name_or_whole(kube: Kube, api: ApiServer, namespace: str) -> None:
    for name in ("one", "two"):
        api.create(collection(namespace), pipeline(name))
    assert set(kube.pipeline_keys(namespace)) == {PipelineKey(namespace, "one"), PipelineKey(namespace, "two")}
    assert {entry["metadata"]["name"] for entry in kube.pipelines(namespace)} == {"one", "two"}
    assert set(kube.pipeline_keys()) >= set(kube.pipeline_keys(namespace))
    assert kube.pipeline(PipelineKey(namespace, "three")) is None


def test_deleting_spares_another_object_that_has_taken_the_name(kube: Kube, namespace: str) -> None:
    first = kube.apply(config_map(namespace, epoch="1"))
    kube.delete(first)
    kube.delete(first)
    kube.apply(config_map(namespace, epoch="2"))
    with pytest.raises(ConflictError):
        kube.delete(first)
    assert kube.config_map(namespace, "plan") is not None


def test_an_object_of_somebody_else_is_not_taken_over(kube: Kube, api: ApiServer, namespace: str) -> None:
    path = f"/api/v1/namespaces/{namespace}/configmaps"

    def owner_named(name: str) -> dict[str, str]:
        # Real ones: what belongs to nobody that exists is collected as garbage.
        made = api.create(path, config_map(namespace, name))
        return {"apiVersion": "v1", "kind": "ConfigMap", "name": name, "uid": made["metadata"]["uid"]}

    owner, other = owner_named("owner"), owner_named("other")
    api.create(path, config_map(namespace, "theirs"))
    mine = config_map(namespace, "theirs")
    mine["metadata"]["ownerReferences"] = [owner]
    with pytest.raises(RefusedError, match="is there already and belongs to somebody else: delete or rename that"):
        kube.create(mine)
    mine["metadata"]["name"] = "mine"
    assert kube.create(mine)["metadata"]["ownerReferences"] == [owner]
    assert kube.create(mine)["metadata"]["ownerReferences"] == [owner]
    others = config_map(namespace, "mine")
    others["metadata"]["ownerReferences"] = [other]
    with pytest.raises(RefusedError, match="belongs to ConfigMap owner"):
        kube.create(others)


def test_what_a_pipeline_owns_is_found_by_its_label_with_kind_and_version(kube: Kube, namespace: str) -> None:
    kube.apply(config_map(namespace, epoch="1"))
    kube.apply(config_map(namespace, "other", owner="vgg16"))
    labelled = {"name": "resnet18", "namespace": namespace, "labels": {LABEL: "resnet18"}}
    kube.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": labelled})
    disruption = {"maxUnavailable": 1, "selector": {"matchLabels": {LABEL: "resnet18"}}}
    kube.apply({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": labelled, "spec": disruption})
    owned = kube.owned(PipelineKey(namespace, "resnet18"))
    assert {(entry["apiVersion"], entry["kind"], entry["metadata"]["name"]) for entry in owned} == {
        ("v1", "ConfigMap", "plan"),
        ("v1", "ServiceAccount", "resnet18"),
        ("policy/v1", "PodDisruptionBudget", "resnet18"),
    }
    assert not any("managedFields" in entry["metadata"] for entry in owned)


def test_a_long_list_is_read_page_by_page(kube: Kube, namespace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kube_module, "_PAGE", 2)
    for number in range(5):
        kube.apply(config_map(namespace, f"c{number}"))
    owned = kube.owned(PipelineKey(namespace, "resnet18"))
    assert {entry["metadata"]["name"] for entry in owned} == {f"c{number}" for number in range(5)}


def test_nodes_are_read_once_for_all_that_ask_at_a_time(kube: Kube, nodes: Nodes, telemetry: Telemetry) -> None:
    nodes.add("edge")

    def lists() -> float:
        return telemetry.value(
            "tierflow_operator_api_requests_total", access="read", verb="list", kind="Node", outcome="ok"
        )

    threads = [threading.Thread(target=lambda: kube.nodes(60)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert lists() == 1
    fresh = kube.nodes(max_age_seconds=0)
    assert lists() == 2
    assert fresh
    assert not any("images" in node["status"] for node in fresh)
    kube.nodes_changed()
    kube.nodes(60)
    kube.nodes(60)
    assert lists() == 3


def pod(namespace: str, name: str = "check") -> Manifest:
    container = {"name": "main", "image": "nowhere/nothing:1"}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": {LABEL: "resnet18"}},
        "spec": {"containers": [container], "terminationGracePeriodSeconds": 0, "automountServiceAccountToken": False},
    }


def test_a_pod_is_annotated_and_another_of_its_name_is_not(kube: Kube, api: ApiServer, namespace: str) -> None:
    account = f"/api/v1/namespaces/{namespace}/serviceaccounts/default"
    wait_for("the namespace's ServiceAccount", lambda: api.find(account))
    made = kube.apply(pod(namespace))
    kube.annotate_pod(made, {"tierflow.dev/approved": "abc"})
    annotated = api.get(f"/api/v1/namespaces/{namespace}/pods/check")
    assert annotated["metadata"]["annotations"] == {"tierflow.dev/approved": "abc"}
    other = made | {"metadata": made["metadata"] | {"uid": "00000000-0000-0000-0000-000000000000"}}
    with pytest.raises((ConflictError, RefusedError)):
        kube.annotate_pod(other, {"tierflow.dev/approved": "def"})
    kube.annotate_pod(pod(namespace, "gone"), {"tierflow.dev/approved": "abc"})


def refused(write: Callable[[], object]) -> str:
    """What the API server says of a write, once a rule that refuses it has come into force."""
    said: list[str] = []

    def is_refused() -> bool:
        try:
            write()
        except RefusedError as error:
            said.append(error.message)
        return bool(said)

    wait_for("a refusal", is_refused)
    return said[0]


def test_an_exceeded_quota_is_a_refusal_in_the_servers_own_words(kube: Kube, api: ApiServer, namespace: str) -> None:
    quota = {"metadata": {"name": "few"}, "spec": {"hard": {"count/services": "0"}}}
    path = f"/api/v1/namespaces/{namespace}/resourcequotas"
    api.create(path, quota)
    wait_for("the quota", lambda: api.get(f"{path}/few").get("status", {}).get("hard"))
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "entry", "namespace": namespace}}
    said = refused(lambda: kube.apply(service | {"spec": {"ports": [{"port": 80}]}}))
    assert said.startswith(f"Service {namespace}/entry: ")
    assert "exceeded quota: few" in said


def test_a_denial_at_admission_is_a_refusal_in_the_servers_own_words(
    kube: Kube, api: ApiServer, namespace: str
) -> None:
    admission = "/apis/admissionregistration.k8s.io/v1"
    rules = [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"]}]
    policy = {
        "metadata": {"name": namespace},
        "spec": {
            "matchConstraints": {
                "resourceRules": rules,
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
            },
            "validations": [{"expression": "false", "message": "ask the platform team first"}],
        },
    }
    binding = {"metadata": {"name": namespace}, "spec": {"policyName": namespace, "validationActions": ["Deny"]}}
    api.create(f"{admission}/validatingadmissionpolicies", policy)
    api.create(f"{admission}/validatingadmissionpolicybindings", binding)
    try:
        numbers = iter(range(10_000))
        said = refused(lambda: kube.apply(config_map(namespace, f"c{next(numbers)}")))
    finally:
        api.delete(f"{admission}/validatingadmissionpolicybindings/{namespace}")
        api.delete(f"{admission}/validatingadmissionpolicies/{namespace}")
    assert "ask the platform team first" in said


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"replicas": -1}, "must be greater than or equal to 0"),
        ({"replicas": "many"}, "expected numeric"),
        ({"surplus": 1}, "field not declared in schema"),
    ],
)
def test_an_object_that_the_server_cannot_take_is_a_refusal(
    kube: Kube, namespace: str, change: dict[str, Any], words: str
) -> None:
    labels = {"app": "web"}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "main", "image": "none"}]}}
    spec = {"selector": {"matchLabels": labels}, "template": template} | change
    metadata = {"name": "web", "namespace": namespace}
    with pytest.raises(RefusedError, match=words):
        kube.apply({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec})


def test_a_namespace_that_is_missing_is_not_found(kube: Kube) -> None:
    with pytest.raises(NotFoundError, match='namespaces "nowhere" not found'):
        kube.apply(config_map("nowhere"))


def test_rights_that_are_missing_are_a_refusal(control_plane: ControlPlane, api: ApiServer, namespace: str) -> None:
    account = f"/api/v1/namespaces/{namespace}/serviceaccounts/default"
    wait_for("the namespace's ServiceAccount", lambda: api.find(account))
    kubeconfig = control_plane.kubeconfig_for(namespace, "default")
    kube = Kube(KubeClient(read_configuration(kubeconfig, "", {}), Telemetry()))
    with pytest.raises(RefusedError, match='cannot list resource "nodes"'):
        kube.nodes()


def kubeconfig_at(folder: Path, port: int) -> Path:
    file = folder / "kubeconfig"
    file.write_text(f"""
clusters: [{{name: c, cluster: {{server: "http://127.0.0.1:{port}"}}}}]
users: [{{name: u, user: {{token: none}}}}]
contexts: [{{name: c, context: {{cluster: c, user: u}}}}]
current-context: c
""")
    return file


def failure(folder: Path, port: int, telemetry: Telemetry) -> KubeError:
    kube = Kube(KubeClient(read_configuration(kubeconfig_at(folder, port), "", {}), telemetry, timeout_seconds=0.3))
    with pytest.raises(UnavailableError) as raised:
        kube.pipelines()
    return raised.value


def test_a_server_that_is_away_is_unavailable(tmp_path: Path, telemetry: Telemetry) -> None:
    (port,) = free_ports(1)
    error = failure(tmp_path, port, telemetry)
    assert f"http://127.0.0.1:{port} can't be reached" in error.message
    assert "refused" in error.message
    counted = telemetry.value(
        "tierflow_operator_api_requests_total",
        access="read", verb="list", kind="InferencePipeline", outcome="unavailable",
    )  # fmt: skip
    assert counted == 1


@contextmanager
def answering(answer: Callable[[socket.socket], None]) -> Iterator[int]:
    """A server that reads a request and answers as it likes; its port."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        try:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                answer(connection)
        except OSError:
            return

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.close()
        thread.join()


def hang(connection: socket.socket) -> None:
    connection.recv(1)  # until the client gives up


def trickle(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        connection.sendall(b"{")  # ends by an error as soon as the client has closed
        threading.Event().wait(0.01)


def break_off(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{")


def page(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\n<html>")


def overload(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 1\r\nContent-Length: 4\r\n\r\nslow")


def redirect(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:9/\r\nContent-Length: 0\r\n\r\n")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (hang, "timed out"),
        (trickle, "too long"),
        (break_off, "can't be reached"),
        (page, "isn't an API server"),
        (overload, "slow"),
        (redirect, "302"),
    ],
)
def test_a_server_that_answers_badly_is_unavailable_within_the_timeout(
    tmp_path: Path, telemetry: Telemetry, answer: Callable[[socket.socket], None], words: str
) -> None:
    with answering(answer) as port:
        assert words in failure(tmp_path, port, telemetry).message


def test_who_may_not_write_reads_only(control_plane: ControlPlane, namespace: str) -> None:
    configuration = read_configuration(control_plane.kubeconfig, "", {})
    kube = Kube(KubeClient(configuration, Telemetry(), may_write=lambda: False))
    with pytest.raises(FencedError):
        kube.apply(config_map(namespace))
    assert kube.config_map(namespace, "plan") is None
