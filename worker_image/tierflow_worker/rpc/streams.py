"""One call's half-streams: the message that comes, and the bytes that go as the peer's windows allow."""

from collections import deque
from collections.abc import Iterable
from typing import Final

import numpy as np

from tierflow.protocol.messages import Data
from tierflow_worker.rpc.frames import END_HEADERS, END_STREAM, Kind, head
from tierflow_worker.rpc.status import Code, RpcError

_PREFIX_BYTES: Final = 5
_ALIGNMENT: Final = 64
_SMALL_BYTES: Final = 16_384


class Incoming:
    """Collects the one message that a unary call's side sends.

    Args:
        most_bytes: The largest that is taken.
    """

    def __init__(self, most_bytes: int) -> None:
        self.compressed = False
        self._most_bytes = most_bytes
        self._prefix = b""
        self._body: memoryview | None = None
        self._got = 0

    @property
    def body(self) -> memoryview | None:
        """The message, once it is whole."""
        return self._body if self._body is not None and self._got == len(self._body) else None

    @property
    def begun(self) -> tuple[memoryview, int] | None:
        """The message's place and how many of its bytes have come, while it is not whole; None where it isn't begun."""
        return None if self._body is None or self._got == len(self._body) else (self._body, self._got)

    def feed(self, data: memoryview) -> None:
        """Takes the next bytes.

        Raises:
            RpcError: where the message is too large, or a second one follows.
        """
        if self._body is None:
            missing = _PREFIX_BYTES - len(self._prefix)
            self._prefix += bytes(data[:missing])
            data = data[missing:]
            if len(self._prefix) < _PREFIX_BYTES:
                return
            self._body = self._reserve()
        if len(data) > len(self._body) - self._got:
            raise RpcError(Code.INTERNAL, "more than one message in a call that takes one")
        self._body[self._got : self._got + len(data)] = data
        self._got += len(data)

    def place(self) -> memoryview | None:
        """Where the rest of the message goes, to be received there; None where that is unknown, or nothing is left."""
        return None if self._body is None or self._got == len(self._body) else self._body[self._got :]

    def received(self, count: int) -> None:
        """Tells that so many bytes were received into `place`."""
        self._got += count

    def _reserve(self) -> memoryview:
        size = int.from_bytes(self._prefix[1:], "big")
        self.compressed = self._prefix[0] == 1
        if size > self._most_bytes:
            raise RpcError(
                Code.RESOURCE_EXHAUSTED,
                f"a message of {size} bytes came, at most {self._most_bytes} are accepted",
            )
        if size < _SMALL_BYTES:
            return memoryview(bytearray(size))
        # Not zeroed, since all of it is overwritten; and ending at a boundary, because tensors' contents come last in a
        # message: what can be read where it lies need not be copied.
        return np.empty(size + _ALIGNMENT, np.uint8).data[-size % _ALIGNMENT :][:size]


class Stream:
    """A call on a connection.

    Args:
        number: The stream's.
        window: How many bytes the peer takes of it at first.
        most_bytes: The largest message that is taken.
    """

    def __init__(self, number: int, window: int, most_bytes: int) -> None:
        self.number: Final = number
        self.window = window
        self.incoming: Final = Incoming(most_bytes)
        self.half_closed = False
        """Whether the peer has said all."""
        self._outgoing: deque[memoryview] = deque()
        self._left = 0
        self._last = False
        self._trailers: bytes | None = None
        self._ended = False

    @property
    def ended(self) -> bool:
        """Whether all was sent."""
        return self._ended

    @property
    def blocked(self) -> bool:
        """Whether there are bytes to send that the peer's windows don't allow yet."""
        return self._left > 0

    def say(
        self,
        parts: Iterable[Data] | None,
        *,
        last: bool = False,
        trailers: bytes | None = None,
        size: int | None = None,
    ) -> None:
        """Adds a message to what is to be sent, or none.

        Args:
            parts: The message's bytes, one after the other; they are sent from where they lie.
            last: Whether the stream ends with it.
            trailers: A block of headers with which the stream ends.
            size: Of the message in bytes, where more of it will follow by `say_on`.
        """
        if parts is not None:
            pieces = [part for part in parts if len(part)]
            there = sum(map(len, pieces))
            prefix = b"\0" + (there if size is None else size).to_bytes(4, "big")
            # Few bytes are sooner copied than handled piece by piece.
            self._add((b"".join((prefix, *pieces)),) if there < _SMALL_BYTES else (prefix, *pieces))
        self._last = last
        self._trailers = trailers

    def say_on(self, parts: Iterable[Data]) -> None:
        """Adds the rest of a message that was begun, with which the stream ends."""
        self._add(parts)
        self._last = True

    def _add(self, parts: Iterable[Data]) -> None:
        for part in parts:
            self._outgoing.append(memoryview(part))
            self._left += len(part)

    def frames(self, window: int, most_frame: int) -> tuple[list[Data], int]:
        """What can be sent now, in frames.

        Args:
            window: How many bytes the connection takes.
            most_frame: How many a frame may have.

        Returns:
            Bytes to send, and how many of them count against the connection's window.
        """
        made: list[Data] = []
        spent = 0
        while self._left and (length := min(self._left, most_frame, window - spent, self.window - spent)) > 0:
            self._left -= length
            spent += length
            self._ended = self._last and not self._left
            made.append(head(length, Kind.DATA, END_STREAM if self._ended else 0, self.number))
            while length:
                part = self._outgoing[0]
                if len(part) <= length:
                    made.append(self._outgoing.popleft())
                    length -= len(part)
                else:
                    made.append(part[:length])
                    self._outgoing[0] = part[length:]
                    length = 0
        self.window -= spent
        if not self._left and self._trailers is not None:
            made.append(head(len(self._trailers), Kind.HEADERS, END_HEADERS | END_STREAM, self.number))
            made.append(self._trailers)
            self._trailers = None
            self._ended = True
        return made, spent
