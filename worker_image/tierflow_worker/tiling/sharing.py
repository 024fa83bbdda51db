"""A run computed by several workers at once: tiles are cut and sent, results are placed as they arrive.

The request doesn't depend on any other worker: a tile that fails, is refused, comes back wrong or is late beyond its
peers is computed elsewhere, in the end by this worker itself.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from tierflow.tiling.layout import Grid, grids_for, layout
from tierflow.tiling.region import Region
from tierflow.tiling.rules import Extents
from tierflow_worker.runtime import Array
from tierflow_worker.tiling.engine import cut_out, place
from tierflow_worker.tiling.requests import TileObserver, TileWorker, write_tile
from tierflow_worker.tiling.speeds import TileSpeeds

LOCAL: Final = "local"
"""The name of this worker among those that compute tiles."""

_SHORTEST_PATIENCE_SECONDS: Final = 0.05
"""No tile is late before that: a machine with other work may stop a process for about so long."""

_FIRST_PATIENCE_SECONDS: Final = 2.0
"""How long to wait at least for a tile of a worker that was never measured."""


class SharedRun:
    """A run that is computed together with other workers.

    Args:
        run: Its id.
        grid: The grid for all workers that the plan counts on.
        extents: The size of its output.
        needs: The region of each input that an output region needs; called from several threads.
        most_workers: How many workers are worth having for it, where the plan has counted on more; None for as many
            as there are.
        clock: Monotonic seconds, the one of deadlines.
    """

    def __init__(
        self,
        run: str,
        grid: Grid,
        extents: Extents,
        needs: Callable[[Region], Mapping[str, Region]],
        *,
        most_workers: int | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._run = run
        self._grid = grid
        self._extents = extents
        self._needs = needs
        self._most_workers = most_workers
        self._clock = clock
        self._sizes: dict[str, str] = {}
        self.speeds: Final = TileSpeeds()

    def divide(self, workers: Sequence[TileWorker]) -> list[tuple[TileWorker, Region]]:
        """Who computes which region: the grid that was planned, or with more or fewer workers the squarest.

        Args:
            workers: Those that are there, the local one first, who always takes part.
        """
        if self._most_workers is not None and len(workers) > self._most_workers:
            others = self.speeds.fastest([worker.name for worker in workers[1:]], self._most_workers - 1)
            workers = [workers[0], *(worker for worker in workers[1:] if worker.name in others)]
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
        crowd: int = 1,
    ) -> None:
        """Computes the run.

        Args:
            inputs: The run's inputs, whole.
            result: Where the output is written to: [batch, channels, rows, columns].
            local: This worker.
            others: Those that are there now; with none the run is one tile, computed here.
            observer: Is told of tiles.
            deadline: On `clock`; None for none.
            crowd: How many requests are under way, this one included, which tiles may have to wait for.

        Raises:
            TierflowError: what this worker itself failed with.
        """
        divided = self.divide([local, *others])
        self._tell_sizes(divided, observer)
        request = _Request(inputs, result, local, self._clock(), deadline, crowd, observer)
        known = [self.speeds.patience(worker.name, tile.area, crowd=crowd) for worker, tile in divided]
        request.patience = max(_SHORTEST_PATIENCE_SECONDS, *(seconds or 0.0 for seconds in known))
        # The local tile comes last: its thread would hold up this one, which sends the others in a millisecond.
        in_order = sorted(divided, key=lambda item: item[0] is local)
        tasks = [asyncio.ensure_future(self._tile(request, worker, tile)) for worker, tile in in_order]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()

    async def _tile(self, request: "_Request", worker: TileWorker, tile: Region) -> None:
        """Has a tile computed by `worker`, and elsewhere when that fails or is late; writes it to the result."""
        attempts: dict[asyncio.Future[None], TileWorker] = {}
        try:
            for candidate in _candidates(request, worker):
                attempt = asyncio.ensure_future(self._attempt(request, candidate, tile, first=candidate is worker))
                attempt.add_done_callback(_note_result)
                attempts[attempt] = candidate
                if await _one_succeeded(attempts, attempt, self._patience(request, candidate)):
                    return
                if not attempt.done():
                    candidate.note_late()
                    request.observer.tile_hedged(self._run, candidate.name)
            attempt.result()  # the last candidate is this worker itself, and what it failed with counts
        finally:
            self._give_up(request, attempts, tile)

    async def _attempt(self, request: "_Request", worker: TileWorker, tile: Region, *, first: bool) -> None:
        """Has a worker compute a tile, and writes it to the result."""
        # All tiles of a request are timed from its beginning, since they are there when the last one is.
        began = request.began if first else self._clock()

        def cut() -> dict[str, Array]:
            return {name: cut_out(request.inputs[name], region) for name, region in self._needs(tile).items()}

        try:
            made = await worker.compute(self._run, tile, cut, request.deadline)
            place(request.result, tile, made)
        except Exception as error:
            if worker is not request.local:
                request.observer.tile_failed(self._run, worker.name, error)
            raise
        seconds = self._clock() - began
        if first:
            self.speeds.observe(worker.name, tile.area, seconds, crowd=request.crowd)
        request.observer.tile_done(self._run, worker.name, seconds)
        request.finished.append(worker)

    def _patience(self, request: "_Request", worker: TileWorker) -> float | None:
        """How long from now a tile may take before it is computed elsewhere as well; None for as long as it takes."""
        if worker is request.local:
            return None
        now = self._clock()
        seconds = request.patience
        if not self.speeds.knows(worker.name):
            seconds = max(seconds, _FIRST_PATIENCE_SECONDS)
        if request.deadline is not None:
            # Half of the time left is kept for computing elsewhere.
            seconds = min(seconds, (request.deadline - now) / 2)
        return max(0.0, seconds)

    def _give_up(
        self, request: "_Request", attempts: Mapping["asyncio.Future[None]", TileWorker], tile: Region
    ) -> None:
        """Cancels what is still under way, and remembers how slow it was if the tile was there without it."""
        is_there = any(_succeeded(attempt) for attempt in attempts if attempt.done())
        for attempt, worker in attempts.items():
            if attempt.done():
                continue
            attempt.cancel()
            if is_there and worker is not request.local:
                seconds = self._clock() - request.began
                self.speeds.observe_late(worker.name, tile.area, seconds, crowd=request.crowd)

    def _tell_sizes(self, divided: Sequence[tuple[TileWorker, Region]], observer: TileObserver) -> None:
        sizes = {worker.name: write_tile(tile) for worker, tile in divided}
        if sizes != self._sizes:
            self._sizes = sizes
            observer.tiles_resized(self._run, sizes)


@dataclass(slots=True)
class _Request:
    """What the tiles of one request have in common."""

    inputs: Mapping[str, Array]
    result: Array
    local: TileWorker
    began: float
    deadline: float | None
    crowd: int
    observer: TileObserver
    patience: float = 0.0
    finished: list[TileWorker] = field(default_factory=list)
    rescues: Counter[str] = field(default_factory=Counter)


def _candidates(request: _Request, worker: TileWorker) -> Iterator[TileWorker]:
    """Who is to compute a tile: its worker, then one that has done its own already, at last this worker itself."""
    yield worker
    if worker is request.local:
        return
    free = [other for other in request.finished if other is not worker]
    if free:
        rescuer = min(free, key=lambda other: request.rescues[other.name])
        request.rescues[rescuer.name] += 1
        if rescuer is not request.local:
            yield rescuer
    yield request.local


async def _one_succeeded(
    attempts: Collection["asyncio.Future[None]"], latest: "asyncio.Future[None]", patience: float | None
) -> bool:
    """Waits until an attempt has succeeded; False when the latest has failed, or is late."""
    loop = asyncio.get_running_loop()
    give_up = None if patience is None else loop.time() + patience
    waiting = {attempt for attempt in attempts if not attempt.done()}
    while True:
        left = None if give_up is None else max(0.0, give_up - loop.time())
        done, waiting = await asyncio.wait(waiting, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        if any(_succeeded(attempt) for attempt in done):
            return True
        if not done or latest in done:
            return False


def _succeeded(attempt: "asyncio.Future[None]") -> bool:
    return not attempt.cancelled() and attempt.exception() is None


def _note_result(attempt: "asyncio.Future[None]") -> None:
    """Looks at what an attempt ended with, since nobody else may: asyncio would complain about that."""
    if not attempt.cancelled():
        attempt.exception()


def _fitting(count: int, extents: Extents) -> Grid:
    """The squarest grid of at most `count` tiles that the map has room for."""
    for tiles in range(count, 0, -1):
        for grid in grids_for(tiles):
            if grid.rows <= extents.rows and grid.columns <= extents.columns:
                return grid
    return Grid(1, 1)
