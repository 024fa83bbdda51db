"""Links and machines that change: a plan follows, only what changed is written, and no request is lost."""

from collections.abc import Iterator

import pytest

from kindbed.cluster import Cluster
from kindbed.figures import note
from kindbed.pipelines import Pipeline
from kindbed.requests_made import lease_renewals, writes
from kindbed.shaping import Links
from kindbed.traffic import Load, Task

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]

_RENEWALS_OF_A_REST = 20


@pytest.fixture(scope="module")
def links(cluster: Cluster, slow_tiers: None) -> Iterator[Links]:
    """Links that are wide enough for early cuts, until a test narrows them."""
    shaped = Links(cluster)
    shaped.limit("device", "edge", 400)
    shaped.limit("device", "cloud", 20)
    shaped.limit("edge", "cloud", 200)
    yield shaped
    shaped.free()


@pytest.fixture(scope="module")
def measured(monitored: Pipeline, links: Links) -> Pipeline:
    """The sample with a Prometheus, on links of a known width."""
    return monitored


@pytest.fixture
def adapting(measured: Pipeline, links: Links) -> Pipeline:
    """The sample, free to cut where measurements say, without tiles."""
    links.limit("device", "edge", 400)
    links.limit("edge", "cloud", 200)
    measured.apply(
        tiers=[{"name": "device"}, {"name": "edge", "tiling": {"mode": "Off"}}, {"name": "cloud"}],
        planning={
            "minImprovementPercent": 10,
            "minIntervalSeconds": 5,
            "stabilizationSeconds": 5,
            "pins": [{"name": "privacy", "layersUpTo": "maxpool", "tier": "device"}],
        },
    )
    measured.wait_settled(240)
    measured.wait_steady()
    return measured


@pytest.mark.parametrize(
    ("link", "megabits_per_second", "affected"),
    [(("edge", "cloud"), 2, {"edge", "cloud"}), (("device", "edge"), 6, {"device", "edge"})],
    ids=["edge to cloud", "device to edge"],
)
def test_a_link_that_narrows_moves_its_cut_and_touches_only_its_two_tiers(
    adapting: Pipeline, links: Links, address: str, task: Task, link: tuple[str, str], megabits_per_second: float,
    affected: set[str],
) -> None:  # fmt: skip
    before, epoch = adapting.footprints(), adapting.epoch
    with Load(address, adapting.name, task) as load:
        links.limit(*link, megabits_per_second)
        adapting.wait_epoch(epoch, 240)
    after = adapting.footprints()
    status = adapting.object()["status"]
    note(
        f"{'-'.join(link)} link narrowed",
        reason=status["plan"]["reason"],
        message=status["plan"]["message"],
        decision_to_in_force_seconds=adapting.moved_within(),
        requests=len(load.outcomes),
        failed=len(load.failed),
    )
    assert {component for component in after if after[component] != before.get(component)} == affected
    assert status["plan"]["reason"] == "BandwidthChanged"
    assert load.failed == []
    assert load.wrong == []


def test_while_measurements_stay_within_the_thresholds_nothing_is_written(
    cluster: Cluster, adapting: Pipeline, address: str, task: Task
) -> None:
    with Load(address, adapting.name, task, clients=1):
        before = len(cluster.audit())
        cluster.wait_for(
            "a minute of the operator's", lambda: lease_renewals(cluster.audit()[before:]) > _RENEWALS_OF_A_REST, 180
        )
        assert writes(cluster.audit()[before:]) == []
