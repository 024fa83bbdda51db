"""The operator as a process: how it starts, watches, leads, fails and ends, around a reconciler that does nothing."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from testbed.control_plane import ControlPlane
from testbed.nodes import Nodes
from testbed.operator_process import OperatorProcess
from testbed.pipelines import collection, pipeline
from testbed.process import free_ports, wait_for
from testbed.rest import ApiServer

Start = Callable[..., OperatorProcess]

LABEL = "tierflow.dev/pipeline"


@pytest.fixture
def start(control_plane: ControlPlane, namespace: str, tmp_path: Path) -> Iterator[Start]:
    """Starts an operator that serves the test's namespace, with its Lease there."""
    started: list[OperatorProcess] = []

    def launch(*flags: str, kubeconfig: Path = control_plane.kubeconfig, **more: Any) -> OperatorProcess:
        own = ("--namespace", namespace, "--lease-namespace", namespace, "--resync-seconds", "86400")
        started.append(OperatorProcess(kubeconfig, tmp_path, *own, *flags, stub=True, **more))
        return started[-1]

    yield launch
    for operator in started:
        operator.kill()


@pytest.fixture
def make(api: ApiServer, namespace: str) -> Callable[..., None]:
    """Makes a pipeline in the test's namespace."""

    def make(name: str, **annotations: str) -> None:
        api.create(collection(namespace), pipeline(name, annotations=annotations))

    return make


def visits(operator: OperatorProcess, name: str, event: str = "seen") -> int:
    return sum(line.get("pipeline") == name for line in operator.events(event))


