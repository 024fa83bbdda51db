"""HPACK (RFC 7541): headers from their compressed form. What is sent uses none of it, see `headers`.

Written out here because a worker should not need one more package for some hundred lines.
"""

from collections import deque
from collections.abc import Iterator
from typing import Final

from tierflow_worker.rpc.frames import BrokenConnectionError, Reason

LARGEST_TABLE: Final = 4096
"""Bytes of the table that a peer may use until it has heard that it is to use none."""

_ENTRY_BYTES: Final = 32  # what an entry counts beside its texts
_LARGEST_NUMBER: Final = 2**28
_SHORTEST_CODE: Final = 5
_END_OF_STRING: Final = 256
_PADDING_BITS: Final = 7

# Appendix A: names, some with a value.
_STATIC_TEXT: Final = (
    ":authority|:method=GET|:method=POST|:path=/|:path=/index.html|:scheme=http|:scheme=https|:status=200|:status=204|"
    ":status=206|:status=304|:status=400|:status=404|:status=500|accept-charset|accept-encoding=gzip, deflate|"
    "accept-language|accept-ranges|accept|access-control-allow-origin|age|allow|authorization|cache-control|"
    "content-disposition|content-encoding|content-language|content-length|content-location|content-range|content-type|"
    "cookie|date|etag|expect|expires|from|host|if-match|if-modified-since|if-none-match|if-range|if-unmodified-since|"
    "last-modified|link|location|max-forwards|proxy-authenticate|proxy-authorization|range|referer|refresh|retry-after|"
    "server|set-cookie|strict-transport-security|transfer-encoding|user-agent|vary|via|www-authenticate"
)
_STATIC: Final = tuple((name, value) for name, _, value in (text.partition("=") for text in _STATIC_TEXT.split("|")))

# Appendix B. The code of each byte, and of the end, follows from the lengths of all: `a` stands for 5 bits, `b` for 6.
_LENGTHS: Final = (
    "isxxxxxxxtzxxzxxxxxxxxzxxxxxxxxxbffhibdgffdgdbbbaaabbbbbbbcdkbhfibccccccccccccccccccccccdcdioijbkabababbbaccbbbabcba"
    "abccccckgjixprpprrrsrssssststtrstssssqrsrsstrqprrssqsrrtqrssqqrqsrssprrrsrrsvvporsruvvvwwvtuoqvwwvwtqqvvxwwwptpqrqqs"
    "rruuttvsvwvvwwwwwxwwwwwvz"
)


def _codes() -> dict[tuple[int, int], int]:
    """The byte, or the end, of each length and code."""
    lengths = [ord(letter) - ord("a") + _SHORTEST_CODE for letter in _LENGTHS]
    found: dict[tuple[int, int], int] = {}
    code, before = 0, _SHORTEST_CODE
    for length, symbol in sorted((length, symbol) for symbol, length in enumerate(lengths)):
        code <<= length - before
        found[length, code] = symbol
        code, before = code + 1, length
    return found


_CODES: Final = _codes()


def _broken(text: str) -> BrokenConnectionError:
    return BrokenConnectionError(Reason.COMPRESSION_ERROR, f"unreadable headers: {text}")


class Table:
    """What the headers of one connection refer to, kept in step with its sender."""

    def __init__(self) -> None:
        self._entries: deque[tuple[str, str]] = deque()  # the newest first
        self._size = 0
        self._most = LARGEST_TABLE

    @property
    def is_empty(self) -> bool:
        """Whether nothing was added that is still there."""
        return not self._entries

    def decode(self, block: bytes, most_bytes: int) -> Iterator[tuple[str, str]]:
        """The headers of a block, in order.

        Args:
            block: All of it.
            most_bytes: How much they may be together, uncompressed.

        Raises:
            BrokenConnectionError: where it is no such block, or too much.
        """
        place, left = 0, most_bytes
        while place < len(block):
            first = block[place]
            if first & 0x80:  # all of it is in a table
                index, place = _number(block, place, 7)
                header = self._entry(index)
            elif first & 0x40:  # to be added to the table
                header, place = self._literal(block, place, 6)
                self._add(header)
            elif first & 0x20:  # how large the table may be from now on
                self._most, place = _number(block, place, 5)
                if self._most > LARGEST_TABLE:
                    raise _broken(f"a table of {self._most} bytes")
                self._evict()
                continue
            else:
                header, place = self._literal(block, place, 4)
            left -= _size(header)
            if left < 0:
                raise BrokenConnectionError(Reason.ENHANCE_YOUR_CALM, f"headers of more than {most_bytes} bytes")
            yield header

    def _literal(self, block: bytes, place: int, bits: int) -> tuple[tuple[str, str], int]:
        index, place = _number(block, place, bits)
        if index:
            name = self._entry(index)[0]
        else:
            name, place = _text(block, place)
        value, place = _text(block, place)
        return (name, value), place

    def _entry(self, index: int) -> tuple[str, str]:
        if 0 < index <= len(_STATIC):
            return _STATIC[index - 1]
        if len(_STATIC) < index <= len(_STATIC) + len(self._entries):
            return self._entries[index - len(_STATIC) - 1]
        raise _broken(f"entry {index} of a table of {len(self._entries)}")

    def _add(self, header: tuple[str, str]) -> None:
        self._entries.appendleft(header)
        self._size += _size(header)
        self._evict()

    def _evict(self) -> None:
        while self._size > self._most:
            self._size -= _size(self._entries.pop())


def _size(header: tuple[str, str]) -> int:
    return len(header[0]) + len(header[1]) + _ENTRY_BYTES


def _number(block: bytes, place: int, bits: int) -> tuple[int, int]:
    """The number whose first bits are the last ones of a byte, and the place behind it."""
    if place >= len(block):
        raise _broken("they are cut short")
    most = (1 << bits) - 1
    value = block[place] & most
    place += 1
    if value < most:
        return value, place
    shift = 0
    while True:
        if place >= len(block) or value > _LARGEST_NUMBER:
            raise _broken("a number is cut short or too large")
        value += (block[place] & 0x7F) << shift
        shift += 7
        place += 1
        if not block[place - 1] & 0x80:
            return value, place


def _text(block: bytes, place: int) -> tuple[str, int]:
    if place >= len(block):
        raise _broken("they are cut short")
    is_coded = block[place] & 0x80
    length, place = _number(block, place, 7)
    end = place + length
    if end > len(block):
        raise _broken("a text is cut short")
    data = block[place:end]
    # One character per byte, so that the sizes of entries are those that the sender counts.
    return (_decoded(data) if is_coded else data).decode("latin-1"), end


def _decoded(data: bytes) -> bytes:
    """The bytes that a Huffman code stands for."""
    made = bytearray()
    code, length = 0, 0
    for byte in data:
        for bit in range(7, -1, -1):
            code = code << 1 | byte >> bit & 1
            length += 1
            symbol = _CODES.get((length, code))
            if symbol is None:
                continue
            if symbol == _END_OF_STRING:
                raise _broken("a code that ends within a text")
            made.append(symbol)
            code, length = 0, 0
    if length > _PADDING_BITS or code != (1 << length) - 1:
        raise _broken("a code that ends in the middle")
    return bytes(made)
