"""The bytes of `ModelInferRequest` and `ModelInferResponse`, to and from values.

Tensors' raw contents are spliced in and out by hand, without a copy on reading, since protobuf's own classes copy
them several times; everything else goes through those classes. The bytes are the protocol's, whoever reads them.

Rules for reading:
1. A message whose bytes are no valid protobuf is refused, never read in part.
2. Raw contents, where there are any, are as many as there are tensors.
3. Parameters that would change the answer's meaning and are not supported (shared memory, classification) are refused.
"""

import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from google.protobuf.message import DecodeError

from tierflow.errors import IntegrityError, InvalidRequestError
from tierflow.model.wire import header
from tierflow.protocol import heads, wire
from tierflow.protocol.elements import pack
from tierflow.protocol.fields import MalformedError, take_out
from tierflow.protocol.messages import (
    MOST_DIMENSIONS,
    SECONDS_PARAMETER,
    Data,
    EncodedResponse,
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
_PARAMETER_FIELD: Final = 4  # of both
_TAKEN_FROM_REQUESTS: Final = frozenset((_RAW_INPUT_FIELD, _ID_FIELD))
_TAKEN_FROM_RESPONSES: Final = frozenset((_RAW_OUTPUT_FIELD, _ID_FIELD, _PARAMETER_FIELD))
_DOUBLE: Final = struct.Struct("<d")
_CONTENTS: Final = {
    "bool": "bool_contents", "string": "bytes_contents",
    "int8": "int_contents", "int16": "int_contents", "int32": "int_contents", "int64": "int64_contents",
    "uint8": "uint_contents", "uint16": "uint_contents", "uint32": "uint_contents", "uint64": "uint64_contents",
    "float32": "fp32_contents", "float64": "fp64_contents",
}  # fmt: skip


# How the seconds' entry of a response's parameters begins: its key, and the tag of a double.
_SECONDS_HEAD: Final = (
    header(1, len(SECONDS_PARAMETER)) + SECONDS_PARAMETER.encode() + header(2, 1 + _DOUBLE.size) + b"\x21"
)
_SECONDS_TAG: Final = header(_PARAMETER_FIELD, len(_SECONDS_HEAD) + _DOUBLE.size)


def encode_request(request: InferRequest) -> bytes:
    """The request as a `ModelInferRequest`."""
    return b"".join(request_parts(request))


def request_parts(request: InferRequest) -> list[Data]:
    """As `encode_request`, in pieces, so that tensors need not be copied: they are among them as they are."""
    head = heads.said(request.model, request.version, request.tensors, request.outputs, request.parameters)
    return _splice(heads.REQUESTS.write(head), request.id, _RAW_INPUT_FIELD, request.tensors)


def beginning_of(request: InferRequest, size: int) -> bytes:
    """The bytes of a request with one tensor up to the tensor's content, with which the message ends.

    Args:
        request: The request; the tensor's content is not read.
        size: The content's, in bytes.
    """
    [head, *_] = request_parts(request)
    return bytes(head) + header(_RAW_INPUT_FIELD, size)


def decode_request(data: Data, there: int | None = None) -> InferRequest:
    """Reads a `ModelInferRequest`; its tensors' `data` are views into `data` where they came as raw contents.

    Args:
        data: The message.
        there: How many of its bytes have come; None for all. Where some have not, they are to be the rest of the last
            tensor's content.

    Raises:
        InvalidRequestError: where the bytes are no such message, or one that isn't supported.
    """
    try:
        rest, taken = take_out(data, _TAKEN_FROM_REQUESTS, there)
        if there is not None:
            _check_last(taken)
        raw = [content for field, content in taken if field == _RAW_INPUT_FIELD]
        named = _id(taken)
        known = heads.REQUESTS.read(rest)
        if known is not None and len(raw) == len(known.tensors):
            tensors = known.filled(raw)
            return InferRequest(known.model, tensors, named, known.outputs, known.given_parameters(), known.version)
        head = _read_head(rest, wire.ModelInferRequest)
    except MalformedError as error:
        raise InvalidRequestError(f"no valid ModelInferRequest: {error}") from error
    for part in (*head.inputs, *head.outputs):
        refuse_unsupported(part.name, part.parameters)
    tensors = _tensors(head.inputs, raw, "raw_input_contents")
    outputs = tuple(output.name for output in head.outputs)
    parameters = _read_parameters(head.parameters)
    if raw:
        known = heads.said(head.model_name, head.model_version, tensors, outputs, parameters)
        heads.REQUESTS.remember(rest, known)
    return InferRequest(head.model_name, tensors, named, outputs, parameters, head.model_version)


def encode_response(response: InferResponse) -> bytes:
    """The response as a `ModelInferResponse`."""
    return b"".join(response_parts(response))


def response_parts(response: InferResponse | EncodedResponse) -> list[Data]:
    """As `encode_response`, in pieces; see `request_parts`."""
    if isinstance(response, EncodedResponse):
        return [response.data, _SECONDS_TAG + _SECONDS_HEAD + _DOUBLE.pack(response.seconds)]
    parameters = dict(response.parameters)
    seconds = parameters.pop(SECONDS_PARAMETER, None)
    if seconds is not None and not isinstance(seconds, float):
        parameters[SECONDS_PARAMETER], seconds = seconds, None
    head = heads.said(response.model, response.version, response.tensors, (), parameters)
    parts = _splice(heads.RESPONSES.write(head), response.id, _RAW_OUTPUT_FIELD, response.tensors)
    if seconds is not None:  # different in each response, and therefore not in its head
        parts.append(_SECONDS_TAG + _SECONDS_HEAD + _DOUBLE.pack(seconds))
    return parts


def without_seconds(data: memoryview) -> EncodedResponse | None:
    """A response that a worker's `response_parts` made, to be passed on without being read; None for any other."""
    begin = len(data) - len(_SECONDS_TAG) - len(_SECONDS_HEAD) - _DOUBLE.size
    if begin < 0 or data[begin : -_DOUBLE.size] != _SECONDS_TAG + _SECONDS_HEAD:
        return None
    [seconds] = _DOUBLE.unpack(data[-_DOUBLE.size :])
    return EncodedResponse(data[:begin], seconds)


def decode_response(data: Data) -> InferResponse:
    """Reads a `ModelInferResponse`; its tensors' `data` are views into `data` where they came as raw contents.

    Raises:
        IntegrityError: where the bytes are no such message.
    """
    try:
        rest, taken = take_out(data, _TAKEN_FROM_RESPONSES)
        raw = [content for field, content in taken if field == _RAW_OUTPUT_FIELD]
        named = _id(taken)
        others, seconds = _divide_parameters(taken)
        rest += others
        known = heads.RESPONSES.read(rest)
        if known is not None and len(raw) == len(known.tensors):
            tensors = known.filled(raw)
            return InferResponse(known.model, tensors, named, known.given_parameters() | seconds, known.version)
        head = _read_head(rest, wire.ModelInferResponse)
        tensors = _tensors(head.outputs, raw, "raw_output_contents")
    except (MalformedError, InvalidRequestError) as error:
        raise IntegrityError(f"the server's answer is no valid ModelInferResponse: {error}") from error
    parameters = _read_parameters(head.parameters)
    if raw:
        heads.RESPONSES.remember(rest, heads.said(head.model_name, head.model_version, tensors, (), parameters))
    return InferResponse(head.model_name, tensors, named, parameters | seconds, head.model_version)


def _splice(head: bytes, named: str, field: int, tensors: Iterable[InferTensor]) -> list[Data]:
    if named:
        encoded = named.encode()
        head += header(_ID_FIELD, len(encoded)) + encoded
    parts: list[Data] = [head]
    for tensor in tensors:
        parts += (header(field, len(tensor.data)), tensor.data)
    return parts


def _check_last(taken: Sequence[tuple[int, memoryview]]) -> None:
    """Checks that the last field, of which some is missing, is a tensor's content."""
    if not taken or taken[-1][0] != _RAW_INPUT_FIELD:
        raise MalformedError("more is missing than a tensor's content")


def _id(taken: Iterable[tuple[int, memoryview]]) -> str:
    named = b""
    for field, content in taken:
        if field == _ID_FIELD:
            named = bytes(content)
    try:
        return named.decode()
    except UnicodeDecodeError as error:
        raise MalformedError(f"its id is no UTF-8: {error.reason}") from error


def _divide_parameters(taken: Iterable[tuple[int, memoryview]]) -> tuple[bytes, dict[str, Parameter]]:
    """Of the parameters of a response the bytes of those that belong to its head, and the seconds."""
    others, seconds = b"", {}
    size = len(_SECONDS_HEAD)
    for field, content in taken:
        if field != _PARAMETER_FIELD:
            continue
        if len(content) == size + _DOUBLE.size and content[:size] == _SECONDS_HEAD:
            [seconds[SECONDS_PARAMETER]] = _DOUBLE.unpack(content[size:])
        else:
            others += header(_PARAMETER_FIELD, len(content)) + bytes(content)
    return others, seconds


def _read_head(rest: bytes, message: Any) -> Any:
    try:
        return message.FromString(rest)
    except DecodeError as error:
        raise MalformedError(str(error) or "its fields can't be read") from error


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


def _read_parameters(parameters: Mapping[str, Any]) -> dict[str, Parameter]:
    found: dict[str, Parameter] = {}
    for name, value in parameters.items():
        choice = value.WhichOneof("parameter_choice")
        if choice is not None:
            found[name] = getattr(value, choice)
    return found
