"""What goes wrong around a pipeline: refused writes, a lost API server, lost history, a namespace that vanishes."""

import itertools
import uuid
from collections.abc import Callable, Iterator

import pytest

from testbed.api_proxy import LOST_ANSWER, ApiProxy, Refusal, Write
from testbed.control_plane import ControlPlane
from testbed.kubelet import Behaviour, Kubelet
from testbed.nodes import Nodes
from testbed.operator_process import OperatorProcess
from testbed.pipelines import tiers
from testbed.process import wait_for
from testbed.rest import ApiServer, Manifest
from testbed.served_pipeline import ServedPipeline

Operate = Callable[..., OperatorProcess]

NO_RESYNC = ("--resync-seconds", "86400")
POLICIES = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies"
BINDINGS = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings"


@pytest.fixture(autouse=True)
def the_nodes(nodes: Nodes) -> Nodes:
    """One node of each tier."""
    nodes.add_all()
    return nodes


@pytest.fixture
def proxy(control_plane: ControlPlane) -> Iterator[ApiProxy]:
    """Between the operator and the API server."""
    standing = ApiProxy(control_plane)
    yield standing
    standing.stop()


REFUSALS = [
    Refusal(409, "Conflict", "the object has been modified"),
    Refusal(429, "TooManyRequests", "too many requests"),
    Refusal(500, "InternalError", "etcdserver: request timed out"),
    Refusal(503, "ServiceUnavailable", "apiserver is shutting down"),
    Refusal(0),
]


def test_every_third_write_fails_in_another_way_and_the_pipeline_gets_there(
    operate: Operate, served: ServedPipeline, proxy: ApiProxy
) -> None:
    turns, ways = itertools.count(1), itertools.cycle(REFUSALS)
    refused: list[Refusal] = []

    def judge(_: Write) -> Refusal | None:
        if next(turns) % 3:
            return None
        refused.append(next(ways))
        return refused[-1]

    proxy.judge = judge
    operate(*NO_RESYNC, kubeconfig=proxy.kubeconfig)
    served.create()
    served.wait_settled(epoch=1, seconds=200)
    served.cut("maxpool", "layer3.0/relu")
    served.wait_settled(epoch=2, seconds=200)
    assert set(refused) == set(REFUSALS)


def test_writes_that_are_done_but_not_answered_change_nothing_in_the_end(
    operate: Operate, served: ServedPipeline, proxy: ApiProxy
) -> None:
    lost: list[Write] = []

    def lose_an_answer(write: Write) -> Refusal | None:
        # Once for each object.
        if write in lost:
            return None
        lost.append(write)
        return LOST_ANSWER

    proxy.judge = lose_an_answer
    operate(*NO_RESYNC, kubeconfig=proxy.kubeconfig)
    served.create()
    served.wait_settled(epoch=1, seconds=200)
    assert len(lost) > 10
    assert [entry["epoch"] for entry in served.status["decisions"]] == [1]


def test_an_exceeded_quota_is_told_in_the_servers_words_and_overcome_when_it_is_raised(
    operate: Operate, served: ServedPipeline, api: ApiServer
) -> None:
    quotas = f"/api/v1/namespaces/{served.namespace}/resourcequotas"
    api.create(quotas, {"metadata": {"name": "tight"}, "spec": {"hard": {"count/services": "2"}}})
    wait_for("the quota to be in force", lambda: api.get(f"{quotas}/tight").get("status", {}).get("hard"))
    operator = operate(*NO_RESYNC)
    served.create()
    stalled = served.wait_condition("Stalled")
    assert "exceeded quota: tight" in stalled["message"]
    assert "Service" in stalled["message"]
    assert served.condition("Ready")["status"] == "False"
    assert operator.exit_code is None
    api.patch(f"{quotas}/tight", {"spec": {"hard": {"count/services": "20"}}})
    served.wait_settled(epoch=1, seconds=200)


def test_pods_that_a_quota_keeps_away_are_told_of(operate: Operate, served: ServedPipeline, api: ApiServer) -> None:
    quotas = f"/api/v1/namespaces/{served.namespace}/resourcequotas"
    api.create(quotas, {"metadata": {"name": "tight"}, "spec": {"hard": {"pods": "1"}}})
    wait_for("the quota to be in force", lambda: api.get(f"{quotas}/tight").get("status", {}).get("hard"))
    operate()
    served.create()
    wait_for("the quota to be named", lambda: "exceeded quota: tight" in served.condition("Ready").get("message", ""))
    api.delete(f"{quotas}/tight")
    served.wait_settled(seconds=200)


