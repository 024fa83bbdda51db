"""What a server does with frames that are written by hand: unusual ones, broken ones, and floods."""

import asyncio
import random
from collections.abc import Callable

import hpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from factories.limited import run
from factories.rpc_peers import ECHO, MOST_BYTES, ByHand, frame, our_server
from tierflow.protocol.messages import Data
from tierflow_worker.rpc import connection, frames, server
from tierflow_worker.rpc.compression import Table
from tierflow_worker.rpc.frames import Kind, Reason, Setting
from tierflow_worker.rpc.headers import Decoder, encode, read_message, read_timeout, write_message, write_timeout
from tierflow_worker.rpc.server import Call, Handler, Parts

WIDE = frames.settings({Setting.INITIAL_WINDOW_SIZE: 2**30}) + frames.window_update(0, 2**30)
"""With this greeting a client takes whatever comes."""


def by_hand(test: Callable[[ByHand], None]) -> None:
    """Runs a test against a server, in a thread; the server then has to serve another client."""

    def ask(address: str) -> None:
        with ByHand(address) as client:
            test(client)
        with ByHand(address) as other:
            other.greet()
            other.socket.sendall(other.call(1, b"still there?"))
            assert other.answer(1)[0] == b"still there?"

    async def check() -> None:
        async with our_server() as (_, address):
            await asyncio.to_thread(ask, address)

    run(check)


def test_a_call_is_answered_however_its_bytes_arrive() -> None:
    def check(client: ByHand) -> None:
        client.greet()
        for stream, size in enumerate((1, 2, 7, 100), start=0):
            data = client.call(2 * stream + 1, b"piece by piece")
            for place in range(0, len(data), size):
                client.socket.sendall(data[place : place + size])
            assert client.answer(2 * stream + 1) == (b"piece by piece", {"grpc-status": "0"})

    by_hand(check)


def test_padding_priority_continuation_and_unknown_frames_are_understood() -> None:
    def check(client: ByHand) -> None:
        client.greet()
        block = client.headers()
        message = b"\0\0\0\0\x06padded"
        first = b"\x03" + bytes(4) + b"\x10" + block[:5] + bytes(3)
        client.socket.sendall(
            frame(99, 0xFF, 0, b"unknown")
            + frame(Kind.PRIORITY, 0, 1, bytes(5))
            + frame(Kind.HEADERS, frames.PADDED | frames.PRIORITY_GIVEN, 1, first)
            + frame(Kind.CONTINUATION, 0, 1, block[5:9])
            + frame(Kind.CONTINUATION, frames.END_HEADERS, 1, block[9:])
            + frame(Kind.DATA, frames.PADDED, 1, b"\x05" + message[:4] + bytes(5))
            + frame(Kind.DATA, 0, 1)
            + frame(Kind.DATA, frames.PADDED, 1, b"\x00" + message[4:])
            + frame(Kind.DATA, frames.PADDED | frames.END_STREAM, 1, b"\xff" + bytes(255))
        )
        assert client.answer(1) == (b"padded", {"grpc-status": "0"})

    by_hand(check)


def test_a_message_in_many_frames_between_those_of_another_call_is_put_together() -> None:
    def check(client: ByHand) -> None:
        client.greet(WIDE)
        messages = {stream: random.Random(stream).randbytes(100_000) for stream in (1, 3)}
        for stream in messages:
            client.socket.sendall(frame(Kind.HEADERS, frames.END_HEADERS, stream, client.headers()))
        bodies = {one: b"\0" + len(data).to_bytes(4, "big") + data for one, data in messages.items()}
        for place in range(0, 110_000, 1_777):
            for stream, body in bodies.items():
                client.socket.sendall(frame(Kind.DATA, 0, stream, body[place : place + 1_777]))
        for stream, message in messages.items():
            client.socket.sendall(frame(Kind.DATA, frames.END_STREAM, stream))
            assert client.answer(stream)[0] == message

    by_hand(check)


def test_an_answer_waits_for_the_windows_of_its_receiver() -> None:
    def check(client: ByHand) -> None:
        client.greet(frames.settings({Setting.INITIAL_WINDOW_SIZE: 10}))
        message = random.Random(0).randbytes(300)
        client.socket.sendall(client.call(1, message))
        body = b""
        while len(body) < 305:
            kind, _, stream, payload = client.read()
            if kind == Kind.DATA:
                assert len(payload) <= 10
                body += payload
                client.socket.sendall(frames.window_update(stream, len(payload)))
        assert body[5:] == message
        kind, flags, _, payload = client.read()
        assert (kind, flags & frames.END_STREAM) == (Kind.HEADERS, frames.END_STREAM)

    by_hand(check)


