"""The other workers that compute tiles: who there is, who answers, and how to send them a tile."""

import asyncio
import contextlib
import math
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from tierflow.descriptor import Downstream, WorkerDescriptor
from tierflow.errors import (
    DeadlineExceededError,
    IntegrityError,
    InvalidInputError,
    OverloadedError,
    TierflowError,
    UnreachableError,
)
from tierflow.graph import Tensor
from tierflow.protocol import wire
from tierflow.protocol.codec import decode_response, request_parts
from tierflow.protocol.messages import HOLD_PARAMETER, RUN_PARAMETER, TILE_PARAMETER, InferRequest, InferResponse
from tierflow.tiers import Tier
from tierflow.tiling.region import Region
from tierflow_worker.chain import DownstreamClient
from tierflow_worker.logs import Log
from tierflow_worker.metrics import Metrics
from tierflow_worker.rpc.client import Channel
from tierflow_worker.rpc.status import RpcError
from tierflow_worker.runtime import Array, numpy_dtype
from tierflow_worker.tensors import from_array, to_array
from tierflow_worker.tiling.holdings import read_held, write_wanted
from tierflow_worker.tiling.requests import write_tile
from tierflow_worker.waiting import happens_within

_LOOK_SECONDS: Final = 1.0
"""How often it is looked who there is, and whether those that failed are back."""

_SOON_SECONDS: Final = 0.1
"""How soon it is looked again while somebody loads what was asked for."""

_ANSWER_SECONDS: Final = 1.0
"""How long a worker may take to say what it holds."""

_PREPARED_SECONDS: Final = 20.0
"""How long workers are waited for that load what was asked for."""

_FIRST_PAUSE_SECONDS: Final = 1.0
_LONGEST_PAUSE_SECONDS: Final = 30.0
"""How long a worker that answers, but wrongly, gets no more tiles of that run: from the first to the longest pause."""


