"""One HTTP/2 connection: frames in and out, windows, pings. What is said on it is its subclasses' business."""

import socket
from collections.abc import Sequence
from typing import Final, Generic, TypeVar

from tierflow.protocol.messages import Data
from tierflow_worker.rpc import frames
from tierflow_worker.rpc.frames import BrokenConnectionError, Kind, Reason, Setting
from tierflow_worker.rpc.headers import LARGEST_LIST, Decoder, Headers
from tierflow_worker.rpc.status import RpcError
from tierflow_worker.rpc.streams import Stream
from tierflow_worker.rpc.wire import Wire

OneStream = TypeVar("OneStream", bound=Stream)

LARGEST_DATA: Final = 4 * 2**20
"""Bytes of a frame that this side takes; with 16 KiB, the default, large messages cost more."""

_BUFFER_BYTES: Final = 65_536
_READS_PER_TURN: Final = 16  # then others have their turn
_MOST_STRIKES: Final = 10_000  # frames that cost their sender nothing, within `_STRIKE_SECONDS`
_STRIKE_SECONDS: Final = 60.0
_ACKNOWLEDGE_BYTES: Final = 2**28

OWN_SETTINGS: Final = {
    Setting.HEADER_TABLE_SIZE: 0,  # so that what a peer sends again is the same bytes again
    Setting.INITIAL_WINDOW_SIZE: frames.LARGEST_WINDOW,  # a message is limited by its size, and refused by that
    Setting.MAX_FRAME_SIZE: LARGEST_DATA,
    Setting.MAX_HEADER_LIST_SIZE: LARGEST_LIST,
}


