"""The client: a channel to one server, which connects when it is called and again when the connection was lost."""

import asyncio
import contextlib
import ipaddress
import socket
from collections.abc import Awaitable, Iterable
from typing import Any, Final

from tierflow.protocol.messages import Data
from tierflow_worker.rpc.client_connection import Asked, ClientConnection
from tierflow_worker.rpc.headers import ANNOUNCED, encode, literal, write_timeout
from tierflow_worker.rpc.status import Code, RpcError

_CONNECT_SECONDS: Final = 1.0
"""For one attempt to connect to one address."""

_ANNOUNCED: Final = literal(ANNOUNCED, "1")


class Channel:
    """Calls the methods of one server. For one event loop.

    Args:
        address: `host:port`.
        max_message_bytes: Largest message either way.
    """

    def __init__(self, address: str, *, max_message_bytes: int) -> None:
        self._address = address
        self._max_message_bytes = max_message_bytes
        self._connection: ClientConnection | None = None
        self._old: set[ClientConnection] = set()
        self._connecting: asyncio.Task[ClientConnection] | None = None
        self._closed = False
        self._blocks: dict[str, bytes] = {}

    @property
    def connected(self) -> bool:
        """Whether there is a connection now."""
        return self._connection is not None and self._connection.usable

    async def unary(self, path: str, parts: Iterable[Data], *, timeout: float | None = None) -> memoryview:
        """Calls a method that takes one message and answers with one.

        Args:
            path: `/package.Service/Method`.
            parts: The message's bytes, one piece after the other; they must not change before the answer is there.
            timeout: Seconds until the answer is of no use any more; the server is told.

        Raises:
            RpcError: UNAVAILABLE where the server can't be reached or the connection was lost, DEADLINE_EXCEEDED, or
                what the server answered.
        """
        return await _within(timeout, self._call(path, list(parts), timeout))

    def announce(self, path: str, beginning: Data, size: int, *, timeout: float | None = None) -> "Announced | None":
        """Calls a method with a message of which only the beginning is known yet; the rest is sent by `Announced.send`.

        Args:
            path: `/package.Service/Method`.
            beginning: The message's first bytes.
            size: Of the whole message, in bytes.
            timeout: Seconds until the answer is of no use any more; the server is told.

        Returns:
            The call; None where it can't be made at once, and should be made once the message is whole.
        """
        connection = self._connection
        if connection is None or not connection.usable or size > self._max_message_bytes:
            return None
        block = self._timed_block(path, timeout) + _ANNOUNCED
        try:
            return Announced(connection, connection.open(block, [beginning], self._max_message_bytes, size=size))
        except RpcError:
            return None

    async def close(self) -> None:
        """Ends the connections, and the calls on them."""
        self._closed = True
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.wait((self._connecting,))
        for connection in (*self._old, *filter(None, (self._connection,))):
            connection.close("the channel was closed")

    async def _call(self, path: str, parts: list[Data], timeout: float | None) -> memoryview:
        size = sum(map(len, parts))
        if size > self._max_message_bytes:
            raise RpcError(
                Code.RESOURCE_EXHAUSTED,
                f"the message has {size} bytes, at most {self._max_message_bytes} are sent",
            )
        connection = self._connection
        if connection is None or not connection.usable:
            connection = await self._connect()
        return await connection.answer(
            connection.open(self._timed_block(path, timeout), parts, self._max_message_bytes)
        )

    def _timed_block(self, path: str, timeout: float | None) -> bytes:
        """The headers of a call."""
        block = self._block(path)
        return block if timeout is None else block + literal("grpc-timeout", write_timeout(timeout))

    def _block(self, path: str) -> bytes:
        known = self._blocks.get(path)
        if known is None:
            known = self._blocks[path] = encode((
                (":method", "POST"), (":scheme", "http"), (":path", path), (":authority", self._address),
                ("te", "trailers"), ("content-type", "application/grpc"), ("user-agent", "tierflow"),
            ))  # fmt: skip
        return known

    async def _connect(self) -> "ClientConnection":
        """The connection that all who wait for it share."""
        if self._closed:
            raise RpcError(Code.CANCELLED, "the channel was closed")
        if self._connecting is None:
            self._connecting = asyncio.ensure_future(self._open())
            self._connecting.add_done_callback(self._connected)
        return await asyncio.shield(self._connecting)

    def _connected(self, task: "asyncio.Task[ClientConnection]") -> None:
        self._connecting = None
        if task.cancelled() or task.exception() is not None:
            return
        if self._connection is not None and not self._connection.closed:
            self._old.add(self._connection)  # its last calls are under way
        self._old = {old for old in self._old if not old.closed}
        self._connection = task.result()

    async def _open(self) -> "ClientConnection":
        reason = "it has no address"
        for family, address in await self._resolve():
            connected = socket.socket(family, socket.SOCK_STREAM)
            connected.setblocking(False)
            try:
                async with asyncio.timeout(_CONNECT_SECONDS):
                    await asyncio.get_running_loop().sock_connect(connected, address)
                return ClientConnection(connected)
            except TimeoutError:
                reason = f"no answer within {_CONNECT_SECONDS:g} s"
            except OSError as error:
                reason = error.strerror or str(error)
            except BaseException:
                connected.close()
                raise
            connected.close()
        raise RpcError(Code.UNAVAILABLE, f"failed to connect to {self._address}: {reason}")

    async def _resolve(self) -> list[tuple[socket.AddressFamily, Any]]:
        """The families and addresses behind the channel's."""
        name, _, port = self._address.rpartition(":")
        host = name.removeprefix("[").removesuffix("]")
        try:
            number = int(port)
            with contextlib.suppress(ValueError):
                version = ipaddress.ip_address(host).version
                return [(socket.AF_INET if version == 4 else socket.AF_INET6, (host, number))]
            found = await asyncio.get_running_loop().getaddrinfo(host, number, type=socket.SOCK_STREAM)
        except (OSError, ValueError) as error:
            raise RpcError(Code.UNAVAILABLE, f"{self._address} has no address: {error}") from error
        return [(family, address) for family, _, _, _, address in found]


async def _within(timeout: float | None, answer: Awaitable[memoryview]) -> memoryview:
    """An answer, where it comes in time."""
    if timeout is None:
        return await answer
    try:
        async with asyncio.timeout(timeout):
            return await answer
    except TimeoutError as error:
        raise RpcError(Code.DEADLINE_EXCEEDED, f"no answer within {timeout:.3f} s") from error


class Announced:
    """A call whose message's beginning was sent, and whose rest is still to be."""

    def __init__(self, connection: "ClientConnection", stream: Asked) -> None:
        self._connection = connection
        self._stream = stream
        self.sent = False
        """Whether the rest was sent as well."""

    def send(self, rest: Iterable[Data]) -> None:
        """Sends the rest of the message; not where the call has failed, or the connection was lost: see `sent`."""
        if not self.sent and self._connection.is_under_way(self._stream):
            self._connection.go_on(self._stream, rest)
            self.sent = True

    async def answer(self, *, timeout: float | None = None) -> memoryview:
        """Waits for the answer, once all was sent.

        Raises:
            RpcError: as `Channel.unary`.
        """
        return await _within(timeout, self._connection.answer(self._stream))

    def abandon(self) -> None:
        """Tells the server that the rest will not come; does nothing once it was sent, or the call has failed."""
        if not self.sent:
            self._connection.abandon(self._stream)
            self._stream.answer.cancel()
