"""Calls between our client and server and the gRPC library's: all four pairs behave alike."""

import asyncio
import gc
import random
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from factories.limited import run
from factories.rpc_peers import (
    ECHO,
    MOST_BYTES,
    Ask,
    library_client,
    library_server,
    our_client,
    our_server,
)
from tierflow.protocol.messages import Data
from tierflow_worker.rpc import client_connection, server
from tierflow_worker.rpc.server import Call, Handler, Parts
from tierflow_worker.rpc.status import Code, RpcError

PAIRS = ["ours to ours", "library to ours", "ours to library"]


@asynccontextmanager
async def pair(name: str) -> AsyncIterator[Ask]:
    """A client and an echo."""
    sender, receiver = name.split(" to ")

    async def library_echo(message: bytes, _: Any) -> bytes:
        return message

    client_of = our_client if sender == "ours" else library_client
    if receiver == "ours":
        async with our_server() as (_, address), client_of(address) as ask:
            yield ask
    else:
        async with library_server(library_echo) as address, client_of(address) as ask:
            yield ask


@pytest.mark.parametrize("name", PAIRS)
def test_messages_of_any_size_come_back_as_they_were(name: str) -> None:
    async def check() -> None:
        async with pair(name) as ask:
            for size in (0, 1, 4, 5, 100, 16_379, 16_384, 65_530, 65_535, 65_536, 70_000, 1_000_003, MOST_BYTES - 10):
                message = random.Random(size).randbytes(size)
                assert await ask(ECHO, message) == message

    run(check)


@pytest.mark.parametrize("name", PAIRS)
def test_many_calls_at_once_get_their_own_answers(name: str) -> None:
    async def check() -> None:
        async with pair(name) as ask:
            messages = [random.Random(seed).randbytes(seed * 7_919 % 300_000) for seed in range(80)]
            assert await asyncio.gather(*(ask(ECHO, message) for message in messages)) == messages

    run(check)


async def refusing(_: Data, __: Call) -> Parts:
    raise RpcError(Code.DATA_LOSS, "größer 100 %\nline", (("retry-after-ms", "12"), ("what-bin", bytes(range(256)))))


@pytest.mark.parametrize("client_of", [our_client, library_client])
def test_an_error_comes_with_its_text_and_metadata(client_of: Any) -> None:
    async def check() -> None:
        async with our_server({ECHO: Handler(unary=refusing)}) as (_, address), client_of(address) as ask:
            for size in (3, 200_000):  # whether or not all of the message was read
                with pytest.raises(RpcError) as caught:
                    await ask(ECHO, bytes(size))
                assert caught.value.code() is Code.DATA_LOSS
                assert caught.value.details() == "größer 100 %\nline"
                metadata = dict(caught.value.trailing_metadata())
                assert (metadata["retry-after-ms"], metadata["what-bin"]) == ("12", bytes(range(256)))

    run(check)


def test_an_error_of_a_library_server_comes_with_its_text_and_metadata() -> None:
    async def refuse(_: bytes, context: Any) -> bytes:
        metadata = (("retry-after-ms", "12"), ("what-bin", b"\x00\xff"))
        await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "voll: ü %", metadata)
        return b""

    async def check() -> None:
        async with library_server(refuse) as address, our_client(address) as ask:
            with pytest.raises(RpcError) as caught:
                await ask(ECHO, b"hello")
            assert (caught.value.code(), caught.value.details()) == (Code.RESOURCE_EXHAUSTED, "voll: ü %")
            metadata = dict(caught.value.trailing_metadata())
            assert (metadata["retry-after-ms"], metadata["what-bin"]) == ("12", b"\x00\xff")

    run(check)


@pytest.mark.parametrize("client_of", [our_client, library_client])
def test_a_message_that_is_too_large_is_refused_and_the_next_one_is_not(client_of: Any) -> None:
    async def check() -> None:
        async with our_server(most_bytes=1000) as (_, address), client_of(address) as ask:
            with pytest.raises(RpcError, match="1000000 bytes came, at most 1000 are accepted") as caught:
                await ask(ECHO, bytes(1_000_000))
            assert caught.value.code() is Code.RESOURCE_EXHAUSTED
            assert await ask(ECHO, bytes(1000)) == bytes(1000)

    run(check)


