"""The tile workers of an edge worker: found, waited for, and seen off."""

import asyncio
import io
import json
import socket
from typing import Any

import numpy as np
import pytest

from factories.limited import run
from factories.planes import MESSAGE_BYTES
from factories.tile_workers import EDGE, OUTPUTS, PART, RUN, compute, tile_worker
from factories.tiled import free_ports
from tierflow.errors import InvalidInputError
from tierflow.tiers import Tier
from tierflow_worker.logs import Log
from tierflow_worker.metrics import Metrics
from tierflow_worker.tiling.holdings import RunsHeld
from tierflow_worker.tiling.peers import Peers


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
