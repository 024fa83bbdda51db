"""A segment of which some runs are computed together with tile workers: its stages, and the order of computing them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from onnx import TensorProto

from tierflow.descriptor import RunDescriptor, SegmentDescriptor
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
        _read_weights(kernels, runs)

    def find(self, run: str) -> TiledRun:
        """One of the segment's runs by its id."""
        return self._runs[run]

    def compute(self, run: str, tile: Region, inputs: Mapping[str, Array], cancellation: Cancellation | None) -> Array:
        """The run's output at `tile`; see `tierflow_worker.tiling.engine.TiledRun.compute`."""
        made = self.find(run).compute(tile, inputs, cancellation=cancellation)
        return made[self.descriptors[run].output.name]

    def compute_whole(self, run: str, source: Array, cancellation: Cancellation | None) -> Array:
        """The run's whole output from its whole input."""
        inputs = {self.descriptors[run].input.name: source}
        return self.compute(run, self.find(run).extents.region, inputs, cancellation)


def _read_weights(kernels: Kernels, runs: Sequence[RunDescriptor]) -> None:
    """Reads all that the runs need while there is time, and for good: their file may be gone later."""
    nodes = [node for run in runs for node in kernels.between([run.input.name], [run.output.name])]
    used = {name for node in nodes for name in node.input if name in kernels.constants}
    kernels.weights.shared(
        name for name in sorted(used) if kernels.constants[name].data_location == TensorProto.EXTERNAL
    )


class LocalTiles:
    """This worker itself among those that compute tiles; its tiles wait in the queue like all else that it computes."""

    name = LOCAL

    def __init__(self, held: HeldRuns, queue: ComputeQueue) -> None:
        self._held = held
        self._queue = queue

    async def compute(
        self, run: str, tile: Region, cut: Callable[[], Mapping[str, Array]], deadline: float | None
    ) -> Array:
        """Computes a tile here; see `tierflow_worker.tiling.requests.TileWorker`."""
        del deadline  # whoever awaits this cancels it in time
        cancellation = Cancellation()
        made, _ = await self._queue.run(
            lambda: self._held.compute(run, tile, cut(), cancellation), cancel=cancellation.cancel, admitted=True
        )
        return made

    def note_late(self) -> None:
        """Nobody else waits for this worker."""


@dataclass(frozen=True, slots=True)
class _Stage:
    """A stretch to compute, and the run that follows it; either can be missing.

    Attributes:
        stretch: From tensors that are known by then.
        run: The run's id.
        kept: The tensors that later stages, or whoever asked, still need.
    """

    stretch: Stretch | None
    run: str
    kept: frozenset[str] = frozenset()


class StagedSegment:
    """A segment as stretches and runs, which it computes alone, or together with other workers.

    Each weight is in memory once: those of a run belong to it, however it is computed, all others to one stretch.

    Args:
        segment: What the descriptor says of it.
        kernels: Its kernels, with the inputs and outputs of all runs as marks.
        computed: Names of all that it computes.
        threads: Threads within a kernel.

    Attributes:
        inputs: ONNX's type name of each tensor that it accepts.
        held: Its runs.

    Raises:
        UnsupportedError: where a run can't be tiled on this machine.
    """

    def __init__(
        self,
        segment: SegmentDescriptor,
        kernels: Kernels,
        computed: Sequence[str],
        *,
        threads: int,
    ) -> None:
        self.inputs: Final = {tensor.name: tensor.dtype for tensor in segment.accepts.tensors}
        self.held: Final = HeldRuns(kernels, segment.runs, threads=threads)
        most = max((run.rows * run.columns for run in segment.runs), default=0)
        self._shared = {run.id: _shared_run(run, self.held.find(run.id), most) for run in segment.runs}
        self._stages = _stages(segment, kernels, computed, threads)
        self._under_way = 0

    def is_shared(self, tiling: Tiling) -> bool:
        """Whether there are other workers for some of its runs now."""
        return any(tiling.available(run) for run in self._shared)

    def run(
        self,
        tensors: Mapping[str, Array],
        outputs: Sequence[str] | None = None,
        *,
        cancellation: Cancellation | None = None,
    ) -> dict[str, Array]:
        """Computes the segment alone, as `tierflow_worker.runtime.Session.run` does a model.

        Raises:
            TierflowError: as there.
        """
        del outputs  # a worker asks for all that the segment computes, which is what there is at the end
        known = dict(tensors)
        for stage in self._stages:
            if stage.stretch is not None:
                known |= stage.stretch.compute(known, cancellation=cancellation)
            if stage.run:
                run = self.held.descriptors[stage.run]
                known[run.output.name] = self.held.compute_whole(run.id, known[run.input.name], cancellation)
            known = {name: array for name, array in known.items() if name in stage.kept}
        return known

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
            OverloadedError: where the queue is full.
            TierflowError: what this worker itself failed with; never what another one did.
        """
        queue.check_room()
        local = LocalTiles(self.held, queue)
        known = dict(tensors)
        self._under_way += 1
        try:
            for stage in self._stages:
                if stage.stretch is not None:
                    known |= await _in_turn(queue, stage.stretch, known)
                if stage.run:
                    run = self.held.descriptors[stage.run]
                    result = np.empty(run.output.shape, numpy_dtype(run.output.dtype))
                    await self._shared[run.id].compute(
                        {run.input.name: known[run.input.name]},
                        result,
                        local,
                        tiling.available(run.id),
                        observer=tiling.observer,
                        deadline=deadline,
                        crowd=self._under_way,
                    )
                    known[run.output.name] = result
                known = {name: array for name, array in known.items() if name in stage.kept}
        finally:
            self._under_way -= 1
        return known


def _shared_run(run: RunDescriptor, tiled: TiledRun, most: int) -> SharedRun:
    """A run to share; `most` is the number of workers that the plan counts on, as far as its runs tell."""
    grid = Grid(run.rows, run.columns)
    # A plan that gives a run fewer workers than others found that more of them would cost more than they gain.
    limit = grid.tiles if grid.tiles < most else None
    return SharedRun(run.id, grid, tiled.extents, tiled.needs, most_workers=limit)


async def _in_turn(queue: ComputeQueue, stretch: Stretch, known: Mapping[str, Array]) -> dict[str, Array]:
    cancellation = Cancellation()
    made, _ = await queue.run(
        lambda: stretch.compute(known, cancellation=cancellation), cancel=cancellation.cancel, admitted=True
    )
    return made


def _stages(segment: SegmentDescriptor, kernels: Kernels, computed: Sequence[str], threads: int) -> list[_Stage]:
    """Alternating stretches and runs; what a stretch needs of before a run is computed from what is known by then."""
    known = list(_accepted(segment))
    stages: list[_Stage] = []
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
    inputs = {run.id: run.input.name for run in segment.runs}
    needed = frozenset(computed)
    for place in reversed(range(len(stages))):
        stage = stages[place]
        stages[place] = replace(stage, kept=needed)
        needed |= {inputs[stage.run]} if stage.run else set()
        needed |= set(stage.stretch.session.inputs) if stage.stretch is not None else set()
    return stages


def _accepted(segment: SegmentDescriptor) -> list[str]:
    return [tensor.name for tensor in segment.accepts.tensors]


def marks_of(segment: SegmentDescriptor) -> list[str]:
    """The tensors at which a segment is taken apart, in a stable order."""
    return list(dict.fromkeys(name for run in segment.runs for name in (run.input.name, run.output.name)))
