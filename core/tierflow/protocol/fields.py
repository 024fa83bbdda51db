"""The top level of a protobuf message, walked over by hand: what is read is found, never copied."""

from typing import Final

from tierflow.model.wire import DELIMITED
from tierflow.protocol.messages import Data

_FIXED_SIZES: Final = {1: 8, 5: 4}
_MOST_FIELDS: Final = 65_536  # more top-level fields than this are an attack on memory, not a request


class MalformedError(Exception):
    """The bytes are no protobuf message; says where and why."""


def take_out(
    data: Data, fields: frozenset[int], there: int | None = None
) -> tuple[bytes, list[tuple[int, memoryview]]]:
    """Walks over the top level: all but some fields, which have a length, and those fields' contents in their order.

    Args:
        data: The message.
        fields: Numbers of the fields to take out.
        there: How many of its bytes have come, where the others are the rest of the last field's content; the field is
            one of those to take out.

    Raises:
        MalformedError: where the bytes are no protobuf message, as far as that shows at the top level.
    """
    view = memoryview(data)
    rest: list[memoryview] = []
    taken: list[tuple[int, memoryview]] = []
    place, kept, count, end = 0, 0, 0, len(data)
    if there is not None:
        data = view[:there]  # what is read here; contents are not
    while place < len(data):
        count += 1
        if count > _MOST_FIELDS:
            raise MalformedError(f"more than {_MOST_FIELDS} fields")
        began = place
        tag, place = _read_varint(data, place)
        number, kind = tag >> 3, tag & 7
        if kind != DELIMITED:
            if number in fields or not number:
                raise MalformedError(f"field {number} at byte {began} has the wire type {kind}")
            place = _skip(data, place, kind)
            continue
        length, start = _read_varint(data, place)
        place = start + length
        if place > end:
            raise MalformedError(f"field {number} at byte {began} says {length} bytes where {end - start} are left")
        if number in fields:
            if began > kept:
                rest.append(view[kept:began])
            kept = place
            taken.append((number, view[start:place]))
    if place != end or (kept != end and there is not None):
        raise MalformedError("more is missing than the rest of one content")
    if end > kept:
        rest.append(view[kept:end])
    return b"".join(rest), taken


def _skip(data: Data, place: int, kind: int) -> int:
    """The place behind a scalar field's value."""
    if kind == 0:
        return _read_varint(data, place)[1]
    size = _FIXED_SIZES.get(kind)
    if size is None:
        raise MalformedError(f"the wire type {kind} at byte {place}")
    if place + size > len(data):
        raise MalformedError("a field is cut short")
    return place + size


def _read_varint(data: Data, place: int) -> tuple[int, int]:
    """A varint of at most 64 bits, and the place behind it."""
    if place < len(data) and data[place] < 0x80:  # as most are
        return data[place], place + 1
    value = 0
    for offset, byte in enumerate(data[place : place + 10]):
        value |= (byte & 0x7F) << 7 * offset
        if byte < 0x80:
            return value, place + offset + 1
    raise MalformedError(f"a number at byte {place} is cut short or too long")
