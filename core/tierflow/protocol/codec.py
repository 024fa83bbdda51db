"""The bytes of `ModelInferRequest` and `ModelInferResponse`, to and from values.

Tensors' raw contents are spliced in and out by hand, without a copy on reading, since protobuf's own classes copy
them several times; everything else goes through those classes. The bytes are the protocol's, whoever reads them.

Rules for reading:
1. A message whose bytes are no valid protobuf is refused, never read in part.
2. Raw contents, where there are any, are as many as there are tensors.
3. Parameters that would change the answer's meaning and are not supported (shared memory, classification) are refused.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from google.protobuf.message import DecodeError

from tierflow.errors import IntegrityError, InvalidRequestError
from tierflow.protocol import wire
from tierflow.protocol.elements import pack
from tierflow.protocol.messages import (
    MOST_DIMENSIONS,
    OIP_DTYPES,
    Data,
    InferRequest,
    InferResponse,
    InferTensor,
    Parameter,
    graph_dtype,
    refuse_unsupported,
)

_RAW_INPUT_FIELD: Final = 7
_RAW_OUTPUT_FIELD: Final = 6
_ID_FIELD: Final = 3  # of both
_LENGTH_DELIMITED: Final = 2
_MOST_KNOWN_HEADS: Final = 64
_LARGEST_KNOWN_HEAD: Final = 4096
_FIXED_SIZES: Final = {1: 8, 5: 4}
_MOST_FIELDS: Final = 65_536  # more top-level fields than this are an attack on memory, not a request
_CONTENTS: Final = {
    "bool": "bool_contents", "string": "bytes_contents",
    "int8": "int_contents", "int16": "int_contents", "int32": "int_contents", "int64": "int64_contents",
    "uint8": "uint_contents", "uint16": "uint_contents", "uint32": "uint_contents", "uint64": "uint64_contents",
    "float32": "fp32_contents", "float64": "fp64_contents",
}  # fmt: skip


class _MalformedError(Exception):
    """The bytes are no protobuf message; says where and why."""


def encode_request(request: InferRequest) -> bytes:
    """The request as a `ModelInferRequest`."""
    return b"".join(request_parts(request))


def request_parts(request: InferRequest) -> list[Data]:
    """As `encode_request`, in pieces, so that tensors need not be copied: they are among them as they are."""
    head = wire.ModelInferRequest(model_name=request.model, model_version=request.version, id=request.id)
    for tensor in request.tensors:
        head.inputs.add(name=tensor.name, datatype=OIP_DTYPES[tensor.dtype], shape=tensor.shape)
    for name in request.outputs:
        head.outputs.add(name=name)
    _write_parameters(head.parameters, request.parameters)
    return _splice(head.SerializeToString(), _RAW_INPUT_FIELD, request.tensors)


def decode_request(data: Data) -> InferRequest:
    """Reads a `ModelInferRequest`; its tensors' `data` are views into `data` where they came as raw contents.

    Raises:
        InvalidRequestError: where the bytes are no such message, or one that isn't supported.
    """
    try:
        rest, raw, named = _take_out(data, _RAW_INPUT_FIELD)
        known = _known_heads.get(rest)
        if known is not None and len(raw) == len(known.tensors):
            return known.request(named, raw)
        head = _read_head(rest, wire.ModelInferRequest)
    except _MalformedError as error:
        raise InvalidRequestError(f"no valid ModelInferRequest: {error}") from error
    for part in (*head.inputs, *head.outputs):
        refuse_unsupported(part.name, part.parameters)
    request = InferRequest(
        model=head.model_name,
        version=head.model_version,
        id=named,
        tensors=_tensors(head.inputs, raw, "raw_input_contents"),
        outputs=tuple(output.name for output in head.outputs),
        parameters=_read_parameters(head.parameters),
    )
    if raw and len(rest) <= _LARGEST_KNOWN_HEAD:
        _remember(rest, request)
    return request


def encode_response(response: InferResponse) -> bytes:
    """The response as a `ModelInferResponse`."""
    return b"".join(response_parts(response))


def response_parts(response: InferResponse) -> list[Data]:
    """As `encode_response`, in pieces; see `request_parts`."""
    head = wire.ModelInferResponse(model_name=response.model, model_version=response.version, id=response.id)
    for tensor in response.tensors:
        head.outputs.add(name=tensor.name, datatype=OIP_DTYPES[tensor.dtype], shape=tensor.shape)
    _write_parameters(head.parameters, response.parameters)
    return _splice(head.SerializeToString(), _RAW_OUTPUT_FIELD, response.tensors)


def decode_response(data: Data) -> InferResponse:
    """Reads a `ModelInferResponse`; its tensors' `data` are views into `data` where they came as raw contents.

    Raises:
        IntegrityError: where the bytes are no such message.
    """
    try:
        rest, raw, named = _take_out(data, _RAW_OUTPUT_FIELD)
        head = _read_head(rest, wire.ModelInferResponse)
        tensors = _tensors(head.outputs, raw, "raw_output_contents")
    except (_MalformedError, InvalidRequestError) as error:
        raise IntegrityError(f"the server's answer is no valid ModelInferResponse: {error}") from error
    return InferResponse(
        model=head.model_name,
        version=head.model_version,
        id=named,
        tensors=tensors,
        parameters=_read_parameters(head.parameters),
    )


def _splice(head: bytes, field: int, tensors: Iterable[InferTensor]) -> list[Data]:
    tag = bytes((field << 3 | _LENGTH_DELIMITED,))
    parts: list[Data] = [head]
    for tensor in tensors:
        parts += (tag + _varint(len(tensor.data)), tensor.data)
    return parts


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


@dataclass(frozen=True, slots=True)
class _KnownHead:
    """What a request's bytes say beside its id and its tensors' contents."""

    model: str
    version: str
    tensors: tuple[tuple[str, str, tuple[int, ...]], ...]
    outputs: tuple[str, ...]
    parameters: Mapping[str, Parameter]

    def request(self, named: str, raw: Sequence[memoryview]) -> InferRequest:
        tensors = tuple(InferTensor(*known, content) for known, content in zip(self.tensors, raw, strict=True))
        return InferRequest(self.model, tensors, named, self.outputs, dict(self.parameters), self.version)


_known_heads: dict[bytes, _KnownHead] = {}
"""Requests differ in their contents and ids; what else they say is mostly the same bytes again, and read once."""


def _remember(rest: bytes, request: InferRequest) -> None:
    if len(_known_heads) >= _MOST_KNOWN_HEADS:
        _known_heads.clear()
    tensors = tuple((tensor.name, tensor.dtype, tensor.shape) for tensor in request.tensors)
    _known_heads[rest] = _KnownHead(request.model, request.version, tensors, request.outputs, dict(request.parameters))


def _read_head(rest: bytes, message: Any) -> Any:
    try:
        return message.FromString(rest)
    except DecodeError as error:
        raise _MalformedError(str(error) or "its fields can't be read") from error


def _take_out(data: Data, raw_field: int) -> tuple[bytes, list[memoryview], str]:
    """Walks over the top level: all but the field `raw_field` and the id, the field's contents, and the id."""
    view = memoryview(data)
    rest: list[memoryview] = []
    raw: list[memoryview] = []
    named: memoryview | None = None
    place, kept, fields, end = 0, 0, 0, len(data)
    while place < end:
        fields += 1
        if fields > _MOST_FIELDS:
            raise _MalformedError(f"more than {_MOST_FIELDS} fields")
        began = place
        tag, place = _read_varint(data, place)
        number, kind = tag >> 3, tag & 7
        if kind != _LENGTH_DELIMITED:
            if number in (raw_field, _ID_FIELD, 0):
                raise _MalformedError(f"field {number} at byte {began} has the wire type {kind}")
            place = _skip(data, place, kind)
            continue
        length, start = _read_varint(data, place)
        place = start + length
        if place > end:
            raise _MalformedError(f"field {number} at byte {began} says {length} bytes where {end - start} are left")
        if number in (raw_field, _ID_FIELD):
            rest.append(view[kept:began])
            kept = place
            if number == raw_field:
                raw.append(view[start:place])
            else:
                named = view[start:place]
    rest.append(view[kept:end])
    try:
        return b"".join(rest), raw, "" if named is None else bytes(named).decode()
    except UnicodeDecodeError as error:
        raise _MalformedError(f"its id is no UTF-8: {error.reason}") from error


