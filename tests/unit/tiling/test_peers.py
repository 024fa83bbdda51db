"""Other tile workers as an edge worker sees them: found, asked whether they are there, and never believed blindly."""

import asyncio
import io
import json
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import numpy as np
import pytest

from factories.planes import MESSAGE_BYTES, tensor_of
from factories.tampering import WRONG, Tamper, TamperingServer, with_a_full_queue
from factories.tiled import free_ports
from tierflow.descriptor import Boundary, ModelReference, RunDescriptor, SegmentDescriptor, WorkerDescriptor
from tierflow.errors import InvalidInputError, TierflowError, UnreachableError
from tierflow.graph import Tensor
from tierflow.protocol.codec import decode_request
from tierflow.protocol.messages import (
    HELD_PARAMETER,
    HOLD_PARAMETER,
    RUN_PARAMETER,
    TILE_PARAMETER,
    InferRequest,
    InferResponse,
)
from tierflow.tiers import Tier
from tierflow.tiling.region import Interval, Region
from tierflow_worker.logs import Log
from tierflow_worker.metrics import Metrics
from tierflow_worker.tiling.holdings import RunsHeld, write_wanted
from tierflow_worker.tiling.peers import Peer, Peers
from tierflow_worker.tiling.requests import read_tile

RUN = "run"
OUTPUTS = {
    RUN: Tensor(name="y", dtype="float32", shape=(1, 2, 8, 8)),
    "other": Tensor(name="z", dtype="float32", shape=(1, 2, 8, 8)),
}
EDGE = WorkerDescriptor(
    pipeline="pipe",
    namespace="default",
    tier=Tier.EDGE,
    model=ModelReference(uri="file:///model.onnx", identity="sha256:one"),
    inputs=(),
    outputs=(),
    segments=(
        SegmentDescriptor(
            id="segment",
            layers=2,
            accepts=Boundary(id="boundary", tensors=()),
            runs=tuple(
                RunDescriptor(id=name, input=OUTPUTS[RUN], output=output, rows=1, columns=1)
                for name, output in OUTPUTS.items()
            ),
        ),
    ),
)
WANTED = write_wanted(EDGE)
TILE = Region(Interval(0, 4), Interval(2, 8))
PART = np.arange(2 * 4 * 6, dtype=np.float32).reshape(1, 2, 4, 6)


def doubled(data: bytes) -> InferResponse:
    """A tile worker's answer: its input, twice."""
    request = decode_request(data)
    assert request.parameters[RUN_PARAMETER] in OUTPUTS
    assert read_tile(request.parameters[TILE_PARAMETER]) == TILE
    array = np.frombuffer(request.tensors[0].data, np.float32).reshape(request.tensors[0].shape)
    return InferResponse("pipe", (tensor_of("y", 2 * array),))


class HoldingServer(TamperingServer):
    """A tile worker that says that it holds what it is told to say.

    Attributes:
        answer_holding: What it says; None for nothing.
        holding_asked: How often it was asked.
    """

    answer_holding: RunsHeld | None
    holding_asked = 0

    def hold(self, request: bytes) -> InferResponse:
        """Answers what it is asked to hold."""
        assert decode_request(request).parameters[HOLD_PARAMETER] == WANTED
        self.holding_asked += 1
        held = (
            {} if self.answer_holding is None else {HELD_PARAMETER: msgspec.json.encode(self.answer_holding).decode()}
        )
        return InferResponse("pipe", (), parameters=held)


@contextmanager
def tile_worker() -> Iterator["HoldingServer"]:
    server = HoldingServer(doubled)
    server.answer_holding = RunsHeld(tuple(OUTPUTS))
    yield server
    server.close()


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(60):
            await test()

    asyncio.run(limited())


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


async def compute(peer: Peer, run: str = RUN) -> Any:
    return await peer.compute(run, TILE, lambda: {"x": PART}, None)


def peer_of(address: str, clock: Callable[[], float] | None = None) -> Peer:
    return Peer(address, "pipe", OUTPUTS, max_message_bytes=MESSAGE_BYTES, clock=clock or Clock())


def test_a_tile_comes_back_from_a_worker_that_is_ready() -> None:
    async def check() -> None:
        with tile_worker() as server:
            peer = peer_of(server.address)
            assert not peer.takes(RUN)
            await peer.look(WANTED)
            assert peer.takes(RUN)
            np.testing.assert_array_equal(await compute(peer), 2 * PART)
            await peer.close()

    run(check)