def test_a_denial_at_admission_is_told_in_the_policys_words_and_overcome_when_it_goes(
    operate: Operate, served: ServedPipeline, api: ApiServer
) -> None:
    name = f"deny-{uuid.uuid4().hex[:8]}"
    rule = {
        "apiGroups": ["apps"],
        "apiVersions": ["v1"],
        "operations": ["CREATE", "UPDATE"],
        "resources": ["deployments"],
    }
    policy = {
        "matchConstraints": {"resourceRules": [rule]},
        "validations": [{"expression": "false", "message": "images come from registry.example alone"}],
    }
    here = {"matchLabels": {"kubernetes.io/metadata.name": served.namespace}}
    api.create(POLICIES, {"metadata": {"name": name}, "spec": policy})
    binding = {"policyName": name, "validationActions": ["Deny"], "matchResources": {"namespaceSelector": here}}
    api.create(BINDINGS, {"metadata": {"name": name}, "spec": binding})
    deployments = f"/apis/apps/v1/namespaces/{served.namespace}/deployments"

    def denies() -> bool:
        labels = {"app": "probe"}
        container = {"name": "a", "image": "a"}
        template = {"metadata": {"labels": labels}, "spec": {"containers": [container]}}
        spec = {"selector": {"matchLabels": labels}, "template": template}
        try:
            api.create(deployments, {"metadata": {"name": "probe"}, "spec": spec}, dryRun="All")
        except Exception as error:
            return "registry.example" in str(error)
        return False

    try:
        wait_for("the policy to be in force", denies)
        operate(*NO_RESYNC)
        served.create()
        stalled = served.wait_condition("Stalled")
        assert "images come from registry.example alone" in stalled["message"]
    finally:
        api.delete(f"{BINDINGS}/{name}")
        api.delete(f"{POLICIES}/{name}")
    served.wait_settled(epoch=1, seconds=200)


@pytest.mark.parametrize("kill", [False, True])
def test_the_api_server_restarts_under_a_move(
    operate: Operate, served: ServedPipeline, control_plane: ControlPlane, kubelet: Behaviour, kill: bool
) -> None:
    operator = operate(*NO_RESYNC)
    kubelet.verdict = lambda _: None
    served.create()
    served.wait_condition("Reconciling", reason="Checking")
    control_plane.restart_api_server(kill=kill)
    kubelet.verdict = Behaviour().verdict
    served.wait_settled(epoch=1, seconds=200)
    assert operator.exit_code is None


def test_an_operator_that_missed_everything_while_the_server_forgot_its_history_sees_what_is_now(
    operate: Operate, served: ServedPipeline, control_plane: ControlPlane, nodes: Nodes
) -> None:
    operator = operate(*NO_RESYNC)
    served.create()
    served.wait_settled(epoch=1)
    edges = _names_of(control_plane.api, "edge")
    # While no watch is open, much happens, and what happened is compacted away: every watch gets 410 Gone.
    control_plane.stop_api_server(kill=True)
    control_plane.start_api_server()
    nodes.add("edge", 2)
    for number in range(20):
        nodes.label(edges[0], {"example.com/round": str(number)})
    control_plane.forget_history()
    control_plane.restart_api_server(kill=True)
    served.cut("maxpool", "layer3.0/relu")
    served.wait_settled(epoch=2, seconds=200)
    ready = {entry["tier"]: entry["ready"] for entry in served.status["observed"]["nodes"]}
    assert ready["edge"] == 3
    assert operator.exit_code is None


def _names_of(api: ApiServer, tier: str) -> list[str]:
    found = api.items("/api/v1/nodes", labelSelector=f"tierflow.dev/tier={tier}")
    return [node["metadata"]["name"] for node in found]


def test_namespaces_that_are_deleted_in_the_middle_disturb_nobody_else(
    operate: Operate, served: ServedPipeline, every_kubelet: Kubelet, api: ApiServer
) -> None:
    doomed = {stage: f"doomed-{uuid.uuid4().hex[:8]}" for stage in ("Expanding", "Checking", "at rest")}
    for name in doomed.values():
        api.create("/api/v1/namespaces", {"metadata": {"name": name}})
    every_kubelet.behave(doomed["Expanding"]).runs = lambda _: False
    every_kubelet.behave(doomed["Checking"]).verdict = lambda _: None
    every_kubelet.behave(doomed["at rest"])
    operator = operate(*(part for name in doomed.values() for part in ("--namespace", name)), *NO_RESYNC)
    others = {stage: ServedPipeline(api, name).create() for stage, name in doomed.items()}
    others["at rest"].wait_settled()
    for stage in ("Expanding", "Checking"):
        others[stage].wait_condition("Reconciling", reason=stage)
    for name in doomed.values():
        api.delete(f"/api/v1/namespaces/{name}")
    served.create()
    served.wait_settled(epoch=1)
    for name in doomed.values():
        wait_for("the namespace's end", lambda name=name: api.find(f"/api/v1/namespaces/{name}") is None, seconds=200)
    assert operator.exit_code is None
    assert operator.ask("/healthz")[0] == 200
    served.cut("maxpool", "layer3.0/relu")
    served.wait_settled(epoch=2)