def _skip(data: Data, place: int, kind: int) -> int:
    """The place behind a scalar field's value."""
    if kind == 0:
        return _read_varint(data, place)[1]
    size = _FIXED_SIZES.get(kind)
    if size is None:
        raise _MalformedError(f"the wire type {kind} at byte {place}")
    if place + size > len(data):
        raise _MalformedError("a field is cut short")
    return place + size


def _read_varint(data: Data, place: int) -> tuple[int, int]:
    """A varint of at most 64 bits, and the place behind it."""
    value = 0
    for offset, byte in enumerate(data[place : place + 10]):
        value |= (byte & 0x7F) << 7 * offset
        if byte < 0x80:
            return value, place + offset + 1
    raise _MalformedError(f"a number at byte {place} is cut short or too long")


def _tensors(described: Sequence[Any], raw: Sequence[memoryview], field: str) -> tuple[InferTensor, ...]:
    if raw and len(raw) != len(described):
        raise InvalidRequestError(f"{field} has {len(raw)} entries for {len(described)} tensors; give one for each")
    return tuple(_tensor(part, raw[place] if raw else None) for place, part in enumerate(described))


def _tensor(part: Any, raw: memoryview | None) -> InferTensor:
    name = part.name
    dtype = graph_dtype(part.datatype, tensor=name)
    if len(part.shape) > MOST_DIMENSIONS:
        raise InvalidRequestError(
            f"tensor {name!r} has {len(part.shape)} dimensions; at most {MOST_DIMENSIONS} are accepted", subject=name
        )
    if raw is not None and part.HasField("contents"):
        raise InvalidRequestError(f"tensor {name!r} has both contents and raw contents; give one", subject=name)
    data: Data = _typed_contents(part, dtype) if raw is None else raw
    return InferTensor(name, dtype, tuple(part.shape), data)


def _typed_contents(part: Any, dtype: str) -> bytes:
    """The elements given in the field of their type, as raw bytes."""
    wanted = _CONTENTS.get(dtype)
    for field, _ in part.contents.ListFields():
        if field.name != wanted:
            raise InvalidRequestError(
                f"tensor {part.name!r} of {part.datatype} has its elements in {field.name}; "
                f"use {wanted or 'raw contents'}",
                subject=part.name,
            )
    return pack(dtype, list(getattr(part.contents, wanted)), tensor=part.name) if wanted else b""


def _write_parameters(target: Any, parameters: Mapping[str, Parameter]) -> None:
    for name, value in parameters.items():
        match value:
            case bool():
                target[name].bool_param = value
            case int():
                target[name].int64_param = value
            case float():
                target[name].double_param = value
            case str():
                target[name].string_param = value


def _read_parameters(parameters: Mapping[str, Any]) -> dict[str, Parameter]:
    found: dict[str, Parameter] = {}
    for name, value in parameters.items():
        choice = value.WhichOneof("parameter_choice")
        if choice is not None:
            found[name] = getattr(value, choice)
    return found
