"""A run computed by several workers at once: tiles are cut and sent, results are placed as they arrive.

The request doesn't depend on any other worker: a tile that fails, is refused, comes back wrong or is late beyond its
peers is computed elsewhere, in the end by this worker itself.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from tierflow.errors import TierflowError
from tierflow.tiling.layout import Grid, grids_for, layout
from tierflow.tiling.region import Region
from tierflow.tiling.rules import Extents
from tierflow_worker.runtime import Array
from tierflow_worker.tiling.engine import cut_out, place
from tierflow_worker.tiling.requests import TileObserver, TileWorker
from tierflow_worker.tiling.speeds import TileSpeeds

LOCAL: Final = "local"
"""The name of this worker among those that compute tiles."""

_LATE: Final = 2.0
"""A tile is late after so many times the time that the slowest of the request's tiles should take."""

_SHORTEST_PATIENCE_SECONDS: Final = 0.02

_FIRST_PATIENCE_SECONDS: Final = 2.0
"""How long to wait for tiles while a worker among theirs was never measured."""


class SharedRun:
    """A run that is computed together with other workers.

    Args:
        run: Its id.
        grid: The grid for all workers that the plan counts on.
        extents: The size of its output.
        needs: The region of each input that an output region needs.
        clock: Monotonic seconds, the one of deadlines.
    """

    def __init__(
        self,
        run: str,
        grid: Grid,
        extents: Extents,
        needs: Callable[[Region], Mapping[str, Region]],
        *,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._run = run
        self._grid = grid
        self._extents = extents
        self._needs = needs
        self._clock = clock
        self.speeds: Final = TileSpeeds()

    def divide(self, workers: Sequence[TileWorker]) -> list[tuple[TileWorker, Region]]:
        """Who computes which region: the grid that was planned, or with more or fewer workers the squarest."""
        planned = len(workers) == self._grid.tiles
        grid = self._grid if planned else _fitting(len(workers), self._extents)
        taking = workers[: grid.tiles]
        shares = self.speeds.shares([worker.name for worker in taking])
        return list(zip(taking, layout(self._extents, grid, shares), strict=True))

    async def compute(
        self,
        inputs: Mapping[str, Array],
        result: Array,
        local: TileWorker,
        others: Sequence[TileWorker],
        *,
        observer: TileObserver,
        deadline: float | None = None,
    ) -> None:
        """Computes the run.

        Args:
            inputs: The run's inputs, whole.
            result: Where the output is written to: [batch, channels, rows, columns].
            local: This worker.
            others: Those that are there now; with none the run is one tile, computed here.
            observer: Is told of tiles.
            deadline: On `clock`; None for none.

        Raises:
            TierflowError: what this worker itself failed with.
        """
        began = self._clock()
        divided = self.divide([local, *others])
        finished: list[TileWorker] = []
        request = _Request(inputs, result, local, deadline, finished, observer)
        expected = [self.speeds.expected_seconds(worker.name, tile.area) for worker, tile in divided]
        known = [seconds for seconds in expected if seconds is not None]
        patience = _FIRST_PATIENCE_SECONDS
        if len(known) == len(divided):
            patience = max(_SHORTEST_PATIENCE_SECONDS, _LATE * max(known))
        if deadline is not None:
            # Half of the time left is kept for computing elsewhere.
            patience = min(patience, max(0.0, (deadline - began) / 2))
        tasks = [asyncio.ensure_future(self._tile(request, worker, tile, patience)) for worker, tile in divided]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()

    async def _tile(self, request: "_Request", worker: TileWorker, tile: Region, patience: float) -> None:
        """Has a tile computed by `worker`, and elsewhere when it fails or is late; writes it to the result."""
        if worker is request.local:
            await self._attempt(request, worker, tile)
            return
        attempts = {asyncio.ensure_future(self._attempt(request, worker, tile))}
        try:
            done, _ = await asyncio.wait(attempts, timeout=patience)
            if not done:
                request.observer.tile_hedged(self._run, worker.name)
            if any(_succeeded(attempt) for attempt in done):
                return
            attempts = {attempt for attempt in attempts if not attempt.done()}
            attempts.add(asyncio.ensure_future(self._elsewhere(request, worker, tile)))
            while attempts:
                done, attempts = await asyncio.wait(attempts, return_when=asyncio.FIRST_COMPLETED)
                if any(_succeeded(attempt) for attempt in done):
                    return
                for attempt in done:
                    if not attempts:
                        attempt.result()
        finally:
            for attempt in attempts:
                attempt.cancel()

    async def _elsewhere(self, request: "_Request", failed: TileWorker, tile: Region) -> None:
        """Computes a tile by a worker that has done its own already, else here."""
        for other in [worker for worker in request.finished if worker not in (failed, request.local)][:1]:
            try:
                await self._attempt(request, other, tile)
            except TierflowError:
                break
            return
        await self._attempt(request, request.local, tile)

    async def _attempt(self, request: "_Request", worker: TileWorker, tile: Region) -> None:
        """Has a worker compute a tile, and writes it to the result."""
        parts = {name: cut_out(request.inputs[name], region) for name, region in self._needs(tile).items()}
        began = self._clock()
        try:
            made = await worker.compute(self._run, tile, parts, request.deadline)
            place(request.result, tile, made)
        except (TierflowError, OSError) as error:
            if worker is not request.local:
                request.observer.tile_failed(self._run, worker.name, error)
                self.speeds.forget(worker.name)
            raise
        seconds = self._clock() - began
        self.speeds.observe(worker.name, tile.area, seconds)
        request.observer.tile_done(self._run, worker.name, seconds)
        request.finished.append(worker)


class _Request:
    """What the tiles of one request have in common."""

    def __init__(
        self,
        inputs: Mapping[str, Array],
        result: Array,
        local: TileWorker,
        deadline: float | None,
        finished: list[TileWorker],
        observer: TileObserver,
    ) -> None:
        self.observer = observer
        self.inputs = inputs
        self.result = result
        self.local = local
        self.deadline = deadline
        self.finished = finished


def _succeeded(attempt: "asyncio.Future[None]") -> bool:
    return not attempt.cancelled() and attempt.exception() is None


def _fitting(count: int, extents: Extents) -> Grid:
    """The squarest grid of at most `count` tiles that the map has room for."""
    for tiles in range(count, 0, -1):
        for grid in grids_for(tiles):
            if grid.rows <= extents.rows and grid.columns <= extents.columns:
                return grid
    return Grid(1, 1)
