"""Computations in a thread of their own, one after the other."""

import asyncio
import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Final

from tierflow_worker.prompt import Prompt

_MEANWHILE_SECONDS: Final = 0.001  # not at once: the thread needs the interpreter for its first steps
_NICE: Final = 5  # a third of the weight of other threads


def _give_way() -> None:
    """Lets what else the machine does go before this thread's computations.

    On an emulated tier they only have to be done in time, while messages are not slowed down and should not wait.
    """
    if sys.platform == "linux":  # elsewhere threads have no priorities of their own
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)


class Job:
    """A computation for the thread.

    Args:
        work: Computes.
        meanwhile: Is called on the event loop while the work runs, unless that takes hardly any time.
        then: Is called on the event loop with the result, before whoever waits for it goes on.

    Attributes:
        done: Its result, the seconds that it took, and those of them that the thread computed.
        begun: Whether it was handed to the thread.
    """

    def __init__(
        self, work: Callable[[], Any], meanwhile: Callable[[], None] | None, then: Callable[[Any], None] | None
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self.done: Prompt[tuple[Any, float, float]] = Prompt()
        self.begun = False
        self._work = work
        self._meanwhile = meanwhile
        self._then = then
        self._timer: asyncio.TimerHandle | None = None
        self._has_ended = False  # as far as the event loop knows
        self._ended: asyncio.Event | None = None  # where somebody waits for that alone

    def begin(self, thread: "ComputeThread") -> None:
        """Hands it to the thread."""
        self.begun = True
        thread.put(self)
        if self._meanwhile is not None:
            self._timer = self._loop.call_later(_MEANWHILE_SECONDS, self._meanwhile)

    async def stop(self, cancel: Callable[[], None]) -> None:
        """Ends it, where it has begun: calls `cancel`, and waits."""
        if self.begun and not self._has_ended:  # it may have, between the request's being cancelled and this
            self._ended = asyncio.Event()
            cancel()
            await self._ended.wait()

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
        try:  # noqa: SIM105 -- somebody waits: what `suppress` does takes its time
            self._loop.call_soon_threadsafe(self._finish, result, spent, error)
        except RuntimeError:  # the loop is closed: nobody waits any more
            pass

    def _finish(self, result: Any, spent: tuple[float, float], error: BaseException | None) -> None:
        self._has_ended = True
        if error is None and self._then is not None and not self.done.done():
            try:
                self._then(result)
            except Exception as problem:
                error = problem
        if self._timer is not None:
            self._timer.cancel()
        if self._ended is not None:
            self._ended.set()
        if self.done.done():
            return
        if error is not None:
            self.done.set_exception(error)
        else:
            self.done.set_result((result, *spent))


class ComputeThread:
    """Runs jobs one after the other. Between event loop and thread lies as little as can be: each request waits for it.

    Args:
        gives_way: Whether its computations come after what else the machine does.
    """

    def __init__(self, *, gives_way: bool) -> None:
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._gives_way = gives_way
        threading.Thread(target=self._run, name="compute", daemon=True).start()

    def put(self, job: Job | None) -> None:
        """Hands over a job; None ends the thread."""
        self._jobs.put(job)

    def _run(self) -> None:
        if self._gives_way:
            _give_way()
        while (job := self._jobs.get()) is not None:
            job.run()
            del job  # with the tensors that it holds
