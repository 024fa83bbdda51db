"""The server: listens, reads calls, runs their handlers on the event loop, and answers."""

import asyncio
import errno
import socket
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from tierflow.protocol.messages import Data
from tierflow_worker.rpc import frames
from tierflow_worker.rpc.coming import Coming
from tierflow_worker.rpc.connection import OWN_SETTINGS, Connection
from tierflow_worker.rpc.frames import PREFACE, BrokenConnectionError, Reason, Setting
from tierflow_worker.rpc.headers import ANNOUNCED, Headers, encode, literal, read_timeout, write_message, write_metadata
from tierflow_worker.rpc.status import Code, RpcError
from tierflow_worker.rpc.streams import Stream

Parts = Sequence[Data]
"""A message's bytes, one piece after the other."""

Unary = Callable[[Data, "Call"], Awaitable[Parts]]
Streaming = Callable[[Data, "Call"], AsyncIterator[Parts]]

_MOST_STREAMS: Final = 1024
_BACKLOG: Final = 512
_HANDSHAKE_SECONDS: Final = 20.0
_PAUSE_SECONDS: Final = 1.0  # when the process has no more file descriptors
_LAST_PING: Final = b"goodbye!"
_GZIP_OR_ZLIB: Final = 47  # zlib's `wbits` for either format
_INLINE_BYTES: Final = 65_536  # larger messages are unpacked in a thread

_BEGINNING: Final = encode(((":status", "200"), ("content-type", "application/grpc")))
_GOOD_END: Final = encode((("grpc-status", "0"),))


@dataclass(frozen=True, slots=True)
class Handler:
    """What answers the calls of a method: exactly one of the two."""

    unary: Unary | None = None
    streaming: Streaming | None = None


class Call(Stream):
    """A call as its handler sees it."""

    path = ""
    encoding = ""
    deadline: float | None = None
    task: "asyncio.Task[None] | None" = None
    announced = False
    """Whether the client has said that the message's rest comes later than its beginning."""
    coming: Coming | None = None
    """Tells when the message is whole, where the handler was begun before."""
    there = 0
    """How many bytes of the message had come by then."""
    begun = False
    """Whether the answer's headers were sent."""

    def time_remaining(self) -> float | None:
        """Seconds until the caller gives up; None where it never does."""
        return None if self.deadline is None else self.deadline - asyncio.get_running_loop().time()


class Server:
    """Serves calls until it is stopped.

    Args:
        handlers: By path: `/package.Service/Method`.
        max_message_bytes: Largest message either way.
        on_error: Is told of handlers' unexpected errors.
    """

    def __init__(
        self, handlers: Mapping[str, Handler], *, max_message_bytes: int, on_error: Callable[[BaseException], None]
    ) -> None:
        self.handlers: Final = dict(handlers)
        self.max_message_bytes: Final = max_message_bytes
        self.on_error: Final = on_error
        self.connections: Final[set[ServerConnection]] = set()
        self._listeners: list[socket.socket] = []
        self._stopped: asyncio.Event | None = None
        self._at_once = asyncio.Event()

    def listen(self, host: str, port: int) -> int:
        """Begins to listen; returns the port, which is a free one where 0 was asked for.

        Raises:
            OSError: where the port can't be had.
        """
        family, _, _, _, address = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        both = family is socket.AF_INET6 and host in ("", "::") and socket.has_dualstack_ipv6()
        listener = socket.create_server(address[:2], family=family, backlog=_BACKLOG, dualstack_ipv6=both)
        listener.setblocking(False)
        self._listeners.append(listener)
        asyncio.get_running_loop().add_reader(listener, self._accept, listener)
        return int(listener.getsockname()[1])

    async def stop(self, grace_seconds: float | None) -> None:
        """Stops listening, lets the calls under way end within the grace (None: at once), then cancels them.

        A second call shortens the grace of the first.
        """
        self._stop_listening()
        if grace_seconds is None or grace_seconds <= 0:
            self._at_once.set()
        for connection in list(self.connections):
            connection.say_goodbye()
        leaving = asyncio.ensure_future(self._all_left())
        hurrying = asyncio.ensure_future(self._at_once.wait())
        await asyncio.wait((leaving, hurrying), timeout=grace_seconds, return_when=asyncio.FIRST_COMPLETED)
        for connection in list(self.connections):
            connection.cancel_all()
        for task in (leaving, hurrying):
            task.cancel()
        for connection in list(self.connections):
            connection.close("the server stops")

    async def _all_left(self) -> None:
        while self.connections:
            await next(iter(self.connections)).gone.wait()

    def _stop_listening(self) -> None:
        loop = asyncio.get_running_loop()
        for listener in self._listeners:
            loop.remove_reader(listener)
            listener.close()
        self._listeners.clear()

    def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(_BACKLOG):
            try:
                connected, _ = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    raise
                # Else this would be tried all the time, for as long as no connection ends.
                loop.remove_reader(listener)
                loop.call_later(_PAUSE_SECONDS, self._accept_again, listener)
                return
            try:
                connection = ServerConnection(connected, self)
            except OSError:  # gone already
                connected.close()
                continue
            if not connection.closed:
                self.connections.add(connection)

    def _accept_again(self, listener: socket.socket) -> None:
        if listener in self._listeners:
            asyncio.get_running_loop().add_reader(listener, self._accept, listener)


