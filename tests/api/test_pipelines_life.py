"""A pipeline's life on a real API server: applied, served, edited, left alone, repaired, deleted."""

from collections.abc import Callable

import pytest

from testbed.control_plane import ControlPlane
from testbed.nodes import Nodes
from testbed.operator_process import OperatorProcess
from testbed.pipelines import tiers
from testbed.process import wait_for
from testbed.rest import Manifest
from testbed.served_pipeline import ServedPipeline
from testbed.watched import Watched

Operate = Callable[..., OperatorProcess]

TIERS = ("device", "edge", "cloud")
EARLY = {"mode": "Manual", "manual": {"deviceLastLayer": "maxpool", "edgeLastLayer": "layer2.0/relu"}}


@pytest.fixture(autouse=True)
def the_nodes(nodes: Nodes) -> Nodes:
    """One node of the device and of the cloud, and two at the edge."""
    nodes.add_all(edge=2)
    return nodes


def test_a_pipeline_is_served_and_says_so(
    operate: Operate, served: ServedPipeline, control_plane: ControlPlane
) -> None:
    operate()
    served.create()
    status = served.wait_settled(epoch=1)
    assert status["endpoint"]["grpc"] == f"small.{served.namespace}.svc:8001"
    assert [segment["tier"] for segment in status["plan"]["segments"]] == list(TIERS)
    assert sum(segment["layers"] for segment in status["plan"]["segments"]) == 69
    assert status["plan"]["reason"] == "Initial"
    assert served.condition("Lossless")["status"] == "True"
    assert served.condition("PlanFeasible")["status"] == "True"
    assert served.condition("MetricsAvailable")["reason"] == "NotConfigured"
    assert {entry["tier"]: entry["ready"] for entry in status["observed"]["nodes"]} == {
        "device": 1,
        "edge": 2,
        "cloud": 1,
    }
    row = control_plane.kubectl("get", "ipl", "-n", served.namespace).splitlines()[1].split()
    assert row[:3] == ["small", "True", "1"]
    assert row[-2] == "ServingPlan"
    said = control_plane.kubectl("describe", "ipl", "small", "-n", served.namespace)
    assert "epoch 1" in said.partition("Events:")[2]
    for tier in TIERS:
        assert served.deployment(tier)["status"]["readyReplicas"] == 1
    (services, accounts) = (served.owned("Service"), served.owned("ServiceAccount"))
    assert {"small", "small-device", "small-edge", "small-cloud"} <= set(services)
    assert all(account["automountServiceAccountToken"] is False for account in accounts.values())


def test_the_users_object_gets_no_finalizer_no_annotation_and_no_spec(operate: Operate, served: ServedPipeline) -> None:
    operate()
    before = served.create(annotations={"tierflow.dev/network": "wifi"}).get()
    served.wait_settled()
    after = served.get()
    assert after["spec"] == before["spec"]
    assert after["metadata"]["generation"] == 1
    assert after["metadata"]["annotations"] == {"tierflow.dev/network": "wifi"}
    assert "finalizers" not in after["metadata"]
    assert "labels" not in after["metadata"]
    managers = {entry["manager"]: entry.get("subresource") for entry in after["metadata"]["managedFields"]}
    assert managers["tierflow"] == "status"


def test_at_rest_nothing_is_written(operate: Operate, served: ServedPipeline) -> None:
    operator = operate("--resync-seconds", "0.3")
    served.create()
    versions, writes = served.wait_still(), operator.writes()
    rounds = "tierflow_operator_reconcile_seconds_count"
    visits = sum(operator.metric(rounds).values())
    wait_for("twenty more visits", lambda: sum(operator.metric(rounds).values()) >= visits + 20)
    assert operator.writes() == writes
    assert served.versions() == versions


def test_an_operator_that_starts_anew_finds_all_as_it_should_be(operate: Operate, served: ServedPipeline) -> None:
    first = operate()
    served.create()
    versions = served.wait_still()
    first.stop()
    second = operate("--resync-seconds", "0.3")
    wait_for("five visits", lambda: sum(second.metric("tierflow_operator_reconcile_seconds_count").values()) >= 5)
    assert served.versions() == versions
    assert sum(second.writes().values()) == 0


def test_an_edit_changes_only_what_it_is_about(operate: Operate, served: ServedPipeline) -> None:
    operate()
    served.create(tiers=tiers(edge={"tiling": {"mode": "Off"}}))
    served.wait_still()
    before = {tier: served.deployment(tier) for tier in TIERS}
    pods = served.owned("Pod")
    served.edit(tiers=tiers(device={"replicas": 2}, edge={"tiling": {"mode": "Off"}}))
    served.wait_settled()
    after = {tier: served.deployment(tier) for tier in TIERS}
    assert after["device"]["spec"]["replicas"] == 2
    assert set(pods) < set(served.owned("Pod"))
    for tier in ("edge", "cloud"):
        assert after[tier]["metadata"]["resourceVersion"] == before[tier]["metadata"]["resourceVersion"]


