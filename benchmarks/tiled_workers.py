"""Descriptors of an edge worker that shares runs, and of its tile workers, for benchmarks and tests."""

from collections.abc import Iterable, Sequence
from typing import Protocol

import msgspec

from benchmarks.workers import segment_descriptor, worker_descriptor
from tierflow.descriptor import Downstream, RunDescriptor, SegmentDescriptor, WorkerDescriptor
from tierflow.graph import Graph
from tierflow.model.model import Model
from tierflow.segment import run_id, segments_of
from tierflow.tiers import Tier
from tierflow.tiling.layout import Grid


class RunEnds(Protocol):
    """Where a run begins and ends: a `tierflow.plan.RunPlan`, or a `tierflow.tiling.runs.LayerRun`."""

    @property
    def input(self) -> str:
        """The feature map that it starts from."""

    @property
    def output(self) -> str:
        """The feature map that it ends with."""


def run_descriptors(graph: Graph, segment: str, runs: Iterable[tuple[RunEnds, Grid]]) -> tuple[RunDescriptor, ...]:
    """What workers are told of the runs of the segment with the id `segment`."""
    return tuple(
        RunDescriptor(
            id=run_id(segment, run.input, run.output),
            input=graph.tensors[run.input],
            output=graph.tensors[run.output],
            rows=grid.rows,
            columns=grid.columns,
        )
        for run, grid in runs
    )


def edge_segment(
    model: Model, tiers: Sequence[Tier], runs: Iterable[tuple[RunEnds, Grid]] = (), above: Downstream | None = None
) -> SegmentDescriptor:
    """The edge's segment of a partition, with tiled runs."""
    segment = segment_descriptor(model, segments_of(model.graph, tuple(tiers))[Tier.EDGE.rank], above)
    return msgspec.structs.replace(segment, runs=run_descriptors(model.graph, segment.id, runs))


def edge_descriptor(
    model: Model, uri: str, segments: Sequence[SegmentDescriptor], tile_workers: str = ""
) -> WorkerDescriptor:
    """The descriptor of an edge worker that shares runs with the workers at `tile_workers`."""
    edge = worker_descriptor(model, uri, Tier.EDGE, segments)
    return msgspec.structs.replace(edge, tile_workers=tile_workers)


def tile_descriptor(edge: WorkerDescriptor) -> WorkerDescriptor:
    """The descriptor of the tile workers of an edge worker."""
    return msgspec.structs.replace(edge, segments=(), probes=(), role="tiles", tile_workers="")


def answering(segment: SegmentDescriptor) -> SegmentDescriptor:
    """The segment as the last one of its chain: what it would send on is its answer."""
    results = segment.sends.tensors if segment.sends else segment.results
    return msgspec.structs.replace(segment, sends=None, downstream=None, results=results)
