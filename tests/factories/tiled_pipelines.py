"""Pipelines whose edge has a run of layers to share: four convolutions, of which any tile can be computed."""

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from factories.local_runs import narrowing
from factories.models import saved
from factories.pipelines import network, profile
from tierflow.graph import Graph
from tierflow.model import open_model
from tierflow.plan import Plan
from tierflow.segment import cut
from tierflow.tiers import Tier
from tierflow.tiling.choice import EdgeNodes
from tierflow_operator.manual import plan_for

SPEEDS = {Tier.DEVICE: 0.1, Tier.EDGE: 0.5, Tier.CLOUD: 1.0}


@cache
def convolutions() -> Graph:
    """The graph of the narrowing model."""
    with TemporaryDirectory() as folder:
        return open_model(str(saved(narrowing(), Path(folder)))).graph


def edge_workers(count: int) -> EdgeNodes:
    """So many workers, all alike."""
    return EdgeNodes(speeds=(1.0,) * count)


def tiled_plan(workers: int, last_device: str = "", last_edge: str = "conv4") -> Plan:
    """A plan by hand whose edge tiles where it can; each layer takes 10 ms."""
    graph = convolutions()
    tiers = cut(graph, last_device, last_edge)
    return plan_for(graph, profile(graph), network(), SPEEDS, tiers, nodes=edge_workers(workers))
