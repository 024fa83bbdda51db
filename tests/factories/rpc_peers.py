"""Ends of gRPC calls in the test's own process: ours, the gRPC library's, and a client that writes frames by hand."""

import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Final

import grpc
import grpc.aio
import hpack

from tierflow.protocol.messages import Data
from tierflow_worker.rpc import frames
from tierflow_worker.rpc.client import Channel
from tierflow_worker.rpc.frames import Kind
from tierflow_worker.rpc.server import Call, Handler, Parts, Server
from tierflow_worker.rpc.status import RpcError

MOST_BYTES: Final = 8 * 2**20
ECHO: Final = "/test.Service/Echo"
UNLIMITED: Final = (("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1))

Ask = Callable[..., Awaitable[bytes]]


async def echo(message: Data, _: Call) -> Parts:
    """Answers with what it was sent, in two pieces."""
    view = memoryview(message)
    return (view[: len(view) // 3], view[len(view) // 3 :])


@contextlib.asynccontextmanager
async def our_server(
    handlers: Mapping[str, Handler] | None = None, *, most_bytes: int = MOST_BYTES, port: int = 0
) -> AsyncIterator[tuple[Server, str]]:
    """A server of ours and its address; it must not meet what it did not expect."""
    unexpected: list[BaseException] = []
    known = handlers or {ECHO: Handler(unary=echo)}
    server = Server(known, max_message_bytes=most_bytes, on_error=unexpected.append)
    try:
        yield server, f"127.0.0.1:{server.listen('127.0.0.1', port)}"
    finally:
        await server.stop(None)
    assert not unexpected


@contextlib.asynccontextmanager
async def our_client(address: str, *, most_bytes: int = MOST_BYTES) -> AsyncIterator[Ask]:
    """A client of ours."""
    channel = Channel(address, max_message_bytes=most_bytes)

    async def ask(path: str, message: bytes, timeout: float | None = None) -> bytes:
        return bytes(await channel.unary(path, [message], timeout=timeout))

    try:
        yield ask
    finally:
        await channel.close()


@contextlib.asynccontextmanager
async def library_server(behaviour: Callable[[bytes, Any], Awaitable[bytes]]) -> AsyncIterator[str]:
    """A server of the gRPC library that answers all calls of `ECHO`, and its address."""
    server = grpc.aio.server(options=UNLIMITED)
    service, method = ECHO.strip("/").split("/")
    handler = grpc.unary_unary_rpc_method_handler(behaviour)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


@contextlib.asynccontextmanager
async def library_client(address: str, **options: Any) -> AsyncIterator[Ask]:
    """A client of the gRPC library; its errors are made ours."""
    async with grpc.aio.insecure_channel(address, options=UNLIMITED, **options) as channel:

        async def ask(path: str, message: bytes, timeout: float | None = None) -> bytes:
            try:
                return bytes(await channel.unary_unary(path)(message, timeout=timeout))
            except grpc.aio.AioRpcError as error:
                from tierflow_worker.rpc.status import Code

                code, metadata = Code(error.code().value[0]), tuple(error.trailing_metadata() or ())
                raise RpcError(code, error.details() or "", metadata) from error

        yield ask


class ByHand:
    """A client that writes the bytes that it is told to."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self.socket = socket.create_connection((host, int(port)), timeout=60)
        self.encoder = hpack.Encoder()
        self.decoder = hpack.Decoder()
        self._buffer = b""

    def __enter__(self) -> "ByHand":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def greet(self, settings: bytes = frames.settings({})) -> None:
        """Sends what a connection begins with."""
        self.socket.sendall(frames.PREFACE + settings)

    def headers(self, path: str = ECHO, **more: str) -> bytes:
        """A block for a call, compressed with all that HPACK has."""
        named = {
            ":method": "POST", ":scheme": "http", ":path": path, ":authority": "test", "te": "trailers",
            "content-type": "application/grpc", **{name.replace("_", "-"): value for name, value in more.items()},
        }  # fmt: skip
        return bytes(self.encoder.encode(named.items()))

    def call(self, stream: int, message: bytes = b"hello", **more: str) -> bytes:
        """The frames of a call."""
        block = self.headers(**more)
        body = b"\0" + len(message).to_bytes(4, "big") + message
        return frame(Kind.HEADERS, frames.END_HEADERS, stream, block) + frame(
            Kind.DATA, frames.END_STREAM, stream, body
        )

    def read(self) -> tuple[int, int, int, bytes]:
        """The next frame: type, flags, stream and payload.

        Raises:
            EOFError: where the server has closed the connection.
        """
        length, kind, flags, stream = frames.read_head(memoryview(self._take(frames.HEAD_BYTES)), 0)
        return kind, flags, stream, self._take(length)

    def answer(self, stream: int) -> tuple[bytes, dict[str, str]]:
        """The message, without its prefix, and the trailers that a call is answered with."""
        body, trailers = b"", {}
        while True:
            kind, flags, number, payload = self.read()
            if kind == Kind.HEADERS:
                trailers = dict(self.decoder.decode(payload))
            elif kind == Kind.DATA and number == stream:
                body += payload
            if number == stream and flags & frames.END_STREAM and kind in (Kind.HEADERS, Kind.DATA):
                return body[5:], trailers

    def until_closed(self) -> list[tuple[int, int, int, bytes]]:
        """All frames until the server closes the connection."""
        found = []
        while True:
            try:
                found.append(self.read())
            except (EOFError, ConnectionResetError):
                return found

    def _take(self, count: int) -> bytes:
        while len(self._buffer) < count:
            more = self.socket.recv(65_536)
            if not more:
                raise EOFError
            self._buffer += more
        taken, self._buffer = self._buffer[:count], self._buffer[count:]
        return taken


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """A frame of any kind."""
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload
