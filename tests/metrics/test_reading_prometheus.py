"""The operator's queries against a real Prometheus that scrapes real worker metrics."""

import time
from collections.abc import Callable
from itertools import count

import pytest

from metrics.conftest import Bench
from testbed.process import wait_for
from tierflow.errors import UnreachableError
from tierflow.tiers import Tier
from tierflow_operator.keys import PipelineKey
from tierflow_operator.prometheus import PrometheusReader, PrometheusSettings
from tierflow_operator.queries import READ, recent
from tierflow_worker.metrics import Metrics, Outcome

pytestmark = pytest.mark.slow

D, E, C = Tier.DEVICE, Tier.EDGE, Tier.CLOUD
BANDWIDTH = "tierflow_link_bandwidth_bytes_per_second"


def tell_link(metrics: Metrics, to: Tier, bandwidth: float = 1e6, round_trip: float = 0.01) -> None:
    metrics.observe_link(to, bytes_per_second=bandwidth, round_trip_seconds=round_trip, timestamp=time.time())
    metrics.set_link_up(to, True)


def run(metrics: Metrics, segment: str, seconds: float, times: int = 10) -> None:
    for _ in range(times):
        metrics.observe_segment(segment, seconds)


def keep_running(bench: Bench, metrics: Metrics, segment: str, seconds: float) -> Callable[[object], bool]:
    """A condition that never fails to run the segment between two looks, and holds once its time is known."""

    def holds(_: object) -> bool:
        run(metrics, segment, seconds)
        found = bench.read().segments.get((E, segment))
        return found is not None and found.seconds == pytest.approx(seconds)

    return holds


def test_what_workers_export_is_what_is_read(bench: Bench) -> None:
    device, edge = bench.start("device-1", D), bench.start("edge-1", E)
    tell_link(device, E, 2e6, 0.003)
    tell_link(edge, C, 5e5, 0.020)
    edge.observe_calibration(0.004)
    device.set_queue(3)
    found = bench.until("both links", lambda seen: len(seen.links) == 2 and seen.calibration_seconds)
    assert (found.links[(D, E)].bytes_per_second, found.links[(D, E)].round_trip_seconds) == (2e6, 0.003)
    assert (found.links[(E, C)].bytes_per_second, found.links[(E, C)].round_trip_seconds) == (5e5, 0.020)
    assert found.calibration_seconds == {E: 0.004}
    assert found.workers == 2
    bench.until("the queue", lambda seen: seen.queue_length.get(D) == 3)
    assert bench.read().link_up == {(D, E): True, (E, C): True}
    assert bench.read().notes == ()


def test_every_metric_that_is_read_is_found_under_its_name(bench: Bench) -> None:
    device, edge = bench.start("device-1", D), bench.start("edge-1", E)
    tell_link(device, E)
    edge.observe_calibration(0.004)
    run(edge, "abc", 0.05)
    device.observe_request(Outcome.OK, 0.1)

    def names() -> set[str]:
        found = bench.server.query(recent(60))
        return {entry["metric"]["__name__"] for entry in found if entry["metric"].get("pipeline") == bench.key.name}

    wait_for("all metrics", lambda: names() == set(READ))


def test_one_outlier_does_not_move_a_link(bench: Bench) -> None:
    scrapes = count()
    bench.serve("edge-1", lambda: link_text(bench.key.name, "9e9" if next(scrapes) == 3 else "1e6"))
    bench.until("the link", lambda seen: (E, C) in seen.links)
    seen = {found.links[(E, C)].bytes_per_second for found in bench.while_scraping(BANDWIDTH, 6)}
    assert seen == {1e6}
    said = bench.server.query(f'max_over_time({BANDWIDTH}{{pipeline="{bench.key.name}"}}[1m])')
    assert said[0]["value"][1] == "9000000000"


def test_a_change_that_lasts_is_read_after_two_scrapes(bench: Bench) -> None:
    device = bench.start("device-1", D)
    tell_link(device, E, 1e6)
    bench.scraped(BANDWIDTH)
    tell_link(device, E, 2e5)
    bench.scraped(BANDWIDTH, 2)
    assert bench.read().links[(D, E)].bytes_per_second == 2e5


