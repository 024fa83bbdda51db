"""Whose samples are, as Prometheus answers them."""

import math

import pytest

from tierflow_operator.keys import PipelineKey
from tierflow_operator.queries import LIVE, READ, recent
from tierflow_operator.samples import by_pipeline, series_of

OURS = {"__name__": "tierflow_link_up", "pipeline_namespace": "vision", "pipeline": "small", "from_tier": "edge"}


def test_both_forms_of_an_answer_are_read_and_times_can_be_shifted() -> None:
    instant, over_time = series_of(
        [{"metric": OURS, "value": [5, "1"]}, {"metric": OURS, "values": [[5, "NaN"], [6, "+Inf"]]}], shift=100.0
    )
    assert instant.points == ((105.0, 1.0),)
    assert [time for time, _ in over_time.points] == [105.0, 106.0]
    assert math.isnan(over_time.points[0][1])
    assert over_time.points[1][1] == math.inf


def test_a_pod_cannot_speak_for_a_pipeline_of_another_namespace() -> None:
    series = series_of(
        [
            {"metric": OURS, "value": [5, "1"]},
            {"metric": {**OURS, "namespace": "vision"}, "value": [5, "1"]},
            {"metric": {**OURS, "namespace": "intruder"}, "value": [5, "1"]},
            {"metric": {**OURS, "pipeline": ""}, "value": [5, "1"]},
            {"metric": {"__name__": "up"}, "value": [5, "1"]},
        ]
    )
    assert by_pipeline(series) == {PipelineKey("vision", "small"): series[:2]}


def test_series_of_one_worker_share_its_labels_whatever_they_are_about() -> None:
    target = {"instance": "10.0.0.1:8000", "pod": "small-edge-1"}
    link, other_tier, worker = series_of(
        [
            {"metric": {**OURS, **target, "to_tier": "cloud"}, "value": [5, "1"]},
            {"metric": {**OURS, **target, "from_tier": "device"}, "value": [5, "1"]},
            {
                "metric": {"pipeline_namespace": "vision", "pipeline": "small", "tier": "edge", **target},
                "value": [5, "1"],
            },
        ]
    )
    assert link.worker == worker.worker != other_tier.worker


@pytest.mark.parametrize("answer", [[{"value": [5, "1"]}], [{"metric": {}}], [{"metric": {}, "value": 5}], [3], "text"])
def test_another_servers_answer_is_refused(answer: object) -> None:
    with pytest.raises((KeyError, TypeError, ValueError, AttributeError)):
        series_of(answer)  # type: ignore[arg-type]


def test_the_queries_ask_for_all_that_is_read_and_for_who_is_alive() -> None:
    query = recent(90)
    assert query.endswith("[90s]")
    for name in READ:
        assert name.removeprefix("tierflow_") in query
    assert "tierflow_build_info" in LIVE
