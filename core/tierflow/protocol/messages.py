"""Inference requests and responses as values, and the protocol's names of data types.

Both faces of a worker read into these and write from them; `tierflow.protocol.codec` (gRPC) and
`tierflow.protocol.rest` know the bytes.
"""

from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from typing import Final

from tierflow.errors import InvalidRequestError

Data = bytes | memoryview
Parameter = bool | int | float | str

BOUNDARY_PARAMETER: Final = "tierflow_boundary"
"""Request parameter between workers: the id of the boundary whose tensors the request carries."""

SECONDS_PARAMETER: Final = "tierflow_seconds"
"""Response parameter between workers: from the request's arrival to the answer's departure, in seconds."""

PROBE_PARAMETER: Final = "tierflow_probe"
"""Request parameter between workers: the request measures the link, and is answered at once without tensors."""

RUN_PARAMETER: Final = "tierflow_run"
"""Request parameter between edge workers: the id of the run of which a tile is wanted."""

TILE_PARAMETER: Final = "tierflow_tile"
"""Request parameter between edge workers: the region wanted of the run's output, half-open, as `r0:r1,c0:c1`."""

HOLD_PARAMETER: Final = "tierflow_hold"
"""Request parameter from an edge worker to a tile worker, without tensors: a segment whose runs it is to hold, as JSON.

See `tierflow_worker.tiling.holdings.RunsWanted`. It is answered at once; asked again it says how far that is.
"""

HELD_PARAMETER: Final = "tierflow_held"
"""Response parameter beside `tierflow_hold`: see `tierflow_worker.tiling.holdings.RunsHeld`, as JSON."""

ONLY_OWN_PARAMETER: Final = "tierflow_only_own"
"""Request parameter, a boolean: the worker computes its own segment alone and sends nothing on.

Good for requests with the model's inputs at the device and for those that name a boundary. The answer has the tensors
that the worker would have sent on, then the results that it makes itself, a tensor that is both only once. Its
parameters say what they are: `tierflow_boundary` is the id of the boundary whose tensors would have been sent, left out
where nothing is; `tierflow_results` the names of the results, as a JSON list; `tierflow_segment` the segment's id.
"""

RESULTS_PARAMETER: Final = "tierflow_results"
"""Response parameter beside `tierflow_only_own`: which tensors are results of the model, a JSON list of names."""

SEGMENT_PARAMETER: Final = "tierflow_segment"
"""Response parameter beside `tierflow_only_own`: the id of the segment that was computed."""

OIP_DTYPES: Final[Mapping[str, str]] = {
    "bool": "BOOL", "string": "BYTES",
    "uint8": "UINT8", "uint16": "UINT16", "uint32": "UINT32", "uint64": "UINT64",
    "int8": "INT8", "int16": "INT16", "int32": "INT32", "int64": "INT64",
    "float16": "FP16", "float32": "FP32", "float64": "FP64", "bfloat16": "BF16",
    # The protocol has no names for these. Between workers they go under ONNX's.
    "complex64": "COMPLEX64", "complex128": "COMPLEX128",
    "float8e4m3fn": "FLOAT8E4M3FN", "float8e4m3fnuz": "FLOAT8E4M3FNUZ", "float8e5m2": "FLOAT8E5M2",
    "float8e5m2fnuz": "FLOAT8E5M2FNUZ", "float8e8m0": "FLOAT8E8M0",
    "int4": "INT4", "uint4": "UINT4", "float4e2m1": "FLOAT4E2M1", "int2": "INT2", "uint2": "UINT2",
}  # fmt: skip
"""The protocol's name of each data type of `tierflow.graph.Tensor`."""

GRAPH_DTYPES: Final[Mapping[str, str]] = {oip: graph for graph, oip in OIP_DTYPES.items()}
"""The graph's name of each data type of the protocol."""

MOST_DIMENSIONS: Final = 64
"""A tensor with more dimensions than this is an attack on memory, not a request."""

_REFUSED_PARAMETERS: Final = {
    "shared_memory_region": "shared memory is not supported; send the tensor's contents",
    "classification": "the classification extension is not supported; ask for the plain output",
}


@dataclass(frozen=True, slots=True)
class InferTensor:
    """A tensor with its content.

    Attributes:
        name: As in the graph.
        dtype: The graph's name (`float32`, `string`), not the protocol's.
        shape: Dimensions; nothing promises that they fit `data` before the data plane has checked it.
        data: Elements in row-major order, little-endian. Strings: each with its length before it, as 4 bytes
            (`tierflow.protocol.elements`).
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: Data


@dataclass(frozen=True, slots=True)
class InferRequest:
    """A request for an inference.

    Attributes:
        model: The pipeline's name.
        tensors: The inputs, or between workers the tensors of a boundary.
        id: The client's name for the request; "" where it gave none.
        outputs: Names of the wanted outputs, in the order wanted; () for all.
        parameters: `tierflow_boundary` and whatever else the client sent.
    """

    model: str
    tensors: tuple[InferTensor, ...]
    id: str = ""
    outputs: tuple[str, ...] = ()
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    version: str = ""


@dataclass(frozen=True, slots=True)
class InferResponse:
    """The answer to an `InferRequest`; `id` is the request's."""

    model: str
    tensors: tuple[InferTensor, ...]
    id: str = ""
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    version: str = ""


@dataclass(frozen=True, slots=True)
class EncodedResponse:
    """The answer of another worker, passed on without being read.

    Attributes:
        data: The bytes of a `ModelInferResponse`, but for the seconds among its parameters.
        seconds: From the request's arrival to the answer's departure.
    """

    data: Data
    seconds: float


@dataclass(frozen=True, slots=True)
class ServerMetadata:
    """What a server says about itself."""

    name: str
    version: str
    extensions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TensorMetadata:
    """An input or output as clients see it; `dtype` is the graph's name."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ModelMetadata:
    """What a server says about a model."""

    name: str
    platform: str
    inputs: tuple[TensorMetadata, ...]
    outputs: tuple[TensorMetadata, ...]
    versions: tuple[str, ...] = ()


def graph_dtype(datatype: str, *, tensor: str) -> str:
    """The graph's name of the protocol's `datatype`.

    Raises:
        InvalidRequestError: naming `tensor`, where the protocol has no such type.
    """
    known = GRAPH_DTYPES.get(datatype)
    if known is None:
        raise InvalidRequestError(
            f"tensor {tensor!r} has the unknown datatype {datatype!r}; there are {', '.join(GRAPH_DTYPES)}",
            subject=tensor,
        )
    return known


def refuse_unsupported(tensor: str, parameters: Container[str]) -> None:
    """Refuses parameters of an input or a wanted output that would change the answer's meaning and are not supported.

    Raises:
        InvalidRequestError: naming `tensor`.
    """
    for name, message in _REFUSED_PARAMETERS.items():
        if name in parameters:
            raise InvalidRequestError(f"tensor {tensor!r}: {message}", subject=tensor)
