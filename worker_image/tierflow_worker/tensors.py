"""Tensors of the wire and arrays of the runtime: checking that a message's tensors are those wanted, and converting.

Copies are made only where the runtime needs one: unaligned bytes, strings, and booleans that are neither 0 nor 1.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tierflow.errors import InvalidRequestError
from tierflow.graph import Tensor
from tierflow.protocol.elements import pack_strings, unpack_strings
from tierflow.protocol.messages import OIP_DTYPES, InferTensor
from tierflow.segment import closest

Array = NDArray[Any]


def check_tensors(given: Iterable[InferTensor], wanted: Sequence[Tensor], *, what: str) -> dict[str, InferTensor]:
    """The given tensors by name, after checking that they are exactly those wanted.

    Args:
        given: A message's tensors.
        wanted: Their names, types and shapes, in any order.
        what: What they belong to, for messages: `the model resnet18`.

    Raises:
        InvalidRequestError: naming the first tensor that is missing, unexpected, given twice, or of another type, shape
            or size; says what is wanted and what was given.
    """
    expected = {tensor.name: tensor for tensor in wanted}
    found: dict[str, InferTensor] = {}
    for tensor in given:
        name = tensor.name
        if name in found:
            raise InvalidRequestError(f"tensor {name!r} is given twice; give it once", subject=name)
        if name not in expected:
            raise InvalidRequestError(
                f"{what} takes no tensor {name!r}{closest(name, expected)}; it takes {_list(expected)}", subject=name
            )
        _check(tensor, expected[name])
        found[name] = tensor
    for name in expected:
        if name not in found:
            raise InvalidRequestError(f"tensor {name!r} is missing; {what} takes {_list(expected)}", subject=name)
    return found


def _list(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"


def _check(given: InferTensor, wanted: Tensor) -> None:
    name = given.name
    if given.dtype != wanted.dtype:
        raise InvalidRequestError(
            f"tensor {name!r} must be {OIP_DTYPES[wanted.dtype]} ({wanted.dtype}), not {OIP_DTYPES[given.dtype]}",
            subject=name,
        )
    if given.shape != wanted.shape:
        raise InvalidRequestError(
            f"tensor {name!r} must have the shape {list(wanted.shape)}, not {list(given.shape)}", subject=name
        )
    if given.dtype == "string":
        count = len(unpack_strings(given.data, tensor=name))
        if count != wanted.elements:
            raise InvalidRequestError(f"tensor {name!r} must have {wanted.elements} strings, not {count}", subject=name)
    elif len(given.data) != wanted.size:
        raise InvalidRequestError(
            f"tensor {name!r} of {OIP_DTYPES[wanted.dtype]} {list(wanted.shape)} must have {wanted.size} bytes, "
            f"not {len(given.data)}",
            subject=name,
        )


def to_array(tensor: InferTensor, dtype: np.dtype[Any]) -> Array:
    """A checked tensor as an array of `dtype`, the runtime's type for it; a view of its data where that is possible."""
    if tensor.dtype == "string":
        strings = np.empty(len(texts := unpack_strings(tensor.data, tensor=tensor.name)), dtype=object)
        strings[:] = texts
        return strings.reshape(tensor.shape)
    if tensor.dtype == "bool":
        truth: Array = np.frombuffer(tensor.data, np.uint8) != 0
        return truth.reshape(tensor.shape)
    array: Array = np.frombuffer(tensor.data, dtype).reshape(tensor.shape)
    # Compiled loops may assume that elements lie at multiples of their size.
    return array if array.flags.aligned else array.copy()


def from_array(name: str, dtype: str, array: Array) -> InferTensor:
    """An array of the runtime as a tensor, sharing its memory unless it holds strings."""
    if dtype == "string":
        texts = (
            item if isinstance(item, bytes) else str(item).encode("utf-8", "surrogateescape") for item in array.flat
        )
        return InferTensor(name, dtype, array.shape, pack_strings(texts))
    flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return InferTensor(name, dtype, array.shape, flat.data)
