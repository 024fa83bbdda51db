"""What Prometheus scrapes from a chain after requests went through it, with the links it measured."""

import http.client
import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

import tierflow_worker
from benchmarks.workers import PIPELINE, Start, WorkerProcess, worker_descriptor
from factories.clients import rest_body, send_rest
from factories.models import convolutions, saved
from factories.planes import tensor_of
from factories.served import Served, served
from tierflow.descriptor import Downstream
from tierflow.model import open_model
from tierflow.protocol.messages import InferRequest
from tierflow.segment import cut
from tierflow.tiers import TIERS, Tier

TABLE = Path(tierflow_worker.__file__).parents[1] / "METRICS.md"
PATIENCE_SECONDS = 60.0
REQUESTS = 12


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(
        convolutions(), tmp_path_factory.mktemp("metrics"), lambda graph: cut(graph, "relu1", "add")
    ) as running:
        request = InferRequest(PIPELINE, (tensor_of("image", np.ones((1, 3, 8, 8), np.float32)),))
        for _ in range(REQUESTS):
            assert send_rest(running.rest, f"/v2/models/{PIPELINE}/infer", *rest_body(request))[0] == 200
        yield running


def scrape(worker: WorkerProcess) -> dict[str, dict[frozenset[tuple[str, str]], float]]:
    """The samples of a worker by name and labels."""
    connection = http.client.HTTPConnection("127.0.0.1", worker.rest_port, timeout=30)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    found: dict[str, dict[frozenset[tuple[str, str]], float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, {})[frozenset(sample.labels.items())] = sample.value
    return found


def total(worker: WorkerProcess, name: str, **labels: str) -> float | None:
    """The sum of a metric's samples that have these labels; None where there are none."""
    samples = [value for found, value in scrape(worker).get(name, {}).items() if labels.items() <= dict(found).items()]
    return sum(samples) if samples else None


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come"
        time.sleep(0.05)


def test_every_tier_counts_the_requests_and_times_its_segment(chain: Served) -> None:
    for tier in TIERS:
        worker = chain.workers[tier]
        assert total(worker, "tierflow_requests_total", tier=tier, pipeline=PIPELINE, outcome="ok") == REQUESTS
        assert total(worker, "tierflow_segment_seconds_count", tier=tier) == REQUESTS
        compute = total(worker, "tierflow_segment_seconds_sum")
        answer = total(worker, "tierflow_request_seconds_sum")
        assert compute is not None
        assert answer is not None
        assert 0 < compute < answer
        assert total(worker, "tierflow_requests_in_flight") == 0
        assert total(worker, "tierflow_ready") == 1


def test_bytes_over_each_link_are_those_of_its_boundary(chain: Served) -> None:
    boundary_bytes = 4 * 16 * 8 * 8
    device = chain.workers[Tier.DEVICE]
    labels = {"from_tier": "device", "to_tier": "edge", "purpose": "request"}
    sent = total(device, "tierflow_link_sent_bytes_total", **labels)
    assert sent is not None
    assert boundary_bytes * REQUESTS < sent < (boundary_bytes + 300) * REQUESTS
    received = total(device, "tierflow_link_received_bytes_total", **labels)
    assert received is not None
    assert 4 * 10 * REQUESTS < received < (4 * 10 + 300) * REQUESTS
    assert total(chain.workers[Tier.CLOUD], "tierflow_link_sent_bytes_total") is None


def test_idle_links_are_measured_with_probes(chain: Served) -> None:
    for lower in (Tier.DEVICE, Tier.EDGE):
        worker = chain.workers[lower]
        wait_until(
            lambda: total(worker, "tierflow_link_bandwidth_bytes_per_second") is not None,  # noqa: B023 - called here
            "a bandwidth",
        )
        bandwidth = total(worker, "tierflow_link_bandwidth_bytes_per_second")
        round_trip = total(worker, "tierflow_link_round_trip_seconds")
        measured = total(worker, "tierflow_link_measured_timestamp_seconds")
        assert bandwidth is not None
        assert round_trip is not None
        assert measured is not None
        assert bandwidth > 1e6, "over the loopback interface"
        assert 0 < round_trip < 0.2
        assert abs(time.time() - measured) < PATIENCE_SECONDS
        assert total(worker, "tierflow_link_up") == 1
        probed = total(worker, "tierflow_link_sent_bytes_total", purpose="probe")
        assert probed is not None
        assert probed < 5 * 2**20


def test_all_that_the_table_lists_is_scraped_but_for_tiles_where_there_are_none(chain: Served) -> None:
    listed = set(re.findall(r"^\| `(tierflow_(?!tile)\w+)` \|", TABLE.read_text(), re.MULTILINE))
    device = chain.workers[Tier.DEVICE]

    def missing() -> set[str]:
        names = {name.removesuffix("_count") for name in scrape(device)}
        return listed - names

    wait_until(lambda: not missing(), f"{missing()}")
    assert scrape(device)["process_resident_memory_bytes"]


def test_a_standby_measures_its_tier_and_its_links(start: Start, tmp_path: Path) -> None:
    path = saved(convolutions(), tmp_path)
    model = open_model(str(path))
    cloud = start(worker_descriptor(model, str(path), Tier.CLOUD, []))
    neighbour = Downstream(tier=Tier.CLOUD, address=cloud.address)
    standby = start(msgspec.structs.replace(worker_descriptor(model, str(path), Tier.EDGE, []), probes=(neighbour,)))
    standby.wait_ready()
    for name in ("tierflow_calibration_seconds", "tierflow_link_round_trip_seconds", "tierflow_link_up"):
        wait_until(lambda: (total(standby, name) or 0) > 0, name)  # noqa: B023 - called here
    cloud.kill()
    wait_until(lambda: total(standby, "tierflow_link_up") == 0, "the notice that the neighbour is gone")
    standby.wait_for("link down")
    assert standby.stop() == 0


def test_health_and_metadata_over_rest(chain: Served) -> None:
    connection = http.client.HTTPConnection(chain.rest, timeout=30)
    paths = ["/v2", "/v2/health/live", "/v2/health/ready", f"/v2/models/{PIPELINE}", f"/v2/models/{PIPELINE}/ready"]
    for path in paths:
        connection.request("GET", path)
        response = connection.getresponse()
        assert response.status == 200
        assert json.loads(response.read())
    connection.close()