@pytest.mark.parametrize("tamper", WRONG.values(), ids=WRONG.keys())
def test_a_worker_that_answers_wrongly_is_set_aside_for_the_run_ever_longer(tamper: Tamper) -> None:
    async def check() -> None:
        clock = Clock()
        with tile_worker() as server:
            server.tamper = tamper
            peer = peer_of(server.address, clock)
            await peer.look(WANTED)
            for pause in (1.0, 2.0, 4.0):
                with pytest.raises(TierflowError):
                    await compute(peer)
                clock.now += 0.99 * pause
                assert not peer.takes(RUN)
                assert peer.takes("other")
                clock.now += 0.01 * pause
                assert peer.takes(RUN)
            await peer.close()

    run(check)


def test_several_tiles_that_fail_at_once_count_as_one() -> None:
    async def check() -> None:
        clock = Clock()
        with tile_worker() as server:
            server.tamper = WRONG["another epoch"]
            peer = peer_of(server.address, clock)
            await peer.look(WANTED)
            await asyncio.gather(*(compute(peer) for _ in range(4)), return_exceptions=True)
            clock.now += 1.0
            assert peer.takes(RUN)
            await peer.close()

    run(check)


def test_a_worker_whose_queue_is_full_is_asked_again_when_it_said() -> None:
    async def check() -> None:
        clock = Clock()
        with tile_worker() as server:
            server.tamper = with_a_full_queue
            peer = peer_of(server.address, clock)
            await peer.look(WANTED)
            for _ in range(3):
                with pytest.raises(TierflowError):
                    await compute(peer)
                assert not peer.takes(RUN)
                clock.now += 0.05
                assert peer.takes(RUN)
            await peer.close()

    run(check)


def test_a_worker_that_is_gone_or_late_gets_nothing_until_it_answers() -> None:
    async def check() -> None:
        with tile_worker() as server:
            peer = peer_of(server.address)
            await peer.look(WANTED)
            peer.note_late()
            assert not peer.takes(RUN)
            await peer.look(WANTED)
            assert peer.takes(RUN)
        with pytest.raises(UnreachableError):
            await compute(peer)
        assert not peer.takes(RUN)
        await peer.look(WANTED)
        assert not peer.takes(RUN)
        await peer.close()

    run(check)


class Everyone:
    """The workers behind a name, with the log of whoever looks for them."""

    def __init__(self, where: str) -> None:
        self.log = io.StringIO()
        self.peers = Peers(
            where,
            EDGE,
            max_message_bytes=MESSAGE_BYTES,
            metrics=Metrics(pipeline="pipe", namespace="default", tier=Tier.EDGE),
            log=Log("info", stream=self.log),
        )

    def names(self) -> list[str]:
        return [peer.name for peer in self.peers.available(RUN)]

    def said(self, event: str) -> list[dict[str, Any]]:
        lines = (json.loads(line) for line in self.log.getvalue().splitlines())
        return [line for line in lines if line["event"] == event]

    def changes(self) -> list[dict[str, Any]]:
        return [{name: line[name] for name in ("joined", "left", "available")} for line in self.said("tile workers")]


def resolving(monkeypatch: pytest.MonkeyPatch, addresses: dict[str, list[tuple[str, int]] | OSError]) -> None:
    """Has names resolve to addresses, or fail to."""

    def getaddrinfo(host: str, port: int, *_: Any, **__: Any) -> list[Any]:
        found = addresses.get(host, socket.gaierror(socket.EAI_NONAME, "unknown"))
        if isinstance(found, OSError):
            raise found
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", address) for address in found]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


