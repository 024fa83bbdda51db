"""The bounded queue in front of a worker's computation: one run at a time, in order of arrival."""

import asyncio
import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Final, TypeVar

from tierflow.errors import OverloadedError

Result = TypeVar("Result")

_SHORTEST_RETRY_SECONDS: Final = 0.01
_SMOOTHING: Final = 0.2  # weight of the newest run in the mean that a retry hint is made from


_NICE: Final = 5  # a third of the weight of other threads


def _give_way() -> None:
    """Lets what else the machine does go before this thread's computations.

    On an emulated tier they only have to be done in time, while messages are not slowed down and should not wait.
    """
    if sys.platform == "linux":  # elsewhere threads have no priorities of their own
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)


class _Job:
    """A computation that was handed to the thread.

    Attributes:
        done: Its result, the seconds that it took, and those of them that the thread computed.
        has_ended: Whether it has ended, as far as the event loop knows.
        ended: Is set when it has ended, where somebody waits for that alone.
    """

    def __init__(self, work: Callable[[], Any]) -> None:
        self.loop = asyncio.get_running_loop()
        self.done: asyncio.Future[tuple[Any, float, float]] = self.loop.create_future()
        self.has_ended = False
        self.ended: asyncio.Event | None = None
        self._work = work

    def run(self) -> None:
        """Computes; in the thread."""
        began, processor = time.perf_counter(), time.thread_time()
        error: BaseException | None = None
        result = None
        try:
            result = self._work()
        except BaseException as problem:
            error = problem
        spent = (time.perf_counter() - began, time.thread_time() - processor)
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self.loop.call_soon_threadsafe(self._finish, result, spent, error)

    def _finish(self, result: Any, spent: tuple[float, float], error: BaseException | None) -> None:
        self.has_ended = True
        if self.ended is not None:
            self.ended.set()
        if self.done.done():
            return
        if error is not None:
            self.done.set_exception(error)
        else:
            self.done.set_result((result, *spent))


class _Thread:
    """Runs jobs one after the other. Between event loop and thread lies as little as can be: each request waits for it.

    Args:
        gives_way: Whether its computations come after what else the machine does.
    """

    def __init__(self, *, gives_way: bool) -> None:
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._gives_way = gives_way
        threading.Thread(target=self._run, name="compute", daemon=True).start()

    def put(self, job: _Job | None) -> None:
        """Hands over a job; None ends the thread."""
        self._jobs.put(job)

    def _run(self) -> None:
        if self._gives_way:
            _give_way()
        while (job := self._jobs.get()) is not None:
            job.run()
            del job  # with the tensors that it holds


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
        self._observe_length = observe_length or (lambda _: None)
        self._thread = _Thread(gives_way=speed < 1)
        self._turn = asyncio.Lock()
        self._waiting = 0
        self._mean_seconds = 0.0

    def check_room(self) -> None:
        """Checks that there is room for one more.

        Raises:
            OverloadedError: where the queue is full; says when a place should be free.
        """
        if self._turn.locked() and self._waiting >= self._limit:
            raise OverloadedError(
                f"{self._waiting} requests wait already, which is the queue's limit; try again later, or raise --queue",
                retry_after_seconds=max(_SHORTEST_RETRY_SECONDS, self._mean_seconds * (self._waiting + 1)),
            )

    async def run(
        self, work: Callable[[], Result], *, cancel: Callable[[], None], admitted: bool = False
    ) -> tuple[Result, float]:
        """Runs `work` when its turn has come.

        A task that is cancelled while it waits leaves the queue; while its work runs, `cancel` is called to shorten
        that, and the next one starts when it has ended.

        Args:
            work: Is run in the queue's thread.
            cancel: Ends it from another thread.
            admitted: Whether it belongs to a request that there was room for: those aren't refused half-way.

        Returns:
            The result, and the seconds that the work took, as the emulated tier would have taken them.

        Raises:
            OverloadedError: where the queue is full; says when a place should be free.
        """
        if not admitted:
            self.check_room()
        if self._turn.locked():
            self._change_length(1)
            try:
                await self._turn.acquire()
            finally:
                self._change_length(-1)
        else:
            await self._turn.acquire()
        try:
            result, seconds, processor_seconds = await self._run_in_thread(work, cancel)
            if self._slowdown > 1:
                await asyncio.sleep(max(0.0, processor_seconds * self._slowdown - seconds))
                seconds = max(seconds, processor_seconds * self._slowdown)
        finally:
            self._turn.release()
        self._mean_seconds += (seconds - self._mean_seconds) * (_SMOOTHING if self._mean_seconds else 1)
        return result, seconds

    @property
    def slowdown(self) -> float:
        """How many times as long a computation takes on the emulated tier."""
        return self._slowdown

    def close(self) -> None:
        """Ends the thread once the work that it has is done."""
        self._thread.put(None)

    def _change_length(self, by: int) -> None:
        self._waiting += by
        self._observe_length(self._waiting)

    async def _run_in_thread(
        self, work: Callable[[], Result], cancel: Callable[[], None]
    ) -> tuple[Result, float, float]:
        """The work's result, the seconds that it took, and those of them that its thread computed."""
        job = _Job(work)
        self._thread.put(job)
        try:
            return await job.done
        except asyncio.CancelledError:
            if not job.has_ended:  # it may have, between the request's being cancelled and this
                job.ended = asyncio.Event()
                cancel()
                await job.ended.wait()
            raise
