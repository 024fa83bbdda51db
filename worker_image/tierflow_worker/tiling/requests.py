"""Requests to tile workers: what one does with a request that an edge worker sent.

Imports nothing of the runtime, which a worker's start waits for elsewhere.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import msgspec

from tierflow.descriptor import RunDescriptor
from tierflow.errors import InvalidRequestError, UnknownBoundaryError
from tierflow.protocol.messages import (
    HELD_PARAMETER,
    HOLD_PARAMETER,
    RUN_PARAMETER,
    TILE_PARAMETER,
    InferRequest,
    InferResponse,
    InferTensor,
)
from tierflow.tiling.region import Interval, Region
from tierflow_worker.queue import ComputeQueue
from tierflow_worker.tiling.holdings import Holdings, read_wanted

if TYPE_CHECKING:
    from tierflow_worker.runtime import Array


class TileWorker(Protocol):
    """Who computes tiles of a run: this worker itself, or another one."""

    @property
    def name(self) -> str:
        """Its name: `local`, or its address."""

    async def compute(
        self, run: str, tile: Region, cut: "Callable[[], Mapping[str, Array]]", deadline: float | None
    ) -> "Array":
        """The run's output at `tile`.

        Args:
            run: The run's id.
            tile: A region of its output.
            cut: Cuts what the tile needs out of the run's inputs; called once, in whichever thread suits.
            deadline: On the data plane's clock; None for none.

        Raises:
            TierflowError: where it can't, whatever the reason.
        """

    def note_late(self) -> None:
        """Is told that a tile did not come in time."""


class TileObserver(Protocol):
    """Who wants to know what became of tiles."""

    def tile_done(self, run: str, worker: str, seconds: float) -> None:
        """A worker has computed a tile."""

    def tile_failed(self, run: str, worker: str, error: BaseException) -> None:
        """A worker could not compute a tile."""

    def tile_hedged(self, run: str, worker: str) -> None:
        """A worker was late, and its tile is computed elsewhere as well."""

    def tiles_resized(self, run: str, tiles: Mapping[str, str]) -> None:
        """The run's tiles have other sizes than before; by worker, the region as `write_tile` has it."""


class Tiling(Protocol):
    """What a data plane needs to share runs with other workers."""

    @property
    def observer(self) -> TileObserver:
        """Is told of tiles."""

    def available(self, run: str) -> Sequence[TileWorker]:
        """The tile workers that are there for a run, by its id."""

    async def prepared(self) -> None:
        """Waits, but not for ever, until the tile workers that answer hold the runs, or have said that they won't."""


def write_tile(tile: Region) -> str:
    """A region as requests for tiles have it: `r0:r1,c0:c1`."""
    return f"{tile.rows.start}:{tile.rows.stop},{tile.columns.start}:{tile.columns.stop}"


def read_tile(text: object) -> Region:
    """The region that `write_tile` wrote.

    Raises:
        InvalidRequestError: where the text is none.
    """
    try:
        rows, columns = (Interval(*map(int, part.split(":"))) for part in str(text).split(","))
    except (ValueError, TypeError) as error:
        raise InvalidRequestError(
            f"the parameter {TILE_PARAMETER} is {str(text)[:40]!r}; write the tile as r0:r1,c0:c1",
            subject=TILE_PARAMETER,
        ) from error
    return Region(rows, columns)


def hold_runs(request: InferRequest, holdings: Holdings | None) -> InferResponse:
    """Has a tile worker hold the runs that a request names.

    Args:
        request: With the parameter `tierflow_hold`.
        holdings: What is held here; None where this is no tile worker.

    Raises:
        UnknownBoundaryError: where this is no tile worker.
        InvalidRequestError: where the request names nothing that could be held.
    """
    if holdings is None:
        raise UnknownBoundaryError("this worker holds no runs for others, being no tile worker", subject=HOLD_PARAMETER)
    answer = msgspec.json.encode(holdings.ask(read_wanted(request.parameters[HOLD_PARAMETER]))).decode()
    return InferResponse(request.model, (), request.id, {HELD_PARAMETER: answer})


async def compute_tile(request: InferRequest, holdings: Holdings | None, queue: ComputeQueue) -> InferTensor:
    """Computes the tile that a request asks for.

    Args:
        request: With the parameter `tierflow_run`.
        holdings: What is held here; None where this is no tile worker.
        queue: Where the computation waits for its turn.

    Raises:
        UnknownBoundaryError: where the run isn't held here.
        InvalidRequestError: where the tile isn't inside of the run's output, or the tensor not what it needs.
        OverloadedError: where the queue is full.
    """
    wanted = str(request.parameters[RUN_PARAMETER])
    if holdings is None:
        raise UnknownBoundaryError("this worker computes no tiles for others, being no tile worker", subject=wanted)
    held = holdings.find(wanted)
    run = held.descriptors[wanted]
    tile = read_tile(request.parameters.get(TILE_PARAMETER))
    tensor = _only_tensor(request, run)
    from tierflow_worker.runtime import Cancellation, numpy_dtype
    from tierflow_worker.tensors import from_array, to_array

    array = to_array(tensor, numpy_dtype(tensor.dtype))
    cancellation = Cancellation()
    made, _ = await queue.run(
        lambda: held.compute(wanted, tile, {tensor.name: array}, cancellation), cancel=cancellation.cancel
    )
    return from_array(run.output.name, run.output.dtype, made)


def _only_tensor(request: InferRequest, run: RunDescriptor) -> InferTensor:
    """The one tensor that a tile is computed from, its type and its unsliced dimensions checked."""
    if len(request.tensors) != 1 or request.tensors[0].name != run.input.name:
        given = ", ".join(tensor.name for tensor in request.tensors) or "none"
        raise InvalidRequestError(f"a tile of run {run.id} takes {run.input.name}, not {given}", subject=run.input.name)
    (tensor,) = request.tensors
    shape = tensor.shape
    size = 1
    for extent in shape:
        size *= extent
    matches = len(shape) == len(run.input.shape) and shape[:-2] == run.input.shape[:-2] and min(shape) > 0
    if tensor.dtype != run.input.dtype or not matches:
        raise InvalidRequestError(
            f"{tensor.name} must be {run.input.dtype} {list(run.input.shape[:-2])} x rows x columns, "
            f"not {tensor.dtype} {list(shape)}",
            subject=tensor.name,
        )
    expected = run.input.size * size // max(1, run.input.elements)
    if len(tensor.data) != expected:
        raise InvalidRequestError(
            f"{tensor.name} must have {expected} bytes, not {len(tensor.data)}", subject=tensor.name
        )
    return tensor
