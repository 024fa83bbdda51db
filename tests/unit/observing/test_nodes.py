"""Which nodes a pipeline's tiers have, and what their labels say."""

from typing import Any

import pytest

from factories.nodes import node
from factories.pipelines import pipeline
from tierflow.manifest import InferencePipeline
from tierflow.manifest_reading import from_object
from tierflow.network import MEGABIT, NETWORKS, Link
from tierflow.tiers import TIERS, Tier
from tierflow_operator.nodes import LINK_LABELS, SPEED_LABEL, NodesSeen, assumed_observation, observe_nodes
from tierflow_operator.observation import LINKS, Source

ONE_EACH = [node("d1", "device"), node("e1", "edge"), node("c1", "cloud")]
TO_EDGE, TO_CLOUD = LINK_LABELS[Tier.EDGE], LINK_LABELS[Tier.CLOUD]


def seen(*nodes: dict[str, Any], of: InferencePipeline | None = None) -> NodesSeen:
    return observe_nodes(of or pipeline(), nodes)


def with_tier(tier: str, **fields: object) -> InferencePipeline:
    tiers = [{"name": str(name), **(fields if name == tier else {})} for name in TIERS]
    return from_object(
        {
            "apiVersion": "tierflow.dev/v1alpha1",
            "kind": "InferencePipeline",
            "metadata": {"name": "small"},
            "spec": {"model": {"uri": "zoo://resnet18"}, "tiers": tiers},
        }
    )


def test_nodes_belong_to_the_tier_that_their_label_says() -> None:
    found = seen(*ONE_EACH, node("e0", "edge"), node("other"), node("strange", "basement"))
    assert found.names == {Tier.DEVICE: ("d1",), Tier.EDGE: ("e0", "e1"), Tier.CLOUD: ("c1",)}
    assert found.ready_nodes == {Tier.DEVICE: 1, Tier.EDGE: 2, Tier.CLOUD: 1}
    assert found.problems == ()


def test_a_pipeline_may_select_its_nodes_by_other_labels() -> None:
    selective = with_tier("edge", nodeSelector={"site": "roof", "gpu": "no"})
    nodes = [
        node("a", "edge"),
        node("b", labels={"site": "roof", "gpu": "no"}),
        node("c", labels={"site": "roof"}),
    ]
    assert seen(*nodes, of=selective).names[Tier.EDGE] == ("b",)


@pytest.mark.parametrize(
    "fault",
    [
        {"ready": "False"},
        {"ready": "Unknown"},
        {"cordoned": True},
        {"leaving": True},
        {"taints": [{"key": "tenant", "value": "a", "effect": "NoSchedule"}]},
        {"taints": [{"key": "tenant", "effect": "NoExecute"}]},
    ],
)
def test_a_node_that_takes_no_pods_does_not_count(fault: dict[str, Any]) -> None:
    assert seen(node("e1", "edge", **fault), node("e2", "edge")).names[Tier.EDGE] == ("e2",)


def test_a_node_without_conditions_or_labels_does_not_count() -> None:
    bare = {"kind": "Node", "metadata": {"name": "new", "labels": None}, "spec": None, "status": {"conditions": None}}
    assert seen(bare).ready_nodes == dict.fromkeys(TIERS, 0)


def test_a_taint_that_only_prefers_others_does_not_exclude_a_node() -> None:
    assert seen(node("e1", "edge", taints=[{"key": "old", "effect": "PreferNoSchedule"}])).ready_nodes[Tier.EDGE] == 1


@pytest.mark.parametrize(
    ("toleration", "counts"),
    [
        ({"operator": "Exists"}, True),
        ({"key": "tenant", "operator": "Exists"}, True),
        ({"key": "tenant", "value": "a"}, True),
        ({"key": "tenant", "value": "a", "effect": "NoExecute"}, True),
        ({"key": "tenant", "value": "b"}, False),
        ({"key": "tenant", "value": "a", "effect": "NoSchedule"}, False),
        ({"key": "lodger", "operator": "Exists"}, False),
        ({"key": "tenant", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}, False),
    ],
)
def test_a_tainted_node_counts_where_the_tier_tolerates_it_for_good(
    toleration: dict[str, object], counts: bool
) -> None:
    tainted = node("e1", "edge", taints=[{"key": "tenant", "value": "a", "effect": "NoExecute"}])
    found = seen(tainted, of=with_tier("edge", tolerations=[toleration]))
    assert found.ready_nodes[Tier.EDGE] == int(counts)
    assert seen(tainted, of=with_tier("cloud", tolerations=[toleration])).ready_nodes[Tier.EDGE] == 0


def test_every_taint_has_to_be_tolerated() -> None:
    tainted = node("e1", "edge", taints=[{"key": key, "effect": "NoSchedule"} for key in ("one", "two")])
    one = [{"key": "one", "operator": "Exists"}]
    both = [*one, {"key": "two", "operator": "Exists"}]
    assert seen(tainted, of=with_tier("edge", tolerations=one)).ready_nodes[Tier.EDGE] == 0
    assert seen(tainted, of=with_tier("edge", tolerations=both)).ready_nodes[Tier.EDGE] == 1


def test_without_labels_and_annotations_all_figures_are_defaults() -> None:
    observation = assumed_observation(pipeline(), seen(*ONE_EACH))
    assert {link.source for link in observation.links.values()} == {Source.DEFAULT}
    assert {speed.source for speed in observation.speeds.values()} == {Source.DEFAULT}
    assert observation.ready_nodes == dict.fromkeys(TIERS, 1)
    assert observation.unavailable == frozenset()


