"""Plans: what is computed where, the figures that decided it, and how two plans differ.

A plan is a value: frozen, versioned, serialisable; making one is `tierflow.planning`, acting on one
is the control plane's.
"""

from itertools import chain
from typing import Final, Literal

import msgspec

from tierflow.errors import InvalidInputError
from tierflow.graph import Graph
from tierflow.network import Network
from tierflow.partition.problem import Algorithm, Partition
from tierflow.segment import Route, Segment, boundary_id, segment_id, segments_of, tensors_size
from tierflow.tiers import TIERS, Tier

VERSION: Final = 1


class SegmentPlan(msgspec.Struct, frozen=True, kw_only=True):
    """One tier's part in a plan.

    Attributes:
        segment: The tensors that it accepts, sends and returns, and its layers.
        id: Content hash; a tier has to change exactly where it does.
        layers: How many layers it computes.
        last_layer: Name of its last layer in the graph's order; "" where it has none.
        accepts_boundary: The id of the boundary that requests to it name; "" where it takes no part.
        sends_boundary: The id of the boundary that it sends on; "" where it is the last.
        boundary_bytes: Bytes per request that it sends on.
        compute_seconds: Predicted time of its layers.
    """

    segment: Segment
    id: str
    layers: int
    last_layer: str
    accepts_boundary: str
    sends_boundary: str
    boundary_bytes: int
    compute_seconds: float

    @property
    def tier(self) -> Tier:
        """The tier it runs on."""
        return self.segment.tier


class RunPlan(msgspec.Struct, frozen=True, kw_only=True):
    """A run of the edge's layers that is computed tile by tile.

    Attributes:
        id: Content hash of what tile workers have to hold for it.
        first_layer: Name of its first layer in the graph's order.
        last_layer: Name of its last.
        input: The feature map that it starts from, the only tensor that crosses there.
        output: The feature map that it ends with.
        rows: Bands of the grid.
        columns: Tiles per band; `rows` x `columns` workers compute it, the edge's own among them.
        halo_factor: Work of all tiles together over the work of the whole; it can be below 1 where a later layer drops
            places at the border, which tiles then don't compute.
        scatter_bytes: Bytes that leave the edge's worker per request.
        gather_bytes: Bytes that come back.
        predicted_seconds: Time with scatter and gather.
        untiled_seconds: Time on the edge's worker alone.
    """

    id: str
    first_layer: str
    last_layer: str
    input: str
    output: str
    rows: int
    columns: int
    halo_factor: float
    scatter_bytes: int
    gather_bytes: int
    predicted_seconds: float
    untiled_seconds: float


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What each tier computes, and what that was decided from.

    Attributes:
        model: Identity of the model.
        epoch: Number of the pipeline's plan, counted up from 1.
        algorithm: What found the partition.
        route: Whether the edge relays.
        segments: Device, edge and cloud, in this order.
        predicted_seconds: Latency of a request.
        optimality_gap: Relative distance to the optimum, 0 where it is optimal.
        backbone_bytes: Bytes per request into the cloud, results not counted.
        network: The links that it was decided from.
        speeds: The tiers' speeds that it was decided from, by tier.
        tiling: The runs of the edge's segment that are tiled, in the graph's order; () where none is worth it.
    """

    model: str
    epoch: int
    algorithm: Algorithm
    route: Route
    segments: tuple[SegmentPlan, SegmentPlan, SegmentPlan]
    predicted_seconds: float
    optimality_gap: float
    backbone_bytes: int
    network: Network
    speeds: dict[Tier, float]
    tiling: tuple[RunPlan, ...] = ()
    version: Literal[1] = VERSION

    def segment(self, tier: Tier) -> SegmentPlan:
        """The part of `tier`."""
        return self.segments[tier.rank]

    def next_tier(self, tier: Tier) -> Tier | None:
        """Where `tier` sends its boundary; None for the last that takes part and for those that take none."""
        if not self.segment(tier).sends_boundary:
            return None
        if tier is Tier.DEVICE and self.route is Route.DIRECT:
            return Tier.CLOUD
        return TIERS[tier.rank + 1]

    def tiers(self, graph: Graph) -> tuple[Tier, ...]:
        """The tier of each layer of `graph`."""
        owner: dict[int, Tier] = {place: part.tier for part in self.segments for place in part.segment.layers}
        return tuple(owner[place] for place in range(len(graph.layers)))


def plan_of(
    graph: Graph, partition: Partition, *, model: str, network: Network, speeds: dict[Tier, float], epoch: int = 1
) -> Plan:
    """The plan that a partition makes."""
    segments = segments_of(graph, partition.tiers, partition.route)
    made = [segment.results for segment in segments]
    device, edge, cloud = (
        _part(graph, segment, partition, model, pending=tuple(made[segment.tier.rank :])) for segment in segments
    )
    into_cloud = segments[Tier.CLOUD.rank].accepts
    return Plan(
        model=model,
        epoch=epoch,
        algorithm=partition.algorithm,
        route=partition.route,
        segments=(device, edge, cloud),
        predicted_seconds=partition.latency.total,
        optimality_gap=partition.optimality_gap,
        backbone_bytes=tensors_size(graph, into_cloud),
        network=network,
        speeds=speeds,
    )


def _part(
    graph: Graph, segment: Segment, partition: Partition, model: str, *, pending: tuple[tuple[str, ...], ...]
) -> SegmentPlan:
    """A tier's part; `pending` are the graph outputs that it and each tier above make."""
    below, above = chain(*pending), chain(*pending[1:])
    return SegmentPlan(
        segment=segment,
        id=segment_id(model, segment),
        layers=len(segment.layers),
        last_layer=graph.layers[segment.layers[-1]].name if segment.layers else "",
        accepts_boundary=boundary_id(model, segment.accepts, below) if segment.accepts else "",
        sends_boundary=boundary_id(model, segment.sends, above) if segment.sends else "",
        boundary_bytes=tensors_size(graph, segment.sends),
        compute_seconds=partition.latency.compute[segment.tier],
    )


