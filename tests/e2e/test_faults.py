"""Nodes that go while requests run: no request is lost, and plans are made on what is left, and on what comes back."""

import time
from collections.abc import Iterator

import pytest

from kindbed.cluster import Cluster
from kindbed.figures import note
from kindbed.pipelines import Pipeline
from kindbed.shaping import Links, disconnected, stopped
from kindbed.traffic import Load, Task

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]


@pytest.fixture
def links(cluster: Cluster) -> Iterator[Links]:
    """Links by which edge and cloud both have something to do: without the cloud an answer takes twice as long."""
    shaped = Links(cluster)
    shaped.limit("device", "edge", 400)
    shaped.limit("edge", "cloud", 50)
    shaped.limit("device", "cloud", 10)
    yield shaped
    shaped.free()


@pytest.fixture
def calm(monitored: Pipeline, links: Links) -> Pipeline:
    """The sample on slow tiers, where nothing but a fault is worth another plan."""
    pins = [{"name": "privacy", "layersUpTo": "maxpool", "tier": "device"}]
    monitored.apply(
        planning={"minImprovementPercent": 25, "minIntervalSeconds": 5, "stabilizationSeconds": 10, "pins": pins}
    )
    monitored.wait_settled(180)
    monitored.wait_steady()
    layers = monitored.layers()
    assert layers["edge"] > 0
    assert layers["cloud"] > 0
    return monitored


def test_an_edge_node_that_dies_costs_no_request(cluster: Cluster, calm: Pipeline, address: str, task: Task) -> None:
    (node,) = calm.nodes_of("edge")
    epoch, sharing = calm.epoch, calm.tile_workers()
    with Load(address, calm.name, task) as load:
        cluster.wait_for("answers", lambda: len(load.outcomes) > 5, 60)
        began = time.monotonic()
        with stopped(cluster, node):
            # The same cut may be the best one still; then only fewer workers share its tiles.
            cluster.wait_for("a new plan", lambda: calm.epoch > epoch or calm.tile_workers() < sharing, 120)
            replanned = time.monotonic() - began
            known = time.monotonic()
            cluster.wait_for("answers on what is left", lambda: load.answered_since(known) > 5, 60)
        cluster.wait_for("a plan with all nodes", calm.is_settled, 180)
        back = time.monotonic()
        cluster.wait_for("answers with all nodes", lambda: load.answered_since(back) > 5, 60)
    figures = {"requests": len(load.outcomes), "failed": len(load.failed)}
    note("edge node stopped", seconds_to_new_plan=round(replanned, 1), **figures)
    assert load.failed == []
    assert load.wrong == []


def test_without_the_cloud_a_plan_on_what_is_left_serves_and_the_cloud_is_used_again(
    cluster: Cluster, calm: Pipeline, address: str, task: Task
) -> None:
    (node,) = cluster.nodes("cloud")
    epoch = calm.epoch
    with Load(address, calm.name, task) as load:
        cluster.wait_for("answers", lambda: len(load.outcomes) > 5, 60)
        began = time.monotonic()
        with disconnected(cluster, node):
            cluster.wait_for("a plan without the cloud", lambda: calm.layers().get("cloud") == 0, 120)
            replanned = time.monotonic() - began
            known = time.monotonic()
            cluster.wait_for("answers without the cloud", lambda: load.answered_since(known) > 5, 60)
            without = calm.epoch
            assert without > epoch
        connected = time.monotonic()
        cluster.wait_for("a plan with the cloud", lambda: calm.layers().get("cloud", 0) > 0, 400)
        back = time.monotonic()
        cluster.wait_for("answers with the cloud", lambda: load.answered_since(back) > 5, 60)
    figures = {"requests": len(load.outcomes), "failed": len(load.failed)}
    times = {"seconds_to_new_plan": round(replanned, 1), "seconds_until_used_again": round(back - connected, 1)}
    note("cloud disconnected", **times, **figures)
    assert load.wrong == []
    assert load.failed == []
