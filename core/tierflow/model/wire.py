"""The protobuf wire format: walking over its fields without building messages, and writing them.

Knows nothing of ONNX. Format: https://protobuf.dev/programming-guides/encoding/
"""

import mmap
from collections.abc import Iterator
from typing import Final, NamedTuple

VARINT: Final = 0
FIXED64: Final = 1
DELIMITED: Final = 2
FIXED32: Final = 5

Buffer = bytes | memoryview | mmap.mmap


class Field(NamedTuple):
    """One field of a message: where it begins (tag included), where its payload begins, and where both end.

    Offsets count from the start of the buffer. A varint has its value in `value`.
    """

    number: int
    wire_type: int
    begin: int
    payload: int
    end: int
    value: int = 0


class WireError(ValueError):
    """The bytes are no protobuf message."""


class CutShortError(WireError):
    """A field ends after the message that it is in: the bytes were cut short."""


def fields(data: Buffer, begin: int, end: int) -> Iterator[Field]:
    """The fields of the message in `data[begin:end]`, in order, their content untouched.

    Raises:
        WireError: where the bytes are no message.
        CutShortError: where the message is longer than `end` allows.
    """
    at = begin
    while at < end:
        tag, payload = _varint(data, at, end)
        number, wire_type = tag >> 3, tag & 7
        if number == 0:
            raise WireError(f"field number 0 at byte {at}")
        value = 0
        if wire_type == DELIMITED:
            length, payload = _varint(data, payload, end)
            after = payload + length
        elif wire_type == VARINT:
            value, after = _varint(data, payload, end)
        elif wire_type == FIXED32:
            after = payload + 4
        elif wire_type == FIXED64:
            after = payload + 8
        else:
            raise WireError(f"wire type {wire_type} at byte {at}")
        if after > end:
            raise CutShortError(f"the field at byte {at} ends at byte {after}, but its message ends at byte {end}")
        yield Field(number, wire_type, at, payload, after, value)
        at = after


def _varint(data: Buffer, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= end:
            raise CutShortError(f"a number is cut off at byte {end}")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise WireError(f"a number of more than ten bytes before byte {at}")


def varint(number: int) -> bytes:
    """A non-negative number as a varint."""
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def header(number: int, length: int) -> bytes:
    """What comes before a length-delimited payload: the tag of field `number`, and the payload's length in bytes."""
    return varint(number << 3 | DELIMITED) + varint(length)
