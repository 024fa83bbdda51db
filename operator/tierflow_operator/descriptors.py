"""What each worker is told under a plan, and what it goes on serving from before."""

from collections.abc import Callable, Iterable, Mapping
from typing import Final

import msgspec

from tierflow.descriptor import (
    Boundary,
    Downstream,
    ModelReference,
    RunDescriptor,
    SegmentDescriptor,
    WorkerDescriptor,
)
from tierflow.graph import Graph, Tensor
from tierflow.plan import Plan
from tierflow.tiers import TIERS, Tier

Addresses = Callable[[Tier, Tier], str]
"""The gRPC address (`host:port`) at which the worker of the first tier reaches that of the second."""

TILES: Final = "tiles"
"""The component of the workers that compute nothing but tiles; the others are named after their tiers."""

_MOST_SEGMENTS: Final = 2
"""That a worker is told of: the current one and the one before."""


def worker_descriptors(
    *,
    pipeline: str,
    namespace: str,
    model: ModelReference,
    graph: Graph,
    plan: Plan,
    addresses: Addresses,
    tile_workers: str,
    live: Mapping[str, WorkerDescriptor],
) -> dict[str, WorkerDescriptor]:
    """The descriptors of all tiers, and that of the tile workers where the plan tiles.

    A tier whose segment the plan leaves alone keeps its descriptor to the byte, with what it serves from before. Where
    the segment changes, the one before stays as the second, for requests whose sender doesn't know the new plan yet;
    unless no tier below sends what it accepts any more.

    Args:
        pipeline: Name of the pipeline.
        namespace: Its namespace.
        model: Where the workers find the whole model.
        graph: Its graph.
        plan: The wanted plan.
        addresses: Where workers reach each other.
        tile_workers: Where the edge's worker finds the tile workers, should the plan tile.
        live: The descriptors in force by component; none for one that has no worker yet.
    """
    segments = {
        tier: _segments(_segment(graph, plan, tier, addresses), model, live.get(tier), _sent_below(tier, live))
        for tier in TIERS
    }
    described: dict[str, WorkerDescriptor] = {
        tier: WorkerDescriptor(
            pipeline=pipeline,
            namespace=namespace,
            tier=tier,
            model=model,
            inputs=tensors(graph, graph.inputs),
            outputs=tensors(graph, graph.outputs),
            segments=segments[tier],
            probes=tuple(
                Downstream(tier=upper, address=addresses(tier, upper)) for upper in TIERS if upper.rank > tier.rank
            ),
            tile_workers=tile_workers if segments[tier] and segments[tier][0].runs else "",
        )
        for tier in TIERS
    }
    if plan.tiling:
        # The edge's worker tells them what to hold, so that a plan with other runs leaves them as they are.
        described[TILES] = msgspec.structs.replace(
            described[Tier.EDGE], segments=(), probes=(), role="tiles", tile_workers=""
        )
    return described


def tensors(graph: Graph, names: Iterable[str]) -> tuple[Tensor, ...]:
    """The named tensors; a graph output that no layer makes may be a weight."""
    return tuple(graph.tensors[name] if name in graph.tensors else graph.weights[name] for name in names)


def _segment(graph: Graph, plan: Plan, tier: Tier, addresses: Addresses) -> SegmentDescriptor | None:
    """The tier's segment under the plan; None where it takes no part."""
    part = plan.segment(tier)
    if not part.segment.takes_part:
        return None
    above = plan.next_tier(tier)
    sends, downstream = None, None
    if above is not None:
        sends = Boundary(id=part.sends_boundary, tensors=tensors(graph, part.segment.sends))
        downstream = Downstream(tier=above, address=addresses(tier, above))
    return SegmentDescriptor(
        id=part.id,
        layers=part.layers,
        accepts=Boundary(id=part.accepts_boundary, tensors=tensors(graph, part.segment.accepts)),
        sends=sends,
        results=tensors(graph, part.segment.results),
        downstream=downstream,
        runs=_runs(graph, plan) if tier is Tier.EDGE else (),
    )


def _runs(graph: Graph, plan: Plan) -> tuple[RunDescriptor, ...]:
    return tuple(
        RunDescriptor(
            id=run.id,
            input=graph.tensors[run.input],
            output=graph.tensors[run.output],
            rows=run.rows,
            columns=run.columns,
        )
        for run in plan.tiling
    )


def _segments(
    wanted: SegmentDescriptor | None,
    model: ModelReference,
    live: WorkerDescriptor | None,
    sent: frozenset[str] | None,
) -> tuple[SegmentDescriptor, ...]:
    """The wanted segment first, then the last one that accepted something else which is still sent."""
    before = live.segments if live is not None and live.model == model else ()
    if wanted is None:
        return before  # the tier below may still send to it, and nothing is gained by replacing an idle worker
    if before and before[0] == wanted:
        return before  # nor by replacing one because of what it has besides
    kept = [
        segment
        for segment in before
        if segment.accepts.id != wanted.accepts.id and (sent is None or segment.accepts.id in sent)
    ]
    return (wanted, *kept)[:_MOST_SEGMENTS]


def _sent_below(tier: Tier, live: Mapping[str, WorkerDescriptor]) -> frozenset[str] | None:
    """The boundaries that the workers below a tier can send, by the descriptors in force; None where any is missing."""
    below = [live.get(lower) for lower in TIERS if lower.rank < tier.rank]
    known = [descriptor for descriptor in below if descriptor is not None]
    if len(known) < len(below):
        return None
    return frozenset(
        segment.sends.id for descriptor in known for segment in descriptor.segments if segment.sends is not None
    )
