"""Links and machines that change: a plan follows, only what changed is written, and no request is lost."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest

from kindbed.cluster import Cluster
from kindbed.figures import note
from kindbed.monitoring import bandwidth_fell_at
from kindbed.pipelines import Pipeline
from kindbed.requests_made import lease_renewals, writes
from kindbed.shaping import Links
from kindbed.traffic import Load, Task

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]

_RENEWALS_OF_A_REST = 20
_STABILIZATION_SECONDS = 2
_ONE_THREAD = {"resources": {"requests": {"cpu": "100m"}, "limits": {"cpu": "1"}}}


@pytest.fixture(scope="module")
def links(cluster: Cluster, monitored: Pipeline) -> Iterator[Links]:
    """Links that tests narrow; the direct one to the cloud is never worth taking."""
    shaped = Links(cluster)
    shaped.limit("device", "cloud", 1)
    yield shaped
    shaped.free()


@dataclass(frozen=True)
class Narrowing:
    """A link that narrows, from and to how many Mbit/s, beside another one, and the tiers whose segments that moves.

    The memory of device and edge may be bounded, so that they can't do without the cloud.
    """

    link: tuple[str, str]
    wide: float
    narrow: float
    other: tuple[str, str]
    other_rate: float
    device_memory: str
    edge_memory: str
    affected: frozenset[str]


# Behind a wide link to it the cloud computes what the device needn't; behind a narrow one the edge does what it can.
_EDGE_CLOUD = Narrowing(
    ("edge", "cloud"), 200, 2, ("device", "edge"), 400, "10Mi", "36Mi", frozenset({"edge", "cloud"})
)
# With the cloud behind a narrow link all the time it computes nothing, and what moves is between device and edge.
_DEVICE_EDGE = Narrowing(("device", "edge"), 400, 6, ("edge", "cloud"), 2, "24Mi", "", frozenset({"device", "edge"}))


@pytest.fixture
def narrowing(request: pytest.FixtureRequest, monitored: Pipeline, links: Links) -> Narrowing:
    """The wide link of a case, with a plan that fits it in force."""
    case: Narrowing = request.param
    links.limit(*case.link, case.wide)
    links.limit(*case.other, case.other_rate)
    adapt(monitored, case.device_memory, case.edge_memory)
    return case


def adapt(pipeline: Pipeline, device_memory: str = "24Mi", edge_memory: str = "") -> None:
    """Lets a pipeline cut where measurements say, without tiles and for nothing small, and waits until it has."""
    budget = {"memoryBudget": edge_memory} if edge_memory else {}
    pipeline.apply(
        tiers=[
            {"name": "device", "memoryBudget": device_memory, **_ONE_THREAD},
            {"name": "edge", "tiling": {"mode": "Off"}, **budget, **_ONE_THREAD},
            {"name": "cloud", **_ONE_THREAD},
        ],
        planning={
            "minImprovementPercent": 35,
            "minIntervalSeconds": 5,
            "stabilizationSeconds": _STABILIZATION_SECONDS,
            "pins": [{"name": "privacy", "layersUpTo": "maxpool", "tier": "device"}],
        },
    )
    pipeline.wait_settled(240)
    pipeline.wait_steady()


@pytest.mark.parametrize(
    "narrowing", [_EDGE_CLOUD, _DEVICE_EDGE], ids=["edge to cloud", "device to edge"], indirect=True
)
def test_a_link_that_narrows_moves_its_cut_and_touches_only_its_two_tiers(
    monitored: Pipeline, links: Links, narrowing: Narrowing, address: str, task: Task
) -> None:
    before, epoch = monitored.still_footprints(), monitored.epoch
    with Load(address, monitored.name, task) as load:
        narrowed = datetime.now(UTC)
        links.limit(*narrowing.link, narrowing.narrow)
        monitored.wait_epoch(epoch, 240)
    after = monitored.footprints()
    plan = monitored.plan()
    fell = bandwidth_fell_at(
        monitored.cluster, *narrowing.link, below=(narrowing.wide * narrowing.narrow) ** 0.5, since=narrowed
    )
    note(
        f"{'-'.join(narrowing.link)} link narrowed",
        reason=plan["reason"],
        message=plan["message"],
        narrowed_to_decision_seconds=round((monitored.decided_at() - narrowed).total_seconds()),
        # The status tells whole seconds, rounded down.
        stabilization_seconds=_STABILIZATION_SECONDS,
        metric_shift_to_decision_seconds=round((monitored.decided_at() - fell).total_seconds(), 1),
        decision_to_in_force_seconds=monitored.moved_within(),
        requests=len(load.outcomes),
        failed=len(load.failed),
    )
    assert {component for component in after if after[component] != before.get(component)} == narrowing.affected
    assert plan["reason"] == "BandwidthChanged"
    assert load.failed == []
    assert load.wrong == []


def test_while_measurements_stay_within_the_thresholds_nothing_is_written(
    cluster: Cluster, monitored: Pipeline, links: Links, address: str, task: Task
) -> None:
    adapt(monitored)
    with Load(address, monitored.name, task, clients=1):
        before = len(cluster.audit())
        cluster.wait_for(
            "a minute of the operator's", lambda: lease_renewals(cluster.audit()[before:]) > _RENEWALS_OF_A_REST, 180
        )
        assert writes(cluster.audit()[before:]) == []
