"""Samples of workers over time, read by the operator's rules."""

import pytest

from tierflow.tiers import Tier
from tierflow_local.cluster import RunningWorker
from tierflow_local.history import History
from tierflow_operator.queries import BANDWIDTH, CALIBRATION, LINK_UP, MEASURED_AT, ROUND_TRIP
from tierflow_operator.queries import SEGMENT_RUNS as RUNS
from tierflow_operator.queries import SEGMENT_SECONDS as SECONDS

WHOSE = {"pipeline_namespace": "default", "pipeline": "small"}
LINK = WHOSE | {"from_tier": "device", "to_tier": "edge"}
EDGE = WHOSE | {"tier": "edge"}
BETWEEN = (Tier.DEVICE, Tier.EDGE)

Samples = list[tuple[str, dict[str, str], float]]


class Workers:
    """Workers by process id, and what each says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.says: dict[int, Samples] = {}
        self.history = History()
        monkeypatch.setattr("tierflow_local.history.samples_of", lambda worker: self.says.get(worker.pid, []))

    def scrape(self, now: float, *pids: int) -> None:
        workers = [RunningWorker(Tier.DEVICE, pid, 0.0, 0) for pid in pids or self.says]
        self.history.scrape(workers, now)


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> Workers:
    return Workers(monkeypatch)


def link(bandwidth: float, measured_at: float) -> Samples:
    return [
        (BANDWIDTH, LINK, bandwidth),
        (ROUND_TRIP, LINK, 0.01),
        (MEASURED_AT, LINK, measured_at),
        (LINK_UP, LINK, 1),
    ]


def test_a_single_outlier_moves_no_link(workers: Workers) -> None:
    for second, bandwidth in enumerate((1e6, 1e6, 9e6)):
        workers.says = {1: link(bandwidth, float(second))}
        workers.scrape(float(second))
    assert workers.history.readings(3.0, 60).links[BETWEEN].bytes_per_second == 1e6


def test_a_segments_time_is_that_of_its_latest_runs(workers: Workers) -> None:
    for second, (runs, seconds) in enumerate(((10, 1.0), (20, 3.0), (30, 5.0))):
        labels = EDGE | {"segment": "abc"}
        workers.says = {1: [(RUNS, labels, runs), (SECONDS, labels, seconds)]}
        workers.scrape(float(second))
    found = workers.history.readings(3.0, 60).segments[Tier.EDGE, "abc"]
    assert (found.seconds, found.runs) == (pytest.approx(0.2), 20)


def test_a_worker_that_took_anothers_place_is_believed_instead(workers: Workers) -> None:
    workers.says = {1: link(1e6, 0.0)}
    workers.scrape(0.0)
    workers.says = {2: link(5e6, 1.0)}
    workers.scrape(1.0)
    readings = workers.history.readings(1.0, 60)
    assert readings.links[BETWEEN].bytes_per_second == 5e6
    assert readings.workers == 1


def test_a_worker_that_says_nothing_more_is_known_until_its_samples_are_old(workers: Workers) -> None:
    workers.says = {1: link(1e6, 0.0)}
    workers.scrape(0.0)
    workers.says = {}
    workers.scrape(30.0, 1)
    assert BETWEEN in workers.history.readings(30.0, 60).links
    workers.scrape(90.0, 1)
    assert workers.history.readings(90.0, 60).links == {}
    workers.scrape(500.0, 1)
    assert workers.history.readings(500.0, 1000).links == {}


def test_the_fixed_computation_says_nothing_of_tiers_that_are_one_machine(workers: Workers) -> None:
    workers.says = {1: [(CALIBRATION, EDGE, 0.5)]}
    workers.scrape(0.0)
    assert workers.history.readings(0.0, 60).calibration_seconds == {}
