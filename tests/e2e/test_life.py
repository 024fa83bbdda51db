"""A pipeline's life: at rest, edited, disturbed, deleted."""

import json

import pytest

from kindbed.cluster import Cluster
from kindbed.figures import note
from kindbed.pipelines import SAMPLE, Pipeline
from kindbed.requests_made import lease_renewals, writes
from kindbed.traffic import Load, Task

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

_REPLANS = 10
_EVERY_SECONDS = 0.5  # the nodes share the cores of one machine: what requests take of them, new workers lack
_CUTS = ("layer2.1/relu", "layer3.1/relu")
_RENEWALS_OF_A_REST = 20  # one every three seconds


def test_at_rest_the_operator_writes_nothing(cluster: Cluster, resnet18: Pipeline) -> None:
    before = len(cluster.audit())
    cluster.wait_for(
        "a minute of the operator's", lambda: lease_renewals(cluster.audit()[before:]) > _RENEWALS_OF_A_REST, 180
    )
    assert writes(cluster.audit()[before:]) == []


def test_there_is_no_difference_to_what_was_applied(cluster: Cluster, resnet18: Pipeline) -> None:
    said = cluster.kubectl("diff", "-f", str(SAMPLE), codes=(0, 1))
    assert said == ""


def test_nothing_is_written_into_spec_or_metadata(resnet18: Pipeline) -> None:
    said = resnet18.cluster.kubectl("get", "ipl", resnet18.name, "-o", "json", "--show-managed-fields")
    metadata = json.loads(said)["metadata"]
    operators = [entry["fieldsV1"] for entry in metadata["managedFields"] if entry["manager"] == "tierflow"]
    written = {part for fields in operators for part in fields}
    assert written == {"f:status"}
    assert "finalizers" not in metadata


def test_an_edited_spec_comes_into_force_while_requests_run(resnet18: Pipeline, address: str, task: Task) -> None:
    before, epoch = resnet18.still_footprints(), resnet18.epoch
    with Load(address, resnet18.name, task) as load:
        resnet18.apply(
            planning={"mode": "Manual", "manual": {"deviceLastLayer": "maxpool", "edgeLastLayer": "layer2.1/relu"}}
        )
        resnet18.wait_epoch(epoch)
        assert resnet18.plan()["segments"][1]["lastLayer"] == "layer2.1/relu"
    assert load.failed == []
    assert load.wrong == []
    assert resnet18.footprints()["device"] == before["device"]


@pytest.mark.parametrize("tier", ["device", "edge", "cloud"])
def test_a_worker_that_is_killed_costs_no_request(
    cluster: Cluster, resnet18: Pipeline, address: str, task: Task, tier: str
) -> None:
    with Load(address, resnet18.name, task) as load:
        cluster.wait_for("answers", lambda: len(load.outcomes) > 5, 60)
        victims = {pod["metadata"]["name"] for pod in resnet18.pods(tier)}
        cluster.kubectl("delete", "pod", *victims, "--force", "--grace-period=0", "--wait=false")

        def replaced() -> bool:
            pods = resnet18.pods(tier)
            ready = [
                condition["status"] == "True"
                for pod in pods
                for condition in pod["status"].get("conditions", ())
                if condition["type"] == "Ready"
            ]
            return bool(pods) and all(ready) and not victims & {pod["metadata"]["name"] for pod in pods}

        cluster.wait_for(f"another {tier} worker", replaced, 90)
        known = len(load.outcomes)
        cluster.wait_for("answers after it", lambda: len(load.outcomes) > known + 5, 60)
    longest = max(outcome.answered - outcome.sent for outcome in load.outcomes)
    figures = {"requests": len(load.outcomes), "failed": len(load.failed)}
    note(f"{tier} worker killed", longest_seconds=round(longest, 2), **figures)
    assert load.failed == []
    assert load.wrong == []


