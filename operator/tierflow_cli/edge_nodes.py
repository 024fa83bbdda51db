"""The workers that share the edge's tiles: from flags and the manifest to what the planner is told."""

import math
from typing import Final

from tierflow.errors import InvalidInputError
from tierflow.manifest import InferencePipeline
from tierflow.manifest_values import assumed_edge_workers, workers_sharing_tiles
from tierflow.network import Link
from tierflow.tiling.choice import EDGE_NETWORK, EdgeNodes
from tierflow.units import parse_bandwidth, parse_duration

_MOST_WORKERS: Final = 16
"""Every run is priced with every grid of up to so many tiles: more would keep the planner busy for minutes."""


def edge_nodes(
    pipeline: InferencePipeline | None, workers: int | None, speeds: str | None, network: str | None
) -> EdgeNodes:
    """The edge's workers: the flags', else as many as the manifest assumes and allows, else one.

    Args:
        pipeline: The manifest, where there is one.
        workers: As `--edge-workers` says.
        speeds: As `--edge-speeds` says; they are equal by default.
        network: As `--edge-network` says; `EDGE_NETWORK` by default.

    Raises:
        InvalidInputError: naming the flag that is wrong, or where there isn't one speed per worker.
        InvalidManifestError: where the manifest's annotation is wrong.
    """
    link = EDGE_NETWORK if network is None else parse_link(network)
    if speeds is not None:
        each = parse_edge_speeds(speeds, workers, of="--edge-workers")
    else:
        each = (1.0,) * (workers_assumed(pipeline) if workers is None else workers)
    if len(each) > _MOST_WORKERS:
        raise InvalidInputError(
            f"--edge-workers: {len(each)} are more than the {_MOST_WORKERS} that are planned for; give fewer",
            subject="--edge-workers",
        )
    return EdgeNodes(speeds=each, link=link)


def workers_assumed(pipeline: InferencePipeline | None) -> int:
    """As many edge workers as the manifest assumes, as far as its tiling allows them; one without a manifest."""
    if pipeline is None:
        return 1
    return workers_sharing_tiles(pipeline.spec, assumed_edge_workers(pipeline) or 1)


def parse_edge_speeds(text: str, count: int | None, *, of: str) -> tuple[float, ...]:
    """Reads the workers' speeds relative to the edge tier's, like `1,1,0.5,1`; the first is the edge worker's own.

    Args:
        text: What `--edge-speeds` says.
        count: How many there have to be, if that is known.
        of: What says so.

    Raises:
        InvalidInputError: where one is no positive number, or there aren't as many.
    """
    speeds = tuple(_speed(part) for part in text.split(","))
    if count is not None and len(speeds) != count:
        raise InvalidInputError(
            f"--edge-speeds: {text!r} has {len(speeds)}, but {of} asks for {count}; give one per worker",
            subject="--edge-speeds",
        )
    return speeds


def _speed(text: str) -> float:
    try:
        speed = float(text)
    except ValueError:
        speed = math.nan
    if not (math.isfinite(speed) and speed > 0):
        raise InvalidInputError(
            f"--edge-speeds: {text!r} is no speed; give a positive number per worker, like 1,1,0.5,1",
            subject="--edge-speeds",
        )
    return speed


def parse_link(text: str, *, field: str = "--edge-network") -> Link:
    """Reads a link with its round trip, like `1Gbit/s:0.5ms`; without one it takes no time.

    Raises:
        InvalidInputError: naming `field`, where the text is none.
    """
    bandwidth, _, round_trip = text.partition(":")
    return Link(
        bytes_per_second=parse_bandwidth(bandwidth, field=field),
        round_trip_seconds=parse_duration(round_trip or "0ms", field=field),
    )