def test_an_answer_that_is_too_large_is_refused_where_it_is_made_and_where_it_comes() -> None:
    async def doubled(message: Data, _: Call) -> Parts:
        return (message, message)

    async def check() -> None:
        async with our_server({ECHO: Handler(unary=doubled)}, most_bytes=1000) as (_, address):
            async with our_client(address) as ask:
                with pytest.raises(RpcError, match="the answer has 1200 bytes, at most 1000 are sent"):
                    await ask(ECHO, bytes(600))
            async with our_client(address, most_bytes=700) as ask:
                with pytest.raises(RpcError, match="800 bytes came, at most 700 are accepted"):
                    await ask(ECHO, bytes(400))
                with pytest.raises(RpcError, match="the message has 701 bytes, at most 700 are sent"):
                    await ask(ECHO, bytes(701))
                assert await ask(ECHO, bytes(300)) == bytes(600)

    run(check)


def test_an_unknown_method_and_an_unexpected_error_are_told_from_each_other() -> None:
    unexpected: list[BaseException] = []

    async def broken(_: Data, __: Call) -> Parts:
        raise ZeroDivisionError("secret")

    async def check() -> None:
        one = server.Server({ECHO: Handler(unary=broken)}, max_message_bytes=100, on_error=unexpected.append)
        address = f"127.0.0.1:{one.listen('127.0.0.1', 0)}"
        async with library_client(address) as ask:
            with pytest.raises(RpcError, match="/no/Method") as caught:
                await ask("/no/Method", b"")
            assert caught.value.code() is Code.UNIMPLEMENTED
            with pytest.raises(RpcError) as caught:
                await ask(ECHO, b"")
            assert caught.value.code() is Code.INTERNAL
            assert "secret" not in caught.value.details()
        await one.stop(None)

    run(check)
    assert [type(error) for error in unexpected] == [ZeroDivisionError]


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_compressed_messages_are_read(compression: grpc.Compression) -> None:
    async def check() -> None:
        async with our_server() as (_, address), library_client(address, compression=compression) as ask:
            for message in (b"a" * 1000, b"b" * 1_000_000):
                assert await ask(ECHO, message) == message

    run(check)


def test_a_small_message_that_unpacks_to_a_large_one_is_refused() -> None:
    async def check() -> None:
        async with (
            our_server(most_bytes=100_000) as (_, address),
            library_client(address, compression=grpc.Compression.Gzip) as ask,
        ):
            with pytest.raises(RpcError, match="more than 100000 bytes, unpacked"):
                await ask(ECHO, bytes(10_000_000))

    run(check)


