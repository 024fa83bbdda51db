"""Which pipeline is visited next, and when: a state machine without threads, clock or chance of its own.

A key is waiting, running, or unknown; it is never two of them. Whatever asks for a key while it runs brings it back
once, after that run, so that nothing is missed and nothing is done twice. A visit that was asked for is told from one
that a key only wished itself: the first sees to all wishes, the second leaves those of others for their own time. Times
are seconds of any monotonic origin.
"""

import heapq
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from tierflow_operator.keys import PipelineKey

_LARGEST_EXPONENT: Final = 30


@dataclass(frozen=True, slots=True)
class Pace:
    """How often a key may be visited. In seconds.

    Attributes:
        settle: Between the end of a visit and the next one: what a visit writes comes back as a flurry of events.
        first_backoff: After a first failure. No event brings a failed key back sooner, but one does so this soon.
        longest_backoff: After many failures in a row.
    """

    settle: float = 0.1
    first_backoff: float = 0.5
    longest_backoff: float = 60.0


class Schedule:
    """Keys and when they are due.

    Args:
        pace: How often a key may be visited.
        jitter: Gives numbers in [0, 1), by which failed keys are kept from coming back all at once.
    """

    def __init__(self, pace: Pace, jitter: Callable[[], float]) -> None:
        self._pace = pace
        self._jitter = jitter
        self._due: dict[PipelineKey, float] = {}
        self._heap: list[tuple[float, int, PipelineKey]] = []
        """Of `_due`, earliest first; entries that are out of date are skipped when they come up."""
        self._order = itertools.count()
        self._running: dict[PipelineKey, float] = {}
        self._asked: dict[PipelineKey, float] = {}
        """By when a visit was asked for, of waiting and of running keys."""
        self._asked_for: set[PipelineKey] = set()
        """Of the running keys, those whose visit was."""
        self._failures: dict[PipelineKey, int] = {}
        self._not_before: dict[PipelineKey, float] = {}

    def add(self, key: PipelineKey, now: float, after: float = 0.0) -> None:
        """Asks for a visit at `now + after`; of several such wishes the earliest counts."""
        due = now + max(0.0, after)
        self._asked[key] = min(due, self._asked.get(key, due))
        if key not in self._running:
            self._wait(key, self._asked[key])

    def take(self, now: float) -> PipelineKey | None:
        """The key that has been due for the longest, which is running from now on; None where none is due."""
        self._skip_outdated()
        if not self._heap or self._heap[0][0] > now:
            return None
        _, _, key = heapq.heappop(self._heap)
        del self._due[key]
        self._running[key] = now
        if self._asked.get(key, float("inf")) <= now:
            del self._asked[key]
            self._asked_for.add(key)
        return key

    def was_asked_for(self, key: PipelineKey) -> bool:
        """Whether somebody asked for the visit of a running key, and it isn't only its own wish to come again."""
        return key in self._asked_for

    def succeeded(self, key: PipelineKey, now: float, again_after: float | None) -> None:
        """Ends a key's run.

        Args:
            key: A running key.
            now: The present.
            again_after: When it wants to be visited again; None for when something asks for it.
        """
        self._failures.pop(key, None)
        self._end(key, now, self._pace.settle)
        if again_after is not None:
            self._wait(key, now + max(0.0, again_after))

    def failed(self, key: PipelineKey, now: float) -> float:
        """Ends a key's run, and has it visited again; returns after how many seconds, if nothing asks before."""
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        pace = self._pace
        backoff = min(pace.longest_backoff, pace.first_backoff * 2.0 ** min(failures - 1, _LARGEST_EXPONENT))
        backoff = max(pace.first_backoff, backoff * (0.75 + 0.25 * self._jitter()))
        self._end(key, now, pace.first_backoff)
        self.add(key, now, backoff)
        return backoff

    def seconds_to_next(self, now: float) -> float | None:
        """Until a key is due; 0 where one is, None where none waits."""
        self._skip_outdated()
        return max(0.0, self._heap[0][0] - now) if self._heap else None

    def length(self, now: float) -> int:
        """How many keys are due and not running."""
        return sum(due <= now for due in self._due.values())

    def oldest(self, now: float) -> float:
        """Since when the key that has been due or running for the longest is so; `now` where there is none."""
        return min(now, *self._due.values(), *self._running.values(), now)

    def _end(self, key: PipelineKey, now: float, pause: float) -> None:
        del self._running[key]
        self._asked_for.discard(key)
        self._forget_pauses_before(now)
        self._not_before.pop(key, None)
        self._not_before[key] = now + pause
        if (due := self._asked.get(key)) is not None:
            self._wait(key, due)

    def _wait(self, key: PipelineKey, due: float) -> None:
        due = max(due, self._not_before.get(key, due))
        if due < self._due.get(key, float("inf")):
            self._due[key] = due
            heapq.heappush(self._heap, (due, next(self._order), key))

    def _forget_pauses_before(self, now: float) -> None:
        """Pauses are in about the order of their ends; what is over at the front needn't be kept."""
        while self._not_before:
            key, end = next(iter(self._not_before.items()))
            if end > now:
                return
            del self._not_before[key]

    def _skip_outdated(self) -> None:
        while self._heap and self._due.get(self._heap[0][2]) != self._heap[0][0]:
            heapq.heappop(self._heap)
