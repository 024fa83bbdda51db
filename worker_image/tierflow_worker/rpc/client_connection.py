"""One connection to a server: the calls on it, and whether the server is still there."""

import asyncio
import contextlib
import socket
from collections.abc import Iterable
from typing import Final

from tierflow.protocol.messages import Data
from tierflow_worker.prompt import Prompt
from tierflow_worker.rpc import frames
from tierflow_worker.rpc.connection import OWN_SETTINGS, Connection
from tierflow_worker.rpc.frames import PREFACE, Kind, Reason, Setting
from tierflow_worker.rpc.headers import Headers, read_message, read_metadata
from tierflow_worker.rpc.status import Code, RpcError
from tierflow_worker.rpc.streams import Stream

_KEEPALIVE_SECONDS: Final = 5.0
_ANSWER_SECONDS: Final = 5.0
"""After so long without a byte the server is asked whether it is there, and for so long it may take to say so."""

_PING: Final = b"tierflow"
_RESET_CODES: Final = {
    Reason.NO_ERROR: Code.INTERNAL,
    Reason.REFUSED_STREAM: Code.UNAVAILABLE,
    Reason.CANCEL: Code.CANCELLED,
    Reason.ENHANCE_YOUR_CALM: Code.RESOURCE_EXHAUSTED,
}
_HTTP_CODES: Final = {
    "400": Code.INTERNAL, "401": Code.UNAUTHENTICATED, "403": Code.PERMISSION_DENIED, "404": Code.UNIMPLEMENTED,
    "429": Code.UNAVAILABLE, "502": Code.UNAVAILABLE, "503": Code.UNAVAILABLE, "504": Code.UNAVAILABLE,
}  # fmt: skip


class Asked(Stream):
    """A call that was made."""

    def __init__(self, number: int, window: int, most_bytes: int) -> None:
        super().__init__(number, window, most_bytes)
        self.answer: Prompt[memoryview] = Prompt()
        self.status = ""

    def fail(self, code: Code, details: str) -> None:
        """Ends the call without an answer."""
        self.fail_with(RpcError(code, details))

    def fail_with(self, error: RpcError) -> None:
        """Ends the call without an answer."""
        if not self.answer.done():
            self.answer.set_exception(error)


