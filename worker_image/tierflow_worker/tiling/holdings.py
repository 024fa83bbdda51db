"""What a tile worker holds: the runs of the segments that edge workers have asked it for lately.

Nothing tells a tile worker of a plan. Edge workers do, again and again, each naming the segment that it shares; so a
plan with other runs needs no other tile workers.
"""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec

from tierflow.descriptor import SegmentDescriptor, WorkerDescriptor
from tierflow.errors import IntegrityError, InvalidRequestError, UnknownBoundaryError
from tierflow.protocol.messages import HELD_PARAMETER, HOLD_PARAMETER, InferResponse
from tierflow_worker.loads import note_loaded, note_unloaded
from tierflow_worker.logs import Log
from tierflow_worker.metrics import Metrics
from tierflow_worker.segments import LoadedSegment

if TYPE_CHECKING:
    from tierflow_worker.tiling.staged import HeldRuns

_MOST_SEGMENTS: Final = 2
"""Those of the edge's worker in force, and of the one that is to follow it."""

_STILL_WANTED_SECONDS: Final = 3.0
"""A segment that was asked for within that time is not dropped for another one: edge workers ask every second."""

_FIRST_PAUSE_SECONDS: Final = 1.0
_LONGEST_PAUSE_SECONDS: Final = 30.0
"""How long a segment that could not be loaded is left alone: from the first to the longest pause."""