def test_a_window_that_shrinks_below_zero_and_grows_again_is_kept_account_of() -> None:
    def check(client: ByHand) -> None:
        client.greet(frames.settings({Setting.INITIAL_WINDOW_SIZE: 100}))
        client.socket.sendall(client.call(1, bytes(200)))
        while client.read()[0] != Kind.DATA:
            pass
        client.socket.sendall(frames.settings({Setting.INITIAL_WINDOW_SIZE: 50}))  # 50 less than nothing are left
        client.socket.sendall(frames.window_update(1, 50) + frames.ping(b"12345678"))
        while (got := client.read())[0] != Kind.PING:
            assert got[0] != Kind.DATA
        client.socket.sendall(frames.settings({Setting.INITIAL_WINDOW_SIZE: 1000}))
        while (got := client.read())[0] != Kind.DATA:
            pass
        assert len(got[3]) == 105

    by_hand(check)


def test_the_connections_window_is_shared_by_its_calls() -> None:
    def check(client: ByHand) -> None:
        client.greet(WIDE[:-13])
        for stream in (1, 3):
            client.socket.sendall(client.call(stream, bytes(60_000)))
        got = {1: 0, 3: 0}
        while sum(got.values()) < frames.DEFAULT_WINDOW:
            kind, _, stream, payload = client.read()
            if kind == Kind.DATA:
                got[stream] += len(payload)
        client.socket.sendall(frames.window_update(0, 2**20))
        assert len(client.answer(3)[0]) + got[3] in (60_000, 60_005)

    by_hand(check)


def breaks(data: bytes, reason: Reason | None) -> Callable[[ByHand], None]:
    """Sends bytes after the greeting, and checks how the server ends the connection."""

    def check(client: ByHand) -> None:
        client.greet()
        client.socket.sendall(data)
        told = [payload for kind, _, _, payload in client.until_closed() if kind == Kind.GOAWAY]
        if reason is not None:
            assert int.from_bytes(told[-1][4:8], "big") == reason

    return check


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (frame(Kind.DATA, 0, 0, b"x"), Reason.PROTOCOL_ERROR),
        (frame(Kind.HEADERS, frames.END_HEADERS, 0, b"x"), Reason.PROTOCOL_ERROR),
        (frame(Kind.HEADERS, frames.END_HEADERS, 2, encode(())), Reason.PROTOCOL_ERROR),
        (frame(Kind.HEADERS, frames.END_HEADERS, 1, b"\xff\xff\xff\xff\xff\xff"), Reason.COMPRESSION_ERROR),
        (frame(Kind.HEADERS, frames.PADDED | frames.END_HEADERS, 1, b"\xff"), Reason.PROTOCOL_ERROR),
        (frame(Kind.HEADERS, 0, 1, encode(())) + frame(Kind.PING, 0, 0, bytes(8)), Reason.PROTOCOL_ERROR),
        (frame(Kind.CONTINUATION, 0, 1, b""), Reason.PROTOCOL_ERROR),
        (frame(Kind.DATA, frames.PADDED, 1, b"\xff"), Reason.PROTOCOL_ERROR),
        (frame(Kind.PING, 0, 0, b"short"), Reason.FRAME_SIZE_ERROR),
        (frame(Kind.SETTINGS, 0, 0, b"short"), Reason.FRAME_SIZE_ERROR),
        (frame(Kind.SETTINGS, 0, 0, bytes(20_000)), Reason.FRAME_SIZE_ERROR),
        (frames.settings({Setting.MAX_FRAME_SIZE: 1}), Reason.PROTOCOL_ERROR),
        (frames.settings({Setting.INITIAL_WINDOW_SIZE: 2**31}), Reason.PROTOCOL_ERROR),
        (frames.window_update(0, 0), Reason.FLOW_CONTROL_ERROR),
        (frames.window_update(0, 2**31 - 1), Reason.FLOW_CONTROL_ERROR),
        (frame(Kind.PUSH_PROMISE, 0, 1, bytes(4)), Reason.PROTOCOL_ERROR),
        (b"\xff\xff\xff" + bytes((0, 0, 0, 0, 0, 1)), Reason.FRAME_SIZE_ERROR),
    ],
)
def test_a_broken_frame_ends_its_connection_alone(data: bytes, reason: Reason) -> None:
    by_hand(breaks(data, reason))