class ServerConnection(Connection[Call]):
    """One client."""

    def __init__(self, connected: socket.socket, server: Server) -> None:
        super().__init__(connected, preface=PREFACE)
        self.gone: Final = asyncio.Event()
        self._server = server
        self._newest = 0
        self._goodbye = False
        self._heard = False  # the client has heard the goodbye: whatever it calls, it called before
        self._timer = self._loop.call_later(_HANDSHAKE_SECONDS, self._check_handshake)
        self.send((frames.settings(OWN_SETTINGS | {Setting.MAX_CONCURRENT_STREAMS: _MOST_STREAMS}),))
        self.send((frames.window_update(0, frames.LARGEST_WINDOW - frames.DEFAULT_WINDOW),))

    def _check_handshake(self) -> None:
        if self._preface:
            self.close("no HTTP/2 was spoken")

    def _highest_stream(self) -> int:
        return self._newest

    def on_headers(self, number: int, headers: Headers, *, last: bool) -> None:
        """Begins a call."""
        known = self.streams.get(number)
        if known is not None:  # trailers, which a client has no use for
            if last:
                self.on_message(known, last=True)
            return
        if number % 2 == 0 or (number <= self._newest and not last):
            raise BrokenConnectionError(Reason.PROTOCOL_ERROR, f"a call on stream {number} after {self._newest}")
        if number <= self._newest:
            return  # the end of a call that was refused
        self._newest = number
        if len(self.streams) >= _MOST_STREAMS:
            self._strike()
            self.send((frames.reset(number, Reason.REFUSED_STREAM),))
            return
        call = Call(number, self._first_window, self._server.max_message_bytes)
        call.path = headers.get(":path", "")
        call.encoding = headers.get("grpc-encoding", "identity")
        call.announced = ANNOUNCED in headers
        call.half_closed = last
        timeout = read_timeout(headers["grpc-timeout"]) if "grpc-timeout" in headers else None
        call.deadline = None if timeout is None else self._loop.time() + timeout
        self.streams[number] = call
        if headers.get(":method") != "POST" or not headers.get("content-type", "").startswith("application/grpc"):
            self._refuse_http(call)
        elif call.path not in self._server.handlers:
            self._finish(call, RpcError(Code.UNIMPLEMENTED, f"there is no method {call.path}"))
        elif last:
            self._finish(call, RpcError(Code.INTERNAL, "a call without a message"))

    def on_message(self, stream: Call, *, last: bool) -> None:
        """Runs the handler: once the message is whole, or once it has begun where the client has announced it."""
        if not last:
            if stream.announced and stream.task is None:
                self._begin_early(stream)
        elif (body := stream.incoming.body) is None:
            self._finish(stream, RpcError(Code.INTERNAL, "the call ended before its message did"))
        elif stream.coming is not None:
            stream.coming.arrive()
        elif stream.task is None:
            stream.task = self._loop.create_task(self._run(stream, body))

    def _begin_early(self, call: Call) -> None:
        begun = call.incoming.begun
        if begun is not None and not call.incoming.compressed:
            body, call.there = begun
            call.coming = Coming()
            call.task = self._loop.create_task(self._run(call, body))
            self.send((_headers_frame(call.number, _BEGINNING, 0),))  # need not wait for the answer
            call.begun = True

    def on_refused(self, stream: Call, error: RpcError) -> None:
        """Answers a message that can't be taken."""
        self._finish(stream, error)

    def on_reset(self, stream: Call, reason: int) -> None:
        """Cancels the handler of a call whose client has left."""
        del reason
        if stream.task is not None:
            stream.task.cancel()
        self._leave_when_done()

    def on_ended(self, stream: Call) -> None:
        """Forgets a call that was answered."""
        if not stream.half_closed:  # it need not go on
            self.send((frames.reset(stream.number, Reason.NO_ERROR),))
        self._forget(stream)

    def on_pong(self, content: bytes) -> None:
        """Notes that the client has heard the goodbye."""
        if content == _LAST_PING:
            self._heard = True
            self._leave_when_done()

    def on_closed(self, why: str) -> None:
        """Cancels what was under way."""
        del why
        self._timer.cancel()
        for call in list(self.streams.values()):
            if call.task is not None:
                call.task.cancel()
        self.streams.clear()
        self._server.connections.discard(self)
        self.gone.set()

    def say_goodbye(self) -> None:
        """Tells the client to call elsewhere from now on; the connection ends with its last call."""
        if not self._goodbye and not self.closed:
            self._goodbye = True
            self.send((frames.go_away(frames.LARGEST_WINDOW, Reason.NO_ERROR), frames.ping(_LAST_PING)))

    def cancel_all(self) -> None:
        """Ends all calls, and tells their clients."""
        for call in list(self.streams.values()):
            self._finish(call, RpcError(Code.UNAVAILABLE, "the worker stops"))

    def _leave_when_done(self) -> None:
        if self._goodbye and self._heard and not self.streams and not self.closed:
            self.send((frames.go_away(self._newest, Reason.NO_ERROR),))
            self.close("the server stops")

    async def _run(self, call: Call, message: memoryview) -> None:
        handler = self._server.handlers[call.path]
        try:
            request = await _unpacked(call, message, self._server.max_message_bytes)
            if handler.unary is not None:
                self._answer(call, await handler.unary(request, call), last=True)
            elif handler.streaming is not None:
                async for parts in handler.streaming(request, call):
                    self._answer(call, parts, last=False)
                self._finish(call, None)
        except RpcError as error:
            self._finish(call, error)
        except asyncio.CancelledError:
            self._finish(call, RpcError(Code.CANCELLED, "the call was cancelled"))
            raise
        except Exception as error:
            self._server.on_error(error)
            self._finish(call, RpcError(Code.INTERNAL, "an unexpected error, which the worker's log describes"))

    def _answer(self, call: Call, parts: Parts, *, last: bool) -> None:
        if call.number not in self.streams:
            return
        size = sum(map(len, parts))
        if size > self._server.max_message_bytes:
            most = self._server.max_message_bytes
            raise RpcError(Code.RESOURCE_EXHAUSTED, f"the answer has {size} bytes, at most {most} are sent")
        first = [] if call.begun else [_headers_frame(call.number, _BEGINNING, 0)]
        call.begun = True
        call.say(parts, trailers=_GOOD_END if last else None)
        self.pump(call, first)

    def _finish(self, call: Call, error: RpcError | None) -> None:
        """Ends a call with an error, or well after its last message."""
        if call.number not in self.streams:
            return
        block = _GOOD_END if error is None else _bad_end(error)
        if not call.begun:
            block = _BEGINNING + block[1:]  # one block, of which only the beginning says that there is no table
        task, call.task = call.task, None
        if error is not None and call.blocked:  # what can't be sent any more
            self.send((frames.reset(call.number, Reason.CANCEL),))
            self._forget(call)
        else:
            call.say(None, trailers=block)
            self.pump(call)
        if task is not None and task is not asyncio.current_task():
            task.cancel()

    def _refuse_http(self, call: Call) -> None:
        block = encode(((":status", "415"), ("content-type", "text/plain")))
        call.begun = True
        call.say(None, trailers=block)
        self.pump(call)

    def _forget(self, call: Call) -> None:
        self.streams.pop(call.number, None)
        self._leave_when_done()


