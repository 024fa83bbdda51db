"""One tile worker as an edge worker sees it: asked what it holds, and never believed blindly."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import numpy as np
import pytest

from factories.clocks import Clock
from factories.limited import run
from factories.planes import MESSAGE_BYTES
from factories.tampering import WRONG, Tamper, TamperingServer, with_a_full_queue
from factories.tile_workers import OUTPUTS, PART, RUN, WANTED, compute, doubled, tile_worker
from tierflow.errors import TierflowError, UnreachableError
from tierflow.protocol.codec import decode_request
from tierflow.protocol.messages import RUN_PARAMETER, TILE_PARAMETER, InferRequest, InferResponse
from tierflow_worker.tiling.holdings import RunsHeld
from tierflow_worker.tiling.peer import Peer


@asynccontextmanager
async def peer_of(address: str, clock: Clock | None = None) -> AsyncIterator[Peer]:
    """A worker as who sends it tiles knows it, and has not looked yet whether it is there."""
    peer = Peer(address, "pipe", OUTPUTS, max_message_bytes=MESSAGE_BYTES, clock=clock or Clock())
    try:
        yield peer
    finally:
        await peer.close()


@asynccontextmanager
async def tampered(tamper: Tamper) -> AsyncIterator[tuple[Peer, Clock]]:
    """A worker that is there and answers wrongly, and the clock of who knows it."""
    clock = Clock()
    with tile_worker() as server:
        server.tamper = tamper
        async with peer_of(server.address, clock) as peer:
            await peer.look(WANTED)
            yield peer, clock


def test_a_tile_comes_back_from_a_worker_that_is_ready() -> None:
    async def check() -> None:
        with tile_worker() as server:
            async with peer_of(server.address) as peer:
                assert not peer.takes(RUN)
                await peer.look(WANTED)
                assert peer.takes(RUN)
                np.testing.assert_array_equal(await compute(peer), 2 * PART)

    run(check)


@pytest.mark.parametrize("tamper", WRONG.values(), ids=WRONG.keys())
def test_a_worker_that_answers_wrongly_is_set_aside_for_the_run_ever_longer(tamper: Tamper) -> None:
    async def check() -> None:
        async with tampered(tamper) as (peer, clock):
            for pause in (1.0, 2.0, 4.0):
                with pytest.raises(TierflowError):
                    await compute(peer)
                clock.now += 0.99 * pause
                assert not peer.takes(RUN)
                assert peer.takes("other")
                clock.now += 0.01 * pause
                assert peer.takes(RUN)

    run(check)


def test_several_tiles_that_fail_at_once_count_as_one() -> None:
    async def check() -> None:
        async with tampered(WRONG["another epoch"]) as (peer, clock):
            await asyncio.gather(*(compute(peer) for _ in range(4)), return_exceptions=True)
            clock.now += 1.0
            assert peer.takes(RUN)

    run(check)


def test_a_worker_whose_queue_is_full_is_asked_again_when_it_said() -> None:
    async def check() -> None:
        async with tampered(with_a_full_queue) as (peer, clock):
            for _ in range(3):
                with pytest.raises(TierflowError):
                    await compute(peer)
                assert not peer.takes(RUN)
                clock.now += 0.05
                assert peer.takes(RUN)

    run(check)


def test_a_worker_that_is_gone_or_late_gets_nothing_until_it_answers() -> None:
    async def check() -> None:
        with tile_worker() as server:
            async with peer_of(server.address) as peer:
                await peer.look(WANTED)
                peer.note_late()
                assert not peer.takes(RUN)
                await peer.look(WANTED)
                assert peer.takes(RUN)
                server.close()
                with pytest.raises(UnreachableError):
                    await compute(peer)
                assert not peer.takes(RUN)
                await peer.look(WANTED)
                assert not peer.takes(RUN)

    run(check)


def test_a_worker_that_holds_nothing_any_more_gets_no_tiles_until_it_does_again() -> None:
    async def check() -> None:
        with tile_worker() as server:
            async with peer_of(server.address) as peer:
                for held in (RunsHeld((RUN,)), RunsHeld(), RunsHeld((RUN, "other"))):
                    server.answer_holding = held
                    await peer.look(WANTED)
                    assert [name for name in OUTPUTS if peer.takes(name)] == list(held.runs)

    run(check)


def test_a_worker_that_does_not_say_what_it_holds_gets_no_tiles() -> None:
    async def check() -> None:
        with tile_worker() as server:
            server.answer_holding = None
            async with peer_of(server.address) as peer:
                await peer.look(WANTED)
                assert not peer.takes(RUN)

    run(check)


def test_a_request_names_the_run_and_the_tile() -> None:
    asked: list[InferRequest] = []

    def remember(data: bytes) -> InferResponse:
        asked.append(decode_request(data))
        return doubled(data)

    async def check() -> None:
        server = TamperingServer(remember)
        async with peer_of(server.address) as peer:
            await compute(peer)
        server.close()

    run(check)
    (request,) = asked
    assert request.model == "pipe"
    assert request.parameters == {RUN_PARAMETER: RUN, TILE_PARAMETER: "0:4,2:8"}
    assert [(tensor.name, tensor.dtype, tensor.shape) for tensor in request.tensors] == [("x", "float32", PART.shape)]