def test_a_field_that_is_taken_out_of_the_spec_is_taken_out_of_the_workers(
    operate: Operate, served: ServedPipeline
) -> None:
    operate()
    served.create(tiers=tiers(device={"resources": {"limits": {"cpu": "2"}}, "tolerations": [{"operator": "Exists"}]}))
    served.wait_settled()

    def pod() -> Manifest:
        found: Manifest = served.deployment("device")["spec"]["template"]["spec"]
        return found

    assert pod()["containers"][0]["resources"]["limits"] == {"cpu": "2"}
    tolerations = pod()["tolerations"]
    served.edit(tiers=tiers())
    served.wait_settled()
    assert "limits" not in pod()["containers"][0]["resources"]
    assert len(pod()["tolerations"]) == len(tolerations) - 1


def test_another_cut_replaces_the_workers_that_it_changes_and_no_other(
    operate: Operate, served: ServedPipeline
) -> None:
    operate()
    served.create(planning=EARLY, tiers=tiers(edge={"tiling": {"mode": "Off"}}))
    served.wait_settled(epoch=1)
    before = {tier: served.deployment(tier) for tier in TIERS}
    served.cut("maxpool", "layer3.0/relu")
    status = served.wait_settled(epoch=2)
    assert status["plan"]["reason"] == "SpecChanged"
    after = {tier: served.deployment(tier) for tier in TIERS}
    assert after["device"]["metadata"]["generation"] == before["device"]["metadata"]["generation"]
    for tier in ("edge", "cloud"):
        assert after[tier]["metadata"]["generation"] > before[tier]["metadata"]["generation"]
    assert status["decisions"][0]["decision"] == "Move"
    assert [entry["epoch"] for entry in status["decisions"]] == [2, 1]


def test_a_paused_pipeline_keeps_its_plan_and_its_repairs(
    operate: Operate, served: ServedPipeline, nodes: Nodes
) -> None:
    operate()
    served.create()
    served.wait_settled(epoch=1)
    served.edit(planning={"mode": "Paused"})
    served.wait_settled(epoch=1)
    nodes.add("edge", 2)
    served.api.delete(served.path_of("Service", "small-edge"))
    wait_for("the Service to be made again", lambda: "small-edge" in served.owned("Service"))
    served.wait_settled(epoch=1)


def test_a_deleted_pipeline_leaves_nothing(operate: Operate, served: ServedPipeline) -> None:
    operator = operate()
    served.create()
    served.wait_settled()
    for kind in ("ConfigMap", "Service", "ServiceAccount", "Deployment", "PodDisruptionBudget"):
        for manifest in served.owned(kind).values():
            (owner,) = manifest["metadata"]["ownerReferences"]
            assert (owner["kind"], owner["name"]) == ("InferencePipeline", "small")
    served.delete()
    wait_for("nothing of it to be left", served.is_gone, seconds=120)
    assert operator.exit_code is None


def test_a_pipeline_that_is_deleted_and_created_again_begins_anew(operate: Operate, served: ServedPipeline) -> None:
    operate()
    served.create()
    served.wait_settled(epoch=1)
    served.cut("maxpool", "layer3.0/relu")
    served.wait_settled(epoch=2)
    old = served.get()["metadata"]["uid"]
    served.delete()
    served.create()
    new = served.get()["metadata"]["uid"]

    served.wait_settled(epoch=1)
    assert served.owners() == {new}
    assert new != old


def test_a_pipeline_waits_until_nothing_is_left_of_one_that_had_its_name(
    operate: Operate, served: ServedPipeline
) -> None:
    operate()
    served.create()
    served.wait_settled(epoch=1)
    served.cut("maxpool", "layer3.0/relu")
    served.wait_settled(epoch=2)
    record = served.path_of("ConfigMap", "small-plan")
    # The garbage collector deletes it, but it isn't gone before this is.
    served.api.patch(record, {"metadata": {"finalizers": ["example.com/hold"]}})
    served.delete()
    served.create()
    said = served.wait_condition("Ready", status="False", reason="PredecessorLeaving")["message"]
    wait_for("the rest to be gone", lambda: set(served.owned("ConfigMap")) == {"small-plan"})
    assert "ConfigMap small-" in said
    assert "plan" not in served.status
    served.api.patch(record, {"metadata": {"finalizers": None}})
    served.wait_settled(epoch=1)


def test_objects_that_a_deleted_pipeline_was_not_to_take_along_serve_the_next(
    operate: Operate, served: ServedPipeline, control_plane: ControlPlane
) -> None:
    operate()
    served.create()
    served.wait_settled(epoch=1)
    served.edit(planning=EARLY)
    served.wait_settled(epoch=2)
    pods = set(served.owned("Pod"))
    control_plane.kubectl("delete", "ipl", served.name, "-n", served.namespace, "--cascade=orphan")
    served.create(planning=EARLY)
    new = served.get()["metadata"]["uid"]
    served.wait_settled(epoch=2)
    wait_for("all to be the new one's", lambda: served.owners() == {new})
    assert set(served.owned("Pod")) == pods


