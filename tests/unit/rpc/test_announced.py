"""Calls whose message begins long before its rest comes."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from factories.limited import run
from factories.rpc_peers import ECHO, MOST_BYTES, ByHand, frame, library_server, our_server
from tierflow.protocol.messages import Data
from tierflow_worker.rpc import frames
from tierflow_worker.rpc.client import Announced, Channel
from tierflow_worker.rpc.frames import Kind
from tierflow_worker.rpc.server import Call, Handler, Parts
from tierflow_worker.rpc.status import Code, RpcError

BEGINNING = b"it begins "


class Early:
    """Answers with the whole message, and tells how it went."""

    def __init__(self) -> None:
        self.begun, self.ended = asyncio.Event(), asyncio.Event()
        self.seen = b""
        self.error: RpcError | None = None

    async def __call__(self, message: Data, call: Call) -> Parts:
        try:
            if call.coming is None:
                self.seen = b"all"
            else:
                self.seen = bytes(message[: call.there])
                self.begun.set()
                if self.error is not None:
                    raise self.error
                await call.coming.come()
            return (message,)
        finally:
            self.ended.set()


@asynccontextmanager
async def called(early: Early) -> AsyncIterator[Channel]:
    """A channel that is connected to a server with such a handler."""
    async with our_server({ECHO: Handler(unary=early)}) as (_, address):
        channel = Channel(address, max_message_bytes=MOST_BYTES)
        await channel.unary(ECHO, [b"connect"])
        early.ended.clear()
        try:
            yield channel
        finally:
            await channel.close()


def announced(channel: Channel, size: int, *, timeout: float | None = None) -> Announced:
    call = channel.announce(ECHO, BEGINNING, size, timeout=timeout)
    assert call is not None
    return call


@pytest.mark.parametrize("size", [11, 500, 16_383, 70_000, 1_000_003, MOST_BYTES])
def test_the_handler_begins_with_the_beginning_and_answers_once_all_has_come(size: int) -> None:
    async def check() -> None:
        early = Early()
        async with called(early) as channel:
            call = announced(channel, size)
            await early.begun.wait()
            assert early.seen == BEGINNING
            assert await channel.unary(ECHO, [b"another"]) == b"another"  # calls that come meanwhile are answered
            assert not call.sent
            rest = random.Random(size).randbytes(size - len(BEGINNING))
            call.send([rest])
            assert call.sent
            assert await call.answer() == BEGINNING + rest

    run(check)


def test_a_server_that_does_not_know_of_announcements_answers_them() -> None:
    async def echo(message: bytes, _: object) -> bytes:
        return message

    async def check() -> None:
        async with library_server(echo) as address:
            channel = Channel(address, max_message_bytes=MOST_BYTES)
            await channel.unary(ECHO, [b"connect"])
            call = announced(channel, 200_000)
            call.send([bytes(200_000 - len(BEGINNING))])
            assert await call.answer() == BEGINNING + bytes(200_000 - len(BEGINNING))
            await channel.close()

    run(check)


def test_without_a_connection_or_for_a_message_that_is_too_large_nothing_is_announced() -> None:
    async def check() -> None:
        async with our_server() as (_, address):
            channel = Channel(address, max_message_bytes=1000)
            assert channel.announce(ECHO, BEGINNING, 100) is None
            await channel.unary(ECHO, [b"connect"])
            assert channel.announce(ECHO, BEGINNING, 1001) is None
            await channel.close()
            assert channel.announce(ECHO, BEGINNING, 100) is None

    run(check)


def test_an_announcement_that_is_taken_back_cancels_its_call() -> None:
    async def check() -> None:
        early = Early()
        async with called(early) as channel:
            call = announced(channel, 100)
            await early.begun.wait()
            call.abandon()
            await early.ended.wait()
            call.send([bytes(90)])
            assert not call.sent
            assert await channel.unary(ECHO, [b"next"]) == b"next"

    run(check)


def test_a_call_that_is_refused_before_its_rest_has_come_is_not_sent_it() -> None:
    async def check() -> None:
        early = Early()
        early.error = RpcError(Code.NOT_FOUND, "not here")
        async with called(early) as channel:
            call = announced(channel, 5_000_000)
            await early.ended.wait()
            with pytest.raises(RpcError, match="not here"):
                await call.answer()
            call.send([bytes(5_000_000 - len(BEGINNING))])
            assert not call.sent
            early.error = None
            assert await channel.unary(ECHO, [b"next"]) == b"next"

    run(check)


def test_a_deadline_counts_from_the_announcement() -> None:
    async def check() -> None:
        early = Early()
        async with called(early) as channel:
            call = announced(channel, 100, timeout=0.05)
            with pytest.raises(RpcError) as caught:
                await call.answer(timeout=0.05)
            assert caught.value.code() is Code.DEADLINE_EXCEEDED
            await early.ended.wait()

    run(check)


def test_a_lost_connection_ends_both_sides_of_an_announced_call() -> None:
    async def check() -> None:
        early = Early()
        async with called(early) as channel:
            call = announced(channel, 100)
            await early.begun.wait()
            await channel.close()
            await early.ended.wait()
            with pytest.raises(RpcError) as caught:
                await call.answer()
            assert caught.value.code() is Code.UNAVAILABLE

    run(check)


def test_a_call_that_ends_before_its_announced_rest_is_refused() -> None:
    async def check() -> None:
        early, loop = Early(), asyncio.get_running_loop()
        async with our_server({ECHO: Handler(unary=early)}) as (_, address):

            def by_hand() -> dict[str, str]:
                with ByHand(address) as peer:
                    peer.greet()
                    block = peer.headers(tierflow_announced="1")
                    body = b"\0" + (100).to_bytes(4, "big") + BEGINNING
                    beginning = frame(Kind.HEADERS, frames.END_HEADERS, 1, block) + frame(Kind.DATA, 0, 1, body)
                    peer.socket.sendall(beginning)
                    asyncio.run_coroutine_threadsafe(early.begun.wait(), loop).result(30)
                    peer.socket.sendall(frame(Kind.DATA, frames.END_STREAM, 1, b"cut"))
                    return peer.answer(1)[1]

            trailers = await asyncio.to_thread(by_hand)
            assert trailers["grpc-status"] == str(int(Code.INTERNAL))
            assert "before its message did" in trailers["grpc-message"]
            await early.ended.wait()

    run(check)