def test_who_speaks_http_1_or_nothing_at_all_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_HANDSHAKE_SECONDS", 0.1)

    def speaks_http_1(client: ByHand) -> None:
        client.socket.sendall(b"GET / HTTP/1.1\r\nHost: worker\r\n\r\n")
        client.until_closed()

    def says_nothing(client: ByHand) -> None:
        client.until_closed()

    by_hand(speaks_http_1)
    by_hand(says_nothing)


def test_endless_headers_end_the_connection() -> None:
    def check(client: ByHand) -> None:
        client.greet()
        part = b"\x00\x01a\x7f\x80\x7f" + bytes(16_255)
        client.socket.sendall(frame(Kind.HEADERS, 0, 1, part) + frame(Kind.CONTINUATION, 0, 1, part))
        client.until_closed()

    by_hand(check)


def test_a_small_block_that_unpacks_to_many_headers_ends_the_connection() -> None:
    def check(client: ByHand) -> None:
        client.greet()
        encoder = hpack.Encoder()
        block = encoder.encode([("x", "y" * 3000)]) + encoder.encode([("x", "y" * 3000)]) * 1000
        client.socket.sendall(frame(Kind.HEADERS, frames.END_HEADERS, 1, block))
        client.until_closed()

    by_hand(check)


@pytest.mark.parametrize(
    "cheap",
    [frames.ping(bytes(8)), frames.settings({}), frames.reset(1, Reason.CANCEL), frame(99, 0, 0)],
    ids=["pings", "settings", "resets", "unknown"],
)
def test_a_flood_of_frames_that_cost_nothing_ends_the_connection(cheap: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "_MOST_STRIKES", 1000)
    by_hand(breaks(cheap * 1100, Reason.ENHANCE_YOUR_CALM))


def test_calls_that_are_reset_at_once_end_the_connection_when_there_are_too_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connection, "_MOST_STRIKES", 100)

    def check(client: ByHand) -> None:
        client.greet()
        data = b"".join(client.call(2 * n + 1) + frames.reset(2 * n + 1, Reason.CANCEL) for n in range(200))
        client.socket.sendall(data)
        told = [payload for kind, _, _, payload in client.until_closed() if kind == Kind.GOAWAY]
        assert int.from_bytes(told[-1][4:8], "big") == Reason.ENHANCE_YOUR_CALM

    by_hand(check)


def test_more_calls_at_once_than_are_taken_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_MOST_STREAMS", 3)

    def check(client: ByHand) -> None:
        client.greet()
        for number in (1, 3, 5, 7):
            client.socket.sendall(frame(Kind.HEADERS, frames.END_HEADERS, number, client.headers()))
        while (got := client.read())[0] != Kind.RST_STREAM:
            pass
        assert (got[2], int.from_bytes(got[3], "big")) == (7, Reason.REFUSED_STREAM)
        client.socket.sendall(frame(Kind.DATA, frames.END_STREAM, 7, bytes(10)))  # it was on its way
        client.socket.sendall(frame(Kind.DATA, frames.END_STREAM, 1, b"\0\0\0\0\x01x"))
        assert client.answer(1)[0] == b"x"

    by_hand(check)


@pytest.mark.parametrize(
    ("frames_of", "status"),
    [
        (lambda client: frame(Kind.HEADERS, 5, 1, client.headers()), "13"),
        (lambda client: client.call(1)[:-5] + b"", ""),
        (
            lambda client: frame(Kind.HEADERS, 4, 1, client.headers()) + frame(Kind.DATA, 1, 1, b"\0\0\0\0\x09cut"),
            "13",
        ),
        (
            lambda client: (
                frame(Kind.HEADERS, 4, 1, client.headers()) + frame(Kind.DATA, 1, 1, b"\0\0\0\0\x01x\0\0\0\0\x01y")
            ),
            "13",
        ),
        (lambda client: client.call(1, path="/no/Method"), "12"),
    ],
    ids=["no message", "unfinished", "cut message", "two messages", "unknown method"],
)
def test_a_call_that_is_none_is_refused_and_its_connection_goes_on(
    frames_of: Callable[[ByHand], bytes], status: str
) -> None:
    def check(client: ByHand) -> None:
        client.greet()
        client.socket.sendall(frames_of(client))
        if not status:
            return  # it just stops in the middle
        assert client.answer(1)[1]["grpc-status"] == status
        client.socket.sendall(client.call(3))
        assert client.answer(3)[0] == b"hello"

    by_hand(check)


