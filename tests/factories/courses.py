"""Pipelines that decide over time, and the small network that tests of decisions are about."""

from collections.abc import Iterator
from dataclasses import replace

from factories.graphs import chain
from factories.pipelines import ONE_NODE_EACH, network, observation, pipeline, profile
from tierflow.manifest import PipelineSpec
from tierflow.tiers import Tier
from tierflow_operator.observation import MetricsReason, MetricsState, Observation
from tierflow_operator.simulation import Moment, Simulation, Step

# Tensors get smaller towards the end, so that it is worth computing a while before sending.
GRAPH = chain(6, sizes=[150_000, 200_000, 50_000, 40_000, 10_000, 8_000, 10])
PROFILE = profile(GRAPH)
WIDE = observation(network(300, 300))
NARROW = observation(network(300, 1))
PROMETHEUS_DOWN = MetricsState(
    available=False, reason=MetricsReason.UNREACHABLE, message="Prometheus doesn't answer", holds=True
)


def spec(**planning: object) -> PipelineSpec:
    """A spec whose hysteresis is given like `minIntervalSeconds=30`; all thresholds left out are zero but 10 %."""
    return pipeline({"minIntervalSeconds": 0, "stabilizationSeconds": 0, **planning}).spec


def without(*tiers: Tier, seen: Observation = WIDE) -> Observation:
    """An observation in which these tiers have no ready node."""
    return replace(seen, ready_nodes={**ONE_NODE_EACH, **dict.fromkeys(tiers, 0)})


def swinging(one: Observation, other: Observation, *, every: float, until: float) -> Iterator[Moment]:
    """A world that is one thing and another in turn."""
    for number in range(int(until / every) + 1):
        yield Moment(number * every, other if number % 2 else one)


def course(wanted: PipelineSpec, moments: Iterator[Moment], *, until: float, period: float = 5.0) -> list[Step]:
    """What becomes of a pipeline of the small network."""
    return list(Simulation(wanted, GRAPH, PROFILE).run(moments, until=until, period=period))
