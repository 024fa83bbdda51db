"""Links between real processes' stacks, shaped to known figures, are known from probes and from requests."""

import asyncio

import pytest

from benchmarks.robustness_figures import probed, requested
from tierflow.network import NETWORKS


@pytest.mark.slow
@pytest.mark.parametrize("measure", [probed, requested], ids=["probes", "requests"])
def test_a_shaped_link_is_known(measure: object) -> None:
    link = NETWORKS["4g"].edge_cloud
    assert callable(measure)
    estimate = asyncio.run(measure(link))
    assert estimate.bytes_per_second == pytest.approx(link.bytes_per_second, rel=0.25)
    assert estimate.round_trip_seconds == pytest.approx(link.round_trip_seconds, rel=0.5)
