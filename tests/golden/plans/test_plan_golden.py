"""The plans of a small network, as JSON; a change of these files is a change of what scripts and status read.

A file that is deleted is written again by the next run, which fails so that someone looks at it.
"""

from pathlib import Path

import msgspec
import pytest

from factories.graphs import graph_of
from tierflow.network import NETWORKS
from tierflow.partition.problem import Algorithm
from tierflow.plan import Plan, encode
from tierflow.planning import make_plan
from tierflow.profile import Profile
from tierflow.tiers import Tier

HERE = Path(__file__).parent
SPEEDS = {Tier.DEVICE: 0.05, Tier.EDGE: 0.5, Tier.CLOUD: 4.0}


def make(network: str, algorithm: Algorithm) -> Plan:
    """A stem, two branches that are joined, and a head, with sizes as in a small image classifier."""
    layers = [("x", "stem"), ("stem", "left"), ("stem", "mid"), ("mid", "right"), ("left right", "join"), ("join", "y")]
    sizes = {"x": 150_528, "stem": 200_704, "left": 50_176, "mid": 100_352, "right": 25_088, "join": 75_264, "y": 1000}
    graph = graph_of(layers, outputs="y", sizes=sizes)
    seconds = dict(zip((layer.name for layer in graph.layers), (0.02, 0.03, 0.01, 0.04, 0.001, 0.3), strict=True))
    profile = Profile(
        model="drawn", source="measured", machine="here", layers=seconds, crossings={"mid": 0.002}, segment=0.0005
    )
    return make_plan(graph, profile, NETWORKS[network], SPEEDS, algorithm=algorithm)


@pytest.mark.parametrize("algorithm", list(Algorithm))
@pytest.mark.parametrize("network", list(NETWORKS))
def test_the_plan_is_the_one_that_was_agreed_on(network: str, algorithm: Algorithm) -> None:
    path = HERE / f"{network}-{algorithm.lower()}.json"
    found = msgspec.json.format(encode(make(network, algorithm)), indent=2) + b"\n"
    if not path.exists():
        path.write_bytes(found)
        pytest.fail(f"{path.name} was missing and has been written: look at it and run again")
    assert rounded(msgspec.json.decode(found)) == rounded(msgspec.json.decode(path.read_bytes()))


def rounded(value: object) -> object:
    """The document with its figures rounded to what is sure on every machine."""
    if isinstance(value, float):
        return float(f"{value:.9g}")
    if isinstance(value, dict):
        return {key: rounded(each) for key, each in value.items()}
    return [rounded(each) for each in value] if isinstance(value, list) else value
