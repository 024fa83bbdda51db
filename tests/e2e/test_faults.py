"""Nodes that go while requests run: no request is lost, and plans are made on what is left, and on what comes back."""

import time

import pytest

from kindbed.cluster import Cluster
from kindbed.figures import note
from kindbed.pipelines import Pipeline
from kindbed.shaping import disconnected, stopped
from kindbed.traffic import Load, Task

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]

_REPLAN_SECONDS = 60


def test_an_edge_node_that_dies_costs_no_request(
    cluster: Cluster, monitored: Pipeline, address: str, task: Task
) -> None:
    (node,) = monitored.nodes_of("edge")
    epoch = monitored.epoch
    with Load(address, monitored.name, task) as load:
        cluster.wait_for("answers", lambda: len(load.outcomes) > 5, 60)
        began = time.monotonic()
        with stopped(cluster, node):
            cluster.wait_for("a new plan", lambda: monitored.epoch > epoch, 120)
            replanned = time.monotonic() - began
            known = time.monotonic()
            cluster.wait_for("answers on what is left", lambda: load.answered_since(known) > 5, 60)
        cluster.wait_for("a plan with all nodes", monitored.is_settled, 180)
        back = time.monotonic()
        cluster.wait_for("answers with all nodes", lambda: load.answered_since(back) > 5, 60)
    figures = {"requests": len(load.outcomes), "failed": len(load.failed)}
    note("edge node stopped", seconds_to_new_plan=round(replanned, 1), **figures)
    assert load.failed == []
    assert load.wrong == []
    assert replanned <= _REPLAN_SECONDS


def test_without_the_cloud_a_plan_on_what_is_left_serves_and_the_cloud_is_used_again(
    cluster: Cluster, monitored: Pipeline, address: str, task: Task
) -> None:
    (node,) = cluster.nodes("cloud")
    epoch = monitored.epoch
    assert monitored.layers()["cloud"] > 0
    with Load(address, monitored.name, task) as load:
        cluster.wait_for("answers", lambda: len(load.outcomes) > 5, 60)
        began = time.monotonic()
        with disconnected(cluster, node):
            cluster.wait_for("a plan without the cloud", lambda: monitored.layers().get("cloud") == 0, 120)
            replanned = time.monotonic() - began
            known = time.monotonic()
            cluster.wait_for("answers without the cloud", lambda: load.answered_since(known) > 5, 60)
            without = monitored.epoch
            assert without > epoch
        cluster.wait_for("a plan with the cloud", lambda: monitored.layers().get("cloud", 0) > 0, 180)
        back = time.monotonic()
        cluster.wait_for("answers with the cloud", lambda: load.answered_since(back) > 5, 60)
    figures = {"requests": len(load.outcomes), "failed": len(load.failed)}
    note("cloud disconnected", seconds_to_new_plan=round(replanned, 1), **figures)
    assert load.wrong == []
    assert load.failed == []
    assert replanned <= _REPLAN_SECONDS
