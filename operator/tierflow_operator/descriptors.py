"""What each tier's worker is told under a plan, and what it goes on serving from before."""

from collections.abc import Callable, Iterable, Mapping

from tierflow.descriptor import Boundary, Downstream, ModelReference, SegmentDescriptor, WorkerDescriptor
from tierflow.graph import Graph, Tensor
from tierflow.plan import Plan
from tierflow.tiers import TIERS, Tier

Addresses = Callable[[Tier, Tier], str]
"""The gRPC address (`host:port`) at which the worker of the first tier reaches that of the second."""


def worker_descriptors(
    *,
    pipeline: str,
    namespace: str,
    model: ModelReference,
    graph: Graph,
    plan: Plan,
    addresses: Addresses,
    live: Mapping[Tier, WorkerDescriptor],
) -> dict[Tier, WorkerDescriptor]:
    """The descriptors of all tiers.

    A tier whose segment the plan leaves alone keeps its descriptor to the byte, with what it serves from before. Where
    the segment changes, the one before stays as the second, for requests whose sender doesn't know the new plan yet.

    Args:
        pipeline: Name of the pipeline.
        namespace: Its namespace.
        model: Where the workers find the whole model.
        graph: Its graph.
        plan: The wanted plan.
        addresses: Where workers reach each other.
        live: The descriptors in force; none for a tier that has no worker yet.
    """
    return {
        tier: WorkerDescriptor(
            pipeline=pipeline,
            namespace=namespace,
            tier=tier,
            model=model,
            inputs=tensors(graph, graph.inputs),
            outputs=tensors(graph, graph.outputs),
            segments=_segments(_segment(graph, plan, tier, addresses), model, live.get(tier)),
            probes=tuple(
                Downstream(tier=upper, address=addresses(tier, upper)) for upper in TIERS if upper.rank > tier.rank
            ),
        )
        for tier in TIERS
    }


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
    )


def _segments(
    wanted: SegmentDescriptor | None, model: ModelReference, live: WorkerDescriptor | None
) -> tuple[SegmentDescriptor, ...]:
    """The wanted segment first, then the last one that accepted something else."""
    before = live.segments if live is not None and live.model == model else ()
    if wanted is None:
        return before  # the tier below may still send to it, and nothing is gained by replacing an idle worker
    kept = [segment for segment in before if segment.accepts.id != wanted.accepts.id]
    return (wanted, *kept[:1])
