"""The other workers that compute tiles: who there is, who answers, and how to send them a tile."""

import asyncio
import socket
import time
from collections.abc import Mapping
from typing import Final

import grpc
import grpc.aio

from tierflow.descriptor import Downstream
from tierflow.errors import IntegrityError, UnreachableError
from tierflow.graph import Tensor
from tierflow.protocol import wire
from tierflow.protocol.messages import RUN_PARAMETER, TILE_PARAMETER, InferRequest
from tierflow.tiers import Tier
from tierflow.tiling.region import Region
from tierflow_worker.chain import DownstreamClient, channel_options
from tierflow_worker.logs import Log
from tierflow_worker.metrics import Metrics
from tierflow_worker.runtime import Array, numpy_dtype
from tierflow_worker.tensors import from_array, to_array
from tierflow_worker.tiling.requests import write_tile

_LOOK_SECONDS: Final = 1.0
"""How often it is looked who there is, and whether those that failed are back."""

_ANSWER_SECONDS: Final = 2.0
"""How long a worker may take to say that it is ready."""


class Peer:
    """Another worker that computes tiles.

    Must be made inside the event loop that uses it.

    Args:
        address: `host:port`.
        pipeline: The pipeline's name.
        outputs: By run id, the run's output.
        max_message_bytes: Largest message either way.
    """

    def __init__(self, address: str, pipeline: str, outputs: Mapping[str, Tensor], *, max_message_bytes: int) -> None:
        self.name: Final = address
        self.is_up = False
        self._pipeline = pipeline
        self._outputs = outputs
        # Tiles are not sent again to a worker that went away: another one computes them sooner.
        self._client = DownstreamClient(
            Downstream(tier=Tier.EDGE, address=address), max_message_bytes=max_message_bytes, patience_seconds=0.0
        )
        self._channel = grpc.aio.insecure_channel(address, options=channel_options(max_message_bytes))
        self._ready = self._channel.unary_unary(f"/{wire.SERVICE}/ServerReady")

    async def compute(self, run: str, tile: Region, inputs: Mapping[str, Array], deadline: float | None) -> Array:
        """Has the worker compute a tile; see `tierflow_worker.tiling.requests.TileWorker`."""
        request = InferRequest(
            model=self._pipeline,
            tensors=tuple(from_array(name, str(array.dtype), array) for name, array in inputs.items()),
            parameters={RUN_PARAMETER: run, TILE_PARAMETER: write_tile(tile)},
        )
        try:
            answer = await self._client.infer(request, deadline=deadline)
        except UnreachableError:
            self.is_up = False
            raise
        output = self._outputs[run]
        shape = (*output.shape[:-2], tile.rows.length, tile.columns.length)
        made = answer.tensors[0] if len(answer.tensors) == 1 else None
        if made is None or (made.name, made.dtype, made.shape) != (output.name, output.dtype, shape):
            self.is_up = False
            got = f"{made.name} {made.dtype} {list(made.shape)}" if made else f"{len(answer.tensors)} tensors"
            raise IntegrityError(
                f"tile worker {self.name} answered {got} instead of {output.name} {output.dtype} {list(shape)}",
                subject=self.name,
            )
        return to_array(made, numpy_dtype(output.dtype))

    async def look(self) -> None:
        """Asks the worker whether it is ready."""
        try:
            answer = await self._ready(wire.ServerReadyRequest().SerializeToString(), timeout=_ANSWER_SECONDS)
            self.is_up = bool(wire.ServerReadyResponse.FromString(answer).ready)
        except grpc.aio.AioRpcError:
            self.is_up = False

    async def close(self) -> None:
        """Closes the connections; requests under way go on for a while."""
        await asyncio.gather(self._client.close(), self._channel.close(_ANSWER_SECONDS))


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
        self._log.warning("tile failed", run=run, worker=worker, error=str(error)[:300])

    def tile_hedged(self, run: str, worker: str) -> None:
        """Counts a tile that is computed elsewhere as well because it is late."""
        self._metrics.count_hedged_tile(run)
        self._log.info("tile late", run=run, worker=worker)


class Peers:
    """The tile workers of an edge worker, as they come and go.

    Args:
        where: `host:port`, the host resolving to all workers, or several addresses with commas between.
        pipeline: The pipeline's name.
        outputs: By run id, the run's output.
        max_message_bytes: Largest message either way.
        metrics: Where tiles and workers are counted.
        log: Bound to the worker.
    """

    def __init__(
        self,
        where: str,
        pipeline: str,
        outputs: Mapping[str, Tensor],
        *,
        max_message_bytes: int,
        metrics: Metrics,
        log: Log,
    ) -> None:
        self.observer: Final = TileRecord(metrics, log)
        self._metrics = metrics
        self._where = where
        self._pipeline = pipeline
        self._outputs = outputs
        self._max_message_bytes = max_message_bytes
        self._log = log
        self._peers: dict[str, Peer] = {}

    def available(self) -> list[Peer]:
        """The workers that answered when they were last asked, in a stable order."""
        return [self._peers[address] for address in sorted(self._peers) if self._peers[address].is_up]

    async def run(self) -> None:
        """Looks for workers again and again, until cancelled."""
        try:
            while True:
                began = time.monotonic()
                await self.refresh()
                await asyncio.sleep(max(0.0, _LOOK_SECONDS - (time.monotonic() - began)))
        finally:
            for peer in self._peers.values():
                await peer.close()

    async def refresh(self) -> None:
        """Looks once who there is and who is ready."""
        before = {peer.name for peer in self.available()}
        addresses = await _resolve(self._where)
        for address in self._peers.keys() - addresses:
            await self._peers.pop(address).close()
        for address in addresses - self._peers.keys():
            self._peers[address] = Peer(
                address, self._pipeline, self._outputs, max_message_bytes=self._max_message_bytes
            )
        await asyncio.gather(*(peer.look() for peer in self._peers.values()))
        now = {peer.name for peer in self.available()}
        self._metrics.set_tile_workers(len(now))
        if now != before:
            self._log.info("tile workers", joined=sorted(now - before), left=sorted(before - now), available=len(now))


async def _resolve(where: str) -> set[str]:
    """The addresses behind a name or list. A headless Service without ready pods has none."""
    found: set[str] = set()
    for part in filter(None, (item.strip() for item in where.split(","))):
        host, _, port = part.rpartition(":")
        try:
            entries = await asyncio.get_running_loop().getaddrinfo(host, int(port), type=socket.SOCK_STREAM)
        except OSError:
            continue
        found.update(_address(entry[4]) for entry in entries)
    return found


def _address(socket_address: tuple[object, ...]) -> str:
    host, port = str(socket_address[0]), socket_address[1]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