def test_what_others_change_in_owned_fields_is_taken_back(operate: Operate, served: ServedPipeline) -> None:
    operate()
    served.create()
    served.wait_settled()
    service, deployment = served.path_of("Service", "small-cloud"), served.path_of("Deployment", "small-edge")
    served.api.patch(service, {"spec": {"selector": {"app.kubernetes.io/component": "edge"}}})
    served.api.patch(deployment, {"spec": {"template": {"spec": {"terminationGracePeriodSeconds": 1}}}})
    served.api.delete(served.path_of("PodDisruptionBudget", "small"))

    def is_repaired() -> bool:
        grace = served.api.get(deployment)["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
        selector = served.api.get(service)["spec"]["selector"]["app.kubernetes.io/component"]
        return bool(served.owned("PodDisruptionBudget")) and selector == "cloud" and grace > 1

    wait_for("the repair", is_repaired)
    served.wait_settled()


def test_what_others_own_is_left_alone(operate: Operate, served: ServedPipeline) -> None:
    operator = operate("--resync-seconds", "0.3")
    served.create()
    served.wait_settled()
    deployment = served.path_of("Deployment", "small-edge")
    note = {"metadata": {"annotations": {"example.com/note": "mine"}, "labels": {"example.com/team": "vision"}}}
    served.api.patch(deployment, note)
    # What a HorizontalPodAutoscaler does.
    served.api.patch(f"{deployment}/scale", {"spec": {"replicas": 3}})
    served.wait_settled()
    rounds = "tierflow_operator_reconcile_seconds_count"
    visits = sum(operator.metric(rounds).values())
    wait_for("ten more visits", lambda: sum(operator.metric(rounds).values()) >= visits + 10)
    kept = served.api.get(deployment)
    assert kept["spec"]["replicas"] == 3
    assert kept["metadata"]["annotations"]["example.com/note"] == "mine"
    assert kept["metadata"]["labels"]["example.com/team"] == "vision"
    # And through a move.
    epoch = served.status["plan"]["epoch"]
    served.cut("maxpool", "layer3.0/relu")
    served.wait_settled(epoch=epoch + 1)
    kept = served.api.get(deployment)
    assert (kept["spec"]["replicas"], kept["metadata"]["annotations"]["example.com/note"]) == (3, "mine")


def test_replicas_that_the_spec_gives_are_taken_back(operate: Operate, served: ServedPipeline) -> None:
    operate()
    served.create(tiers=tiers(cloud={"replicas": 2}))
    served.wait_settled()
    deployment = served.path_of("Deployment", "small-cloud")
    served.api.patch(f"{deployment}/scale", {"spec": {"replicas": 5}})
    wait_for("two replicas again", lambda: served.api.get(deployment)["spec"]["replicas"] == 2)
    served.wait_settled()


def test_a_thrown_away_status_is_made_again_without_a_move(operate: Operate, served: ServedPipeline) -> None:
    operate()
    served.create()
    before = served.wait_settled()
    served.api.request("PUT", f"{served.path}/status", {**served.get(), "status": {}})
    after = served.wait_settled()
    assert after["plan"] == before["plan"]
    assert after["decisions"] == before["decisions"]


def test_a_thrown_away_record_moves_no_worker_that_serves_what_is_wanted(
    operate: Operate, served: ServedPipeline
) -> None:
    operate()
    served.create()
    served.wait_settled()
    before = {tier: served.deployment(tier)["metadata"]["generation"] for tier in TIERS}
    served.api.delete(served.path_of("ConfigMap", "small-plan"))
    wait_for("the record to be made again", lambda: "small-plan" in served.owned("ConfigMap"))
    served.wait_settled()
    assert {tier: served.deployment(tier)["metadata"]["generation"] for tier in TIERS} == before


def test_a_record_that_somebody_broke_is_made_again(operate: Operate, served: ServedPipeline) -> None:
    operate()
    served.create()
    served.wait_settled()
    for record in ("", "{", '{"version": 99}', '{"target": null}', "x" * 100_000):
        served.api.patch(served.path_of("ConfigMap", "small-plan"), {"data": {"record.json": record}})
        wait_for("another record", lambda: _has_record(served))
        served.wait_settled()


def _has_record(served: ServedPipeline) -> bool:
    try:
        return bool(served.record()["settled"])
    except (KeyError, ValueError):
        return False


def test_a_tier_is_never_without_a_worker_during_a_move(operate: Operate, served: ServedPipeline) -> None:
    operate()
    served.create(planning=EARLY)
    served.wait_settled()
    watched = Watched(served.api, f"/apis/apps/v1/namespaces/{served.namespace}/deployments")
    watched.wait_listed()
    served.cut("layer1.0/relu", "layer3.0/relu")
    served.wait_settled(epoch=2)
    watched.stop()
    seen = [manifest for _, manifest in watched.events if manifest["metadata"]["name"].removeprefix("small-") in TIERS]
    assert len(seen) > 3
    assert all(manifest["status"].get("availableReplicas", 0) >= 1 for manifest in seen)
