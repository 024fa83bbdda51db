"""A socket on the event loop: bytes go out from where they lie, as soon as it takes them."""

import asyncio
import socket
from collections import deque
from collections.abc import Sequence
from typing import Final

from tierflow.protocol.messages import Data

_MOST_PARTS: Final = 512  # the system takes 1024 at once
_MOST_QUEUED: Final = 100_000  # pieces for a peer that takes none of them

# A peer that vanished without a word is noticed by the system after 30 s, not after its default of more than two hours:
# what it has announced counts as under way until then.
_KEEPALIVE: Final = {"TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}


class Wire:
    """Sends, and closes.

    Must be made inside the event loop.

    Args:
        connected: The socket, which belongs to the wire from now on.
    """

    def __init__(self, connected: socket.socket) -> None:
        connected.setblocking(False)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        _keep_alive(connected)
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

    def send(self, parts: Sequence[Data]) -> None:
        """Sends bytes, as soon as the socket takes them."""
        if self.closed:
            return
        if self._outgoing:
            self._outgoing.extend(memoryview(part) for part in parts if len(part))
            if len(self._outgoing) > _MOST_QUEUED:
                self.close("it takes nothing of what is sent to it")
            return
        sent = self._send_some(parts[:_MOST_PARTS])
        if sent is None:
            return
        for part in parts:
            if sent < len(part):
                self._outgoing.append(memoryview(part)[sent:])
            sent = max(0, sent - len(part))
        if self._outgoing:
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

    def _send_some(self, parts: Sequence[Data]) -> int | None:
        """How many bytes the socket took; None where the connection was lost, and is closed now."""
        try:
            return self._socket.sendmsg(parts)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError as error:
            self.close(error.strerror or str(error))
            return None

    def _on_writable(self) -> None:
        queue = self._outgoing
        while queue and (sent := self._send_some([queue[place] for place in range(min(len(queue), _MOST_PARTS))])):
            while sent:
                part = queue[0]
                if sent < len(part):
                    queue[0] = part[sent:]
                    break
                sent -= len(part)
                queue.popleft()
        if not queue and not self.closed:
            self._loop.remove_writer(self._socket)


def _keep_alive(connected: socket.socket) -> None:
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEPALIVE.items():
        if (number := getattr(socket, option, None)) is not None:  # not all systems have all of them
            connected.setsockopt(socket.IPPROTO_TCP, number, value)
