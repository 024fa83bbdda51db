"""Headers of gRPC calls: their compressed form (HPACK, RFC 7541), and the texts within them.

Blocks that are sent use no table that both sides would have to keep equal, so each can be made on its own, once. Blocks
that are received may; most peers give up the table when asked to, and what they then send again is decoded once.
"""

import base64
import binascii
import re
from collections.abc import Iterable
from typing import Final
from urllib.parse import unquote

from tierflow_worker.rpc.compression import Table
from tierflow_worker.rpc.status import Metadata

Headers = dict[str, str]

ANNOUNCED: Final = "tierflow-announced"
"""The header of a call whose message begins long before its rest comes, so that the server can prepare for it."""

LARGEST_LIST: Final = 16_384
"""Bytes of headers that are accepted, uncompressed."""

_NO_TABLE: Final = b"\x20"  # each block says that the sender keeps no table
_KEPT_BLOCKS: Final = 64
_KEPT_BYTES: Final = 1024
_SEVEN_BITS: Final = 127
_UNITS: Final = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_MOST_DIGITS: Final = 10**8
_TO_ESCAPE: Final = re.compile(rb"[^\x20-\x24\x26-\x7e]")


def encode(headers: Iterable[tuple[str, str]]) -> bytes:
    """A block of headers as it is sent."""
    return _NO_TABLE + b"".join(literal(name, value) for name, value in headers)


def literal(name: str, value: str) -> bytes:
    """One header, to be appended to a block."""
    return b"\x00" + _text(name) + _text(value)


def _text(text: str) -> bytes:
    data = text.encode()
    left = len(data) - _SEVEN_BITS
    if left < 0:
        return bytes((len(data),)) + data
    length = bytearray((_SEVEN_BITS,))
    while left > _SEVEN_BITS:
        length.append(left & _SEVEN_BITS | 0x80)
        left >>= 7
    length.append(left)
    return bytes(length) + data


class Decoder:
    """Reads the blocks of one connection, in their order."""

    def __init__(self) -> None:
        self._table = Table()
        self._known: dict[bytes, Headers] = {}

    def decode(self, block: bytes) -> Headers:
        """The headers of a block; of those that are there twice, the last.

        Raises:
            BrokenConnectionError: where it is no such block, or too long.
        """
        known = self._known.get(block)
        if known is not None:
            return known
        stateless = self._table.is_empty
        headers = {
            name: value.encode("latin-1").decode("utf-8", "replace")
            for name, value in self._table.decode(block, LARGEST_LIST)
        }
        if stateless and self._table.is_empty and len(block) <= _KEPT_BYTES:
            if len(self._known) == _KEPT_BLOCKS:
                self._known.clear()
            self._known[block] = headers
        return headers


def write_timeout(seconds: float) -> str:
    """A `grpc-timeout`: at most eight digits and a unit."""
    for unit in ("u", "m", "S"):
        count = max(1, int(seconds / _UNITS[unit]))
        if count < _MOST_DIGITS:
            return f"{count}{unit}"
    return f"{_MOST_DIGITS - 1}S"


def read_timeout(text: str) -> float | None:
    """The seconds of a `grpc-timeout`; None where it is none."""
    digits, unit = text[:-1], text[-1:]
    if not (text.isascii() and digits.isdecimal()) or len(digits) > len(str(_MOST_DIGITS)) or unit not in _UNITS:
        return None
    return int(digits) * _UNITS[unit]


def write_message(text: str) -> str:
    """A `grpc-message`: the text with what is no printable ASCII escaped."""
    return _TO_ESCAPE.sub(lambda found: b"%%%02X" % found[0][0], text.encode("utf-8", "replace")).decode("ascii")


def read_message(text: str) -> str:
    """The text of a `grpc-message`."""
    return unquote(text, errors="replace")


def write_metadata(metadata: Metadata) -> list[tuple[str, str]]:
    """Metadata as headers: bytes become text."""
    return [
        (name, value if isinstance(value, str) else base64.b64encode(value).decode("ascii").rstrip("="))
        for name, value in metadata
    ]


def read_metadata(headers: Headers) -> tuple[tuple[str, str | bytes], ...]:
    """The metadata among the headers of a call; what can't be read is left out."""
    found: list[tuple[str, str | bytes]] = []
    for name, value in headers.items():
        if name.startswith((":", "grpc-")) or name == "content-type":
            continue
        if not name.endswith("-bin"):
            found.append((name, value))
            continue
        try:
            found.append((name, base64.b64decode(value + "=" * (-len(value) % 4), validate=True)))
        except (binascii.Error, ValueError):
            continue
    return tuple(found)