def holder(api: ApiServer, namespace: str) -> str:
    lease = api.find(f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/tierflow-operator")
    return str((lease or {}).get("spec", {}).get("holderIdentity", ""))


def test_an_operator_sees_pipelines_from_coming_to_going_and_ends_on_sigterm_with_its_lease_given_back(
    start: Start, make: Callable[..., None], api: ApiServer, namespace: str
) -> None:
    make("first")
    operator = start()
    operator.wait_until("the first pipeline", lambda: visits(operator, "first"))
    operator.wait_until_ready()
    assert operator.ask("/healthz") == (200, "ok\n")
    assert operator.metric("tierflow_operator_leader") == {"": 1.0}
    make("second")
    operator.wait_until("the second pipeline", lambda: visits(operator, "second"))
    api.delete(f"{collection(namespace)}/second")
    operator.wait_until("its end", lambda: visits(operator, "second", "gone"))
    assert holder(api, namespace)
    assert operator.stop() == 0
    assert holder(api, namespace) == ""
    seen = operator.events("seen")[0]
    assert {"namespace": namespace, "pipeline": "first", "level": "info"}.items() <= seen.items()


@pytest.mark.parametrize(
    ("path", "manifest"),
    [
        ("/api/v1/namespaces/{}/configmaps", {}),
        ("/api/v1/namespaces/{}/services", {"spec": {"ports": [{"port": 80}]}}),
        ("/api/v1/namespaces/{}/serviceaccounts", {}),
        ("/apis/policy/v1/namespaces/{}/poddisruptionbudgets", {"spec": {"maxUnavailable": 1}}),
    ],
)
def test_a_change_of_what_a_pipeline_owns_makes_it_due(
    start: Start, make: Callable[..., None], api: ApiServer, namespace: str, path: str, manifest: dict[str, Any]
) -> None:
    make("owner")
    operator = start("--no-leader-elect")
    operator.wait_until_ready()
    operator.wait_until("the pipeline", lambda: visits(operator, "owner"))
    objects = path.format(namespace)
    owned = {"metadata": {"name": "owned", "labels": {LABEL: "owner"}}} | manifest
    api.create(objects, owned)
    operator.wait_until("the object", lambda: any(line["owned"] == 1 for line in operator.events("seen")))
    before = visits(operator, "owner")
    api.patch(f"{objects}/owned", {"metadata": {"annotations": {"edited": "by hand"}}})
    operator.wait_until("its edit", lambda: visits(operator, "owner") > before)
    before = visits(operator, "owner")
    api.patch(f"{objects}/owned", {"metadata": {"labels": {LABEL: None}}})
    operator.wait_until("the loss of its label", lambda: visits(operator, "owner") > before)


def test_nodes_that_come_change_and_go_make_all_pipelines_due(
    start: Start, make: Callable[..., None], nodes: Nodes, api: ApiServer
) -> None:
    make("one")
    make("two")
    operator = start("--no-leader-elect")
    operator.wait_until_ready()

    def noticed(what: str, change: Callable[[], object]) -> None:
        before = [visits(operator, name) for name in ("one", "two")]
        change()
        operator.wait_until(
            what,
            lambda: all(visits(operator, name) > count for name, count in zip(("one", "two"), before, strict=True)),
        )

    operator.wait_until("both", lambda: visits(operator, "one") and visits(operator, "two"))
    added: list[str] = []
    noticed("the node", lambda: added.extend(nodes.add("edge")))
    (name,) = added
    noticed("its label", lambda: nodes.label(name, {"tierflow.dev/tier": "cloud"}))
    noticed("the cordon", lambda: nodes.cordon(name))
    noticed("that it isn't ready", lambda: nodes.set_ready(name, ready=False))
    noticed("its end", lambda: nodes.remove(name))


def test_only_the_namespaces_that_are_named_are_served(
    start: Start, make: Callable[..., None], api: ApiServer, control_plane: ControlPlane
) -> None:
    make("inside")
    api.create(collection("default"), pipeline("outside"))
    try:
        operator = start("--no-leader-elect")
        operator.wait_until_ready()
        operator.wait_until("the pipeline inside", lambda: visits(operator, "inside"))
        api.patch(f"{collection('default')}/outside", {"metadata": {"annotations": {"edited": "1"}}})
        make("later")
        operator.wait_until("the later one", lambda: visits(operator, "later"))
        assert visits(operator, "outside") == 0
    finally:
        api.delete(f"{collection('default')}/outside")


def test_of_two_replicas_one_works_and_the_other_goes_on_when_it_is_killed(
    start: Start, make: Callable[..., None], api: ApiServer, namespace: str
) -> None:
    make("first")
    replicas = [start("--lease-seconds", "3"), start("--lease-seconds", "3")]
    wait_for("a leader", lambda: any(operator.events("leading") for operator in replicas))
    leader, follower = sorted(replicas, key=lambda operator: not operator.events("leading"))
    leader.wait_until("the pipeline", lambda: visits(leader, "first"))
    follower.wait_until_ready()
    make("second")
    leader.wait_until("the second", lambda: visits(leader, "second"))
    assert not follower.events("seen")
    assert follower.metric("tierflow_operator_leader") == {"": 0.0}
    leader.kill()
    follower.wait_until("both", lambda: visits(follower, "first") and visits(follower, "second"))


def test_a_leader_whose_lease_is_taken_ends_with_1_and_does_not_write_any_more(
    start: Start, make: Callable[..., None], api: ApiServer, namespace: str, tmp_path: Path
) -> None:
    make("held", stub="hold")
    go_on = tmp_path / "go-on"
    operator = start("--lease-seconds", "3", environment={"STUB_GO_ON": str(go_on)})
    operator.wait_until("the reconcile", lambda: visits(operator, "held", "holding"))
    lease = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/tierflow-operator"
    api.patch(lease, {"spec": {"holderIdentity": "somebody"}})
    operator.wait_until("the loss", lambda: operator.has_said("lost the lease"))
    go_on.touch()
    assert operator.wait_for_exit() == 1
    assert api.find(f"/api/v1/namespaces/{namespace}/configmaps/held-held") is None
    assert holder(api, namespace) == "somebody"


def test_sigterm_lets_the_reconcile_under_way_finish_before_the_lease_is_given_back(
    start: Start, make: Callable[..., None], api: ApiServer, namespace: str, tmp_path: Path
) -> None:
    make("held", stub="hold")
    go_on = tmp_path / "go-on"
    operator = start(environment={"STUB_GO_ON": str(go_on)})
    operator.wait_until("the reconcile", lambda: visits(operator, "held", "holding"))
    make("later")
    operator.terminate()
    operator.wait_until("the signal", lambda: operator.has_said("ending: SIGTERM"))
    assert holder(api, namespace) != ""
    go_on.touch()
    assert operator.wait_for_exit() == 0
    assert api.get(f"/api/v1/namespaces/{namespace}/configmaps/held-held")
    assert holder(api, namespace) == ""


def test_a_pipeline_that_fails_is_tried_again_counted_and_does_not_hold_up_others(
    start: Start, make: Callable[..., None]
) -> None:
    make("broken", stub="fail")
    operator = start("--no-leader-elect", "--workers", "1")
    operator.wait_until(
        "several tries",
        lambda: operator.metric("tierflow_operator_reconcile_errors_total").get('{kind="UnreachableError"}', 0) >= 3,
    )
    make("sound")
    operator.wait_until("the other", lambda: visits(operator, "sound"))
    assert operator.has_said("the stub was told to fail")
    assert operator.ask("/healthz")[0] == 200


def test_an_event_is_shown_with_its_pipeline_and_said_once(
    start: Start, make: Callable[..., None], api: ApiServer, control_plane: ControlPlane, namespace: str
) -> None:
    make("told", stub="event")
    operator = start("--no-leader-elect")
    operator.wait_until_ready()
    operator.wait_until("a visit", lambda: visits(operator, "told"))
    api.patch(f"{collection(namespace)}/told", {"metadata": {"annotations": {"edited": "1"}}})
    operator.wait_until("another visit", lambda: visits(operator, "told") >= 2)
    described = control_plane.kubectl("describe", "ipl", "told", "-n", namespace)
    assert [line.split()[:2] for line in described.splitlines() if "as told" in line] == [["Normal", "Stubbed"]]


def test_at_rest_only_the_lease_is_written(
    start: Start, make: Callable[..., None], api: ApiServer, namespace: str
) -> None:
    make("quiet")
    operator = start("--lease-seconds", "2")
    operator.wait_until("the pipeline", lambda: visits(operator, "quiet"))

    def renewals() -> float:
        counted = operator.metric("tierflow_operator_api_writes_total")
        return sum(count for labels, count in counted.items() if 'kind="Lease"' in labels)

    operator.wait_until("ten renewals", lambda: renewals() >= 10)
    assert operator.writes() == {}
    assert api.get(f"{collection(namespace)}/quiet")["metadata"].keys().isdisjoint({"finalizers", "annotations"})


def test_an_operator_survives_a_restart_of_the_api_server_and_still_watches(
    start: Start, make: Callable[..., None], control_plane: ControlPlane
) -> None:
    make("before")
    operator = start("--lease-seconds", "60")
    operator.wait_until_ready()
    operator.wait_until("the pipeline", lambda: visits(operator, "before"))
    control_plane.restart_api_server(kill=True)
    control_plane.forget_history()  # what it has seen last is too old now: it has to list again
    make("after")
    operator.wait_until("the pipeline that came later", lambda: visits(operator, "after"))
    assert operator.exit_code is None
    assert operator.ask("/healthz")[0] == 200


def test_an_operator_that_may_not_watch_ends_with_1_and_says_what_it_lacks(
    start: Start, api: ApiServer, control_plane: ControlPlane, namespace: str
) -> None:
    account = f"/api/v1/namespaces/{namespace}/serviceaccounts/default"
    wait_for("the namespace's ServiceAccount", lambda: api.find(account))
    rbac = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}"
    rule = {"apiGroups": ["tierflow.dev"], "resources": ["inferencepipelines"], "verbs": ["list", "watch"]}
    api.create(f"{rbac}/roles", {"metadata": {"name": "too-little"}, "rules": [rule]})
    api.create(
        f"{rbac}/rolebindings",
        {
            "metadata": {"name": "too-little"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "too-little"},
            "subjects": [{"kind": "ServiceAccount", "name": "default", "namespace": namespace}],
        },
    )
    operator = start("--no-leader-elect", kubeconfig=control_plane.kubeconfig_for(namespace, "default"))
    assert operator.wait_for_exit() == 1
    assert operator.has_said("the cluster can't be watched any more")
    assert operator.has_said("is forbidden")