def test_two_pods_of_a_tier_are_one_figure(bench: Bench) -> None:
    one, other = bench.start("device-1", D), bench.start("device-2", D)
    tell_link(one, E, 1e6)
    tell_link(other, E, 2e6)
    found = bench.until("both pods", lambda seen: seen.workers == 2 and len(seen.links) == 1)
    assert found.links[(D, E)].bytes_per_second in (1e6, 1.5e6, 2e6)
    bench.until("their middle", lambda seen: seen.links[(D, E)].bytes_per_second == 1.5e6)


def test_a_pod_that_was_replaced_is_forgotten_as_soon_as_its_successor_has_a_figure(bench: Bench) -> None:
    tell_link(bench.start("device-1", D), E, 1e6)
    bench.until("the first pod's figure", lambda seen: (D, E) in seen.links)
    bench.end("device-1")
    successor = bench.start("device-2", D)
    bench.until("the first pod's end", lambda seen: seen.workers == 1)
    assert bench.read().links[(D, E)].bytes_per_second == 1e6
    tell_link(successor, E, 7e6)
    bench.until("the successor's figure", lambda seen: seen.links[(D, E)].bytes_per_second == 7e6)


def test_a_worker_that_restarts_begins_its_counters_anew_without_a_wrong_time(bench: Bench) -> None:
    edge = bench.start("edge-1", E)
    wait_for("the segment's time", lambda: keep_running(bench, edge, "abc", 0.05)(None))
    again = bench.start("edge-1", E)
    run(again, "abc", 0.05)
    found = []
    for seen in bench.while_scraping("tierflow_segment_seconds_count", 4):
        run(again, "abc", 0.05)
        found += [seen.segments[(E, "abc")]]
    assert {round(entry.seconds, 9) for entry in found} == {0.05}
    assert min(entry.runs for entry in found) > 0


def test_a_segment_that_takes_longer_is_read_though_its_counters_are_old(bench: Bench) -> None:
    edge = bench.start("edge-1", E)
    wait_for("the segment's time", lambda: keep_running(bench, edge, "abc", 0.02)(None))
    wait_for("the longer time", lambda: keep_running(bench, edge, "abc", 0.3)(None))


def test_a_missing_series_leaves_out_its_link_alone(bench: Bench) -> None:
    device = bench.start("device-1", D)
    tell_link(device, E)
    device.observe_link(C, bytes_per_second=None, round_trip_seconds=0.02, timestamp=time.time())
    bench.until("the whole link", lambda seen: (D, E) in seen.links)
    bench.scraped("tierflow_link_round_trip_seconds", 1, to_tier="cloud")
    assert set(bench.read().links) == {(D, E)}


def link_text(pipeline: str, bandwidth: str, round_trip: str = "0.01", measured: float | None = None) -> str:
    labels = f'{{pipeline_namespace="vision",pipeline="{pipeline}",from_tier="edge",to_tier="cloud"}}'
    own = f'{{pipeline_namespace="vision",pipeline="{pipeline}",tier="edge",version="",runtime_version=""}}'
    return (
        f"tierflow_build_info{own} 1\n"
        f"tierflow_link_bandwidth_bytes_per_second{labels} {bandwidth}\n"
        f"tierflow_link_round_trip_seconds{labels} {round_trip}\n"
        f"tierflow_link_measured_timestamp_seconds{labels} {measured or time.time()}\n"
        f"tierflow_link_up{labels} 1\n"
    )


@pytest.mark.parametrize("lie", ["NaN", "+Inf", "-Inf", "-5", "1e99", "0"])
def test_a_lie_is_left_out_with_a_note_and_the_truth_before_it_stays(bench: Bench, lie: str) -> None:
    said = ["1e6"]
    bench.serve("edge-1", lambda: link_text(bench.key.name, said[0]))
    bench.until("the truth", lambda seen: (E, C) in seen.links)
    said[0] = lie
    found = bench.until("the lie", lambda seen: seen.notes)
    assert found.links[(E, C)].bytes_per_second == 1e6
    assert "edge-cloud" in found.notes[0]


