"""Pipelines, profiles and observations for tests of the control plane."""

from collections.abc import Mapping, Sequence

from tierflow.graph import Graph
from tierflow.manifest import InferencePipeline
from tierflow.manifest_reading import from_object
from tierflow.network import MEGABIT, Link, Network, network_of
from tierflow.profile import Profile
from tierflow.tiers import TIERS, Tier
from tierflow_operator.observation import Observation, assumed

ONE_NODE_EACH: Mapping[Tier, int] = dict.fromkeys(TIERS, 1)


def pipeline(
    planning: Mapping[str, object] | None = None, memory: Mapping[str, str] | None = None, **metadata: object
) -> InferencePipeline:
    """A pipeline named `small` with defaults for all that isn't given."""
    return from_object(
        {
            "apiVersion": "tierflow.dev/v1alpha1",
            "kind": "InferencePipeline",
            "metadata": {"name": "small", **metadata},
            "spec": {
                "model": {"uri": "zoo://resnet18"},
                "tiers": [{"name": str(tier), "memoryBudget": (memory or {}).get(tier)} for tier in TIERS],
                "planning": dict(planning or {}),
            },
        }
    )


def profile(graph: Graph, seconds: float | Sequence[float] = 0.010, *, model: str = "zoo:test:1") -> Profile:
    """A profile whose layers take the given time each."""
    each = [seconds] * len(graph.layers) if isinstance(seconds, float) else seconds
    layers = {layer.name: time for layer, time in zip(graph.layers, each, strict=True)}
    return Profile(model=model, source="measured", machine="test", layers=layers)


def network(device_edge: float = 80.0, edge_cloud: float = 80.0, round_trip: float = 0.001) -> Network:
    """A network with the given Mbit/s."""
    return network_of(
        Link(bytes_per_second=device_edge * MEGABIT, round_trip_seconds=round_trip),
        Link(bytes_per_second=edge_cloud * MEGABIT, round_trip_seconds=round_trip),
    )


def observation(
    links: Network | None = None,
    speeds: Sequence[float] = (0.1, 0.5, 1.0),
    nodes: Mapping[Tier, int] = ONE_NODE_EACH,
) -> Observation:
    """What a test says that the world is like."""
    return assumed(pipeline(), nodes, network=links or network(), speeds=dict(zip(TIERS, speeds, strict=True)))
