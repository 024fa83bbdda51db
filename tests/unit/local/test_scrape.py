"""Reading workers' metrics."""

import http.server
import threading
from collections.abc import Iterator

import pytest

from tierflow.tiers import Tier
from tierflow_local.cluster import RunningWorker
from tierflow_local.links import HOST
from tierflow_local.scrape import Measurements, scrape
from tierflow_worker.metrics import Metrics

NOW = 1000.0


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(pipeline="small", namespace="default", tier=Tier.DEVICE)


@pytest.fixture
def device(metrics: Metrics) -> Iterator[RunningWorker]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/metrics" else 404)
            self.end_headers()
            self.wfile.write(metrics.render()[0])

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer((HOST, 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield RunningWorker(Tier.DEVICE, 1, 0.0, server.server_port)
        server.shutdown()
        thread.join()


def scraped(worker: RunningWorker) -> Measurements:
    return scrape([worker], now=NOW, max_staleness_seconds=60)


def test_links_and_segments_are_read_from_a_worker(metrics: Metrics, device: RunningWorker) -> None:
    metrics.observe_link(Tier.EDGE, bytes_per_second=1e6, round_trip_seconds=0.003, timestamp=NOW - 1)
    metrics.observe_segment("abc", 0.2)
    before = scraped(device)
    metrics.observe_segment("abc", 0.4)
    metrics.observe_segment("abc", 0.6)
    found = scraped(device)
    link = found.links[(Tier.DEVICE, Tier.EDGE)]
    assert (link.bytes_per_second, link.round_trip_seconds) == (1e6, 0.003)
    assert found.segment_seconds(Tier.DEVICE, "abc") == pytest.approx(0.4)
    assert found.segment_seconds(Tier.DEVICE, "abc", before) == pytest.approx(0.5)
    assert found.segment_seconds(Tier.DEVICE, "other") is None


def test_stale_and_half_known_links_are_left_out(metrics: Metrics, device: RunningWorker) -> None:
    metrics.observe_link(Tier.EDGE, bytes_per_second=1e6, round_trip_seconds=0.003, timestamp=NOW - 61)
    metrics.observe_link(Tier.CLOUD, bytes_per_second=None, round_trip_seconds=0.003, timestamp=NOW)
    assert scraped(device).links == {}


def test_a_worker_that_does_not_answer_adds_nothing() -> None:
    assert scraped(RunningWorker(Tier.DEVICE, 1, 0.0, 1)) == Measurements({}, {})