def split(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host, int(port)


def test_a_headless_name_is_all_of_its_addresses_as_they_come_and_go(monkeypatch: pytest.MonkeyPatch) -> None:
    async def check() -> None:
        with tile_worker() as one, tile_worker() as two:
            everyone = Everyone("pipe-tiles.default:8001")
            resolving(monkeypatch, {})
            await everyone.peers.refresh()
            assert everyone.names() == []
            for there in ([one], [one, two], [two], []):
                resolving(monkeypatch, {"pipe-tiles.default": [split(server.address) for server in there]})
                await everyone.peers.refresh()
                assert everyone.names() == sorted(server.address for server in there)
            assert [change["available"] for change in everyone.changes()] == [1, 2, 1, 0]
            assert everyone.changes()[2]["left"] == [one.address]
            await everyone.peers.close()

    run(check)


def test_while_the_resolver_fails_everybody_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    async def check() -> None:
        with tile_worker() as server:
            everyone = Everyone("pipe-tiles.default:8001")
            resolving(monkeypatch, {"pipe-tiles.default": [split(server.address)]})
            await everyone.peers.refresh()
            resolving(monkeypatch, {"pipe-tiles.default": socket.gaierror(socket.EAI_AGAIN, "try again")})
            await everyone.peers.refresh()
            assert everyone.names() == [server.address]
            resolving(monkeypatch, {"pipe-tiles.default": socket.gaierror(socket.EAI_NONAME, "nobody")})
            await everyone.peers.refresh()
            assert everyone.names() == []
            await everyone.peers.close()

    run(check)


def test_it_is_waited_for_who_loads_what_is_wanted_and_not_for_who_refuses_it() -> None:
    async def check() -> None:
        with tile_worker() as one, tile_worker() as two:
            one.answer_holding = two.answer_holding = RunsHeld()
            everyone = Everyone(f"{one.address},{two.address}")
            looking = asyncio.ensure_future(everyone.peers.run())
            waiting = asyncio.ensure_future(everyone.peers.prepared())
            while one.holding_asked < 2 or two.holding_asked < 2:
                await asyncio.sleep(0.01)
            assert not waiting.done()
            two.answer_holding = RunsHeld((RUN,), "it is too much")
            one.answer_holding = RunsHeld(tuple(OUTPUTS))
            await waiting
            assert everyone.names() == sorted((one.address, two.address))
            assert [peer.name for peer in everyone.peers.available("other")] == [one.address]
            await everyone.peers.prepared()  # nothing to wait for any more
            looking.cancel()
            await everyone.peers.close()
        (refusal,) = everyone.said("tile worker refuses runs")
        assert (refusal["worker"], refusal["reason"]) == (two.address, "it is too much")

    run(check)


def test_a_worker_that_holds_nothing_any_more_gets_no_tiles_until_it_does_again() -> None:
    async def check() -> None:
        with tile_worker() as server:
            peer = peer_of(server.address)
            for held in (RunsHeld((RUN,)), RunsHeld(), RunsHeld((RUN, "other"))):
                server.answer_holding = held
                await peer.look(WANTED)
                assert [name for name in OUTPUTS if peer.takes(name)] == list(held.runs)
            await peer.close()

    run(check)


def test_a_worker_that_does_not_say_what_it_holds_gets_no_tiles() -> None:
    async def check() -> None:
        with tile_worker() as server:
            server.answer_holding = None
            peer = peer_of(server.address)
            await peer.look(WANTED)
            assert not peer.takes(RUN)
            await peer.close()

    run(check)


def test_a_list_is_everybody_on_it_who_answers() -> None:
    async def check() -> None:
        with tile_worker() as one, tile_worker() as two:
            everyone = Everyone(f"{one.address}, 127.0.0.1:{free_ports(1)[0]},{two.address}")
            await everyone.peers.refresh()
            assert everyone.names() == sorted((one.address, two.address))
            await everyone.peers.close()

    run(check)


def test_a_worker_that_leaves_finishes_its_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    async def check() -> None:
        with tile_worker() as server:
            everyone = Everyone("pipe-tiles.default:8001")
            resolving(monkeypatch, {"pipe-tiles.default": [split(server.address)]})
            await everyone.peers.refresh()
            (peer,) = everyone.peers.available(RUN)
            server.late.clear()
            tile = asyncio.ensure_future(compute(peer))
            while not server.asked:
                await asyncio.sleep(0.01)
            resolving(monkeypatch, {})
            await everyone.peers.refresh()
            assert everyone.names() == []
            server.late.set()
            np.testing.assert_array_equal(await tile, 2 * PART)
            await everyone.peers.close()

    run(check)


@pytest.mark.parametrize(
    "where", ["pipe-tiles", ":8001", "pipe-tiles:", "pipe-tiles:x", "a:1,b", "a:70000", f"{'a' * 70}:1"]
)
def test_what_is_no_address_is_refused_by_name(where: str) -> None:
    with pytest.raises(InvalidInputError, match="write host:port") as caught:
        Everyone(where)
    assert caught.value.subject == "tile_workers"


def test_an_ipv6_address_is_one_as_well() -> None:
    async def check() -> None:
        everyone = Everyone("[::1]:1")
        await everyone.peers.refresh()
        assert everyone.names() == []
        await everyone.peers.close()

    run(check)


def test_a_request_names_the_run_and_the_tile() -> None:
    asked: list[InferRequest] = []

    def remember(data: bytes) -> InferResponse:
        asked.append(decode_request(data))
        return doubled(data)

    async def check() -> None:
        server = TamperingServer(remember)
        peer = peer_of(server.address)
        await compute(peer)
        await peer.close()
        server.close()

    run(check)
    (request,) = asked
    assert request.model == "pipe"
    assert request.parameters == {RUN_PARAMETER: RUN, TILE_PARAMETER: "0:4,2:8"}
    assert [(tensor.name, tensor.dtype, tensor.shape) for tensor in request.tensors] == [("x", "float32", PART.shape)]