def test_an_operator_without_rights_on_pipelines_ends_with_2(
    start: Start, api: ApiServer, control_plane: ControlPlane, namespace: str
) -> None:
    account = f"/api/v1/namespaces/{namespace}/serviceaccounts/default"
    wait_for("the namespace's ServiceAccount", lambda: api.find(account))
    operator = start(kubeconfig=control_plane.kubeconfig_for(namespace, "default"))
    assert operator.wait_for_exit() == 2
    assert operator.has_said('cannot list resource "inferencepipelines"')


def test_a_cluster_that_cannot_be_reached_is_bad_input(
    start: Start, control_plane: ControlPlane, tmp_path: Path
) -> None:
    (port,) = free_ports(1)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text(control_plane.kubeconfig.read_text().replace(control_plane.url, f"https://127.0.0.1:{port}"))
    operator = start(kubeconfig=elsewhere)
    assert operator.wait_for_exit() == 2
    assert operator.has_said(
        f"the API server https://127.0.0.1:{port} can't be reached: Failed to establish a new connection"
    )


def test_a_metrics_port_that_is_taken_is_bad_input(start: Start) -> None:
    first = start()
    port = first.url.rpartition(":")[2]
    second = start("--metrics-port", port)
    assert second.wait_for_exit() == 2
    assert second.has_said(f"--metrics-port: {port} can't be listened on: Address already in use")


def test_a_cluster_without_the_custom_resource_is_told_which_file_to_apply(tmp_path: Path) -> None:
    with ControlPlane(tmp_path) as bare:
        operator = OperatorProcess(bare.kubeconfig, tmp_path, stub=True)
        assert operator.wait_for_exit() == 2
        assert operator.has_said("kubectl apply --server-side -f crds/tierflow.dev_inferencepipelines.yaml")
