"""A tensor's elements between lists of Python values, arrays and the wire's raw bytes.

Raw bytes are row-major and little-endian. Strings go as 4 bytes of length and their bytes, one after the other.
"""

import struct
from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np

from tierflow.errors import InvalidRequestError
from tierflow.protocol.messages import Data

NUMPY_DTYPES: Final = {
    "bool": np.dtype("?"),
    "uint8": np.dtype("u1"), "uint16": np.dtype("<u2"), "uint32": np.dtype("<u4"), "uint64": np.dtype("<u8"),
    "int8": np.dtype("i1"), "int16": np.dtype("<i2"), "int32": np.dtype("<i4"), "int64": np.dtype("<i8"),
    "float16": np.dtype("<f2"), "float32": np.dtype("<f4"), "float64": np.dtype("<f8"),
    "complex64": np.dtype("<c8"), "complex128": np.dtype("<c16"),
}  # fmt: skip
"""NumPy's type of each data type of the graph that NumPy has; strings and the narrow floats are not among them."""

_LENGTH: Final = struct.Struct("<I")


def pack(dtype: str, values: Sequence[Any], *, tensor: str) -> bytes:
    """The raw bytes of a flat sequence of elements: numbers, booleans, or for `string` str or bytes.

    Raises:
        InvalidRequestError: naming `tensor`, where a value is not of the type or out of its range, or the type has
            no form as Python values.
    """
    if dtype == "string":
        return pack_strings(_as_bytes(value, tensor) for value in values)
    target = NUMPY_DTYPES.get(dtype)
    if target is None or target.kind == "c":
        raise InvalidRequestError(
            f"tensor {tensor!r}: elements of {dtype} can't be given as values; send raw contents", subject=tensor
        )
    given = _array(values, target, tensor)
    with np.errstate(over="ignore", invalid="ignore"):
        return given.astype(target).tobytes()


def _array(values: Sequence[Any], target: np.dtype[Any], tensor: str) -> np.ndarray[Any, np.dtype[Any]]:
    """The values as an array of the target's kind; integers are no booleans, floats are no integers."""
    if len(values) == 0:
        return np.empty(0, target)
    if target.kind in "iu" and all(type(value) is int for value in values):
        return _integers(values, target, tensor)
    try:
        found = np.asarray(values)
    except (ValueError, OverflowError, TypeError):
        found = np.empty(0, object)
    accepted = {"b": "b", "f": "fiu"}.get(target.kind, "")
    if found.ndim != 1 or found.dtype.kind not in accepted or len(found) != len(values):
        raise InvalidRequestError(f"tensor {tensor!r}: its values are not a flat list of {target.name}", subject=tensor)
    return found


def _integers(values: Sequence[int], target: np.dtype[Any], tensor: str) -> np.ndarray[Any, np.dtype[Any]]:
    """Integers as an array of the target; made from the values themselves, since floats can't hold 64 bits."""
    limits = np.iinfo(target.name)
    wrong = next((value for value in (min(values), max(values)) if not limits.min <= value <= limits.max), None)
    if wrong is not None:
        raise InvalidRequestError(f"tensor {tensor!r}: {wrong} is out of the range of {target.name}", subject=tensor)
    return np.array(values, target)


def _as_bytes(value: Any, tensor: str) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass")
    raise InvalidRequestError(f"tensor {tensor!r}: {value!r:.40} is no string", subject=tensor)


def pack_strings(values: Iterable[bytes]) -> bytes:
    """The raw bytes of strings."""
    parts: list[bytes] = []
    for value in values:
        parts += (_LENGTH.pack(len(value)), value)
    return b"".join(parts)


def unpack_strings(data: Data, *, tensor: str) -> list[bytes]:
    """The strings in `data`.

    Raises:
        InvalidRequestError: naming `tensor`, where a length says more than there is.
    """
    view = memoryview(data)
    values, place, end = [], 0, len(view)
    while place < end:
        start = place + _LENGTH.size
        if start > end:
            raise InvalidRequestError(f"tensor {tensor!r}: its last string's length is cut short", subject=tensor)
        place = start + _LENGTH.unpack_from(view, start - _LENGTH.size)[0]
        if place > end:
            raise InvalidRequestError(
                f"tensor {tensor!r}: a string says it has {place - start} bytes where {end - start} are left",
                subject=tensor,
            )
        values.append(bytes(view[start:place]))
    return values
