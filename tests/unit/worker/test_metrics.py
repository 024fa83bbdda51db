"""The worker's metrics: the documented table, and what each method leaves for Prometheus to scrape."""

import asyncio
import re
from pathlib import Path

import pytest
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.parser import text_string_to_metric_families

from tierflow.errors import (
    DeadlineExceededError,
    IntegrityError,
    InvalidRequestError,
    OverloadedError,
    UnknownBoundaryError,
    UnknownModelError,
    UnreachableError,
)
from tierflow.tiers import Tier
from tierflow_worker import metrics as metrics_module
from tierflow_worker.metrics import Metrics, Outcome, Purpose, outcome_of

TABLE = Path(metrics_module.__file__).parents[1] / "METRICS.md"
COMMON = {"pipeline_namespace", "pipeline", "tier", "from_tier", "to_tier"}

Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(pipeline="p", namespace="n", tier=Tier.EDGE, version="1.0", runtime_version="1.32")


def scraped(metrics: Metrics) -> Series:
    """Every series of Tierflow, by name and the labels that not all have."""
    body, _ = metrics.render()
    found: Series = {}
    for family in text_string_to_metric_families(body.decode()):
        for sample in family.samples:
            labels = frozenset((key, value) for key, value in sample.labels.items() if key not in COMMON)
            found[(sample.name, labels)] = sample.value
    return found


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return scraped(metrics).get((name, frozenset(labels.items())))


def test_the_documented_table_and_the_registry_are_equal(metrics: Metrics) -> None:
    row = re.compile(r"^\| `(tierflow_\w+)` \| (\w+) \|([^|]*)\| (.+) \|$", re.MULTILINE)
    documented = {
        (name, kind, frozenset(re.findall(r"`(\w+)`", labels)), text)
        for name, kind, labels, text in row.findall(TABLE.read_text())
    }
    registered = set()
    for collector in metrics.registry._collector_to_names:
        if isinstance(collector, MetricWrapperBase):
            suffix = "_total" if collector._type == "counter" else ""
            labels = frozenset(collector._labelnames) - COMMON
            registered.add((collector._name + suffix, collector._type, labels, collector._documentation))
    assert documented == registered


def test_names_have_the_prefix_and_end_in_a_base_unit(metrics: Metrics) -> None:
    units = ("_seconds", "_bytes_total", "_bytes_per_second", "_total", "_info")
    counted = {"requests_in_flight", "queue_length", "queue_capacity", "ready", "link_up", "tile_workers"}
    plain = {f"tierflow_{name}" for name in counted}
    names = set(re.findall(r"^\| `(\w+)`", TABLE.read_text(), re.MULTILINE)) - plain
    assert all(name.startswith("tierflow_") and name.endswith(units) for name in names)


def test_requests_are_counted_by_outcome_and_timed_when_answered(metrics: Metrics) -> None:
    metrics.observe_request(Outcome.OK, 0.25)
    metrics.observe_request(Outcome.DEADLINE, 9.0)
    assert value(metrics, "tierflow_requests_total", outcome="ok") == 1
    assert value(metrics, "tierflow_requests_total", outcome="deadline") == 1
    assert value(metrics, "tierflow_requests_total", outcome="failed") == 0, "so that a rate has a beginning"
    assert value(metrics, "tierflow_request_seconds_sum") == 0.25


def test_what_was_not_noted_yet_is_before_metrics_are_shown(metrics: Metrics) -> None:
    metrics.before_render(lambda: metrics.observe_request(Outcome.OK, 0.25))
    assert re.search(r'^tierflow_requests_total\{.*outcome="ok".*\} 1\.0$', metrics.render()[0].decode(), re.MULTILINE)


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (None, Outcome.OK),
        (InvalidRequestError(""), Outcome.INVALID),
        (UnknownModelError(""), Outcome.INVALID),
        (UnknownBoundaryError(""), Outcome.UNKNOWN_BOUNDARY),
        (OverloadedError("", retry_after_seconds=1), Outcome.REJECTED),
        (DeadlineExceededError(""), Outcome.DEADLINE),
        (UnreachableError(""), Outcome.UNREACHABLE),
        (IntegrityError(""), Outcome.FAILED),
        (ValueError(""), Outcome.FAILED),
        (asyncio.CancelledError(), Outcome.CANCELLED),
    ],
    ids=lambda part: type(part).__name__ if isinstance(part, BaseException) else "",
)
def test_each_error_has_an_outcome(error: BaseException | None, outcome: Outcome) -> None:
    assert outcome_of(error) is outcome


def test_what_was_never_measured_has_no_series(metrics: Metrics) -> None:
    names = {name for name, _ in scraped(metrics)}
    assert not names & {
        "tierflow_calibration_seconds",
        "tierflow_link_bandwidth_bytes_per_second",
        "tierflow_link_up",
        "tierflow_layer_seconds",
        "tierflow_segment_load_seconds",
    }


def test_an_unloaded_segment_leaves_no_gauges_behind(metrics: Metrics) -> None:
    for segment in ("old", "new"):
        metrics.observe_load(segment, 2.0)
        metrics.observe_layers(segment, {"conv": 0.1, "relu": 0.2})
        metrics.observe_segment(segment, 0.3)
    metrics.forget_segment("old")
    metrics.forget_segment("never known")
    assert value(metrics, "tierflow_segment_load_seconds", segment="old") is None
    assert value(metrics, "tierflow_layer_seconds", segment="old", layer="conv") is None
    assert value(metrics, "tierflow_segment_seconds_count", segment="old") == 1, "counters do not vanish"
    assert value(metrics, "tierflow_layer_seconds", segment="new", layer="conv") == 0.1


def test_layers_replace_those_recorded_before(metrics: Metrics) -> None:
    metrics.observe_layers("s", {"conv": 0.1, "relu": 0.2})
    metrics.observe_layers("s", {"conv": 0.3})
    assert value(metrics, "tierflow_layer_seconds", segment="s", layer="conv") == 0.3
    assert value(metrics, "tierflow_layer_seconds", segment="s", layer="relu") is None


def test_links_say_between_which_tiers(metrics: Metrics) -> None:
    metrics.observe_link(Tier.CLOUD, bytes_per_second=None, round_trip_seconds=0.02, timestamp=1e9)
    metrics.count_link_bytes(Tier.CLOUD, sent=100, received=10, purpose=Purpose.REQUEST)
    metrics.set_link_up(Tier.CLOUD, True)
    text = metrics.render()[0].decode()
    labels = 'from_tier="edge",pipeline="p",pipeline_namespace="n"'
    assert f'tierflow_link_round_trip_seconds{{{labels},to_tier="cloud"}} 0.02' in text
    assert f'tierflow_link_sent_bytes_total{{{labels},purpose="request",to_tier="cloud"}} 100.0' in text
    assert "tierflow_link_bandwidth_bytes_per_second{" not in text
    metrics.set_link_up(Tier.CLOUD, False)
    assert f'tierflow_link_up{{{labels},to_tier="cloud"}} 0.0' in metrics.render()[0].decode()


def test_workers_of_one_process_do_not_share_series() -> None:
    first, second = (Metrics(pipeline=name, namespace="n", tier=Tier.EDGE) for name in "ab")
    first.observe_request(Outcome.OK, 1.0)
    assert value(second, "tierflow_requests_total", outcome="ok") == 0
