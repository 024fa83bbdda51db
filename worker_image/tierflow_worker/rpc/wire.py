"""A socket on the event loop: bytes go out from where they lie, as soon as it takes them."""

import asyncio
import socket
from collections import deque
from collections.abc import Iterable
from typing import Final

from tierflow.protocol.messages import Data

_MOST_PARTS: Final = 512  # the system takes 1024 at once
_MOST_QUEUED: Final = 100_000  # pieces for a peer that takes none of them


class Wire:
    """Sends, and closes.

    Must be made inside the event loop.

    Args:
        connected: The socket, which belongs to the wire from now on.
    """

    def __init__(self, connected: socket.socket) -> None:
        connected.setblocking(False)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self.closed = False
        self._loop = asyncio.get_running_loop()
        self._socket = connected
        self._outgoing: deque[memoryview] = deque()
        self._loop.add_reader(connected, self._on_readable)

    def _on_readable(self) -> None:
        """Bytes have come, or the end of them."""
        raise NotImplementedError

    def on_closed(self, why: str) -> None:
        """The connection is gone; called once."""
        raise NotImplementedError

    def send(self, parts: Iterable[Data]) -> None:
        """Sends bytes, as soon as the socket takes them."""
        if self.closed:
            return
        views = [memoryview(part).cast("B") for part in parts]
        waiting = bool(self._outgoing)
        self._outgoing.extend(views)
        if waiting:
            if len(self._outgoing) > _MOST_QUEUED:
                self.close("it takes nothing of what is sent to it")
            return
        self._flush()
        if self._outgoing and not self.closed:
            self._loop.add_writer(self._socket, self._on_writable)

    def close(self, why: str) -> None:
        """Ends the connection at once."""
        if self.closed:
            return
        self.closed = True
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)
        self._socket.close()
        self._outgoing.clear()
        self.on_closed(why)

    def _flush(self) -> None:
        queue = self._outgoing
        try:
            while queue:
                batch = [queue[place] for place in range(min(len(queue), _MOST_PARTS))]
                sent = self._socket.sendmsg(batch)
                for part in batch:
                    if sent < len(part):
                        queue[0] = part[sent:]
                        return  # it takes no more now
                    sent -= len(part)
                    queue.popleft()
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self.close(error.strerror or str(error))

    def _on_writable(self) -> None:
        self._flush()
        if not self._outgoing and not self.closed:
            self._loop.remove_writer(self._socket)
