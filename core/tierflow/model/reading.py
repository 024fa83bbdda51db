"""Reads an ONNX file into a model without its weights' content, in memory that doesn't grow with the file.

The file is walked over in protobuf's wire format: what is small is copied, what is large (a tensor's content) is passed
over and only its place is noted. The result still is as the file has it: `tierflow.model.skeleton` normalises it.
"""

import mmap
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import onnx
from google.protobuf.message import DecodeError

from tierflow.errors import InvalidModelError
from tierflow.model.content import Content, Encoded, Form, Span, decode, described
from tierflow.model.model import INLINE_BYTES
from tierflow.model.wire import DELIMITED, CutShortError, Field, WireError, fields, header

CONTENT_KEY: Final = "tierflow.content"
"""Key in `external_data` of a tensor that was passed over; the value is its place in `Reading.contents`."""


@dataclass(frozen=True, slots=True)
class Reading:
    """A model as it was read.

    Attributes:
        model: The whole message but for large tensors, of which only name, type, dims and `CONTENT_KEY` are left.
            Large `Constant` nodes have become such tensors, initialisers of the graph that they are in.
        contents: Where the content of those tensors is.
    """

    model: onnx.ModelProto
    contents: list[Content]


def read_model(path: Path) -> Reading:
    """Reads the file at `path`.

    Raises:
        InvalidModelError: where there is no such file, or it is no ONNX, cut short or damaged.
    """
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise InvalidModelError(f"{path} is no regular file; give the path of an .onnx file", subject=str(path))
            if status.st_size == 0:
                raise InvalidModelError(f"{path} is empty; get the model again", subject=str(path))
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _Reader(path, data).model()
    except IsADirectoryError as error:
        raise InvalidModelError(
            f"{path} is a directory; give the path of the .onnx file in it", subject=str(path)
        ) from error
    except OSError as error:
        raise InvalidModelError(
            f"{path} can't be read: {os.strerror(error.errno or 0)}; check the path", subject=str(path)
        ) from error


# Field numbers of onnx.proto.
_MODEL_IR_VERSION: Final = 1
_MODEL_GRAPH: Final = 7
_MODEL_TRAINING: Final = 20
_GRAPH_NODE: Final = 1
_GRAPH_INITIALIZER: Final = 5
_GRAPH_SPARSE_INITIALIZER: Final = 15
_NODE_OUTPUT: Final = 2
_NODE_OP_TYPE: Final = 4
_NODE_ATTRIBUTE: Final = 5
_NODE_DOMAIN: Final = 7
_ATTRIBUTE_TENSOR: Final = 5
_ATTRIBUTE_GRAPHS: Final = (6, 11)
_ATTRIBUTE_LISTS: Final = (7, 8, 9)
_TENSOR_DOC_STRING: Final = 12
_TENSOR_RAW_DATA: Final = 9
_TENSOR_STRINGS: Final = 6
_TENSOR_TYPED_DATA: Final = (4, 5, 7, 10, 11)
# The packed fields whose bytes are those of raw_data: float_data and double_data, for these types.
_SAME_AS_RAW: Final = {
    4: (onnx.TensorProto.FLOAT, onnx.TensorProto.COMPLEX64),
    10: (onnx.TensorProto.DOUBLE, onnx.TensorProto.COMPLEX128),
}