def test_labels_say_speeds_and_links_and_the_rest_stays_default() -> None:
    nodes = [
        node("d1", "device", {SPEED_LABEL: "phone", TO_EDGE: "50Mbit_4ms"}),
        node("e1", "edge", {SPEED_LABEL: "0.7", TO_EDGE: "100Mbit_1ms"}),
        node("c1", "cloud"),
    ]
    observation = assumed_observation(pipeline(), seen(*nodes))
    assert {tier: (speed.speed, speed.source) for tier, speed in observation.speeds.items()} == {
        Tier.DEVICE: (0.15, Source.NODE_LABELS),
        Tier.EDGE: (0.7, Source.NODE_LABELS),
        Tier.CLOUD: (1.0, Source.DEFAULT),
    }
    link = observation.links[(Tier.DEVICE, Tier.EDGE)]
    assert link.source is Source.NODE_LABELS
    assert link.link == Link(bytes_per_second=50 * MEGABIT, round_trip_seconds=0.004)
    assert observation.links[(Tier.EDGE, Tier.CLOUD)].source is Source.DEFAULT
    assert observation.edge_link == Link(bytes_per_second=100 * MEGABIT, round_trip_seconds=0.001)


def test_the_direct_link_is_the_path_through_the_edge_unless_a_label_describes_it() -> None:
    edge = node("e1", "edge", {TO_CLOUD: "4g"})
    via_edge = assumed_observation(pipeline(), seen(node("d1", "device"), edge))
    assert via_edge.network.device_cloud.bytes_per_second == NETWORKS["4g"].edge_cloud.bytes_per_second
    own = assumed_observation(pipeline(), seen(node("d1", "device", {TO_CLOUD: "3g"}), edge))
    assert own.network.device_cloud == NETWORKS["3g"].edge_cloud


def test_annotations_of_the_pipeline_precede_labels_of_nodes() -> None:
    annotated = pipeline(
        annotations={
            "tierflow.dev/network": "device-edge=10Mbit/s:1ms,edge-cloud=20Mbit/s:2ms",
            "tierflow.dev/speeds": "device=0.2,edge=0.3,cloud=0.4",
        }
    )
    labels = {SPEED_LABEL: "9", TO_EDGE: "1Mbit_1ms", TO_CLOUD: "1Mbit_1ms"}
    observation = assumed_observation(annotated, seen(*[node(f"{tier}-1", tier, labels) for tier in TIERS]))
    assert observation.network.edge_cloud.bytes_per_second == 20 * MEGABIT
    assert observation.tier_speeds == {Tier.DEVICE: 0.2, Tier.EDGE: 0.3, Tier.CLOUD: 0.4}
    assert {observation.links[link].source for link in LINKS} == {Source.ASSUMED}
    assert {speed.source for speed in observation.speeds.values()} == {Source.ASSUMED}


def test_one_node_that_differs_does_not_make_a_tiers_figure() -> None:
    nodes = [
        node(name, "device", {SPEED_LABEL: speed, TO_EDGE: link})
        for name, speed, link in (("a", "0.1", "50Mbit_4ms"), ("b", "0.1", "50Mbit_4ms"), ("c", "7", "1kbit_9s"))
    ]
    found = seen(*nodes)
    assert found.tier_speeds[Tier.DEVICE] == 0.1
    assert found.links[(Tier.DEVICE, Tier.EDGE)].bytes_per_second == 50 * MEGABIT


def test_edge_nodes_of_unequal_speed_are_known_relative_to_their_tier() -> None:
    nodes = [node(name, "edge", {SPEED_LABEL: speed}) for name, speed in (("a", "0.5"), ("b", "1"), ("c", "0.25"))]
    found = seen(*nodes, node("d", "edge"))
    assert found.tier_speeds[Tier.EDGE] == 0.5
    assert found.edge_speeds == (1.0, 2.0, 1.0, 0.5)
    assert seen(*nodes[:1], node("d", "edge")).edge_speeds == ()


@pytest.mark.parametrize(
    ("label", "text", "hint"),
    [
        (SPEED_LABEL, "fast", "positive number"),
        (SPEED_LABEL, "-1", "positive number"),
        (SPEED_LABEL, "0", "positive number"),
        (SPEED_LABEL, "nan", "positive number"),
        (SPEED_LABEL, "phones", "phone"),
        (TO_CLOUD, "quick", "84Mbit_3ms"),
        (TO_CLOUD, "0Mbit_3ms", "84Mbit_3ms"),
        (TO_CLOUD, "10Mbit_soon", "84Mbit_3ms"),
        (TO_CLOUD, "", "84Mbit_3ms"),
    ],
)
def test_a_label_that_cannot_be_read_is_reported_by_node_and_left_out(label: str, text: str, hint: str) -> None:
    found = seen(node("e1", "edge", {label: text}), node("e2", "edge", {SPEED_LABEL: "0.3", TO_CLOUD: "5Mbit_9ms"}))
    (problem,) = found.problems
    assert f"label {label} of node e1" in problem
    assert hint in problem
    assert found.tier_speeds[Tier.EDGE] == 0.3
    assert found.links[(Tier.EDGE, Tier.CLOUD)].bytes_per_second == 5 * MEGABIT
    assert found.ready_nodes[Tier.EDGE] == 2


def test_labels_of_nodes_that_do_not_count_are_not_read() -> None:
    assert seen(node("e1", "edge", {SPEED_LABEL: "fast"}, cordoned=True)).problems == ()
