"""The segments of a worker: the current one and those before it, loaded when needed, unloaded when idle."""

import asyncio
import shutil
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import msgspec

from tierflow.descriptor import SegmentDescriptor, WorkerDescriptor
from tierflow.errors import InvalidModelError, UnknownBoundaryError, UnsupportedError
from tierflow.protocol.messages import InferTensor
from tierflow_worker.extraction import Cutting, computed_tensors, kernels_file, segment_file
from tierflow_worker.layer_times import LayerRecorder
from tierflow_worker.logs import Log

if TYPE_CHECKING:
    from tierflow_worker.queue import ComputeQueue
    from tierflow_worker.tiling.requests import Tiling
    from tierflow_worker.tiling.staged import HeldRuns, StagedSegment


class LoadedSegment:
    """A segment that is ready to compute.

    Args:
        segment: What it is.
        session: Its `tierflow_worker.runtime.Session`, or the staged segment in its place; None for a segment that
            computes nothing.
        load_seconds: How long it took to cut out and load.
        recorder: What the session was created with to record its layers; None for a session that records nothing.
        staged: The segment in stages, where some of its runs are computed together with tile workers.
        held: Those of its runs of which tiles can be computed here.
    """

    def __init__(
        self,
        segment: SegmentDescriptor,
        session: Any,
        *,
        load_seconds: float = 0.0,
        recorder: LayerRecorder | None = None,
        staged: "StagedSegment | None" = None,
        held: "HeldRuns | None" = None,
    ) -> None:
        self.load_seconds: Final = load_seconds
        self.staged: Final = staged
        self.held: Final = held
        self._recorder = recorder
        self._session = session
        self._computed = computed_tensors(segment)
        self._cancellations: list[Any] = []
        if session is not None:
            from tierflow_worker.runtime import numpy_dtype

            self._numpy_types = {name: numpy_dtype(dtype) for name, dtype in session.inputs.items()}

    @property
    def computes(self) -> bool:
        """Whether there is anything to compute."""
        return self._session is not None

    def is_shared(self, tiling: "Tiling | None") -> bool:
        """Whether `run_shared` has other workers to compute with now."""
        return tiling is not None and self.staged is not None and self.staged.is_shared(tiling)

    async def run_shared(
        self,
        tensors: Mapping[str, InferTensor],
        queue: "ComputeQueue",
        tiling: "Tiling",
        deadline: float | None,
    ) -> dict[str, InferTensor]:
        """As `run`, together with tile workers; only for a segment that is `staged`.

        Args:
            tensors: The checked tensors that it accepts, by name.
            queue: Where this worker's own computations wait.
            tiling: The tile workers that are there.
            deadline: On the data plane's clock; None for none.

        Raises:
            OverloadedError: where the queue is full.
            TierflowError: as `run`.
        """
        from tierflow_worker.tensors import from_array, to_array

        staged = cast("StagedSegment", self.staged)
        feeds = {name: to_array(tensors[name], dtype) for name, dtype in self._numpy_types.items()}
        arrays = await staged.compute(feeds, queue, tiling, deadline)
        return {tensor.name: from_array(tensor.name, tensor.dtype, arrays[tensor.name]) for tensor in self._computed}

    def cancellation(self) -> Any:
        """What ends a run of this segment: a `tierflow_worker.runtime.Cancellation`."""
        if not self._cancellations:
            self.prepare()
        return self._cancellations.pop()

    def prepare(self) -> None:
        """Makes what the next run needs, so that it need not be made when a request waits for it."""
        from tierflow_worker.runtime import Cancellation

        if not self._cancellations:
            self._cancellations.append(Cancellation())

    def run(self, tensors: Mapping[str, InferTensor], cancellation: Any) -> dict[str, InferTensor]:
        """Computes what the segment sends and returns beside the tensors that it was given.

        Args:
            tensors: The checked tensors that it accepts, by name.
            cancellation: Made by `cancellation`.

        Raises:
            InvalidRequestError: naming the layer that can't compute with these values.
            DeadlineExceededError: where the run was ended.
        """
        from tierflow_worker.tensors import from_array, to_array

        feeds = {name: to_array(tensors[name], dtype) for name, dtype in self._numpy_types.items()}
        arrays = self._session.run(feeds, [tensor.name for tensor in self._computed], cancellation=cancellation)
        if self._recorder is not None:
            self._recorder.ran(self._session)
        return {tensor.name: from_array(tensor.name, tensor.dtype, arrays[tensor.name]) for tensor in self._computed}

    def take_layer_seconds(self) -> Mapping[str, float]:
        """Seconds by layer, once they are known and only once; else nothing."""
        return {} if self._recorder is None else self._recorder.take()


