"""The REST form of the Open Inference Protocol v2, with its binary tensor data extension, to and from values.

A body is a JSON document; with the extension, the raw bytes of the tensors that say `binary_data_size` follow it, one
after the other, and the header `Inference-Header-Content-Length` says where the document ends.

Rules:
1. JSON `data` may be flat or nested as `shape` says; a nested one that contradicts `shape` is refused.
2. JSON has no NaN and no infinity. They are written as the strings "NaN", "Infinity" and "-Infinity", as protobuf's
   JSON mapping does (numpy reads them as numbers), and read from these strings and from the bare words that Python
   and RapidJSON write. Binary data carries them as they are.
3. Strings are UTF-8 in JSON; others need binary data. BF16 and the types beyond the protocol need it too. FP16 is read
   and written as JSON numbers as well, which the protocol leaves open.
4. An output is binary where its own `binary_data`, else the request's `binary_data_output`, says so.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Final

import msgspec
import numpy as np

from tierflow.errors import InvalidRequestError
from tierflow.protocol.elements import NUMPY_DTYPES, pack, unpack_strings
from tierflow.protocol.messages import (
    MOST_DIMENSIONS,
    OIP_DTYPES,
    Data,
    InferRequest,
    InferResponse,
    InferTensor,
    ModelMetadata,
    Parameter,
    ServerMetadata,
    TensorMetadata,
    graph_dtype,
    refuse_unsupported,
)

HEADER_LENGTH: Final = "Inference-Header-Content-Length"
"""The HTTP header, of requests and responses, with the length of the JSON document in bytes."""

MOST_JSON_BYTES: Final = 8 << 20
"""A longer JSON document is refused: parsed, it would take some twenty times its size. Binary data may be longer."""

_FLOATS: Final = frozenset({"float16", "float32", "float64"})
_NOT_FINITE: Final = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
_JSON_TYPES: Final[Mapping[str, tuple[set[type], str]]] = {
    "b": ({bool}, "true or false"),
    "i": ({int}, "whole numbers"),
    "u": ({int}, "whole numbers"),
    "f": ({int, float}, "numbers"),
}


@dataclass(frozen=True, slots=True)
class ResponseForm:
    """Which outputs a client wants as binary data: those named with True, and if `binary` those not named."""

    binary: bool = False
    by_output: Mapping[str, bool] = field(default_factory=dict)

    def is_binary(self, output: str) -> bool:
        """Whether `output` goes as binary data."""
        return self.by_output.get(output, self.binary)


def read_header_length(text: str | None) -> int | None:
    """The value of the header `Inference-Header-Content-Length`; None where there is none.

    Raises:
        InvalidRequestError: where it is no length.
    """
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 16):
        raise InvalidRequestError(f"the header {HEADER_LENGTH} is {text[:40]!r}; give the JSON's length in bytes")
    return int(text)


def read_request(
    body: bytes, header_length: int | None, *, model: str, version: str = ""
) -> tuple[InferRequest, ResponseForm]:
    """Reads the body of an inference request; tensors of binary data are views into it.

    Args:
        body: The whole body, uncompressed.
        header_length: Bytes of the JSON document; None where all of the body is one.
        model: The model's name, from the request's path.
        version: The model's version, from the same; "" where it has none.

    Raises:
        InvalidRequestError: naming the tensor that is wrong, or what is wrong with the document.
    """
    length = len(body) if header_length is None else header_length
    if length > len(body):
        raise InvalidRequestError(f"the header {HEADER_LENGTH} says {length} bytes, but the body has {len(body)}")
    document = _parse(body[:length], lying=header_length is not None)
    parameters = dict(_object(document, "parameters", "the request"))
    outputs, form = _outputs(document, binary=_flag(parameters.pop("binary_data_output", False), "binary_data_output"))
    return InferRequest(
        model=model,
        version=version,
        id=_text(document.get("id", ""), "the request's id"),
        tensors=_inputs(document, memoryview(body)[length:], header_length is not None),
        outputs=outputs,
        parameters={name: _parameter(name, value) for name, value in parameters.items()},
    ), form


def write_response(response: InferResponse, form: ResponseForm) -> tuple[bytes, int | None]:
    """The body of the answer, and the value of its header `Inference-Header-Content-Length`, None for JSON alone.

    Raises:
        InvalidRequestError: naming the output that JSON can't carry; the client has to ask for it as binary data.
    """
    outputs: list[dict[str, Any]] = []
    binary: list[Data] = []
    for tensor in response.tensors:
        described: dict[str, Any] = _described(tensor)
        if form.is_binary(tensor.name):
            described["parameters"] = {"binary_data_size": len(tensor.data)}
            binary.append(tensor.data)
        else:
            described["data"] = _elements(tensor)
        outputs.append(described)
    document: dict[str, Any] = {"model_name": response.model}
    optional = {"model_version": response.version, "id": response.id, "parameters": dict(response.parameters)}
    document |= {name: value for name, value in optional.items() if value}
    head = msgspec.json.encode(document | {"outputs": outputs})
    return (b"".join((head, *binary)), len(head)) if binary else (head, None)


def write_server_metadata(metadata: ServerMetadata) -> bytes:
    """The body that answers `GET /v2`."""
    return msgspec.json.encode(
        {"name": metadata.name, "version": metadata.version, "extensions": list(metadata.extensions)}
    )


def write_model_metadata(metadata: ModelMetadata) -> bytes:
    """The body that answers `GET /v2/models/{name}`."""
    document: dict[str, Any] = {"name": metadata.name}
    if metadata.versions:
        document["versions"] = list(metadata.versions)
    document["platform"] = metadata.platform
    document["inputs"] = [_described(tensor) for tensor in metadata.inputs]
    document["outputs"] = [_described(tensor) for tensor in metadata.outputs]
    return msgspec.json.encode(document)


def write_error(message: str) -> bytes:
    """The body of every answer that is an error."""
    return msgspec.json.encode({"error": message})


def _described(tensor: InferTensor | TensorMetadata) -> dict[str, Any]:
    return {"name": tensor.name, "datatype": OIP_DTYPES[tensor.dtype], "shape": list(tensor.shape)}


def _parse(head: bytes, *, lying: bool) -> dict[str, Any]:
    if len(head) > MOST_JSON_BYTES:
        raise InvalidRequestError(
            f"the request's JSON has {len(head)} bytes, at most {MOST_JSON_BYTES} are read; "
            f"send the tensors as binary data behind it, and its length in the header {HEADER_LENGTH}"
        )
    try:
        document = json.loads(head.decode())
    except (ValueError, RecursionError) as error:
        hint = f"; is the header {HEADER_LENGTH} right?" if lying else ""
        raise InvalidRequestError(f"the request is no valid JSON: {error}{hint}") from error
    if not isinstance(document, dict):
        raise InvalidRequestError("the request's JSON is no object; it needs at least `inputs`")
    return document


def _inputs(document: Mapping[str, Any], binary: memoryview, has_length: bool) -> tuple[InferTensor, ...]:
    if "inputs" not in document:
        raise InvalidRequestError("the request's JSON has no `inputs`; give a list of tensors")
    tensors, place = [], 0
    for described in _objects(document["inputs"], "inputs"):
        name = _text(described.get("name"), "an input's name")
        parameters = _object(described, "parameters", f"tensor {name!r}")
        refuse_unsupported(name, parameters)
        dtype = graph_dtype(_text(described.get("datatype"), f"the datatype of tensor {name!r}"), tensor=name)
        shape = _shape(described.get("shape"), name)
        data: Data
        if "binary_data_size" in parameters:
            if not has_length:
                raise InvalidRequestError(
                    f"tensor {name!r} has binary data, but the request has no header {HEADER_LENGTH}", subject=name
                )
            data = _slice(binary, place, parameters["binary_data_size"], described, name)
            place += len(data)
        else:
            data = _pack(described.get("data"), dtype, shape, name)
        tensors.append(InferTensor(name, dtype, shape, data))
    if place != len(binary):
        raise InvalidRequestError(
            f"{len(binary)} bytes follow the JSON, but its tensors say {place} together; "
            f"is the header {HEADER_LENGTH} right?"
        )
    return tuple(tensors)


def _slice(binary: memoryview, place: int, size: Any, described: Mapping[str, Any], name: str) -> memoryview:
    if type(size) is not int or size < 0:
        raise InvalidRequestError(f"tensor {name!r}: its binary_data_size {size!r:.40} is no size", subject=name)
    if "data" in described:
        raise InvalidRequestError(f"tensor {name!r} has both data and binary_data_size; give one", subject=name)
    if place + size > len(binary):
        raise InvalidRequestError(
            f"tensor {name!r} says it has {size} bytes of binary data, but only {len(binary) - place} are left",
            subject=name,
        )
    return binary[place : place + size]


def _shape(value: Any, name: str) -> tuple[int, ...]:
    if not isinstance(value, list) or any(type(size) is not int or not 0 <= size < 1 << 63 for size in value):
        raise InvalidRequestError(
            f"tensor {name!r}: its shape {value!r:.60} is no list of sizes like [1, 3, 224, 224]", subject=name
        )
    if len(value) > MOST_DIMENSIONS:
        raise InvalidRequestError(
            f"tensor {name!r} has {len(value)} dimensions; at most {MOST_DIMENSIONS} are accepted", subject=name
        )
    return tuple(value)


def _pack(data: Any, dtype: str, shape: tuple[int, ...], name: str) -> bytes:
    """The raw bytes of JSON data."""
    if not isinstance(data, list):
        problem = "has no data" if data is None else "has data that is no list"
        raise InvalidRequestError(f"tensor {name!r} {problem}; give a list, or binary data", subject=name)
    flat = _flatten(data, shape, name)
    if len(flat) != math.prod(shape):
        raise InvalidRequestError(
            f"tensor {name!r} has {len(flat)} elements, but its shape {list(shape)} asks for {math.prod(shape)}",
            subject=name,
        )
    kinds = set(map(type, flat))
    if dtype in _FLOATS and str in kinds:
        flat = [_NOT_FINITE.get(item, item) if isinstance(item, str) else item for item in flat]
        kinds = set(map(type, flat))
    if dtype in NUMPY_DTYPES and NUMPY_DTYPES[dtype].kind in _JSON_TYPES:
        accepted, wanted = _JSON_TYPES[NUMPY_DTYPES[dtype].kind]
        if not kinds <= accepted:
            wrong = next(item for item in flat if type(item) not in accepted)
            raise InvalidRequestError(
                f"tensor {name!r}: {wrong!r:.40} is no element of {OIP_DTYPES[dtype]}; give {wanted}", subject=name
            )
    return pack(dtype, flat, tensor=name)


def _flatten(data: list[Any], shape: tuple[int, ...], name: str) -> list[Any]:
    """The elements of flat or nested data; nested data must have the extents that the shape says."""
    if not data or not isinstance(data[0], list):
        return data
    for depth, size in enumerate(shape):
        if any(not isinstance(row, list) for row in (data if depth else ())):
            break
        rows = data if depth else [data]
        if any(len(row) != size for row in rows):
            break
        data = list(chain.from_iterable(rows))
    else:
        if not any(isinstance(item, list) for item in data):
            return data
    raise InvalidRequestError(
        f"tensor {name!r}: its data is nested otherwise than its shape {list(shape)} says", subject=name
    )


def _outputs(document: Mapping[str, Any], *, binary: bool) -> tuple[tuple[str, ...], ResponseForm]:
    names, by_output = [], {}
    for described in _objects(document.get("outputs", []), "outputs"):
        name = _text(described.get("name"), "an output's name")
        parameters = _object(described, "parameters", f"output {name!r}")
        refuse_unsupported(name, parameters)
        names.append(name)
        if "binary_data" in parameters:
            by_output[name] = _flag(parameters["binary_data"], f"binary_data of output {name!r}")
    return tuple(names), ResponseForm(binary, by_output)


def _objects(value: Any, what: str) -> Sequence[Mapping[str, Any]]:
    if not isinstance(value, list) or any(not isinstance(item, dict) for item in value):
        raise InvalidRequestError(f"`{what}` of the request is no list of objects")
    return value


def _object(owner: Mapping[str, Any], key: str, what: str) -> Mapping[str, Any]:
    value = owner.get(key, {})
    if not isinstance(value, dict):
        raise InvalidRequestError(f"`{key}` of {what} is no object")
    return value


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise InvalidRequestError(f"{what} is {value!r:.40}; it must be a string")
    if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
        raise InvalidRequestError(f"{what} has half a surrogate pair, which is no text")
    return value


def _flag(value: Any, what: str) -> bool:
    if not isinstance(value, bool):
        raise InvalidRequestError(f"{what} is {value!r:.40}; it must be true or false")
    return value


def _parameter(name: str, value: Any) -> Parameter:
    if isinstance(value, str):
        return _text(value, f"the parameter {name!r}")
    if isinstance(value, bool | float) or (isinstance(value, int) and -(1 << 63) <= value < 1 << 63):
        return value
    raise InvalidRequestError(f"the parameter {name!r:.60} is no boolean, string or number of 64 bits")


def _elements(tensor: InferTensor) -> list[Any]:
    """The elements as JSON has them, flat."""
    if tensor.dtype == "string":
        try:
            return [item.decode() for item in unpack_strings(tensor.data, tensor=tensor.name)]
        except UnicodeDecodeError as error:
            raise InvalidRequestError(
                f"output {tensor.name!r} has strings that are not UTF-8; ask for it as binary data",
                subject=tensor.name,
            ) from error
    dtype = NUMPY_DTYPES.get(tensor.dtype)
    if dtype is None or dtype.kind == "c":
        raise InvalidRequestError(
            f"output {tensor.name!r} of {OIP_DTYPES[tensor.dtype]} has no form in JSON; ask for it as binary data",
            subject=tensor.name,
        )
    array = np.frombuffer(tensor.data, dtype)
    values: list[Any] = array.tolist()
    if dtype.kind == "f" and not np.isfinite(array).all():
        return [value if math.isfinite(value) else _word(value) for value in values]
    return values


def _word(value: float) -> str:
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
