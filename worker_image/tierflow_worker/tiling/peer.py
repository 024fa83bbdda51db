"""Another worker that computes tiles: whether it answers, what it holds, and how to send it a tile."""

import asyncio
import math
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from tierflow.descriptor import Downstream
from tierflow.errors import DeadlineExceededError, IntegrityError, OverloadedError, TierflowError, UnreachableError
from tierflow.graph import Tensor
from tierflow.protocol import wire
from tierflow.protocol.codec import decode_response, request_parts
from tierflow.protocol.messages import HOLD_PARAMETER, RUN_PARAMETER, TILE_PARAMETER, InferRequest, InferResponse
from tierflow.tiers import Tier
from tierflow.tiling.region import Region
from tierflow_worker.chain import DownstreamClient
from tierflow_worker.rpc.client import Channel
from tierflow_worker.rpc.status import RpcError
from tierflow_worker.runtime import Array, numpy_dtype
from tierflow_worker.tensors import from_array, to_array
from tierflow_worker.tiling.holdings import read_held
from tierflow_worker.tiling.requests import write_tile

_ANSWER_SECONDS: Final = 1.0
"""How long a worker may take to say what it holds."""

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