def test_a_link_that_nobody_measures_any_more_is_stale_though_its_worker_is_scraped(bench: Bench) -> None:
    begin = time.time()
    bench.serve("edge-1", lambda: link_text(bench.key.name, "1e6", measured=begin))
    bench.until("the link", lambda seen: (E, C) in seen.links)
    bench.scraped(BANDWIDTH, 4)
    assert bench.read(max_staleness=2.0).links == {}
    assert bench.read(max_staleness=2.0).workers == 1
    assert (E, C) in bench.read().links


def test_a_link_that_is_down_is_read_as_down_and_as_up_again(bench: Bench) -> None:
    edge = bench.start("edge-1", E)
    tell_link(edge, C)
    bench.until("the link", lambda seen: seen.link_up.get((E, C)) is True)
    edge.set_link_up(C, False)
    bench.until("its end", lambda seen: seen.link_up.get((E, C)) is False)
    edge.set_link_up(C, True)
    bench.until("its return", lambda seen: seen.link_up.get((E, C)) is True)


def test_a_pod_of_another_namespace_is_not_believed(bench: Bench) -> None:
    honest = bench.start("edge-1", E)
    tell_link(honest, C, 1e6)
    intruder = Metrics(pipeline=bench.key.name, namespace="elsewhere", tier=E)
    tell_link(intruder, C, 9e9)
    bench.serve("intruder", intruder)
    bench.scraped(BANDWIDTH, 3, pipeline_namespace="elsewhere")
    assert bench.read().links[(E, C)].bytes_per_second == 1e6
    # Its target is in the namespace `vision`, as all of this bench: for `elsewhere` it may not speak.
    foreign = bench.reader.read(PipelineKey("elsewhere", bench.key.name), max_staleness_seconds=60)
    assert (foreign.links, foreign.workers) == ({}, 0)


def test_requests_are_counted_from_the_moment_that_a_plan_took_over(bench: Bench) -> None:
    device = bench.start("device-1", D)
    device.observe_request(Outcome.OK, 0.9)
    bench.scraped("tierflow_request_seconds_count", 2)
    took_over = time.time()
    for _ in range(5):
        device.observe_request(Outcome.OK, 0.1)

    # What was answered before the first scrape after the moment may have begun under the plan before.
    def is_counted() -> bool:
        device.observe_request(Outcome.OK, 0.1)
        since = bench.read().requests_since(took_over)
        return since is not None and since.times >= 5

    wait_for("requests of the new plan", is_counted)
    since = bench.read().requests_since(took_over)
    assert since is not None
    assert since.seconds / since.times == pytest.approx(0.1)


def test_a_pipeline_without_workers_is_known_to_have_none(bench: Bench) -> None:
    found = bench.read()
    assert (found.links, found.segments, found.workers, found.notes) == ({}, {}, 0, ())


def test_a_prometheus_that_stops_is_unreachable_and_one_that_returns_is_read_again(bench: Bench) -> None:
    tell_link(bench.start("edge-1", E), C)
    bench.until("the link", lambda seen: (E, C) in seen.links)
    wrong = PrometheusReader(PrometheusSettings(url=f"{bench.server.url}/nowhere", shared_seconds=0.0))
    with pytest.raises(UnreachableError, match="HTTP status 404"):
        wrong.read(bench.key, max_staleness_seconds=60)
    wrong.close()
    bench.server.pause()
    try:
        hurried = PrometheusReader(PrometheusSettings(url=bench.server.url, timeout_seconds=0.3, shared_seconds=0.0))
        with pytest.raises(UnreachableError, match="does not answer within"):
            hurried.read(bench.key, max_staleness_seconds=60)
    finally:
        bench.server.resume()
    wait_for("Prometheus's return", lambda: hurried.read(bench.key, max_staleness_seconds=60).links)
    hurried.close()