@dataclass(slots=True)
class _Reader:
    path: Path
    data: mmap.mmap
    contents: list[Content] = field(default_factory=list)

    def model(self) -> Reading:
        begun = False
        pieces = []
        try:
            for part in fields(self.data, 0, len(self.data)):
                begun = begun or part.number == _MODEL_IR_VERSION
                if part.number == _MODEL_GRAPH and part.wire_type == DELIMITED:
                    pieces.append(_message(_MODEL_GRAPH, self._graph(part.payload, part.end)))
                elif part.number != _MODEL_TRAINING:
                    pieces.append(self._copy(part))
            model = onnx.ModelProto.FromString(b"".join(pieces))
        except CutShortError as error:
            raise (self._cut_short(error) if begun else self._no_onnx(error)) from error
        except (WireError, DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise self._no_onnx(error) from error
        if not (model.ir_version and model.HasField("graph")):
            raise self._no_onnx(ValueError("it has no IR version or no graph"))
        if not model.opset_import:
            raise self._cut_short(ValueError("it says nothing about its operator sets"))
        return Reading(model, self.contents)

    def _no_onnx(self, error: Exception) -> InvalidModelError:
        if self.data[:40].startswith(b"version https://git-lfs"):
            return InvalidModelError(
                f"{self.path} is a Git LFS pointer, not the model; `git lfs pull` gets it", subject=str(self.path)
            )
        return InvalidModelError(
            f"{self.path} is no ONNX model, or is damaged: {error}; give an .onnx file", subject=str(self.path)
        )

    def _cut_short(self, error: Exception) -> InvalidModelError:
        return InvalidModelError(
            f"{self.path} was cut short ({len(self.data)} bytes): {error}; get the model again", subject=str(self.path)
        )

    def _copy(self, part: Field) -> bytes:
        return self.data[part.begin : part.end]

    def _graph(self, begin: int, end: int) -> bytes:
        large: dict[int, Callable[[Field], bytes]] = {
            _GRAPH_NODE: self._node,
            _GRAPH_INITIALIZER: self._initialiser,
            _GRAPH_SPARSE_INITIALIZER: self._sparse_initialiser,
        }
        pieces = []
        for part in fields(self.data, begin, end):
            # Sparse ones are turned into dense ones whatever their size.
            if part.number in large and (
                part.end - part.begin > INLINE_BYTES or part.number == _GRAPH_SPARSE_INITIALIZER
            ):
                pieces.append(large[part.number](part))
            else:
                pieces.append(self._copy(part))
        return b"".join(pieces)

    def _initialiser(self, part: Field, name: str = "") -> bytes:
        return _message(_GRAPH_INITIALIZER, self._tensor(part, name))

    def _tensor(self, part: Field, name: str) -> bytes:
        """The tensor in `part`, large content passed over; `name` replaces its own."""
        about = []
        raw: Field | None = None
        encoded = False
        for item in fields(self.data, part.payload, part.end):
            if item.number == _TENSOR_RAW_DATA or (item.number in _SAME_AS_RAW and item.wire_type == DELIMITED):
                encoded = encoded or raw is not None
                raw = item
            elif item.number in _TENSOR_TYPED_DATA or item.number == _TENSOR_STRINGS:
                # Walking over elements one by one would take long; they are parsed when they are needed.
                encoded = True
                if item.wire_type != DELIMITED or item.number == _TENSOR_STRINGS:
                    return self._parsed_tensor(part, name)
            elif item.number != _TENSOR_DOC_STRING:
                about.append(self._copy(item))
        tensor = onnx.TensorProto.FromString(b"".join(about))
        tensor.name = name or tensor.name
        if raw is None and not encoded:
            return tensor.SerializeToString()
        same = raw is not None and (raw.number == _TENSOR_RAW_DATA or tensor.data_type in _SAME_AS_RAW[raw.number])
        if raw is not None and same and not encoded:
            return self._raw_tensor(tensor, raw)
        if described(tensor).size <= INLINE_BYTES:
            return self._parsed_tensor(part, name)
        self._passed_over(tensor, Encoded(self.path, part.payload, part.end - part.payload, Form.TENSOR))
        return tensor.SerializeToString()

    def _raw_tensor(self, tensor: onnx.TensorProto, raw: Field) -> bytes:
        length = raw.end - raw.payload
        if length != described(tensor).size:
            raise InvalidModelError(
                f"weight {tensor.name} in {self.path} has {length} bytes of content, but its shape "
                f"{list(tensor.dims)} needs {described(tensor).size}; export the model again",
                subject=tensor.name,
            )
        if length <= INLINE_BYTES:
            tensor.raw_data = self.data[raw.payload : raw.end]
        else:
            self._passed_over(tensor, Span(self.path, raw.payload, length))
        return tensor.SerializeToString()

    def _parsed_tensor(self, part: Field, name: str) -> bytes:
        """As `_tensor`, for what only protobuf's parser reads in reasonable time; it is in memory meanwhile."""
        tensor = onnx.TensorProto.FromString(self.data[part.payload : part.end])
        tensor.name = name or tensor.name
        if tensor.data_type == onnx.TensorProto.STRING or described(tensor).size <= INLINE_BYTES:
            return tensor.SerializeToString()
        slim = _outline(tensor.name, tensor.data_type, list(tensor.dims))
        self._passed_over(slim, Encoded(self.path, part.payload, part.end - part.payload, Form.TENSOR))
        return slim.SerializeToString()

    def _sparse_initialiser(self, part: Field) -> bytes:
        sparse = onnx.SparseTensorProto.FromString(self.data[part.payload : part.end])
        return self._dense(part, Form.SPARSE, sparse.values.name)

    def _dense(self, part: Field, form: Form, name: str) -> bytes:
        tensor = decode(self.data[part.payload : part.end], form, name=name)
        if tensor.data_type != onnx.TensorProto.STRING and described(tensor).size > INLINE_BYTES:
            slim = _outline(name, tensor.data_type, list(tensor.dims))
            self._passed_over(slim, Encoded(self.path, part.payload, part.end - part.payload, form))
            tensor = slim
        return _message(_GRAPH_INITIALIZER, tensor.SerializeToString())

    def _passed_over(self, tensor: onnx.TensorProto, content: Content) -> None:
        tensor.data_location = onnx.TensorProto.EXTERNAL
        del tensor.external_data[:]
        tensor.external_data.add(key=CONTENT_KEY, value=str(len(self.contents)))
        self.contents.append(content)

    def _node(self, part: Field) -> bytes:
        parts = list(fields(self.data, part.payload, part.end))
        texts = {
            item.number: self.data[item.payload : item.end].decode("utf-8", "replace")
            for item in parts
            if item.number in (_NODE_OUTPUT, _NODE_OP_TYPE, _NODE_DOMAIN)
        }
        attributes = [item for item in parts if item.number == _NODE_ATTRIBUTE]
        if texts.get(_NODE_OP_TYPE) == "Constant" and texts.get(_NODE_DOMAIN, "") in ("", "ai.onnx"):
            return self._constant(part, attributes, texts.get(_NODE_OUTPUT, ""))
        content = b"".join(
            self._attribute(item) if item.number == _NODE_ATTRIBUTE else self._copy(item) for item in parts
        )
        return _message(_GRAPH_NODE, content)

    def _constant(self, part: Field, attributes: list[Field], name: str) -> bytes:
        for attribute in attributes:
            for item in fields(self.data, attribute.payload, attribute.end):
                if item.number == _ATTRIBUTE_TENSOR:
                    return self._initialiser(item, name)
        return self._dense(part, Form.CONSTANT, name)

    def _attribute(self, part: Field) -> bytes:
        """An attribute; the graphs in it lose their large tensors."""
        if part.end - part.begin <= INLINE_BYTES:
            return self._copy(part)
        pieces = []
        for item in fields(self.data, part.payload, part.end):
            if item.number in _ATTRIBUTE_LISTS:
                return self._copy(part)  # a table, which it would take long to walk over one by one
            if item.number in _ATTRIBUTE_GRAPHS and item.wire_type == DELIMITED:
                pieces.append(_message(item.number, self._graph(item.payload, item.end)))
            else:
                pieces.append(self._copy(item))
        return _message(_NODE_ATTRIBUTE, b"".join(pieces))


def _message(number: int, payload: bytes) -> bytes:
    return header(number, len(payload)) + payload


def _outline(name: str, data_type: int, dims: list[int]) -> onnx.TensorProto:
    return onnx.TensorProto(name=name, data_type=data_type, dims=dims)
