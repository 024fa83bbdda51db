"""Requests one after the other, in the foreground until enough, or in the background until told to stop."""

import math
import statistics
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from tierflow_local.client import Answer, PipelineClient
from tierflow_worker.verification import TOLERANCE

_FEWEST: Final = 3


@dataclass(frozen=True, slots=True)
class Answers:
    """What became of a number of requests."""

    all: tuple[Answer, ...]

    @property
    def sent(self) -> int:
        """How many were sent."""
        return len(self.all)

    @property
    def lost(self) -> tuple[Answer, ...]:
        """Those without an answer."""
        return tuple(answer for answer in self.all if answer.error)

    @property
    def wrong(self) -> tuple[Answer, ...]:
        """Those whose answer differs from the whole model's by more than the tolerance."""
        return tuple(answer for answer in self.all if not answer.error and not answer.difference <= TOLERANCE)

    @property
    def resent(self) -> int:
        """How often requests were sent again because a worker left."""
        return sum(answer.resent for answer in self.all)

    @property
    def largest_difference(self) -> float:
        """Relative, over all answers; 0 where each is the same bit for bit."""
        return max((answer.difference for answer in self.all if not answer.error), default=math.nan)

    @property
    def contents(self) -> frozenset[bytes]:
        """Hashes of the answers; one where all are the same bit for bit."""
        return frozenset(answer.content for answer in self.all if not answer.error)

    def quantile(self, part: float) -> float:
        """Seconds within which this part of the answers was there; NaN where there was none."""
        seconds = sorted(answer.seconds for answer in self.all if not answer.error)
        if len(seconds) < 2:
            return seconds[0] if seconds else math.nan
        return statistics.quantiles(seconds, n=100, method="inclusive")[round(part * 100) - 1]

    def since(self, moment: float) -> "Answers":
        """Those that were sent at or after a moment on `time.perf_counter`."""
        return Answers(tuple(answer for answer in self.all if answer.at >= moment))


def ask(client: PipelineClient, requests: int, *, most_seconds: float = math.inf) -> Answers:
    """Sends requests until there are enough, or until it took too long, but never fewer than three."""
    began = time.perf_counter()
    answers: list[Answer] = []
    while len(answers) < requests and (len(answers) < _FEWEST or time.perf_counter() - began < most_seconds):
        answers.append(client.ask())
    return Answers(tuple(answers))


class Load:
    """Requests in the background, from each client one after the other; a context manager."""

    def __init__(self, clients: Sequence[PipelineClient]) -> None:
        self._answers: list[Answer] = []
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(client,), name="load", daemon=True) for client in clients
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    @property
    def answers(self) -> Answers:
        """What became of the requests so far."""
        return Answers(tuple(self._answers))

    def _run(self, client: PipelineClient) -> None:
        while not self._stop.is_set():
            self._answers.append(client.ask())
