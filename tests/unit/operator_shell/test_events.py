"""Events about pipelines: said once, counted when repeated, and never in the way."""

from collections.abc import Mapping
from typing import Any, cast

import pytest

from tierflow_operator.events import Events
from tierflow_operator.kube_client import KubeClient
from tierflow_operator.kube_errors import NotFoundError, RefusedError


class Cluster:
    """Keeps events as an API server does."""

    def __init__(self) -> None:
        self.events: dict[str, dict[str, Any]] = {}
        self.writes: list[str] = []
        self.refuses = False

    def request(self, verb: str, path: str, *, body: Mapping[str, Any], **_: Any) -> dict[str, Any]:
        if self.refuses:
            raise RefusedError("events is forbidden: exceeded quota", "event")
        self.writes.append(verb)
        if verb == "create":
            self.events[body["metadata"]["name"]] = dict(body)
            return dict(body)
        name = path.rpartition("/")[2]
        if name not in self.events:
            raise NotFoundError("no such event", "event")
        self.events[name].update(body)
        return self.events[name]


def pipeline(name: str = "resnet18", uid: str = "1") -> dict[str, Any]:
    return {
        "apiVersion": "tierflow.dev/v1alpha1",
        "kind": "InferencePipeline",
        "metadata": {"name": name, "namespace": "vision", "uid": uid, "resourceVersion": "7"},
    }


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


@pytest.fixture
def events(cluster: Cluster) -> Events:
    return Events(cast("KubeClient", cluster), "operator-0", now=lambda: "2026-11-26T04:00:00.000000Z")


def say(events: Events, message: str, about: dict[str, Any] | None = None) -> None:
    events.emit(about or pipeline(), kind="Normal", reason="PlanMoved", message=message, action="Plan")


def test_what_is_the_latest_already_is_not_said_again(events: Events, cluster: Cluster) -> None:
    for _ in range(3):
        say(events, "epoch 4 on 3 tiers")
    assert cluster.writes == ["create"]
    (event,) = cluster.events.values()
    assert event["regarding"]["name"] == "resnet18"
    assert event["note"] == "epoch 4 on 3 tiers"
    assert event["reportingInstance"] == "operator-0"


def test_what_comes_back_after_something_else_is_counted_on_its_event(events: Events, cluster: Cluster) -> None:
    for message in ("a", "b", "a", "b", "a"):
        say(events, message)
    assert cluster.writes == ["create", "create", "patch", "patch", "patch"]
    counts = {event["note"]: event["series"]["count"] for event in cluster.events.values()}
    assert counts == {"a": 3, "b": 2}


def test_an_event_that_the_cluster_has_dropped_is_made_anew(events: Events, cluster: Cluster) -> None:
    say(events, "a")
    say(events, "b")
    cluster.events.clear()
    say(events, "a")
    assert [event["note"] for event in cluster.events.values()] == ["a"]


def test_a_refused_event_is_logged_and_tried_again_next_time(
    events: Events, cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    cluster.refuses = True
    say(events, "a")
    assert "exceeded quota" in caplog.text
    cluster.refuses = False
    say(events, "a")
    assert cluster.writes == ["create"]


def test_pipelines_are_apart_also_when_one_takes_a_name_that_is_free_again(events: Events, cluster: Cluster) -> None:
    say(events, "a")
    say(events, "a", pipeline("vgg16"))
    say(events, "a", pipeline("resnet18", uid="2"))
    assert cluster.writes == ["create"] * 3


def test_pipelines_that_are_gone_are_forgotten_in_time(events: Events, cluster: Cluster) -> None:
    say(events, "a")
    for number in range(1000):
        say(events, "a", pipeline(f"p{number}"))
    cluster.writes.clear()
    say(events, "a", pipeline("p0"))
    assert cluster.writes == []
    say(events, "a")
    assert cluster.writes == ["create"]


def test_only_so_many_different_events_are_remembered(events: Events, cluster: Cluster) -> None:
    for number in range(50):
        say(events, f"m{number}")
    say(events, "m0")
    assert cluster.writes == ["create"] * 51


def test_a_long_message_is_shortened_to_what_an_event_holds(events: Events, cluster: Cluster) -> None:
    say(events, "é" * 2000)
    (event,) = cluster.events.values()
    assert len(event["note"].encode()) <= 1024
    assert event["note"].endswith("…")


def test_the_longest_name_of_a_pipeline_still_gives_a_valid_name(events: Events, cluster: Cluster) -> None:
    say(events, "a", pipeline("x" * 253))
    (name,) = cluster.events
    assert len(name) <= 253
