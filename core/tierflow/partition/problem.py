"""What the planner is asked (`Problem`) and what it answers (`Partition`)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from tierflow.graph import Graph
from tierflow.segment import Route
from tierflow.tiers import Tier
from tierflow.units import Bytes, Seconds

Array = NDArray[np.float64]


class Algorithm(StrEnum):
    """How the partition is found."""

    EXACT = "Exact"
    HEURISTIC = "Heuristic"


@dataclass(frozen=True, slots=True)
class CrossingCost:
    """What it costs that tensors cross from one tier to another, in seconds.

    Attributes:
        fixed: Once per request where anything crosses: the link's round trip and the fixed cost of one more segment.
        tensor: Shape [tensors], in the order of `Graph.tensors`: what each tensor adds where it crosses; size /
            bandwidth and what the runtime pays for ending a segment there.
        result: Shape [outputs], in the order of `Graph.outputs`: what each graph output adds on its way back.
    """

    fixed: float
    tensor: Array
    result: Array


@dataclass(frozen=True, slots=True)
class Costs:
    """Everything that the latency of a partition is made of, in seconds.

    Attributes:
        layer: Shape [3, layers]: each layer's time on device, edge and cloud.
        device_edge: Crossing to the edge's worker.
        edge_cloud: Crossing from the edge's worker to the cloud's.
        device_cloud: Crossing straight to the cloud.
    """

    layer: Array
    device_edge: CrossingCost
    edge_cloud: CrossingCost
    device_cloud: CrossingCost


@dataclass(frozen=True, slots=True)
class Pin:
    """The layer `layers_up_to` and all that it depends on are computed on `tier` exactly.

    Pinned to the device it means: nothing before this layer leaves the device.
    """

    name: str
    layers_up_to: str
    tier: Tier


@dataclass(frozen=True, slots=True)
class Constraints:
    """What a partition has to respect.

    Attributes:
        pins: Layers that belong to a tier.
        memory: Per tier at most so many bytes: the weights of its layers, each once, and the largest working set
            (inputs and outputs) of one of its layers.
        backbone_bytes: At most so many bytes per request into the cloud, from the edge or from the device.
        unavailable: Tiers that can compute nothing now (never the device).
        kept: Tiers, device or cloud, that have exactly these layers, by place: what a plan that leaves the tier's
            worker alone has to respect. A device with given layers sends on to the edge.
    """

    pins: tuple[Pin, ...] = ()
    memory: Mapping[Tier, Bytes] = field(default_factory=dict)
    backbone_bytes: Bytes | None = None
    unavailable: frozenset[Tier] = frozenset()
    kept: Mapping[Tier, frozenset[int]] = field(default_factory=dict)

    @property
    def has_budgets(self) -> bool:
        """Whether a constraint is there that a minimum cut can't express."""
        return bool(self.memory) or self.backbone_bytes is not None


@dataclass(frozen=True, slots=True)
class Problem:
    """One planning problem."""

    graph: Graph
    costs: Costs
    constraints: Constraints = Constraints()


@dataclass(frozen=True, slots=True)
class Latency:
    """A partition's predicted latency and what it is made of.

    Attributes:
        total: Seconds from the request at the device to the answer at the device.
        compute: Seconds per tier.
        transfer: Seconds per link that is used, results on their way back included, keyed by (lower, upper) tier.
    """

    total: Seconds
    compute: Mapping[Tier, Seconds]
    transfer: Mapping[tuple[Tier, Tier], Seconds]


@dataclass(frozen=True, slots=True)
class Partition:
    """An answer: a tier for each layer, the route, the latency, and how far that is from the optimum.

    Attributes:
        tiers: One per layer, monotone along the data's flow.
        route: `DIRECT` only where the edge has no layers.
        latency: As `tierflow.partition.latency.evaluate` computes it.
        optimality_gap: (latency - optimum) / optimum, 0 for an optimal partition; the optimum under the same
            constraints.
        algorithm: What found it.
    """

    tiers: tuple[Tier, ...]
    route: Route
    latency: Latency
    optimality_gap: float
    algorithm: Algorithm


Partitioner = Callable[[Problem], Partition]
"""Finds a partition.

Raises:
    InvalidInputError: where a pin names a layer that isn't there.
    InfeasibleError: where no partition meets the constraints; names those that conflict.
"""
