"""The descriptor: what a worker is told about its segments, as a JSON document.

The control plane renders it into an immutable ConfigMap (or, in local mode, a file); the worker reads it at its start.
It holds nothing that changes without the worker having to change: no epoch, no figures.
"""

from typing import Final, Literal

import msgspec

from tierflow.errors import InvalidInputError
from tierflow.graph import Tensor
from tierflow.tiers import Tier

VERSION: Final = 1


class ModelReference(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the whole model is and what it must be.

    `identity` is `tierflow.model.Model.identity`; `sha256` is checked where it is given; `input_shapes` fixes free
    dimensions.
    """

    uri: str
    identity: str
    sha256: str = ""
    input_shapes: dict[str, tuple[int, ...]] = {}


class Boundary(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A set of tensors that a request carries; `id` is its name on the wire."""

    id: str
    tensors: tuple[Tensor, ...]


class Downstream(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A worker to send to: its tier, and its gRPC address as `host:port`."""

    tier: Tier
    address: str


class RunDescriptor(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A run of the segment's layers that can be computed tile by tile: see `tierflow.plan.RunPlan`.

    `rows` and `columns` are the grid to begin with; a worker that holds the run can compute any tile of it.
    """

    id: str
    input: Tensor
    output: Tensor
    rows: int
    columns: int


class SegmentDescriptor(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One segment: see `tierflow.segment.Segment` for the meaning of accepts, sends and results.

    `layers` is how many layers it has; with none it relays. `sends` and `downstream` are both given or both None.
    `runs` are computed together with tile workers, in the order of execution.
    """

    id: str
    layers: int
    accepts: Boundary
    sends: Boundary | None = None
    results: tuple[Tensor, ...] = ()
    downstream: Downstream | None = None
    runs: tuple[RunDescriptor, ...] = ()


class WorkerDescriptor(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything a worker needs to know.

    Attributes:
        pipeline: The pipeline's name; the model name that clients use.
        namespace: The pipeline's namespace.
        tier: This worker's tier.
        model: The whole model.
        inputs: The whole model's inputs, for metadata at the entry.
        outputs: The whole model's outputs.
        segments: The current segment first, then those still served for requests under way; () for a standby, and for
            a tile worker, which edge workers tell what to hold.
        probes: Neighbours whose link is to be measured also when no request uses it.
        role: `tier` serves requests for its segments; `tiles` computes tiles of edge workers' runs and nothing else.
        tile_workers: Where the workers of role `tiles` are: `host:port` of a headless Service, whose name resolves to
            all of them, or several addresses with commas between; "" where there are none.
        version: Of this document's shape.
    """

    pipeline: str
    namespace: str
    tier: Tier
    model: ModelReference
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    segments: tuple[SegmentDescriptor, ...] = ()
    probes: tuple[Downstream, ...] = ()
    role: Literal["tier", "tiles"] = "tier"
    tile_workers: str = ""
    version: Literal[1] = VERSION


def encode(descriptor: WorkerDescriptor) -> bytes:
    """The descriptor as JSON with a stable order, so that equal descriptors are equal bytes."""
    return msgspec.json.encode(descriptor, order="deterministic")


def decode(data: bytes) -> WorkerDescriptor:
    """Reads a descriptor.

    Raises:
        InvalidInputError: naming the field that is wrong.
    """
    try:
        return msgspec.json.decode(data, type=WorkerDescriptor)
    except msgspec.DecodeError as error:
        raise InvalidInputError(f"no worker descriptor of version {VERSION}: {error}", subject="descriptor") from error
