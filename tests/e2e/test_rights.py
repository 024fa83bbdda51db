"""The operator has the rights that it needs, and no others: what it asked of the API server while all tests ran."""

import pytest

from kindbed.cluster import NAMESPACE, Cluster
from kindbed.requests_made import refused, rights_granted, rights_used

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


def test_every_right_is_needed_and_no_other_is(cluster: Cluster) -> None:
    roles = [cluster.get("clusterrole", "tierflow"), cluster.get("role", "tierflow-leader", NAMESPACE)]
    granted = rights_granted(rule for role in roles for rule in role["rules"])
    entries = cluster.audit()
    assert refused(entries) == []
    assert granted - rights_used(entries) == set(), "granted and never used: take it from the chart"