@pytest.mark.parametrize(
    ("kind", "name", "body"),
    [
        ("Service", "small-edge", {"spec": {"selector": {"app": "theirs"}, "ports": [{"name": "grpc", "port": 8001}]}}),
        ("ServiceAccount", "small", {"automountServiceAccountToken": True}),
        ("ConfigMap", "small-plan", {"data": {"theirs": "yes"}}),
        (
            "PodDisruptionBudget",
            "small",
            {"spec": {"maxUnavailable": 3, "selector": {"matchLabels": {"app": "theirs"}}}},
        ),
    ],
)
def test_an_object_of_somebody_else_with_a_name_that_is_needed_is_left_alone_and_told_of(
    operate: Operate, served: ServedPipeline, api: ApiServer, kind: str, name: str, body: Manifest
) -> None:
    path = served.path_of(kind, name)
    before = api.create(path.removesuffix(f"/{name}"), {"metadata": {"name": name}, **body})
    operate(*NO_RESYNC)
    served.create()
    stalled = served.wait_condition("Stalled", reason="WriteRefused")
    assert f"{kind} {served.namespace}/{name} is there already and belongs to somebody else" in stalled["message"]
    after = api.get(path)
    for field in ("spec", "data", "automountServiceAccountToken"):
        assert after.get(field) == before.get(field)
    assert "ownerReferences" not in after["metadata"]
    assert "labels" not in after["metadata"]
    api.delete(path)
    served.wait_settled(epoch=1, seconds=200)


def test_two_pipelines_whose_names_collide_do_not_fight(
    operate: Operate, served: ServedPipeline, api: ApiServer
) -> None:
    operator = operate("--resync-seconds", "0.5")
    served.create()
    versions = served.wait_still()
    second = ServedPipeline(api, served.namespace, "small-edge").create()
    stalled = second.wait_condition("Stalled")
    assert "belongs to InferencePipeline small" in stalled["message"]
    rounds = "tierflow_operator_reconcile_seconds_count"
    visits = sum(operator.metric(rounds).values())
    wait_for("ten more visits", lambda: sum(operator.metric(rounds).values()) >= visits + 10)
    assert served.versions() == versions
    served.delete()
    second.wait_settled(epoch=1, seconds=200)


def test_a_pipeline_that_cannot_be_planned_does_not_hold_up_the_others(
    operate: Operate, served: ServedPipeline, api: ApiServer
) -> None:
    operate(*NO_RESYNC)
    wrong = ServedPipeline(api, served.namespace, "wrong")
    wrong.create(planning={"pins": [{"name": "privacy", "layersUpTo": "nowhere", "tier": "device"}]})
    tight = ServedPipeline(api, served.namespace, "tight").create(
        tiers=tiers(device={"memoryBudget": 1}, edge={"memoryBudget": 1}, cloud={"memoryBudget": 1})
    )
    unknown = ServedPipeline(api, served.namespace, "unknown").create(model={"uri": "zoo://nothing"})
    served.create()
    served.wait_settled(epoch=1)
    assert "privacy" in wrong.wait_condition("PlanFeasible", status="False")["message"]
    assert "nowhere" in wrong.condition("PlanFeasible")["message"]
    assert "memoryBudget" in tight.wait_condition("PlanFeasible", status="False")["message"]
    assert "nothing" in unknown.wait_condition("PlanFeasible", status="False")["message"]
    wrong.edit(planning={"pins": [{"name": "privacy", "layersUpTo": "maxpool", "tier": "device"}]})
    wrong.wait_settled(epoch=1)


def test_workers_that_are_lost_are_told_of_and_welcomed_back(
    operate: Operate, served: ServedPipeline, kubelet: Behaviour
) -> None:
    operate(*NO_RESYNC)
    served.create(
        planning={"mode": "Manual", "manual": {"deviceLastLayer": "maxpool", "edgeLastLayer": "layer3.0/relu"}}
    )
    served.wait_settled(epoch=1)
    kubelet.gets_ready = lambda pod: pod["metadata"]["labels"]["app.kubernetes.io/component"] != "cloud"
    ready = served.wait_condition("Ready", status="False")
    assert "cloud" in ready["message"]
    kubelet.gets_ready = Behaviour().gets_ready
    served.wait_settled(epoch=1)
