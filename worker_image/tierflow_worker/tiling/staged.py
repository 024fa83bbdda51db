"""A segment of which some runs are computed together with tile workers: its stages, and the order of computing them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from tierflow.descriptor import RunDescriptor, SegmentDescriptor
from tierflow.errors import UnknownBoundaryError
from tierflow.tiling.layout import Grid
from tierflow.tiling.region import Region
from tierflow_worker.queue import ComputeQueue
from tierflow_worker.runtime import Array, Cancellation, numpy_dtype
from tierflow_worker.tiling.engine import RunShape, Stretch, TiledRun
from tierflow_worker.tiling.kernels import Kernels
from tierflow_worker.tiling.requests import Tiling
from tierflow_worker.tiling.sharing import LOCAL, SharedRun


class HeldRuns:
    """The runs of a segment, of which any tile can be computed here.

    Args:
        kernels: The segment's kernels, with the inputs and outputs of all runs as marks.
        runs: What the descriptor says of them.
        threads: Threads within a kernel.

    Raises:
        UnsupportedError: where a run can't be tiled on this machine.
    """

    def __init__(self, kernels: Kernels, runs: Sequence[RunDescriptor], *, threads: int) -> None:
        self._runs = {
            run.id: TiledRun(kernels, RunShape({run.input.name: run.input.shape}, (run.output.name,)), threads=threads)
            for run in runs
        }
        self.descriptors: Final = {run.id: run for run in runs}

    def find(self, run: str) -> TiledRun:
        """A run by its id.

        Raises:
            UnknownBoundaryError: naming the run, and those that are held.
        """
        if run not in self._runs:
            held = ", ".join(self._runs) or "none"
            raise UnknownBoundaryError(
                f"run {run} is not held here: the sender has another plan; held: {held}", subject=run
            )
        return self._runs[run]

    def compute(self, run: str, tile: Region, inputs: Mapping[str, Array], cancellation: Cancellation | None) -> Array:
        """The run's output at `tile`; see `tierflow_worker.tiling.engine.TiledRun.compute`."""
        made = self.find(run).compute(tile, inputs, cancellation=cancellation)
        return made[self.descriptors[run].output.name]


class LocalTiles:
    """This worker itself among those that compute tiles; its tiles wait in the queue like all else that it computes."""

    name = LOCAL

    def __init__(self, held: HeldRuns, queue: ComputeQueue) -> None:
        self._held = held
        self._queue = queue

    async def compute(self, run: str, tile: Region, inputs: Mapping[str, Array], deadline: float | None) -> Array:
        """Computes a tile here; see `tierflow_worker.tiling.requests.TileWorker`."""
        del deadline  # whoever awaits this cancels it in time
        cancellation = Cancellation()
        made, _ = await self._queue.run(
            lambda: self._held.compute(run, tile, inputs, cancellation), cancel=cancellation.cancel
        )
        return made


@dataclass(frozen=True, slots=True)
class _Stage:
    """A stretch to compute, and the run that follows it; either can be missing."""

    stretch: Stretch | None
    run: str


class StagedSegment:
    """A segment as stretches and shared runs.

    Args:
        segment: What the descriptor says of it.
        kernels: Its kernels, with the inputs and outputs of all runs as marks.
        computed: Names of all that it computes.
        threads: Threads within a kernel.
    """

    def __init__(
        self,
        segment: SegmentDescriptor,
        kernels: Kernels,
        computed: Sequence[str],
        *,
        threads: int,
    ) -> None:
        self.held: Final = HeldRuns(kernels, segment.runs, threads=threads)
        self.whole: Final = Stretch(kernels, _names(segment), computed, threads=threads)
        self._shared = {
            run.id: SharedRun(
                run.id, Grid(run.rows, run.columns), self.held.find(run.id).extents, self.held.find(run.id).needs
            )
            for run in segment.runs
        }  # fmt: skip
        self._computed = tuple(computed)
        self._stages = _stages(segment, kernels, computed, threads)

    async def compute(
        self,
        tensors: Mapping[str, Array],
        queue: ComputeQueue,
        tiling: Tiling,
        deadline: float | None,
    ) -> dict[str, Array]:
        """Computes the segment together with other workers.

        Args:
            tensors: What it accepts.
            queue: Where this worker's own computations wait for their turn.
            tiling: The tile workers that are there, asked for each run anew.
            deadline: On the data plane's clock; None for none.

        Returns:
            All that it computes, by name.

        Raises:
            TierflowError: what this worker itself failed with; never what another one did.
        """
        known = dict(tensors)
        local = LocalTiles(self.held, queue)
        for stage in self._stages:
            if stage.stretch is not None:
                known |= await _in_turn(queue, stage.stretch, known)
            if stage.run:
                run = self.held.descriptors[stage.run]
                result = np.empty(run.output.shape, numpy_dtype(run.output.dtype))
                inputs = {run.input.name: known[run.input.name]}
                await self._shared[run.id].compute(
                    inputs, result, local, tiling.available(), observer=tiling.observer, deadline=deadline
                )
                known[run.output.name] = result
        return {name: known[name] for name in self._computed}


async def _in_turn(queue: ComputeQueue, stretch: Stretch, known: Mapping[str, Array]) -> dict[str, Array]:
    cancellation = Cancellation()
    made, _ = await queue.run(lambda: stretch.compute(known, cancellation=cancellation), cancel=cancellation.cancel)
    return made


def _stages(segment: SegmentDescriptor, kernels: Kernels, computed: Sequence[str], threads: int) -> list[_Stage]:
    """Alternating stretches and runs; what a stretch needs of before a run is computed from what is known by then."""
    known = _names(segment)
    stages = []
    for run in segment.runs:
        ahead = None
        if run.input.name not in known:
            ahead = Stretch(kernels, known, [run.input.name], threads=threads)
            known.append(run.input.name)
        stages.append(_Stage(ahead, run.id))
        known.append(run.output.name)
    left = [name for name in computed if name not in known]
    if left:
        stages.append(_Stage(Stretch(kernels, known, left, threads=threads), ""))
    return stages


def _names(segment: SegmentDescriptor) -> list[str]:
    return [tensor.name for tensor in segment.accepts.tensors]


def marks_of(segment: SegmentDescriptor) -> list[str]:
    """The tensors at which a segment is taken apart, in a stable order."""
    return list(dict.fromkeys(name for run in segment.runs for name in (run.input.name, run.output.name)))
