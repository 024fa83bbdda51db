"""HTTP/2 frames (RFC 9113) as bytes: what there is of them, and how those that are sent look."""

import struct
from collections.abc import Iterator, Mapping
from enum import IntEnum
from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""What a client sends first."""

HEAD_BYTES: Final = 9
DEFAULT_WINDOW: Final = 65_535
DEFAULT_FRAME: Final = 16_384
LARGEST_WINDOW: Final = 2**31 - 1
LARGEST_FRAME: Final = 2**24 - 1

END_STREAM: Final = 0x1
ACK: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
PRIORITY_GIVEN: Final = 0x20
PADDED_OR_PRIORITY: Final = PADDED | PRIORITY_GIVEN


class Kind(IntEnum):
    """The types of frames; those of other numbers are to be ignored."""

    DATA = 0
    HEADERS = 1
    PRIORITY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PUSH_PROMISE = 5
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8
    CONTINUATION = 9


class Reason(IntEnum):
    """Why a stream or a connection was ended."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    ENHANCE_YOUR_CALM = 11


class Setting(IntEnum):
    """What the sides tell each other about themselves."""

    HEADER_TABLE_SIZE = 1
    ENABLE_PUSH = 2
    MAX_CONCURRENT_STREAMS = 3
    INITIAL_WINDOW_SIZE = 4
    MAX_FRAME_SIZE = 5
    MAX_HEADER_LIST_SIZE = 6


class BrokenConnectionError(Exception):
    """The peer did what it must not, or too much of it; the connection has to end.

    Args:
        reason: For the peer.
        text: What it did.
    """

    def __init__(self, reason: Reason, text: str) -> None:
        super().__init__(text)
        self.reason = reason


_HEAD: Final = struct.Struct(">BHBBI")
_PAIR: Final = struct.Struct(">HI")


def head(length: int, kind: Kind, flags: int, stream: int) -> bytes:
    """The nine bytes before a payload."""
    return _HEAD.pack(length >> 16, length & 0xFFFF, kind, flags, stream)


def read_head(view: memoryview, place: int) -> tuple[int, int, int, int]:
    """Length, type, flags and stream of the frame that begins at a place."""
    high, low, kind, flags, stream = _HEAD.unpack_from(view, place)
    return high << 16 | low, kind, flags, stream & LARGEST_WINDOW


def settings(values: Mapping[Setting, int]) -> bytes:
    """A SETTINGS frame."""
    payload = b"".join(_PAIR.pack(setting, value) for setting, value in values.items())
    return head(len(payload), Kind.SETTINGS, 0, 0) + payload


SETTINGS_ACK: Final = head(0, Kind.SETTINGS, ACK, 0)


def read_settings(payload: bytes) -> Iterator[tuple[int, int]]:
    """The numbers and values of a SETTINGS frame.

    Raises:
        BrokenConnectionError: where its length is no multiple of a setting's.
    """
    if len(payload) % _PAIR.size:
        raise BrokenConnectionError(Reason.FRAME_SIZE_ERROR, f"a SETTINGS frame of {len(payload)} bytes")
    yield from _PAIR.iter_unpack(payload)


def window_update(stream: int, more: int) -> bytes:
    """A WINDOW_UPDATE frame; stream 0 is the connection."""
    return head(4, Kind.WINDOW_UPDATE, 0, stream) + more.to_bytes(4, "big")


def reset(stream: int, reason: Reason) -> bytes:
    """A RST_STREAM frame."""
    return head(4, Kind.RST_STREAM, 0, stream) + reason.to_bytes(4, "big")


def ping(content: bytes, *, ack: bool = False) -> bytes:
    """A PING frame with eight bytes."""
    return head(8, Kind.PING, ACK if ack else 0, 0) + content


def go_away(last_stream: int, reason: Reason, text: str = "") -> bytes:
    """A GOAWAY frame."""
    payload = last_stream.to_bytes(4, "big") + reason.to_bytes(4, "big") + text.encode()
    return head(len(payload), Kind.GOAWAY, 0, 0) + payload


def number(payload: bytes) -> int:
    """The 31 bits that a payload begins with."""
    return int.from_bytes(payload[:4], "big") & LARGEST_WINDOW


def unpadded(payload: bytes, flags: int) -> bytes:
    """A HEADERS payload without padding and priority.

    Raises:
        BrokenConnectionError: where it is shorter than it says.
    """
    begin, end = 0, len(payload)
    if flags & PADDED:
        begin, end = 1, len(payload) - (payload[0] if payload else 1)
    if flags & PRIORITY_GIVEN:
        begin += 5
    if begin > end:
        raise BrokenConnectionError(Reason.PROTOCOL_ERROR, "a HEADERS frame that is all padding")
    return payload[begin:end]