class Waiting:
    """A handler that waits until it is told to answer."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.go_on = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.left: float | None = None

    async def __call__(self, message: Data, call: Call) -> Parts:
        self.left = call.time_remaining()
        self.begun.set()
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return (message,)


@pytest.mark.parametrize("client_of", [our_client, library_client])
def test_a_deadline_travels_and_ends_the_call_on_both_sides(client_of: Any) -> None:
    async def check() -> None:
        waiting = Waiting()
        async with our_server({ECHO: Handler(unary=waiting)}) as (_, address), client_of(address) as ask:
            with pytest.raises(RpcError) as caught:
                await ask(ECHO, b"x", timeout=0.3)
            assert caught.value.code() is Code.DEADLINE_EXCEEDED
            assert waiting.left is not None
            assert 0 < waiting.left <= 0.3
            await waiting.cancelled.wait()

    run(check)


@pytest.mark.parametrize("client_of", [our_client, library_client])
def test_a_client_that_gives_up_or_goes_away_cancels_its_call(client_of: Any) -> None:
    async def check() -> None:
        first, second = Waiting(), Waiting()
        handlers = {"/test.Service/First": Handler(unary=first), "/test.Service/Second": Handler(unary=second)}
        async with our_server(handlers) as (_, address):
            async with client_of(address) as ask:
                asking = asyncio.ensure_future(ask("/test.Service/First", b"x"))
                await first.begun.wait()
                assert first.left is None
                asking.cancel()
                await first.cancelled.wait()
                leaving = asyncio.ensure_future(ask("/test.Service/Second", b"x"))
                await second.begun.wait()
            await second.cancelled.wait()
            with pytest.raises((RpcError, asyncio.CancelledError)):
                await leaving

    run(check)


@pytest.mark.parametrize("client_of", [our_client, library_client])
def test_a_server_that_stops_answers_what_is_under_way_and_takes_no_more(client_of: Any) -> None:
    async def check() -> None:
        waiting = Waiting()
        async with our_server({ECHO: Handler(unary=waiting)}) as (stopping, address), client_of(address) as ask:
            asking = asyncio.ensure_future(ask(ECHO, b"x"))
            await waiting.begun.wait()
            stopped = asyncio.ensure_future(stopping.stop(60))
            code = Code.UNIMPLEMENTED
            while code is Code.UNIMPLEMENTED:  # until the client has heard that the server stops
                with pytest.raises(RpcError) as caught:
                    await ask("/no/Method", b"y", timeout=30)
                code = caught.value.code()
            assert code is Code.UNAVAILABLE
            assert not stopped.done()
            waiting.go_on.set()
            assert await asking == b"x"
            await stopped

    run(check)


def test_a_second_call_to_stop_ends_what_is_under_way() -> None:
    async def check() -> None:
        waiting = Waiting()
        async with our_server({ECHO: Handler(unary=waiting)}) as (stopping, address), our_client(address) as ask:
            asking = asyncio.ensure_future(ask(ECHO, b"x"))
            await waiting.begun.wait()
            stopped = asyncio.ensure_future(stopping.stop(600))
            await asyncio.sleep(0)
            await stopping.stop(None)
            await stopped
            await waiting.cancelled.wait()
            with pytest.raises(RpcError) as caught:
                await asking
            assert caught.value.code() is Code.UNAVAILABLE

    run(check)


def test_a_channel_connects_again_to_a_server_that_is_back() -> None:
    async def check() -> None:
        async with our_server() as (_, address):
            port = int(address.rpartition(":")[2])
        async with our_client(address) as ask:
            with pytest.raises(RpcError, match="failed to connect") as caught:
                await ask(ECHO, b"x")
            assert caught.value.code() is Code.UNAVAILABLE
            for message in (b"one", b"two"):
                async with our_server(port=port):
                    assert await ask(ECHO, message) == message

    run(check)


def test_an_address_that_is_none_is_named() -> None:
    async def check() -> None:
        async with our_client("no-such-host.invalid:80") as ask:
            with pytest.raises(RpcError, match=r"no-such-host\.invalid:80 has no address") as caught:
                await ask(ECHO, b"x")
            assert caught.value.code() is Code.UNAVAILABLE

    run(check)


def test_a_server_that_vanished_without_a_word_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_connection, "_KEEPALIVE_SECONDS", 0.05)
    monkeypatch.setattr(client_connection, "_ANSWER_SECONDS", 0.05)

    async def check() -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            async with our_client(f"127.0.0.1:{silent.getsockname()[1]}") as ask:
                with pytest.raises(RpcError, match="it does not answer pings") as caught:
                    await ask(ECHO, b"x")
        assert caught.value.code() is Code.UNAVAILABLE

    run(check)


def test_a_server_that_answers_pings_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_connection, "_KEEPALIVE_SECONDS", 0.01)
    monkeypatch.setattr(client_connection, "_ANSWER_SECONDS", 5.0)

    async def check() -> None:
        waiting = Waiting()
        pings = 0

        class Counting(server.ServerConnection):
            def _on_ping(self, flags: int, payload: bytes) -> None:
                nonlocal pings
                pings += 1
                if pings == 5:
                    waiting.go_on.set()
                super()._on_ping(flags, payload)

        monkeypatch.setattr(server, "ServerConnection", Counting)
        async with our_server({ECHO: Handler(unary=waiting)}) as (_, address), our_client(address) as ask:
            assert await ask(ECHO, b"x") == b"x"
        assert pings >= 5

    run(check)


@pytest.mark.parametrize("client_of", [our_client, library_client])
def test_nothing_is_left_of_calls_that_ended(client_of: Any) -> None:
    async def check() -> None:
        async with our_server() as (serving, address), client_of(address) as ask:
            await asyncio.gather(*(ask(ECHO, bytes(100_000)) for _ in range(20)))
            [connection] = serving.connections
            assert not connection.streams
        gc.collect()
        assert not [one for one in gc.get_objects() if isinstance(one, Call) and one.blocked]

    run(check)


def test_several_connections_and_their_calls_end_with_the_channel() -> None:
    async def check() -> None:
        async with our_server() as (serving, address):
            for _ in range(3):
                async with our_client(address) as ask:
                    assert await ask(ECHO, b"x") == b"x"
            async with asyncio.timeout(30):
                while serving.connections:
                    await asyncio.sleep(0.001)

    run(check)


def test_a_stream_of_answers_is_read_as_it_comes() -> None:
    async def counting(message: Data, _: Call) -> AsyncIterator[Parts]:
        for place in range(int(bytes(message))):
            yield (b"%d" % place,)

    async def check() -> None:
        handlers = {ECHO: Handler(streaming=counting)}
        async with our_server(handlers) as (_, address), grpc.aio.insecure_channel(address) as channel:
            for count in (0, 1, 50):
                answers = [bytes(one) async for one in channel.unary_stream(ECHO)(b"%d" % count)]
                assert answers == [b"%d" % place for place in range(count)]

    run(check)