class Connection(Wire, Generic[OneStream]):
    """Reads, writes, and keeps the account of windows.

    Must be made inside the event loop.

    Args:
        connected: The socket, which belongs to the connection from now on.
        preface: What the peer has to send before its first frame.
    """

    def __init__(self, connected: socket.socket, *, preface: bytes = b"") -> None:
        super().__init__(connected)
        self.streams: Final[dict[int, OneStream]] = {}
        self._decoder = Decoder()
        self._buffer = memoryview(bytearray(_BUFFER_BYTES))
        self._begin = self._end = 0  # of what is in the buffer and not read yet
        self._data: tuple[int, int, int] | None = None  # a DATA frame's stream, and bytes left of content and padding
        self._data_ends_stream = False
        self._block: tuple[int, int, bytes] | None = None  # headers that go on: stream, flags, block so far
        self._preface = preface
        self._unacknowledged = 0
        self._window = frames.DEFAULT_WINDOW
        self._first_window = frames.DEFAULT_WINDOW
        self._most_frame = frames.DEFAULT_FRAME
        self._strikes = 0
        self._struck = self._loop.time()

    # What subclasses do.

    def on_headers(self, number: int, headers: Headers, *, last: bool) -> None:
        """Headers have come; `last` where nothing follows on the stream."""
        raise NotImplementedError

    def on_message(self, stream: OneStream, *, last: bool) -> None:
        """Bytes of a stream's message have come, and perhaps its end."""
        raise NotImplementedError

    def on_refused(self, stream: OneStream, error: RpcError) -> None:
        """What comes on a stream can't be taken."""
        raise NotImplementedError

    def on_reset(self, stream: OneStream, reason: int) -> None:
        """The peer has ended a stream, which is forgotten already."""
        raise NotImplementedError

    def on_go_away(self, last_stream: int, text: str) -> None:
        """The peer takes no further streams."""

    def on_settings(self, values: dict[int, int]) -> None:
        """The peer has told something about itself."""

    def on_ended(self, stream: OneStream) -> None:
        """All that a stream has to say was sent."""

    def on_pong(self, content: bytes) -> None:
        """A ping was answered."""

    # Sending.

    def pump(self, stream: OneStream, first: Sequence[Data] = ()) -> None:
        """Sends what a stream has to say, as far as the peer takes it; before it the bytes `first`."""
        made, spent = stream.frames(self._window, self._most_frame)
        self._window -= spent
        if first or made:
            self.send([*first, *made])
        if stream.ended:
            self.on_ended(stream)

    # Receiving.

    def _on_readable(self) -> None:
        try:
            for _ in range(_READS_PER_TURN):
                place = self._place()
                target = self._buffer[self._end :] if place is None else place
                count = self._socket.recv_into(target)
                if not count:
                    self.close("it closed the connection")
                    return
                if place is None:
                    self._end += count
                else:
                    self._took_data(count)
                self._read()
                if self.closed or count < len(target):
                    return
        except (BlockingIOError, InterruptedError):
            return
        except BrokenConnectionError as error:
            self.send((frames.go_away(self._highest_stream(), error.reason, str(error)),))
            self.close(str(error))
        except OSError as error:
            self.close(error.strerror or str(error))

    def _highest_stream(self) -> int:
        """The number of the newest stream that was served."""
        return 0

    def _place(self) -> memoryview | None:
        """Where the next bytes belong, past the buffer: into the message of which a frame is under way."""
        if self._data is None or self._begin != self._end:
            return None
        number, left, _ = self._data
        stream = self.streams.get(number)
        place = stream.incoming.place() if stream is not None else None
        return place[:left] if place is not None and left else None

    def _took_data(self, count: int) -> None:
        """Accounts for bytes of a DATA frame that were received in their place."""
        if self._data is not None:
            number, left, padding = self._data
            self.streams[number].incoming.received(count)
            self._data = (number, left - count, padding)

    def _read(self) -> None:
        """Reads all frames that are whole, and of a DATA frame what there is."""
        while not self.closed and (self._read_data() if self._data is not None else self._read_frame()):
            pass
        if self._begin == self._end:
            self._begin = self._end = 0
        elif self._begin > _BUFFER_BYTES // 2:
            self._compact()

    def _read_data(self) -> bool:
        """Reads on in a DATA frame; False where more bytes have to come."""
        if self._data is None:
            return True
        number, left, padding = self._data
        stream = self.streams.get(number)
        take = min(left, self._end - self._begin)
        if take:
            content = self._buffer[self._begin : self._begin + take]
            self._begin += take
            left -= take
            if stream is not None:
                try:
                    stream.incoming.feed(content)
                except RpcError as error:
                    self.on_refused(stream, error)
                    stream = None
        if not left and padding:
            take = min(padding, self._end - self._begin)
            self._begin += take
            padding -= take
        self._data = (number, left, padding)
        if left or padding:
            return False
        self._data = None
        if stream is not None:
            if self._data_ends_stream:
                stream.half_closed = True
            self.on_message(stream, last=self._data_ends_stream)
        return True

    def _read_frame(self) -> bool:
        """Reads one frame; False where more bytes have to come."""
        place, there = self._begin, self._end - self._begin
        if self._preface:
            return self._read_preface(there)
        if there < frames.HEAD_BYTES:
            return False
        length, kind, flags, number = frames.read_head(self._buffer, place)
        if self._block is not None and (kind != Kind.CONTINUATION or number != self._block[0]):
            raise BrokenConnectionError(Reason.PROTOCOL_ERROR, "headers that do not go on")
        if kind == Kind.DATA:
            return self._begin_data(length, flags, number)
        if length > LARGEST_LIST:
            raise BrokenConnectionError(Reason.FRAME_SIZE_ERROR, f"a frame of type {kind} with {length} bytes")
        end = place + frames.HEAD_BYTES + length
        if end > self._end:
            if end > _BUFFER_BYTES:
                self._compact()
            return False
        payload = bytes(self._buffer[place + frames.HEAD_BYTES : end])
        self._begin = end
        if kind == Kind.HEADERS and not flags & frames.PADDED_OR_PRIORITY:  # as most are
            self._on_block(number, flags, payload)
        else:
            self._on_frame(kind, flags, number, payload)
        return True

    def _read_preface(self, there: int) -> bool:
        """Reads what the peer sends first; False where more bytes have to come."""
        came = bytes(self._buffer[self._begin : self._begin + min(there, len(self._preface))])
        if not self._preface.startswith(came):
            self.close("it does not speak HTTP/2")
            return False
        self._begin += len(came)
        self._preface = self._preface[len(came) :]
        return not self._preface

    def _compact(self) -> None:
        """Makes room at the buffer's end."""
        left = bytes(self._buffer[self._begin : self._end])
        self._buffer[: len(left)] = left
        self._begin, self._end = 0, len(left)

    def _begin_data(self, length: int, flags: int, number: int) -> bool:
        padding = 0
        begin = self._begin + frames.HEAD_BYTES
        if length > LARGEST_DATA:
            raise BrokenConnectionError(Reason.FRAME_SIZE_ERROR, f"a DATA frame of {length} bytes")
        if not number:
            raise BrokenConnectionError(Reason.PROTOCOL_ERROR, "a DATA frame on no stream")
        content = length
        if flags & frames.PADDED:
            if self._end <= begin:
                return False
            padding = self._buffer[begin]
            begin += 1
            content -= 1 + padding
            if content < 0:
                raise BrokenConnectionError(Reason.PROTOCOL_ERROR, "a DATA frame that is all padding")
        self._begin = begin
        self._data = (number, content, padding)
        self._data_ends_stream = bool(flags & frames.END_STREAM)
        if not content and not self._data_ends_stream:
            self._strike()
        self._unacknowledged += length
        if self._unacknowledged >= _ACKNOWLEDGE_BYTES:
            self.send((frames.window_update(0, self._unacknowledged),))
            self._unacknowledged = 0
        return True

    def _strike(self) -> None:
        """Counts a frame that costs its sender nothing."""
        self._strikes += 1
        if self._strikes > _MOST_STRIKES:
            now = self._loop.time()
            if now - self._struck > _STRIKE_SECONDS:
                self._strikes, self._struck = 0, now
                return
            raise BrokenConnectionError(Reason.ENHANCE_YOUR_CALM, "too many frames that ask for nothing")

    def _on_frame(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        match kind:
            case Kind.HEADERS:
                block = frames.unpadded(payload, flags)
                self._on_block(number, flags, block)
            case Kind.CONTINUATION:
                if self._block is None:
                    raise BrokenConnectionError(Reason.PROTOCOL_ERROR, "headers that never began")
                first_flags, before = self._block[1:]
                self._block = None
                self._on_block(number, first_flags | flags & frames.END_HEADERS, before + payload)
            case Kind.SETTINGS:
                self._on_settings(flags, payload)
            case Kind.WINDOW_UPDATE:
                self._on_window(number, payload)
            case Kind.PING:
                self._on_ping(flags, payload)
            case Kind.RST_STREAM:
                self._strike()
                stream = self.streams.pop(number, None)
                if stream is not None:
                    self.on_reset(stream, int.from_bytes(payload[:4], "big"))
            case Kind.GOAWAY:
                self.on_go_away(frames.number(payload), payload[8:].decode("utf-8", "replace"))
            case Kind.PUSH_PROMISE:
                raise BrokenConnectionError(Reason.PROTOCOL_ERROR, "a push")
            case _:
                self._strike()

    def _on_block(self, number: int, flags: int, block: bytes) -> None:
        if not number or len(block) > LARGEST_LIST:
            raise BrokenConnectionError(Reason.PROTOCOL_ERROR, f"headers of {len(block)} bytes on stream {number}")
        if not flags & frames.END_HEADERS:
            self._strike()
            self._block = (number, flags, block)
            return
        last = bool(flags & frames.END_STREAM)
        stream = self.streams.get(number)
        if stream is not None and last:
            stream.half_closed = True
        self.on_headers(number, self._decoder.decode(block), last=last)

    def _on_settings(self, flags: int, payload: bytes) -> None:
        if flags & frames.ACK:
            return
        self._strike()
        values = dict(frames.read_settings(payload))
        window = values.get(Setting.INITIAL_WINDOW_SIZE, self._first_window)
        most = values.get(Setting.MAX_FRAME_SIZE, self._most_frame)
        if window > frames.LARGEST_WINDOW or not frames.DEFAULT_FRAME <= most <= frames.LARGEST_FRAME:
            raise BrokenConnectionError(Reason.PROTOCOL_ERROR, f"settings out of range: {values}")
        for stream in self.streams.values():
            stream.window += window - self._first_window
        self._first_window = window
        self._most_frame = most
        self.send((frames.SETTINGS_ACK,))
        self.on_settings(values)
        self._pump_blocked()

    def _on_window(self, number: int, payload: bytes) -> None:
        more = frames.number(payload)
        stream = self.streams.get(number)
        if not number:
            self._window += more
            if not more or self._window > frames.LARGEST_WINDOW:
                raise BrokenConnectionError(Reason.FLOW_CONTROL_ERROR, f"a window of {self._window} bytes")
            self._pump_blocked()
        elif stream is not None:
            stream.window = min(stream.window + more, frames.LARGEST_WINDOW)
            if stream.blocked:
                self.pump(stream)

    def _pump_blocked(self) -> None:
        for stream in [stream for stream in self.streams.values() if stream.blocked]:
            if self._window <= 0:
                return
            self.pump(stream)

    def _on_ping(self, flags: int, payload: bytes) -> None:
        if len(payload) != 8:
            raise BrokenConnectionError(Reason.FRAME_SIZE_ERROR, f"a ping of {len(payload)} bytes")
        if flags & frames.ACK:
            self.on_pong(payload)
        else:
            self._strike()
            self.send((frames.ping(payload, ack=True),))