def test_ten_plans_in_a_row_lose_no_request(resnet18: Pipeline, address: str, task: Task) -> None:
    def move_to(last_edge_layer: str) -> float:
        """Asks for a cut; returns the seconds from the decision until it was in force."""
        epoch = resnet18.epoch
        cut = {"deviceLastLayer": "maxpool", "edgeLastLayer": last_edge_layer}
        resnet18.apply(planning={"mode": "Manual", "manual": cut})
        resnet18.wait_epoch(epoch)
        return resnet18.moved_within()

    at_rest = [move_to(cut) for cut in reversed(_CUTS)]
    before = resnet18.still_footprints()
    with Load(address, resnet18.name, task, every=_EVERY_SECONDS) as load:
        moves = [move_to(_CUTS[number % 2 - 1]) for number in range(_REPLANS)]
    note(
        "ten plans in a row",
        requests_per_second=2 / _EVERY_SECONDS,
        requests=len(load.outcomes),
        failed=len(load.failed),
        wrong=len(load.wrong),
        decision_to_in_force_seconds=moves,
        decision_to_in_force_without_load_seconds=at_rest,
        p50_seconds=round(load.quantile(0.5), 3),
        p99_seconds=round(load.quantile(0.99), 3),
    )
    assert load.failed == []
    assert load.wrong == []
    after = resnet18.footprints()
    assert "tiles" in after
    assert {component for component in after if after[component] != before[component]} == {"edge", "cloud"}


def test_the_number_of_edge_nodes_changes_the_number_of_tile_workers_alone(
    cluster: Cluster, resnet18: Pipeline
) -> None:
    before = resnet18.still_footprints()
    spare = sorted(resnet18.nodes_of("tiles"))[-1]
    kept = cluster.get("deployment", f"{resnet18.name}-tiles")["spec"]
    cluster.kubectl("label", "node", spare, "tierflow.dev/tier-")
    try:
        cluster.wait_for("fewer tile workers", lambda: resnet18.tile_workers() == kept["replicas"] - 1, 120)
        fewer = cluster.get("deployment", f"{resnet18.name}-tiles")["spec"]
    finally:
        cluster.kubectl("label", "node", spare, "tierflow.dev/tier=edge")
    cluster.wait_for("as many tile workers", lambda: resnet18.tile_workers() == kept["replicas"], 120)
    assert fewer == kept | {"replicas": kept["replicas"] - 1}
    after = resnet18.footprints()
    assert {component for component in after if after[component] != before[component]} == {"tiles"}


def test_a_node_label_that_cannot_be_read_is_told_and_does_no_harm(cluster: Cluster, resnet18: Pipeline) -> None:
    (node,) = cluster.nodes("device")
    epoch = resnet18.epoch

    def told() -> int:
        """How often it was said."""
        events = cluster.objects("events.v1.events.k8s.io")
        ignored = [entry for entry in events if entry["reason"] == "NodeLabelIgnored" and node in entry["note"]]
        return sum(entry.get("series", {}).get("count", 1) for entry in ignored)

    cluster.kubectl("label", "node", node, "tierflow.dev/speed=rather-fast")
    try:
        cluster.wait_for("a word about the label", told, 30)
        resnet18.apply(planning={"mode": "Manual", "manual": {"deviceLastLayer": "maxpool", "edgeLastLayer": _CUTS[0]}})
        resnet18.wait_epoch(epoch)
        # Something else has been said since, so it is said again: by a count, not by another event.
        cluster.wait_for("another word about the label", lambda: told() > 1, 60)
    finally:
        cluster.kubectl("label", "node", node, "tierflow.dev/speed-")


def test_an_object_that_is_deleted_by_hand_comes_back(cluster: Cluster, resnet18: Pipeline) -> None:
    uid = cluster.get("service", f"{resnet18.name}-cloud")["metadata"]["uid"]
    cluster.kubectl("delete", "service", f"{resnet18.name}-cloud")

    def is_back() -> bool:
        found = [entry["metadata"] for entry in cluster.objects("services", resnet18.label)]
        return any(entry["name"] == f"{resnet18.name}-cloud" and entry["uid"] != uid for entry in found)

    cluster.wait_for("the Service again", is_back, 30)


def test_a_pipeline_that_is_deleted_leaves_nothing(cluster: Cluster, resnet18: Pipeline) -> None:
    other = Pipeline(cluster, "short-lived")
    other.apply()
    cluster.wait_for("its Deployments", lambda: len(cluster.objects("deployments", other.label)) >= 3, 120)
    assert other.owned()
    other.delete()
    assert other.owned() == []
    assert resnet18.is_settled()