def _headers_frame(number: int, block: bytes, flags: int) -> bytes:
    return frames.head(len(block), frames.Kind.HEADERS, frames.END_HEADERS | flags, number) + block


def _bad_end(error: RpcError) -> bytes:
    block = encode((("grpc-status", str(int(error.code()))), ("grpc-message", write_message(error.details()))))
    return block + b"".join(literal(name, value) for name, value in write_metadata(error.trailing_metadata()))


async def _unpacked(call: Call, message: memoryview, most_bytes: int) -> Data:
    """The message, decompressed where it is compressed."""
    if not call.incoming.compressed or call.encoding == "identity":
        return message
    if call.encoding not in ("gzip", "deflate"):
        raise RpcError(
            Code.UNIMPLEMENTED,
            f"the encoding {call.encoding[:40]!r} is not supported",
            (("grpc-accept-encoding", "identity,deflate,gzip"),),
        )
    if len(message) <= _INLINE_BYTES:
        return _decompress(message, most_bytes)
    return await asyncio.to_thread(_decompress, message, most_bytes)


def _decompress(message: memoryview, most_bytes: int) -> bytes:
    decompressor = zlib.decompressobj(_GZIP_OR_ZLIB)
    try:
        unpacked = decompressor.decompress(message, most_bytes + 1)  # never more than that, however small it came
    except zlib.error as error:
        raise RpcError(Code.INTERNAL, f"the message can't be decompressed: {error}") from error
    if len(unpacked) > most_bytes:
        raise RpcError(Code.RESOURCE_EXHAUSTED, f"the message has more than {most_bytes} bytes, unpacked")
    if not decompressor.eof:
        raise RpcError(Code.INTERNAL, "the compressed message is cut short")
    return unpacked
