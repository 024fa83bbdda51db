"""The other workers that compute tiles: who there is, and who of them answers and holds what is wanted."""

import asyncio
import contextlib
import socket
import time
from typing import Final

from tierflow.descriptor import WorkerDescriptor
from tierflow.errors import InvalidInputError
from tierflow_worker.logs import Log
from tierflow_worker.metrics import Metrics
from tierflow_worker.tiling.holdings import write_wanted
from tierflow_worker.tiling.peer import Peer
from tierflow_worker.tiling.record import TileRecord
from tierflow_worker.waiting import happens_within

_LOOK_SECONDS: Final = 1.0
"""How often it is looked who there is, and whether those that failed are back."""

_SOON_SECONDS: Final = 0.1
"""How soon it is looked again while somebody loads what was asked for."""

_PREPARED_SECONDS: Final = 20.0
"""How long workers are waited for that load what was asked for."""


class Peers:
    """The tile workers of an edge worker, as they come and go.

    Args:
        where: `host:port`, the host resolving to all workers, or several addresses with commas between.
        descriptor: The edge worker's; its current segment has runs.
        max_message_bytes: Largest message either way.
        metrics: Where tiles and workers are counted.
        log: Bound to the worker.

    Raises:
        InvalidInputError: where `where` is no such list.
    """

    def __init__(
        self, where: str, descriptor: WorkerDescriptor, *, max_message_bytes: int, metrics: Metrics, log: Log
    ) -> None:
        self.observer: Final = TileRecord(metrics, log)
        self._metrics = metrics
        self._names = _read_names(where)
        self._pipeline = descriptor.pipeline
        self._outputs = {run.id: run.output for segment in descriptor.segments for run in segment.runs}
        self._runs = frozenset(run.id for run in descriptor.segments[0].runs)
        self._wanted = write_wanted(descriptor)
        self._max_message_bytes = max_message_bytes
        self._log = log
        self._peers: dict[str, Peer] = {}
        self._leaving: list[Peer] = []
        self._hurry = asyncio.Event()
        self._looked = asyncio.Event()  # another one after each look

    def available(self, run: str) -> list[Peer]:
        """The workers that can be sent tiles of a run, in a stable order."""
        return [self._peers[address] for address in sorted(self._peers) if self._peers[address].takes(run)]

    async def run(self) -> None:
        """Looks for workers again and again, until cancelled."""
        while True:
            began = time.monotonic()
            await self.refresh()
            pause = _SOON_SECONDS if self._is_awaiting() else _LOOK_SECONDS
            await happens_within(self._hurry, max(0.0, pause - (time.monotonic() - began)))
            self._hurry.clear()

    async def refresh(self) -> None:
        """Looks once who there is and who is ready."""
        before = self._up()
        addresses = await self._resolve()
        for address in self._peers.keys() - addresses:
            self._leaving.append(self._peers.pop(address))
        for address in addresses - self._peers.keys():
            self._peers[address] = Peer(
                address, self._pipeline, self._outputs, max_message_bytes=self._max_message_bytes
            )
        refused = {peer.name: peer.refused for peer in self._peers.values()}
        await asyncio.gather(*(peer.look(self._wanted) for peer in self._peers.values()), self._see_off())
        now = self._up()
        self._metrics.set_tile_workers(len(now))
        if now != before:
            self._log.info("tile workers", joined=sorted(now - before), left=sorted(before - now), available=len(now))
        for peer in self._peers.values():
            if peer.refused and peer.refused != refused[peer.name]:
                self._log.warning("tile worker refuses runs", worker=peer.name, reason=peer.refused)
        self._looked.set()
        self._looked = asyncio.Event()

    async def prepared(self) -> None:
        """Waits until those who are there hold what is wanted; see `tierflow_worker.tiling.requests.Tiling`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_PREPARED_SECONDS):
                self._hurry.set()
                await self._looked.wait()
                while self._is_awaiting():
                    await self._looked.wait()

    async def close(self) -> None:
        """Closes all connections."""
        await asyncio.gather(*(peer.close() for peer in (*self._peers.values(), *self._leaving)))
        self._peers.clear()
        self._leaving.clear()

    def _up(self) -> set[str]:
        """Those that can be sent all tiles of the current segment."""
        return {name for name, peer in self._peers.items() if peer.holds(self._runs)}

    def _is_awaiting(self) -> bool:
        """Whether somebody is loading what was asked for."""
        return any(peer.is_up and not peer.refused and not peer.holds(self._runs) for peer in self._peers.values())

    async def _see_off(self) -> None:
        """Closes the connections to workers that have left, once they have answered."""
        done = [peer for peer in self._leaving if not peer.under_way]
        self._leaving = [peer for peer in self._leaving if peer.under_way]
        await asyncio.gather(*(peer.close() for peer in done))

    async def _resolve(self) -> set[str]:
        """The addresses behind the names. A headless Service without ready pods has none."""
        found: set[str] = set()
        for host, port in self._names:
            try:
                entries = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
            except OSError as error:
                if error.errno not in _NOBODY:  # it isn't known who there is: nobody is sent away for that
                    found.update(self._peers)
                continue
            found.update(_address(entry[4]) for entry in entries)
        return found


_PORTS: Final = 2**16

_NOBODY: Final = frozenset({socket.EAI_NONAME, socket.EAI_NODATA})
"""What a resolver answers when it knows that a name has no addresses."""


def _read_names(where: str) -> tuple[tuple[str, int], ...]:
    """The hosts and ports of a list."""
    names = []
    for part in filter(None, (item.strip() for item in where.split(","))):
        host, _, port = part.rpartition(":")
        name = host.removeprefix("[").removesuffix("]")
        if not (_is_host(name) and port.isdecimal() and 0 < int(port) < _PORTS):
            raise InvalidInputError(
                f"tile_workers: {part!r} is no address; write host:port, with commas between several",
                subject="tile_workers",
            )
        names.append((name, int(port)))
    return tuple(names)


def _is_host(name: str) -> bool:
    """Whether a resolver can be asked for a name."""
    try:
        return bool(name.encode("idna"))
    except UnicodeError:
        return False


def _address(socket_address: tuple[object, ...]) -> str:
    host, port = str(socket_address[0]), socket_address[1]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
