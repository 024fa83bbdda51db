"""The operator has the rights that it needs, and no others: what it asked of the API server while all tests ran."""

import functools

import pytest

from kindbed.cluster import NAMESPACE, Cluster
from kindbed.pipelines import Pipeline
from kindbed.requests_made import refused, rights_granted, rights_used

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


@pytest.fixture
def repeated_event(resnet18: Pipeline) -> None:
    """An event that is told twice, with another one in between: that alone takes a right of its own."""

    def is_refused(layer: str) -> bool:
        return f"'{layer}'" in resnet18.condition("PlanFeasible").get("message", "")

    for layer in ("no-layer", "no-other-layer", "no-layer"):
        resnet18.patch(planning={"pins": [{"name": "privacy", "layersUpTo": layer, "tier": "device"}]})
        resnet18.cluster.wait_for(f"{layer} refused", functools.partial(is_refused, layer), 60)


@pytest.mark.usefixtures("repeated_event")
def test_every_right_is_needed_and_no_other_is(cluster: Cluster) -> None:
    roles = [cluster.get("clusterrole", "tierflow"), cluster.get("role", "tierflow-leader", NAMESPACE)]
    granted = rights_granted(rule for role in roles for rule in role["rules"])
    entries = cluster.audit()
    assert refused(entries) == []
    assert granted - rights_used(entries) == set(), "granted and never used: take it from the chart"