class Peer:
    """Another worker that computes tiles.

    Must be made inside the event loop that uses it.

    Args:
        address: `host:port`.
        pipeline: The pipeline's name.
        outputs: By run id, the run's output.
        max_message_bytes: Largest message either way.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        address: str,
        pipeline: str,
        outputs: Mapping[str, Tensor],
        *,
        max_message_bytes: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name: Final = address
        self.is_up = False
        self.under_way = 0
        self.refused = ""
        self._held: frozenset[str] = frozenset()
        self._pipeline = pipeline
        self._outputs = outputs
        self._clock = clock
        self._pauses: dict[str, float] = {}  # by run, the last pause after wrong answers
        self._aside_until: dict[str, float] = {}
        # Tiles are not sent again to a worker that went away: another one computes them sooner.
        self._client = DownstreamClient(
            Downstream(tier=Tier.EDGE, address=address), max_message_bytes=max_message_bytes, patience_seconds=0.0
        )
        # Its own connection, so that questions don't wait behind tiles.
        self._channel = Channel(address, max_message_bytes=max_message_bytes)

    def takes(self, run: str) -> bool:
        """Whether it can be sent tiles of a run now."""
        return self.holds((run,)) and self._clock() >= self._aside_until.get(run, 0.0)

    def holds(self, runs: Iterable[str]) -> bool:
        """Whether it answers, and holds all of these runs."""
        return self.is_up and self._held.issuperset(runs)

    async def compute(
        self, run: str, tile: Region, cut: Callable[[], Mapping[str, Array]], deadline: float | None
    ) -> Array:
        """Has the worker compute a tile; see `tierflow_worker.tiling.requests.TileWorker`."""
        request = InferRequest(
            model=self._pipeline,
            tensors=tuple(from_array(name, str(array.dtype), array) for name, array in cut().items()),
            parameters={RUN_PARAMETER: run, TILE_PARAMETER: write_tile(tile)},
        )
        self.under_way += 1
        try:
            made = self._read(await self._client.infer(request, deadline=deadline), run, tile)
        except UnreachableError:
            self.is_up = False
            raise
        except OverloadedError as error:
            self._aside_until[run] = self._clock() + min(error.retry_after_seconds, _FIRST_PAUSE_SECONDS)
            raise
        except DeadlineExceededError:
            raise
        except TierflowError:
            self._set_aside(run)
            raise
        finally:
            self.under_way -= 1
        self._pauses.pop(run, None)
        return made

    def note_late(self) -> None:
        """Takes the worker for gone until it says that it is there."""
        self.is_up = False

    def _set_aside(self, run: str) -> None:
        """Sends it no tiles of a run for a while, ever longer: it holds other runs, or is another program."""
        now = self._clock()
        if now < self._aside_until.get(run, 0.0):
            return  # further tiles that were under way
        pause = min(2 * self._pauses[run], _LONGEST_PAUSE_SECONDS) if run in self._pauses else _FIRST_PAUSE_SECONDS
        self._pauses[run] = pause
        self._aside_until[run] = now + pause

    def _read(self, answer: InferResponse, run: str, tile: Region) -> Array:
        """The tile that an answer has.

        Raises:
            IntegrityError: where it has another tensor, type, shape or size.
        """
        output = self._outputs[run]
        shape = (*output.shape[:-2], tile.rows.length, tile.columns.length)
        size = output.size // output.elements * math.prod(shape)
        made = answer.tensors[0] if len(answer.tensors) == 1 else None
        if made is not None and (made.name, made.dtype, made.shape, len(made.data)) == (
            output.name, output.dtype, shape, size,
        ):  # fmt: skip
            return to_array(made, numpy_dtype(output.dtype))
        got = f"{len(answer.tensors)} tensors"
        if made is not None:
            got = f"{made.name} {made.dtype} {list(made.shape)} of {len(made.data)} bytes"
        raise IntegrityError(
            f"tile worker {self.name} answered {got} instead of {output.name} {output.dtype} {list(shape)} of {size} "
            "bytes",
            subject=self.name,
        )

    async def look(self, wanted: str) -> None:
        """Asks the worker to hold the runs that are wanted (see `holdings.write_wanted`), and learns what it holds."""
        request = InferRequest(self._pipeline, (), parameters={HOLD_PARAMETER: wanted})
        try:
            answer = await self._channel.unary(wire.INFER, request_parts(request), timeout=_ANSWER_SECONDS)
            held = read_held(decode_response(answer))
        except (RpcError, TierflowError):
            self.is_up = False
            return
        self.is_up, self.refused, self._held = True, held.refused, frozenset(held.runs)

    async def close(self) -> None:
        """Closes the connections, and ends what is under way."""
        await asyncio.gather(self._client.close(), self._channel.close())


class TileRecord:
    """Counts what became of tiles, and logs what went wrong; see `tierflow_worker.tiling.requests.TileObserver`."""

    def __init__(self, metrics: Metrics, log: Log) -> None:
        self._metrics = metrics
        self._log = log

    def tile_done(self, run: str, worker: str, seconds: float) -> None:
        """Records a tile."""
        self._metrics.observe_tile(run, worker, seconds)

    def tile_failed(self, run: str, worker: str, error: BaseException) -> None:
        """Counts a tile that is computed elsewhere because its worker failed."""
        self._metrics.count_failed_tile(run)
        self._log.warning("tile failed", run=run, worker=worker, error=(str(error) or repr(error))[:300])

    def tile_hedged(self, run: str, worker: str) -> None:
        """Counts a tile that is computed elsewhere as well because it is late."""
        self._metrics.count_hedged_tile(run)
        self._log.info("tile late", run=run, worker=worker)

    def tiles_resized(self, run: str, tiles: Mapping[str, str]) -> None:
        """Logs the sizes that a run's tiles have from now on."""
        self._log.info("tiles resized", run=run, tiles=dict(tiles))


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
