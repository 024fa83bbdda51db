"""The operator's own metrics, as Prometheus reads them."""

import pytest

from tierflow_operator.keys import PipelineKey
from tierflow_operator.telemetry import Telemetry

KEY = PipelineKey("vision", "resnet18")
OTHER = PipelineKey("vision", "vgg16")


def names(key: PipelineKey) -> dict[str, str]:
    return {"pipeline_namespace": key.namespace, "pipeline": key.name}


def test_the_age_of_an_observation_grows_until_the_next_one() -> None:
    now = 100.0
    telemetry = Telemetry(clock=lambda: now)
    telemetry.observed(KEY, age_seconds=10.0)
    now = 105.0
    assert telemetry.value("tierflow_operator_observation_age_seconds", **names(KEY)) == 15
    telemetry.observed(KEY, age_seconds=1.0)
    assert telemetry.value("tierflow_operator_observation_age_seconds", **names(KEY)) == 1


def test_a_pipeline_that_is_gone_leaves_no_series_and_the_others_stay() -> None:
    telemetry = Telemetry()
    for key in (KEY, OTHER):
        telemetry.plan(key, 4)
        telemetry.decision(key, "hold", "WithinThreshold")
        telemetry.move(key, "done")
        telemetry.observed(key, age_seconds=0)
    telemetry.forget(KEY)
    text = telemetry.exposition().decode()
    assert "resnet18" not in text
    assert text.count('pipeline="vgg16"') >= 4


@pytest.mark.parametrize(("verb", "access"), [("get", "read"), ("list", "read"), ("apply", "write")])
def test_requests_are_counted_apart_by_reading_and_writing(verb: str, access: str) -> None:
    telemetry = Telemetry()
    telemetry.api_request(verb, "Node", "ok")
    counted = telemetry.value(
        "tierflow_operator_api_requests_total", access=access, verb=verb, kind="Node", outcome="ok"
    )
    assert counted == 1


def test_only_accepted_writes_count_as_writes() -> None:
    telemetry = Telemetry()
    telemetry.api_request("apply", "Service", "conflict")
    telemetry.api_request("get", "Service", "ok")
    assert telemetry.value("tierflow_operator_api_writes_total", verb="apply", kind="Service") == 0
    telemetry.api_request("apply", "Service", "ok")
    assert telemetry.value("tierflow_operator_api_writes_total", verb="apply", kind="Service") == 1


def test_the_queues_figures_are_asked_for_at_each_scrape() -> None:
    telemetry = Telemetry()
    waiting: list[str] = []
    telemetry.watch_queue(lambda: len(waiting), lambda: 2.5)
    waiting.append("one")
    assert telemetry.value("tierflow_operator_queue_length") == 1
    assert telemetry.value("tierflow_operator_queue_oldest_age_seconds") == 2.5