class SegmentLoader:
    """Loads segments, from the cache where they were cut out before.

    Args:
        descriptor: The worker's descriptor.
        cache_dir: Where models and segments are kept.
        threads: Threads within a layer.
        log: Bound to the worker; None for none.
    """

    def __init__(
        self,
        descriptor: WorkerDescriptor,
        cache_dir: Path,
        *,
        threads: int,
        log: Log | None = None,
    ) -> None:
        self._log = log
        self._descriptor = descriptor
        self._cache_dir = cache_dir
        self._threads = threads
        self._cutting: Cutting | None = None

    def load(self, segment: SegmentDescriptor) -> LoadedSegment:
        """Loads a segment of the descriptor's model. Blocks; may be called from any one thread at a time.

        Raises:
            TierflowError: where the model can't be had, not be cut there, or not be loaded.
        """
        began = time.perf_counter()
        if not computed_tensors(segment):
            return LoadedSegment(segment, None)
        file = segment_file(self._descriptor, segment, self._cache_dir)
        kernels = kernels_file(self._descriptor, segment, self._cache_dir) if segment.runs else file
        was_cached = file.exists() and kernels.exists()
        if not was_cached:
            self._cutting = Cutting(msgspec.structs.replace(self._descriptor, segments=(segment,)), self._cache_dir)
        from tierflow_worker.runtime import create_session  # takes its time, in which the other process cuts

        if self._cutting:
            self._cutting.wait()
            self._cutting = None
        try:
            if segment.runs and (tiled := self._load_tiled(segment, kernels, began)) is not None:
                return tiled
            recorder = LayerRecorder()
            session = create_session(file, threads=self._threads, profile=recorder.prefix)
        except InvalidModelError:
            if not was_cached:
                raise
            # A damaged file in the cache must not stop this worker for good: cut it out again.
            shutil.rmtree(file.parent)
            return self.load(segment)
        return LoadedSegment(segment, session, load_seconds=time.perf_counter() - began, recorder=recorder)

    def _load_tiled(self, segment: SegmentDescriptor, kernels: Path, began: float) -> LoadedSegment | None:
        """The segment with its tiled runs; None where this machine can't tile them, and computes them as a whole.

        Raises:
            UnsupportedError: where this worker computes nothing but tiles.
        """
        from tierflow_worker.tiling.kernels import read_kernels
        from tierflow_worker.tiling.staged import HeldRuns, StagedSegment

        if self._descriptor.role == "tiles":
            held = HeldRuns(read_kernels(kernels), segment.runs, threads=self._threads)
            return LoadedSegment(segment, None, held=held, load_seconds=time.perf_counter() - began)
        computed = [tensor.name for tensor in computed_tensors(segment)]
        try:
            staged = StagedSegment(segment, read_kernels(kernels), computed, threads=self._threads)
        except UnsupportedError as error:
            if self._log is not None:
                self._log.warning("runs are computed as a whole", segment=segment.id, reason=error.message)
            return None
        return LoadedSegment(segment, staged, load_seconds=time.perf_counter() - began, staged=staged, held=staged.held)

    def stop(self) -> None:
        """Ends a cutting process that still runs."""
        if self._cutting:
            self._cutting.stop()


class SegmentStore:
    """The worker's segments by the boundary that they accept.

    Args:
        segments: The current one first.
        load: Loads the one at a place; called in a thread, one at a time.
        idle_seconds: After so long without a request a segment other than the current one is unloaded.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        segments: tuple[SegmentDescriptor, ...],
        load: Callable[[int], LoadedSegment],
        *,
        idle_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._segments = segments
        self._load = load
        self._idle_seconds = idle_seconds
        self._clock = clock
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="load")
        self._loaded: dict[int, Future[LoadedSegment]] = {}
        self._ready: dict[int, LoadedSegment] = {}  # what was loaded, as far as somebody has asked for it
        self._last_use: dict[int, float] = {}

    def begin(self, place: int) -> "Future[LoadedSegment]":
        """Starts to load a segment unless that was done; may be called before there is an event loop."""
        self._last_use[place] = self._clock()
        if place not in self._loaded or _failed(self._loaded[place]):
            self._loaded[place] = self._executor.submit(self._load, place)
        return self._loaded[place]

    async def get(self, place: int) -> LoadedSegment:
        """The segment at a place, loaded if it wasn't.

        Raises:
            TierflowError: where it can't be loaded; the next call tries again.
        """
        ready = self._ready.get(place)
        if ready is not None:
            self._last_use[place] = self._clock()
            return ready
        loaded = await asyncio.shield(asyncio.wrap_future(self.begin(place)))
        self._ready[place] = loaded
        return loaded

    def find(self, boundary: str) -> int:
        """The place of the newest segment that accepts a boundary.

        Raises:
            UnknownBoundaryError: naming the boundary, and those that are accepted.
        """
        for place, segment in enumerate(self._segments):
            if segment.accepts.id == boundary:
                return place
        accepted = ", ".join(segment.accepts.id for segment in self._segments) or "none, being a standby"
        raise UnknownBoundaryError(
            f"boundary {boundary} is not accepted here: the sender has another plan; accepted: {accepted}",
            subject=boundary,
        )

    def unload_idle(self) -> tuple[int, ...]:
        """Unloads the segments that have been idle for long, never the current one; returns their places."""
        now = self._clock()
        idle = tuple(
            place
            for place, future in self._loaded.items()
            if place != 0 and future.done() and now - self._last_use[place] >= self._idle_seconds
        )
        for place in idle:
            del self._loaded[place]
            self._ready.pop(place, None)
        return idle

    def close(self) -> None:
        """Ends the loading thread once it is done with what it loads."""
        self._executor.shutdown(wait=False, cancel_futures=True)


def _failed(future: "Future[LoadedSegment]") -> bool:
    return future.done() and future.exception() is not None