class RunsWanted(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an edge worker asks a tile worker to hold.

    Attributes:
        model: Identity of the model that the segment is cut from.
        segment: The segment; its runs are wanted, their grids don't matter.
    """

    model: str
    segment: SegmentDescriptor


class RunsHeld(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a tile worker answers.

    Attributes:
        runs: Ids of all runs of which it computes tiles now, whoever asked for them.
        refused: Why it won't hold what was asked for, for now; "" where it holds it or is about to.
    """

    runs: tuple[str, ...] = ()
    refused: str = ""


def read_wanted(parameter: object) -> RunsWanted:
    """What the parameter `tierflow_hold` of a request says.

    Raises:
        InvalidRequestError: where that is nothing that could be held.
    """
    try:
        wanted = msgspec.json.decode(parameter if isinstance(parameter, str) else "", type=RunsWanted)
    except msgspec.DecodeError as error:
        raise InvalidRequestError(
            f"the parameter {HOLD_PARAMETER} names no segment: {error}", subject=HOLD_PARAMETER
        ) from error
    if not wanted.segment.runs:
        raise InvalidRequestError(
            f"the segment {wanted.segment.id} in the parameter {HOLD_PARAMETER} has no runs", subject=HOLD_PARAMETER
        )
    return wanted


def write_wanted(descriptor: WorkerDescriptor) -> str:
    """What the worker with this descriptor asks tile workers to hold: its current segment."""
    wanted = RunsWanted(descriptor.model.identity, descriptor.segments[0])
    return msgspec.json.encode(wanted).decode()


def read_held(answer: InferResponse) -> RunsHeld:
    """What a tile worker answered.

    Raises:
        IntegrityError: where it answered something else.
    """
    held = answer.parameters.get(HELD_PARAMETER)
    try:
        return msgspec.json.decode(held if isinstance(held, str) else "", type=RunsHeld)
    except msgspec.DecodeError as error:
        raise IntegrityError(f"the answer does not say what is held: {error}", subject=HELD_PARAMETER) from error


@dataclass(slots=True)
class _Holding:
    """A segment, and how far it is.

    Attributes:
        asked_at: When somebody last wanted it, or a tile of it.
        noted: Whether what became of the loading was noted.
        pause: How long it is left alone after it could not be loaded.
        again_at: Until when.
    """

    segment: SegmentDescriptor
    loading: "Future[LoadedSegment]"
    asked_at: float
    noted: bool = False
    pause: float = _FIRST_PAUSE_SECONDS
    again_at: float = 0.0

    def held(self) -> "HeldRuns | None":
        """Its runs, once they are loaded."""
        return self.loading.result().held if self.loading.done() and self.loading.exception() is None else None


class Holdings:
    """The segments whose runs a tile worker holds.

    Args:
        model: Identity of the model that all of them are cut from.
        load: Loads one; called in a thread, one at a time.
        idle_seconds: One that nobody has asked for so long is unloaded.
        metrics: Where loading times go.
        log: Bound to the worker.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        model: str,
        load: Callable[[SegmentDescriptor], LoadedSegment],
        *,
        idle_seconds: float,
        metrics: Metrics,
        log: Log,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._model = model
        self._load = load
        self._idle_seconds = idle_seconds
        self._metrics = metrics
        self._log = log
        self._clock = clock
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="load")
        self._holdings: dict[tuple[str, ...], _Holding] = {}

    def ask(self, wanted: RunsWanted) -> RunsHeld:
        """Holds a segment from now on, or says why not; returns at once, whether it is loaded or not."""
        if wanted.model != self._model:
            return self._answer(f"this worker computes tiles of the model {self._model}, not of {wanted.model}")
        now = self._clock()
        name = tuple(run.id for run in wanted.segment.runs)
        if name not in self._holdings:
            if not self._has_room(now):
                return self._answer(f"{_MOST_SEGMENTS} other segments are asked for, and no more are held at once")
            self._holdings[name] = _Holding(wanted.segment, self._executor.submit(self._load, wanted.segment), now)
        holding = self._holdings[name]
        holding.asked_at = now
        self._note(holding)
        error = holding.loading.exception() if holding.loading.done() else None
        if error is None:
            return self._answer()
        if now >= holding.again_at:
            holding.noted = False
            holding.loading = self._executor.submit(self._load, holding.segment)
        return self._answer(f"segment {wanted.segment.id} can't be loaded: {error}")

    def find(self, run: str) -> "HeldRuns":
        """The runs among which the one with an id is.

        Raises:
            UnknownBoundaryError: naming the run, and those that are held.
        """
        for holding in self._holdings.values():
            held = holding.held()
            if held is not None and run in held.descriptors:
                holding.asked_at = self._clock()
                return held
        names = ", ".join(self._runs()) or "none"
        raise UnknownBoundaryError(
            f"run {run} is not held here: the sender has another plan; held: {names}", subject=run
        )

    def unload_idle(self) -> tuple[str, ...]:
        """Unloads what nobody has asked for lately; returns the ids of those segments."""
        now = self._clock()
        return tuple(
            self._forget(name)
            for name, holding in list(self._holdings.items())
            if now - holding.asked_at >= self._idle_seconds
        )

    def close(self) -> None:
        """Ends the loading thread once it is done with what it loads."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _answer(self, refused: str = "") -> RunsHeld:
        return RunsHeld(self._runs(), refused)

    def _runs(self) -> tuple[str, ...]:
        held = (holding.held() for holding in self._holdings.values())
        return tuple(run for runs in held if runs is not None for run in runs.descriptors)

    def _has_room(self, now: float) -> bool:
        """Whether one more can be held, if need be in place of the one that nobody has asked for longest."""
        if len(self._holdings) < _MOST_SEGMENTS:
            return True
        name, oldest = min(self._holdings.items(), key=lambda item: item[1].asked_at)
        if now - oldest.asked_at < _STILL_WANTED_SECONDS:
            return False
        self._forget(name)
        return True

    def _forget(self, name: tuple[str, ...]) -> str:
        holding = self._holdings.pop(name)
        holding.loading.cancel()
        note_unloaded(holding.segment, self._metrics, self._log)
        return holding.segment.id

    def _note(self, holding: _Holding) -> None:
        """Records what became of loading a segment, once."""
        if holding.noted or not holding.loading.done():
            return
        holding.noted = True
        segment, error = holding.segment, holding.loading.exception()
        if error is None:
            note_loaded(segment, holding.loading.result().load_seconds, self._metrics, self._log)
            return
        holding.again_at = self._clock() + holding.pause
        holding.pause = min(2 * holding.pause, _LONGEST_PAUSE_SECONDS)
        self._log.warning("segment can't be loaded", segment=segment.id, error=str(error))