class TierChange(msgspec.Struct, frozen=True, kw_only=True):
    """Why a tier's worker has to change.

    `Segment` (other layers or tensors), `Route` (another neighbour), or `Tiling` (other runs are computed as tiles).
    """

    tier: Tier
    reason: Literal["Segment", "Route", "Tiling"]
    message: str


def difference(old: Plan, new: Plan) -> tuple[TierChange, ...]:
    """The tiers whose segment or neighbour differs between two plans of a model, device first; () where none does.

    Raises:
        InvalidInputError: where the plans are of different models.
    """
    if old.model != new.model:
        raise InvalidInputError(f"the plans belong to different models: {old.model} and {new.model}", subject="model")
    changes = []
    for tier in TIERS:
        before, after = old.segment(tier), new.segment(tier)
        if before.id != after.id:
            message = f"{before.layers} -> {after.layers} layers, last {after.last_layer or 'none'}"
            changes.append(TierChange(tier=tier, reason="Segment", message=message))
        elif old.next_tier(tier) != new.next_tier(tier):
            message = f"sends to {new.next_tier(tier) or 'none'} instead of {old.next_tier(tier) or 'none'}"
            changes.append(TierChange(tier=tier, reason="Route", message=message))
        elif tier is Tier.EDGE and _runs(old) != _runs(new):
            message = f"{len(old.tiling)} -> {len(new.tiling)} tiled runs"
            changes.append(TierChange(tier=tier, reason="Tiling", message=message))
    return tuple(changes)


def _runs(plan: Plan) -> tuple[tuple[str, int, int], ...]:
    """What the edge's worker is told of its runs."""
    return tuple((run.id, run.rows, run.columns) for run in plan.tiling)


def encode(plan: Plan) -> bytes:
    """The plan as JSON."""
    return msgspec.json.encode(plan)


def decode(data: bytes) -> Plan:
    """The plan that `encode` wrote.

    Raises:
        InvalidInputError: where the data is none, or of another version.
    """
    try:
        return msgspec.json.decode(data, type=Plan)
    except msgspec.DecodeError as error:
        raise InvalidInputError(f"no plan of version {VERSION}: {error}; plan again", subject="plan") from error