class ClientConnection(Connection[Asked]):
    """One connection to the server."""

    def __init__(self, connected: socket.socket) -> None:
        super().__init__(connected)
        self._next = 1
        self._gone_away = False
        self._most_streams = frames.LARGEST_WINDOW
        self._heard = self._loop.time()
        self._asked_since: float | None = None
        self._timer = self._loop.call_later(_KEEPALIVE_SECONDS, self._keep_alive)
        mine = frames.settings(OWN_SETTINGS | {Setting.ENABLE_PUSH: 0})
        self.send((PREFACE, mine, frames.window_update(0, frames.LARGEST_WINDOW - frames.DEFAULT_WINDOW)))

    @property
    def usable(self) -> bool:
        """Whether calls can be made on it."""
        return not (self.closed or self._gone_away) and self._next < frames.LARGEST_WINDOW

    def open(self, block: bytes, parts: list[Data], most_bytes: int, *, size: int | None = None) -> Asked:
        """Makes a call; `size` is the whole message's in bytes, where `parts` are not all of it."""
        if len(self.streams) >= self._most_streams:
            raise RpcError(Code.UNAVAILABLE, f"{len(self.streams)} calls are under way, which is the server's limit")
        stream = Asked(self._next, self._first_window, most_bytes)
        self._next += 2
        self.streams[stream.number] = stream
        stream.say(parts, last=size is None, size=size)
        head = frames.head(len(block), Kind.HEADERS, frames.END_HEADERS, stream.number)
        self.pump(stream, (head, block))
        return stream

    def is_under_way(self, stream: Asked) -> bool:
        """Whether a call was neither answered nor given up."""
        return stream.number in self.streams

    def go_on(self, stream: Asked, parts: Iterable[Data]) -> None:
        """Sends the rest of a call's message."""
        stream.say_on(parts)
        self.pump(stream)

    async def answer(self, stream: Asked) -> memoryview:
        """Waits for a call's answer; tells the server where nobody waits any more.

        Raises:
            RpcError: where there is none.
        """
        try:
            return await stream.answer
        except asyncio.CancelledError:
            self.abandon(stream)
            raise

    def abandon(self, stream: Asked) -> None:
        """Tells the server that nobody waits for an answer any more."""
        if self.streams.pop(stream.number, None) is not None:
            self.send((frames.reset(stream.number, Reason.CANCEL),))
            self._leave_when_done()

    def on_headers(self, number: int, headers: Headers, *, last: bool) -> None:
        """Notes the answer's beginning, or its end."""
        stream = self.streams.get(number)
        if stream is None:
            return
        status = headers.get(":status", "")
        if status.startswith("1"):
            return
        if status:
            stream.status = status
        if last:
            self._finish(stream, headers)

    def on_message(self, stream: Asked, *, last: bool) -> None:
        """Ends a call whose answer lacks its status."""
        if last:
            self._finish(stream, {})

    def on_refused(self, stream: Asked, error: RpcError) -> None:
        """Ends a call whose answer can't be taken."""
        self.abandon(stream)
        stream.fail_with(error)

    def on_reset(self, stream: Asked, reason: int) -> None:
        """Ends a call that the server has given up."""
        code = next((code for known, code in _RESET_CODES.items() if known == reason), Code.INTERNAL)
        stream.fail(code, f"the server reset the call, reason {reason}")
        self._leave_when_done()

    def on_go_away(self, last_stream: int, text: str) -> None:
        """Makes no further calls here; those that the server won't answer may be made elsewhere."""
        self._gone_away = True
        for stream in [stream for stream in self.streams.values() if stream.number > last_stream]:
            del self.streams[stream.number]
            stream.fail(Code.UNAVAILABLE, f"the server goes away {text}".rstrip())
        self._leave_when_done()

    def on_settings(self, values: dict[int, int]) -> None:
        """Notes how many calls may be under way."""
        self._most_streams = values.get(Setting.MAX_CONCURRENT_STREAMS, self._most_streams)

    def on_closed(self, why: str) -> None:
        """Ends all calls."""
        self._timer.cancel()
        for stream in self.streams.values():
            stream.fail(Code.UNAVAILABLE, f"the connection was lost: {why}")
        self.streams.clear()

    def on_pong(self, content: bytes) -> None:
        """Notes that the server is there."""
        del content
        self._asked_since = None
        self._timer.cancel()
        self._timer = self._loop.call_later(_KEEPALIVE_SECONDS, self._keep_alive)

    def _on_readable(self) -> None:
        self._heard = self._loop.time()
        super()._on_readable()

    def _keep_alive(self) -> None:
        """Asks a silent server whether it is there: one that vanished without a word is noticed in no other way."""
        now = self._loop.time()
        if self._asked_since is not None and self._heard <= self._asked_since:
            self.close("it does not answer pings")
            return
        self._asked_since = None
        pause = self._heard + _KEEPALIVE_SECONDS - now
        if pause <= 0:
            self._asked_since = now
            self.send((frames.ping(_PING),))
            pause = _ANSWER_SECONDS
        if not self.closed:
            self._timer = self._loop.call_later(pause, self._keep_alive)

    def _finish(self, stream: Asked, trailers: Headers) -> None:
        del self.streams[stream.number]
        if not stream.ended:
            self.send((frames.reset(stream.number, Reason.NO_ERROR),))
        self._leave_when_done()
        body = stream.incoming.body
        status = trailers.get("grpc-status")
        if status is None and stream.status != "200":
            code = _HTTP_CODES.get(stream.status, Code.UNKNOWN)
            stream.fail(code, f"the server is none of gRPC: HTTP status {stream.status or 'none'}")
        elif status != "0":
            stream.fail_with(_error(status or "", trailers))
        elif body is None or stream.incoming.compressed:
            stream.fail(Code.INTERNAL, "the answer has no message that can be read")
        elif not stream.answer.done():
            stream.answer.set_result(body)

    def _leave_when_done(self) -> None:
        if self._gone_away and not self.streams:
            self.close("the server goes away")


def _error(status: str, trailers: Headers) -> RpcError:
    code = Code.UNKNOWN
    with contextlib.suppress(ValueError):
        code = Code(int(status))
    return RpcError(code, read_message(trailers.get("grpc-message", "")), read_metadata(trailers))
