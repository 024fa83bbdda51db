"""Where the content of an initialiser is, and reading it: one tensor at a time, nothing kept."""

import os
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import numpy_helper

from tierflow.errors import InvalidModelError, UnsupportedError
from tierflow.graph import Tensor


class Form(Enum):
    """How a tensor is written where it isn't written as its plain bytes."""

    TENSOR = "TensorProto"
    SPARSE = "SparseTensorProto"
    CONSTANT = "NodeProto"


@dataclass(frozen=True, slots=True)
class Span:
    """`length` bytes of a file from `offset` on: the content as it is."""

    path: Path
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Encoded:
    """A message in a file that has to be parsed to get at the content."""

    path: Path
    offset: int
    length: int
    form: Form


@dataclass(frozen=True, slots=True)
class Held:
    """Content that is in memory, since no file has it in one piece."""

    data: bytes


Content = Span | Encoded | Held


def dtype_name(data_type: int) -> str:
    """ONNX's name of an element type in lower case, as `tierflow.graph.Tensor` has it; FLOAT and DOUBLE by width.

    Raises:
        UnsupportedError: where the installed onnx has no such type.
    """
    name = _DTYPES.get(data_type)
    if name is None:
        raise UnsupportedError(f"element type {data_type} is unknown to onnx {onnx.__version__}; update onnx")
    return name


_DTYPES: Final = {
    value: {"FLOAT": "float32", "DOUBLE": "float64"}.get(name, name.lower())
    for name, value in onnx.TensorProto.DataType.items()
    if value != onnx.TensorProto.UNDEFINED
}
_DATA_TYPES: Final = {name: value for value, name in _DTYPES.items()}


def data_type(dtype: str) -> int:
    """The number that ONNX has for an element type: the inverse of `dtype_name`."""
    return _DATA_TYPES[dtype]


def described(initialiser: onnx.TensorProto) -> Tensor:
    """Name, element type and shape of an initialiser."""
    return Tensor(name=initialiser.name, dtype=dtype_name(initialiser.data_type), shape=tuple(initialiser.dims))


def read_content(name: str, content: Content) -> memoryview:
    """The bytes of an initialiser, little-endian, as `raw_data` has them.

    Raises:
        InvalidModelError: where the file is gone or too short, or what it has is no tensor.
    """
    if isinstance(content, Held):
        return memoryview(content.data)
    data = _read(name, content.path, content.offset, content.length)
    if isinstance(content, Span):
        return memoryview(data)
    return memoryview(decode(data, content.form, name=name).raw_data)


def _read(name: str, path: Path, offset: int, length: int) -> bytes:
    pieces: list[bytes] = []
    missing = length
    try:
        with path.open("rb", buffering=0) as file:
            file.seek(offset)
            while missing:
                # One call reads it all, but for 2 GiB and more.
                piece = file.read(missing)
                if not piece:
                    raise InvalidModelError(
                        f"{path} ends before the content of weight {name} does (byte {offset + length}): "
                        "it was cut short or replaced; get the model again",
                        subject=name,
                    )
                pieces.append(piece)
                missing -= len(piece)
    except OSError as error:
        raise InvalidModelError(
            f"the content of weight {name} can't be read from {path}: {os.strerror(error.errno or 0)}; "
            "put the file back beside the model",
            subject=name,
        ) from error
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def decode(data: bytes, form: Form, *, name: str) -> onnx.TensorProto:
    """A dense tensor with `raw_data` from a serialised message; string tensors keep `string_data`.

    Raises:
        InvalidModelError: where it is no such message, or its content doesn't fit its shape.
    """
    try:
        if form is Form.TENSOR:
            return plain(onnx.TensorProto.FromString(data), name=name)
        if form is Form.SPARSE:
            return densified(onnx.SparseTensorProto.FromString(data), name=name)
        return constant(onnx.NodeProto.FromString(data), name=name)
    except _UNPARSABLE as error:
        raise InvalidModelError(f"the content of weight {name} is damaged: {error}", subject=name) from error


# What numpy and protobuf raise on content that doesn't fit; sparse dimensions can ask for any amount of memory.
_UNPARSABLE: Final = (ValueError, TypeError, KeyError, IndexError, MemoryError, DecodeError)


def plain(tensor: onnx.TensorProto, *, name: str) -> onnx.TensorProto:
    """The tensor under `name`, its content in `raw_data` (strings: `string_data`) unless it is in another file."""
    elsewhere = tensor.data_location == onnx.TensorProto.EXTERNAL
    if elsewhere or tensor.HasField("raw_data") or tensor.data_type == onnx.TensorProto.STRING:
        result = onnx.TensorProto()
        result.CopyFrom(tensor)
    else:
        _check_count(tensor, name=name)
        result = numpy_helper.from_array(numpy_helper.to_array(tensor))
        result.data_type = tensor.data_type
    result.name = name
    result.ClearField("doc_string")
    return result


def _check_count(tensor: onnx.TensorProto, *, name: str) -> None:
    """Protobuf leaves empty what isn't there, and a tensor without content must have no elements."""
    elements = described(tensor).elements
    written = any(
        len(field)
        for field in (
            tensor.float_data, tensor.int32_data, tensor.int64_data, tensor.double_data, tensor.uint64_data,
        )
    )  # fmt: skip
    if elements and not written:
        raise InvalidModelError(
            f"weight {name} has {elements} elements by its shape and no content; export the model again",
            subject=name,
        )


def densified(sparse: onnx.SparseTensorProto, *, name: str) -> onnx.TensorProto:
    """The dense form of a sparse tensor: zeros where it has no value."""
    for part in (sparse.values, sparse.indices):
        if part.data_location == onnx.TensorProto.EXTERNAL:
            raise UnsupportedError(
                f"sparse weight {name} has its content in another file, which is not supported: make it dense",
                subject=name,
            )
    values = numpy_helper.to_array(sparse.values)
    indices = numpy_helper.to_array(sparse.indices)
    shape = tuple(sparse.dims)
    dense = np.zeros(shape, dtype=values.dtype)
    if indices.ndim == 1:
        dense.reshape(-1)[indices] = values
    else:
        dense[tuple(indices.T)] = values
    result = numpy_helper.from_array(dense, name)
    result.data_type = sparse.values.data_type
    return result


def constant(node: onnx.NodeProto, *, name: str) -> onnx.TensorProto:
    """The tensor that a `Constant` node makes.

    Raises:
        InvalidModelError: where none of the attributes that can hold its value is there.
    """
    for attribute in node.attribute:
        if attribute.name == "value":
            return plain(attribute.t, name=name)
        if attribute.name == "sparse_value":
            return densified(attribute.sparse_tensor, name=name)
        literal = _literal(attribute)
        if literal is not None:
            return numpy_helper.from_array(literal, name)
    raise InvalidModelError(f"the constant {name} has no value; export the model again", subject=name)


def _literal(attribute: onnx.AttributeProto) -> np.ndarray[Any, Any] | None:
    if attribute.name == "value_float":
        return np.array(attribute.f, dtype=np.float32)
    if attribute.name == "value_floats":
        return np.array(attribute.floats, dtype=np.float32)
    if attribute.name == "value_int":
        return np.array(attribute.i, dtype=np.int64)
    if attribute.name == "value_ints":
        return np.array(attribute.ints, dtype=np.int64)
    if attribute.name == "value_string":
        return np.array(attribute.s, dtype=np.object_)
    if attribute.name == "value_strings":
        return np.array(list(attribute.strings), dtype=np.object_)
    return None
