"""The bounded queue in front of a worker's computation: one run at a time, in order of arrival."""

import asyncio
import functools
from collections import deque
from collections.abc import Callable
from typing import Final, TypeVar

from tierflow.errors import OverloadedError
from tierflow_worker.jobs import ComputeThread, Job
from tierflow_worker.rpc.coming import Coming

Result = TypeVar("Result")

_SHORTEST_RETRY_SECONDS: Final = 0.01
_SMOOTHING: Final = 0.2  # weight of the newest run in the mean that a retry hint is made from


class _Turn:
    """Whose turn it is: taken at once where it is free, else handed on in the order in which it was asked for.

    Args:
        observe_length: Is told how many wait, whenever that changes.
    """

    def __init__(self, observe_length: Callable[[int], None]) -> None:
        self._taken = False
        self._waiting: deque[Callable[[], None]] = deque()
        self._observe_length = observe_length

    @property
    def taken(self) -> bool:
        """Whether it is somebody's."""
        return self._taken

    @property
    def waiting(self) -> int:
        """How many wait for it."""
        return len(self._waiting)

    def ask(self, begin: Callable[[], None]) -> None:
        """Has `begin` called when the turn has come; whoever asks releases it afterwards."""
        if self._taken:
            self._waiting.append(begin)
            self._observe_length(len(self._waiting))
        else:
            self._taken = True
            begin()

    def release(self) -> None:
        """Hands the turn to whoever has waited longest."""
        if self._waiting:
            begin = self._waiting.popleft()
            self._observe_length(len(self._waiting))
            begin()
        else:
            self._taken = False

    def forget(self, begin: Callable[[], None]) -> None:
        """Does not wait any more."""
        if begin in self._waiting:
            self._waiting.remove(begin)
            self._observe_length(len(self._waiting))


class ComputeQueue:
    """Runs computations one after the other in a thread of their own.

    Args:
        limit: How many may wait beside the one that runs.
        speed: Emulated speed of the tier, at most 1: the next computation, and the result, wait until t / speed seconds
            are over, t being the processor time of the computing thread. For local mode, where all tiers share a
            machine: how long a computation took there depends on what else the machine does, its processor time hardly.
        observe_length: Is told how many wait, whenever that changes.
    """

    def __init__(self, limit: int, *, speed: float = 1.0, observe_length: Callable[[int], None] | None = None) -> None:
        self._limit = limit
        self._slowdown = 1 / speed
        self._thread = ComputeThread(gives_way=speed < 1)
        self._turn = _Turn(observe_length or (lambda _: None))
        self._mean_seconds = 0.0

    def check_room(self) -> None:
        """Checks that there is room for one more.

        Raises:
            OverloadedError: where the queue is full; says when a place should be free.
        """
        waiting = self._turn.waiting
        if self._turn.taken and waiting >= self._limit:
            raise OverloadedError(
                f"{waiting} requests wait already, which is the queue's limit; try again later, or raise --queue",
                retry_after_seconds=max(_SHORTEST_RETRY_SECONDS, self._mean_seconds * (waiting + 1)),
            )

    async def run(
        self,
        work: Callable[[], Result],
        *,
        cancel: Callable[[], None],
        admitted: bool = False,
        coming: Coming | None = None,
        meanwhile: Callable[[], None] | None = None,
        then: Callable[[Result], None] | None = None,
    ) -> tuple[Result, float]:
        """Runs `work` when its turn has come.

        A task that is cancelled while it waits leaves the queue; while its work runs, `cancel` is called to shorten
        that, and the next one starts when it has ended.

        Args:
            work: Is run in the queue's thread.
            cancel: Ends it from another thread.
            admitted: Whether it belongs to a request that there was room for: those aren't refused half-way.
            coming: What has to come before it asks for its turn; None where all is there.
            meanwhile: Is called on the event loop while the work runs, unless that takes hardly any time.
            then: Is called on the event loop with the result, before whoever waits for it goes on.

        Returns:
            The result, and the seconds that the work took, as the emulated tier would have taken them.

        Raises:
            OverloadedError: where the queue is full; says when a place should be free.
        """
        slowed = self._slowdown > 1
        job = Job(work, meanwhile, None if slowed else then)
        begin = functools.partial(job.begin, self._thread)
        try:
            if coming is None:
                self._enter(job, begin, admitted=admitted)
            else:
                coming.call(functools.partial(self._enter, job, begin, admitted=admitted))
            result, seconds, processor_seconds = await job.done
            if slowed:
                await asyncio.sleep(max(0.0, processor_seconds * self._slowdown - seconds))
                seconds = max(seconds, processor_seconds * self._slowdown)
                if then is not None:
                    then(result)
        except asyncio.CancelledError:
            await job.stop(cancel)
            raise
        finally:
            if job.begun:
                self._turn.release()
            else:
                self._turn.forget(begin)
        self._mean_seconds += (seconds - self._mean_seconds) * (_SMOOTHING if self._mean_seconds else 1)
        return result, seconds

    def _enter(self, job: Job, begin: Callable[[], None], *, admitted: bool) -> None:
        """Has a job begin when its turn has come, or fail where there is no room for it."""
        if job.done.done():  # given up in this very moment
            return
        try:
            if not admitted:
                self.check_room()
        except OverloadedError as error:
            job.done.set_exception(error)
        else:
            self._turn.ask(begin)

    @property
    def slowdown(self) -> float:
        """How many times as long a computation takes on the emulated tier."""
        return self._slowdown

    def close(self) -> None:
        """Ends the thread once the work that it has is done."""
        self._thread.put(None)
