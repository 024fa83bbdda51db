"""Nodes that come, go, lose their label, are cordoned or not ready: what becomes of plans and of tile workers."""

from collections.abc import Callable

import pytest

from testbed.nodes import Nodes
from testbed.operator_process import OperatorProcess
from testbed.pipelines import tiers
from testbed.process import wait_for
from testbed.served_pipeline import ServedPipeline

Operate = Callable[..., OperatorProcess]

# Long enough that a test sees events and not the resync at work.
NO_RESYNC = ("--resync-seconds", "86400")
EAGER = {"minIntervalSeconds": 0, "stabilizationSeconds": 0, "minImprovementPercent": 0}
# Of such figures that the edge's tiles are worth it and each tier has its part.
FIGURES = {
    "tierflow.dev/network": "device-edge=84Mbit/s:3ms,edge-cloud=3Mbit/s:60ms",
    "tierflow.dev/speeds": "device=0.02,edge=0.3,cloud=1",
}


def ready_nodes(served: ServedPipeline) -> dict[str, int]:
    """How many nodes of each tier the plan in force was decided from."""
    return {entry["tier"]: entry["ready"] for entry in served.status["observed"]["nodes"]}


def computing(served: ServedPipeline) -> set[str]:
    """The tiers that compute layers."""
    return {segment["tier"] for segment in served.status["plan"]["segments"] if segment["layers"]}


def tile_replicas(served: ServedPipeline) -> int:
    """How many tile workers are wanted."""
    deployment = served.owned("Deployment").get("small-tiles")
    return 0 if deployment is None else int(deployment["spec"]["replicas"])


def test_edge_nodes_that_come_and_go_change_the_number_of_tile_workers_and_nothing_else(
    operate: Operate, served: ServedPipeline, nodes: Nodes
) -> None:
    edges = nodes.add_all(edge=2)[1:3]
    operate(*NO_RESYNC)
    served.create(annotations=FIGURES, planning=EAGER)
    served.wait_settled()
    assert tile_replicas(served) == 1
    before = {name: served.deployment(name)["metadata"]["generation"] for name in ("device", "cloud")}
    added = nodes.add("edge", 2)
    wait_for("a tile worker per node", lambda: tile_replicas(served) == 3, seconds=120)
    served.wait_settled()
    wait_for("its being told", lambda: served.status["plan"].get("tiling", {}).get("workers") == 4)
    nodes.remove(added[0])
    wait_for("one tile worker less", lambda: tile_replicas(served) == 2, seconds=120)
    nodes.cordon(added[1])
    wait_for("one tile worker less again", lambda: tile_replicas(served) == 1, seconds=120)
    nodes.cordon(added[1], on=False)
    wait_for("a tile worker more", lambda: tile_replicas(served) == 2, seconds=120)
    nodes.label(edges[1], {"tierflow.dev/tier": None})
    wait_for("a tile worker less", lambda: tile_replicas(served) == 1, seconds=120)
    nodes.set_ready(added[1], ready=False)
    wait_for("no tile worker", lambda: tile_replicas(served) == 0, seconds=120)
    assert {name: served.deployment(name)["metadata"]["generation"] for name in ("device", "cloud")} == before


@pytest.mark.parametrize("tier", ["edge", "cloud"])
def test_a_tier_that_is_lost_is_planned_around_and_comes_back(
    operate: Operate, served: ServedPipeline, nodes: Nodes, tier: str
) -> None:
    names = dict(zip(("device", "edge", "cloud"), nodes.add_all(), strict=True))
    operate(*NO_RESYNC)
    budget = {"memoryBudget": "24Mi"}
    served.create(annotations=FIGURES, planning=EAGER, tiers=tiers(edge=budget))
    served.wait_settled()
    assert tier in computing(served)
    nodes.set_ready(names[tier], ready=False)
    wait_for("a plan without it", lambda: tier not in computing(served), seconds=120)
    assert served.status["plan"]["reason"] == "NodesChanged"
    served.wait_condition("Ready")
    assert tier in served.status["plan"]["message"]
    nodes.set_ready(names[tier], ready=True)
    wait_for("a plan with it", lambda: tier in computing(served), seconds=120)
    served.wait_settled()
    assert ready_nodes(served)[tier] == 1


def test_a_pipeline_without_any_node_waits_for_one_and_says_so(
    operate: Operate, served: ServedPipeline, nodes: Nodes
) -> None:
    selector = {"nodeSelector": {"example.com/site": served.namespace}}
    operate(*NO_RESYNC)
    served.create(planning=EAGER, tiers=tiers(device=selector, edge=selector, cloud=selector))
    ready = served.wait_condition("Ready", status="False")
    wait_for("the nodes to be named", lambda: "node" in served.condition("Ready")["message"])
    assert ready["status"] == "False"
    # One node can be of all tiers, if the pipeline says so.
    nodes.add("device", labels={"example.com/site": served.namespace})
    wait_for("a plan on it", lambda: set(ready_nodes(served).values()) == {1}, seconds=120)
    served.wait_settled()


def test_a_node_that_is_no_concern_of_a_pipeline_costs_it_no_write(
    operate: Operate, served: ServedPipeline, nodes: Nodes
) -> None:
    nodes.add_all()
    operator = operate("--resync-seconds", "0.3")
    served.create()
    versions = served.wait_still()
    rounds = "tierflow_operator_reconcile_seconds_count"
    others = nodes.add("none", 3)
    visits = sum(operator.metric(rounds).values())
    for name in others:
        nodes.set_ready(name, ready=False)
        nodes.remove(name)
    wait_for("ten more visits", lambda: sum(operator.metric(rounds).values()) >= visits + 10)
    assert served.versions() == versions


def test_labels_of_nodes_say_what_to_assume_of_machines_and_links(
    operate: Operate, served: ServedPipeline, nodes: Nodes
) -> None:
    nodes.add("device", labels={"tierflow.dev/speed": "0.05", "tierflow.dev/link-edge": "40Mbit_5ms"})
    nodes.add("edge", labels={"tierflow.dev/speed": "0.6"})
    nodes.add("cloud", labels={"tierflow.dev/speed": "as-fast-as-light"})
    operate(*NO_RESYNC)
    served.create()
    observed = served.wait_settled()["observed"]
    speeds = {entry["tier"]: (entry["percent"], entry["source"]) for entry in observed["speeds"]}
    assert speeds["device"] == (5, "NodeLabels")
    assert speeds["edge"] == (60, "NodeLabels")
    assert speeds["cloud"][1] == "Default"
    (link,) = [entry for entry in observed["links"] if (entry["from"], entry["to"]) == ("device", "edge")]
    assert (link["kilobitsPerSecond"], link["roundTripMicroseconds"], link["source"]) == (40_000, 5_000, "NodeLabels")
    events = f"/apis/events.k8s.io/v1/namespaces/{served.namespace}/events"
    notes = [entry["note"] for entry in served.api.items(events) if entry["reason"] == "NodeLabelIgnored"]
    assert any("as-fast-as-light" in note for note in notes)
