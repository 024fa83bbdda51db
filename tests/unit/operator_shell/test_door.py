"""Which pipelines an event makes due."""

import logging
from typing import Any

import pytest

from tierflow_operator.door import Door, NowAndThen, plan_relevant
from tierflow_operator.keys import PipelineKey
from tierflow_operator.kube_client import Credentials

NOWHERE = Credentials("https://127.0.0.1:1", "", False, "", "", "", "", "")


def node(**changes: Any) -> dict[str, Any]:
    base = {
        "metadata": {"name": "edge-1", "labels": {"tierflow.dev/tier": "edge"}, "resourceVersion": "1"},
        "spec": {"taints": [{"key": "gpu", "value": "yes", "effect": "NoSchedule"}]},
        "status": {"conditions": [{"type": "Ready", "status": "True", "lastHeartbeatTime": "1"}], "images": []},
    }
    return base | changes


READY_ELSEWHEN = {"conditions": [{"type": "Ready", "status": "True", "lastHeartbeatTime": "2"}], "images": ["x"]}


@pytest.mark.parametrize(
    "changes",
    [
        {"metadata": {"name": "edge-1", "labels": {"tierflow.dev/tier": "cloud"}}},
        {"metadata": {"name": "edge-1"}},
        {"spec": {}},
        {"spec": {"taints": [{"key": "gpu", "value": "no", "effect": "NoSchedule"}]}},
        {"spec": {"taints": node()["spec"]["taints"], "unschedulable": True}},
        {"status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}},
        {"status": {}},
    ],
)
def test_what_plans_depend_on_in_a_node_is_noticed(changes: dict[str, Any]) -> None:
    assert plan_relevant(node(**changes)) != plan_relevant(node())


def test_a_nodes_heartbeat_is_no_news() -> None:
    assert plan_relevant(node(status=READY_ELSEWHEN)) == plan_relevant(node())


def test_an_owned_object_makes_its_pipeline_due_and_a_foreign_one_nothing() -> None:
    due: list[PipelineKey] = []
    door = Door(lambda: NOWHERE, (), add=due.append, on_end=lambda _: None)
    door.owned_event(
        {"metadata": {"namespace": "vision", "name": "x", "labels": {"tierflow.dev/pipeline": "resnet18"}}}
    )
    door.owned_event({"metadata": {"namespace": "vision", "name": "y", "labels": {"app": "other"}}})
    door.owned_event({"metadata": {"namespace": "vision", "name": "z"}})
    assert due == [PipelineKey("vision", "resnet18")]


def test_a_pipeline_is_due_when_it_comes_and_when_it_goes() -> None:
    due: list[PipelineKey] = []
    door = Door(lambda: NOWHERE, (), add=due.append, on_end=lambda _: None)
    manifest = {"metadata": {"namespace": "vision", "name": "resnet18"}}
    for kind in (None, "MODIFIED", "DELETED"):
        door.pipeline_event(kind, manifest)
    assert due == [PipelineKey("vision", "resnet18")] * 3


def test_a_changed_node_is_told_at_once_so_that_no_older_list_of_nodes_is_believed() -> None:
    told: list[str] = []
    door = Door(
        lambda: NOWHERE, (), add=lambda _: None, on_end=lambda _: None, nodes_changed=lambda: told.append("changed")
    )
    door.node_event(None, node())
    door.node_event("MODIFIED", node(status=READY_ELSEWHEN))
    assert told == ["changed"]
    door.node_event("MODIFIED", node(spec={"unschedulable": True}))
    door.node_event("DELETED", node())
    assert told == ["changed"] * 3


def test_what_a_library_says_for_each_try_is_heard_now_and_then() -> None:
    heard = NowAndThen("Request attempt", seconds=60)

    def passes(message: str, at: float) -> bool:
        record = logging.makeLogRecord({"msg": message, "created": at})
        return heard.filter(record)

    assert [passes(f"Request attempt #{number}/7 failed", at) for number, at in enumerate((0, 1, 59, 61, 62))] == [
        True, False, False, True, False,
    ]  # fmt: skip
    assert passes("Watching failed", 62)
