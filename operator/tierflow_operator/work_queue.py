"""The threads that visit pipelines when they are due, and the resync that makes each of them due from time to time."""

import logging
import random
import threading
import time
import zlib
from collections.abc import Callable, Iterable
from typing import Final

from tierflow.errors import TierflowError
from tierflow_operator.keys import PipelineKey
from tierflow_operator.schedule import Pace, Schedule

_log: Final = logging.getLogger(__name__)
_RETRY_LISTING_SECONDS: Final = 5.0

Visit = Callable[[PipelineKey], float | None]
"""Brings one pipeline a step further. Returns after how many seconds to come again, None for at the next resync.
Raising means to try again after a back-off."""


class WorkQueue:
    """Visits pipelines, each by one thread at a time; safe to use from any thread.

    Keys may be added before `start`: they wait.

    Args:
        visit: What to do with a key.
        look: What to do with a key that nobody asked for and that only wished to come again; None for the same.
        workers: How many threads.
        pace: How often a key may be visited.
        clock: Seconds of any monotonic origin.
        jitter: Gives numbers in [0, 1).
    """

    def __init__(
        self,
        visit: Visit,
        *,
        look: Visit | None = None,
        workers: int = 4,
        pace: Pace | None = None,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._visit = visit
        self._look = look or visit
        self._clock = clock
        self._schedule = Schedule(pace or Pace(), jitter)
        self._changed = threading.Condition()
        self._stopping = False
        self._started_at: float | None = None
        self._threads = [
            threading.Thread(target=self._work, name=f"reconcile-{number}", daemon=True) for number in range(workers)
        ]

    def add(self, key: PipelineKey, after: float = 0.0) -> None:
        """Asks for a visit in `after` seconds at the latest, however often it is asked for in the meantime."""
        with self._changed:
            self._schedule.add(key, self._clock(), after)
            self._changed.notify()

    def start(self) -> None:
        """Begins to visit."""
        self._started_at = self._clock()
        for thread in self._threads:
            thread.start()

    def stop(self, timeout_seconds: float) -> bool:
        """Begins no other visit and waits for those under way; returns whether they ended in time."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        deadline = time.monotonic() + timeout_seconds
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def length(self) -> int:
        """How many keys are due and wait for a thread."""
        with self._changed:
            return self._schedule.length(self._clock())

    def oldest_age(self) -> float:
        """For how many seconds the oldest key has been due or visited; 0 before `start`."""
        with self._changed:
            now = self._clock()
            return 0.0 if self._started_at is None else now - max(self._started_at, self._schedule.oldest(now))

    def is_healthy(self, longest_age_seconds: float) -> bool:
        """Whether all threads live, and no key has been due or visited for longer than this."""
        threads_live = self._started_at is None or all(thread.is_alive() for thread in self._threads)
        return threads_live and self.oldest_age() <= longest_age_seconds

    def _work(self) -> None:
        while (found := self._next()) is not None:
            key, visit = found
            try:
                again_after = visit(key)
            except Exception as error:
                with self._changed:
                    backoff = self._schedule.failed(key, self._clock())
                    self._changed.notify()
                _report(key, error, backoff)
            else:
                with self._changed:
                    self._schedule.succeeded(key, self._clock(), again_after)
                    self._changed.notify()

    def _next(self) -> tuple[PipelineKey, Visit] | None:
        """Waits for a key that is due, with what to do with it; None when it is time to stop."""
        with self._changed:
            while not self._stopping:
                now = self._clock()
                if (key := self._schedule.take(now)) is not None:
                    self._changed.notify()  # another thread may have to wait for what is due next
                    return key, self._visit if self._schedule.was_asked_for(key) else self._look
                self._changed.wait(self._schedule.seconds_to_next(now))
            return None


class Resync:
    """Makes every pipeline due once per period, each at its own time within it: a net below lost events.

    Args:
        add: Makes a key due in so many seconds.
        keys: Lists all pipelines.
        seconds: The period.
    """

    def __init__(
        self, add: Callable[[PipelineKey, float], None], keys: Callable[[], Iterable[PipelineKey]], seconds: float
    ) -> None:
        self._add = add
        self._keys = keys
        self._seconds = seconds
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="resync", daemon=True)

    def start(self) -> None:
        """Makes all pipelines due at once, and then once per period."""
        self._thread.start()

    def stop(self) -> None:
        """Makes none due any more."""
        self._stopping.set()

    def _run(self) -> None:
        spread = 0.0
        pause = 0.0
        while not self._stopping.wait(pause):
            try:
                keys = tuple(self._keys())
            except TierflowError as error:
                _log.warning("resync: %s", error.message)
                pause = min(_RETRY_LISTING_SECONDS, self._seconds)
                continue
            for key in keys:
                self._add(key, spread * _place_in_period(key))
            spread = pause = self._seconds


def _place_in_period(key: PipelineKey) -> float:
    """In [0, 1), the same for a key in each period, so that its visits are a whole period apart."""
    return zlib.crc32(str(key).encode()) / 2**32


def _report(key: PipelineKey, error: Exception, backoff: float) -> None:
    fields = {"namespace": key.namespace, "pipeline": key.name, "error_kind": type(error).__name__}
    if isinstance(error, TierflowError):
        _log.warning("reconcile failed, again in %.1f s: %s", backoff, error.message, extra=fields)
    else:
        _log.error("reconcile failed by a defect, again in %.1f s: %r", backoff, error, exc_info=error, extra=fields)
