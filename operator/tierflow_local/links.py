"""Proxies on the loopback interface that play Services and, where told to, shape the link that leads to them.

All proxies of a `Proxies` live in one thread of their own. A link has its bandwidth and half its round trip in each
direction; all connections over it share them, and both can be changed while data flows. Bytes are forwarded, never
looked at.
"""

import asyncio
import errno
import selectors
import socket
import threading
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from tierflow.errors import InvalidInputError
from tierflow.network import Link

HOST: Final = "127.0.0.1"

_AHEAD_SECONDS: Final = 0.01
"""How far ahead of the clock a link is filled, so that a timer that fires late costs no bandwidth."""
_PIECE_SECONDS: Final = 0.004
"""What is sent in one piece takes about so long, so that connections take turns."""
_SMALLEST_PIECE: Final = 2048
_LARGEST_PIECE: Final = 64 * 1024
_UNSHAPED_PIECE: Final = 256 * 1024
_MOST_PIECES: Final = 128
"""A connection whose receiver doesn't read is not read from any more beyond this."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """Bytes that entered a link: upwards, towards its target, and downwards."""

    up: int = 0
    down: int = 0

    def since(self, before: "Traffic") -> "Traffic":
        """What came on top of `before`."""
        return Traffic(self.up - before.up, self.down - before.down)


class _Wire:
    """One direction of a link, shared by its connections."""

    def __init__(self, link: Link | None) -> None:
        self.link = link
        self.bytes = 0
        self._free_at = 0.0

    def piece(self) -> int:
        """How many bytes to take at once."""
        if self.link is None:
            return _UNSHAPED_PIECE
        return int(min(max(self.link.bytes_per_second * _PIECE_SECONDS, _SMALLEST_PIECE), _LARGEST_PIECE))

    def send(self, size: int, now: float) -> float:
        """Puts `size` bytes on the wire; returns when the last of them arrives."""
        self.bytes += size
        if self.link is None:
            return now
        self._free_at = max(now, self._free_at) + size / self.link.bytes_per_second
        return self._free_at + self.link.round_trip_seconds / 2

    def full_for(self, now: float) -> float:
        """Seconds until the wire takes more; not positive where it does now."""
        return 0.0 if self.link is None else self._free_at - now - _AHEAD_SECONDS


class _Proxy:
    """One listening port and its connections. Its fields may be set from any thread."""

    def __init__(self, listener: socket.socket, up: _Wire, down: _Wire) -> None:
        self.listener = listener
        self.target: int | None = None
        self.up, self.down = up, down

    async def serve(self) -> None:
        """Takes connections until cancelled."""
        loop = asyncio.get_running_loop()
        connections: set[asyncio.Task[None]] = set()
        try:
            while True:
                client, _ = await loop.sock_accept(self.listener)
                connection = asyncio.ensure_future(self._connect(client))
                connections.add(connection)
                connection.add_done_callback(connections.discard)
        finally:
            for connection in connections:
                connection.cancel()
            await asyncio.gather(*connections, return_exceptions=True)

    async def _connect(self, client: socket.socket) -> None:
        target = self.target
        with client, socket.socket(socket.AF_INET, socket.SOCK_STREAM) as server:
            if target is None:  # as a Service without a ready pod: refused
                return
            for end in (client, server):
                end.setblocking(False)
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                await asyncio.get_running_loop().sock_connect(server, (HOST, target))
                async with asyncio.TaskGroup() as both:
                    both.create_task(_forward(client, server, self.up))
                    both.create_task(_forward(server, client, self.down))
            except* OSError:
                pass  # one end is gone, and closing both sockets tells the other


async def _forward(source: socket.socket, target: socket.socket, wire: _Wire) -> None:
    """Forwards one direction of a connection until its end."""
    loop = asyncio.get_running_loop()
    on_the_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_MOST_PIECES)
    async with asyncio.TaskGroup() as both:
        both.create_task(_deliver(on_the_way, target))
        while True:
            data = await loop.sock_recv(source, wire.piece())
            await on_the_way.put((wire.send(len(data), loop.time()), data))
            if not data:
                return
            wait = wire.full_for(loop.time())
            if wait > 0:
                await asyncio.sleep(wait)


async def _deliver(on_the_way: "asyncio.Queue[tuple[float, bytes]]", target: socket.socket) -> None:
    """Hands pieces to their receiver when they arrive; the empty one is the end."""
    loop = asyncio.get_running_loop()
    while True:
        arrival, data = await on_the_way.get()
        wait = arrival - loop.time()
        if wait > 0:
            await asyncio.sleep(wait)
        if not data:
            target.shutdown(socket.SHUT_WR)
            return
        await loop.sock_sendall(target, data)


class Proxies:
    """A set of proxies by name, in a thread of their own; a context manager."""

    def __init__(self) -> None:
        # select() takes microseconds where epoll rounds up to whole milliseconds, which a short link would feel.
        self._loop = asyncio.SelectorEventLoop(selectors.SelectSelector())
        self._proxies: dict[str, _Proxy] = {}
        self._replaced: list[_Proxy] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._thread = threading.Thread(target=self._run, name="links", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def open(self, name: str, *, link: Link | None = None, port: int = 0, beside: str = "") -> int:
        """Opens a proxy that has no target yet.

        Args:
            name: To speak of it by. A proxy that had it before is forgotten: it refuses connections from now on.
            link: What it shapes to; None forwards as fast as it goes.
            port: To listen on; 0 takes a free one.
            beside: The name of another proxy whose link this one shares, as two targets do that are reached through
                the same network card; "" for a link of its own.

        Returns:
            The port.

        Raises:
            InvalidInputError: where the port is in use or not allowed.
        """
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, port))
        except OSError as error:
            listener.close()
            reason = "is in use" if error.errno == errno.EADDRINUSE else f"can't be used: {error.strerror}"
            raise InvalidInputError(
                f"port {port} of {HOST} {reason}; choose another, or 0 for a free one", subject=f"port {port}"
            ) from error
        listener.listen(128)
        listener.setblocking(False)
        if name in self._proxies:
            self._replaced.append(self._proxies[name])
            self._replaced[-1].target = None
        shared = self._proxies.get(beside)
        up, down = (_Wire(link), _Wire(link)) if shared is None else (shared.up, shared.down)
        proxy = self._proxies[name] = _Proxy(listener, up, down)
        self._loop.call_soon_threadsafe(lambda: self._tasks.append(self._loop.create_task(proxy.serve())))
        return int(listener.getsockname()[1])

    def set_target(self, name: str, port: int | None) -> None:
        """Sends new connections to `port`; those that are open stay where they are."""
        self._proxies[name].target = port

    def set_link(self, name: str, link: Link | None) -> None:
        """Shapes what is sent from now on to `link`."""
        proxy = self._proxies[name]
        proxy.up.link = proxy.down.link = link

    def traffic(self, name: str) -> Traffic:
        """What has entered the link so far."""
        proxy = self._proxies[name]
        return Traffic(proxy.up.bytes, proxy.down.bytes)

    def close(self) -> None:
        """Closes all ports and connections."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
        for proxy in (*self._proxies.values(), *self._replaced):
            proxy.listener.close()

    def _run(self) -> None:
        try:
            self._loop.run_forever()
            self._loop.run_until_complete(self._end())
        finally:
            self._loop.close()

    async def _end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