def test_what_is_no_grpc_gets_an_http_status() -> None:
    def check(client: ByHand) -> None:
        client.greet()
        client.socket.sendall(client.call(1, content_type="text/html"))
        assert client.answer(1)[1][":status"] == "415"

    by_hand(check)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(st.tuples(st.integers(0, 12), st.integers(0, 255), st.integers(0, 9), st.binary(max_size=40)), max_size=30)
)
def test_no_sequence_of_frames_harms_the_server(sequence: list[tuple[int, int, int, bytes]]) -> None:
    def check(client: ByHand) -> None:
        client.greet()
        client.socket.sendall(client.call(1) + b"".join(frame(*parts) for parts in sequence))

    by_hand(check)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.binary(max_size=300))
def test_no_bytes_harm_the_server(noise: bytes) -> None:
    def check(client: ByHand) -> None:
        client.greet()
        client.socket.sendall(noise)

    by_hand(check)


def test_a_client_that_reads_nothing_does_not_stop_the_others() -> None:
    async def large(_: Data, __: Call) -> Parts:
        return (bytes(MOST_BYTES),)

    def ask(address: str) -> None:
        with ByHand(address) as deaf, ByHand(address) as other:
            deaf.greet(WIDE)
            deaf.socket.sendall(b"".join(deaf.call(2 * n + 1) for n in range(5)))
            other.greet(WIDE)
            other.socket.sendall(other.call(1))
            assert len(other.answer(1)[0]) == MOST_BYTES

    async def check() -> None:
        async with our_server({ECHO: Handler(unary=large)}) as (_, address):
            await asyncio.to_thread(ask, address)

    run(check)


@given(st.text())
def test_any_text_survives_as_a_message(text: str) -> None:
    written = write_message(text)
    assert written.isascii()
    assert written.isprintable()
    assert read_message(written) == text.encode("utf-8", "replace").decode()


@given(st.floats(1e-6, 1e7))
def test_any_timeout_survives_within_a_thousandth(seconds: float) -> None:
    written = write_timeout(seconds)
    assert len(written) <= 9
    read = read_timeout(written)
    assert read is not None
    assert abs(read - seconds) <= max(1e-6, seconds / 1000)


@pytest.mark.parametrize("text", ["", "S", "1", "1x", "-1S", "999999999999S", "1.5S", "٣S"])
def test_what_is_no_timeout_is_none(text: str) -> None:
    assert read_timeout(text) is None


@given(
    st.lists(st.tuples(st.text("abc-", min_size=1), st.text(st.characters(codec="utf-8"), max_size=300)), max_size=10)
)
def test_any_headers_survive(headers: list[tuple[str, str]]) -> None:
    decoder = Decoder()
    for _ in range(2):
        assert decoder.decode(encode(headers)) == dict(headers)
    compressed = hpack.Encoder().encode(headers)
    assert Decoder().decode(compressed) == dict(headers)


@given(
    st.lists(st.lists(st.tuples(st.sampled_from([":path", "te", "x", "y-bin"]), st.text("aZ09 ~\x00é", max_size=2000))))
)
def test_blocks_that_use_the_table_of_their_connection_survive(blocks: list[list[tuple[str, str]]]) -> None:
    encoder, table = hpack.Encoder(), Table()
    for headers in blocks:
        found = [
            (name, value.encode("latin-1").decode()) for name, value in table.decode(encoder.encode(headers), 2**30)
        ]
        assert found == headers


@given(st.binary(max_size=60))
def test_no_block_is_misread(block: bytes) -> None:
    table, other = Table(), hpack.Decoder(max_header_list_size=2**30)
    try:
        expected = [(bytes(name), bytes(value)) for name, value in other.decode(block, raw=True)]
    except hpack.HPACKError:
        return  # what the other refuses may be refused here as well, or read with more patience
    assert [(name.encode("latin-1"), value.encode("latin-1")) for name, value in table.decode(block, 2**30)] == expected
