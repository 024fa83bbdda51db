"""What messages say beside their ids and their tensors' contents: mostly the same again, so written and read once."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from tierflow.protocol import wire
from tierflow.protocol.messages import OIP_DTYPES, Data, InferTensor, Parameter

MOST_KNOWN: Final = 64
_LARGEST_KNOWN: Final = 4096  # bytes


class Said(NamedTuple):
    """A head as a value.

    Attributes:
        model: The pipeline's name.
        version: Of the model; "" where none is named.
        tensors: Name, dtype and shape of each.
        outputs: Those wanted, in a request.
        parameters: Name, type and value of each; the types, because 1 and True are equal.
    """

    model: str
    version: str
    tensors: tuple[tuple[str, str, tuple[int, ...]], ...]
    outputs: tuple[str, ...]
    parameters: tuple[tuple[str, type, Parameter], ...]

    def filled(self, contents: Sequence[Data]) -> tuple[InferTensor, ...]:
        """The tensors with their contents."""
        return tuple([InferTensor(*tensor, content) for tensor, content in zip(self.tensors, contents, strict=True)])

    def given_parameters(self) -> dict[str, Parameter]:
        """The parameters by name; each time a dictionary of its own."""
        return {name: value for name, _, value in self.parameters}


def said(
    model: str,
    version: str,
    tensors: Iterable[InferTensor],
    outputs: tuple[str, ...],
    parameters: Mapping[str, Parameter],
) -> Said:
    """What a message says."""
    described = tuple([(tensor.name, tensor.dtype, tensor.shape) for tensor in tensors])
    typed = tuple([(name, type(value), value) for name, value in parameters.items()])
    return Said(model, version, described, outputs, typed)


class Heads:
    """The heads of one kind of message, as bytes and as values.

    Args:
        message: The protocol's class of such messages.
        tensors: Its field that describes them.
    """

    def __init__(self, message: Any, tensors: str) -> None:
        self._message = message
        self._tensors = tensors
        self._written: dict[Said, bytes] = {}
        self._read: dict[bytes, Said] = {}

    def __len__(self) -> int:
        """How many are kept."""
        return max(len(self._written), len(self._read))

    def write(self, head: Said) -> bytes:
        """A head's bytes."""
        known = self._written.get(head)
        return known if known is not None else self._keep(self._written, head, self._encode(head))

    def read(self, data: bytes) -> Said | None:
        """The head of bytes that were read before; None where that is not known."""
        return self._read.get(data)

    def remember(self, data: bytes, head: Said) -> None:
        """Keeps what bytes were read as."""
        if len(data) <= _LARGEST_KNOWN:
            self._keep(self._read, data, head)

    def _keep(self, kept: dict[Any, Any], key: Any, value: Any) -> Any:
        if len(kept) >= MOST_KNOWN:
            kept.clear()
        kept[key] = value
        return value

    def _encode(self, head: Said) -> bytes:
        message = self._message(model_name=head.model, model_version=head.version)
        for name, dtype, shape in head.tensors:
            getattr(message, self._tensors).add(name=name, datatype=OIP_DTYPES[dtype], shape=shape)
        for name in head.outputs:
            message.outputs.add(name=name)
        for name, kind, value in head.parameters:
            setattr(message.parameters[name], _CHOICES[kind], value)
        encoded: bytes = message.SerializeToString()
        return encoded


_CHOICES: Final = {bool: "bool_param", int: "int64_param", float: "double_param", str: "string_param"}

REQUESTS: Final = Heads(wire.ModelInferRequest, "inputs")
RESPONSES: Final = Heads(wire.ModelInferResponse, "outputs")
