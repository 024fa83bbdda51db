"""What a link to a neighbour is worth: bandwidth and round trip, from the transfers that cross it.

`LinkEstimator` is a value that learns; it reads no clock and sends nothing. `tierflow_worker.probing` feeds it when no
request does.

The model is `seconds on the wire = round trip + bytes / bandwidth`, bytes being those of both ways and of what a call
needs beside its messages. Small messages show the round trip, large ones the bandwidth:

1. Round trip: the smallest of the last `_SMALL_WINDOW` small transfers, each less the time that its bytes took. What
   disturbs a message only ever adds to its time, so the smallest is the truest.
2. Bandwidth: of the rates of the last `_BUSY_WINDOW` times that the link was busy with large transfers, each less the
   round trip, the one that a third of the bytes were at least as fast as. It follows a change once it has seen it in
   most of the window, and ignores a single outlier; of several, those that are too slow, which are what there is most.
3. Transfers that overlap share the link and wait for each other: they are one busy time, with the bytes of all. What a
   message waits for at the neighbour is not the link's and is not counted.
4. Without small transfers the round trip is where the line through the large ones (Theil and Sen's median of slopes)
   meets zero bytes, provided that their sizes differ enough.
"""

import math
import statistics
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Final

SMALL_BYTES: Final = 2048
"""Transfers up to this size, both ways together, show the round trip."""

LARGE_BYTES: Final = 8192
"""Transfers from this size on show the bandwidth; those between are too little of either."""

CALL_BYTES: Final = 380
"""What a call takes on the wire beside its message and its answer: HTTP/2's headers and frames, both ways."""

_SMALL_WINDOW: Final = 6
_BUSY_WINDOW: Final = 4
_FAST_SHARE: Final = 1 / 3
_SLOPE_WINDOW: Final = 16
_MOST_OVERLAPPING: Final = 6  # transfers of one busy time, so that a link that is never idle is followed too
_OLDEST_SECONDS: Final = 300.0
_DISTINCT_SIZES: Final = 1.5  # a slope needs two sizes that differ by this factor


@dataclass(frozen=True, slots=True)
class Transfer:
    """A message and its answer.

    Attributes:
        sent_bytes: Of the message to the neighbour.
        received_bytes: Of the answer.
        seconds: From the first byte sent to the last byte received.
        server_seconds: Of these, how long the neighbour had the request: its queue, its computation and all that is
            behind it. They are not the link's.
    """

    sent_bytes: int
    received_bytes: int
    seconds: float
    server_seconds: float = 0.0

    @property
    def bytes(self) -> int:
        """Bytes of both ways."""
        return self.sent_bytes + self.received_bytes

    @property
    def wire_bytes(self) -> int:
        """Bytes of both ways that the link carried for them."""
        return self.bytes + CALL_BYTES

    @property
    def wire_seconds(self) -> float:
        """Time that the link had the message."""
        return self.seconds - self.server_seconds


@dataclass(frozen=True, slots=True)
class LinkEstimate:
    """What is known of a link; None is not known yet.

    Attributes:
        bytes_per_second: Bandwidth.
        round_trip_seconds: Round trip of a message without content.
        measured: When the last transfer was seen, on the clock that `LinkEstimator.observe` was given.
    """

    bytes_per_second: float | None
    round_trip_seconds: float | None
    measured: float | None


@dataclass(slots=True)
class _Busy:
    """A time during which transfers had the link. `follows` is True where the one before went over into it."""

    begin: float
    end: float
    bytes: int
    transfers: int = 1
    follows: bool = False

    def rate(self, round_trip: float) -> float | None:
        """Bytes per second; None where no more than the round trip was seen."""
        seconds = self.end - self.begin - (0.0 if self.follows else round_trip)
        return self.bytes / seconds if seconds > 0 else None


class LinkEstimator:
    """Learns a link from transfers. Not for several threads at once."""

    def __init__(self) -> None:
        self._small: deque[_Busy] = deque(maxlen=_SMALL_WINDOW)
        self._large: deque[_Busy] = deque(maxlen=_SLOPE_WINDOW)
        self._estimate = LinkEstimate(None, None, None)

    @property
    def estimate(self) -> LinkEstimate:
        """What is known now."""
        return self._estimate

    def observe(self, transfer: Transfer, *, now: float) -> LinkEstimate:
        """Learns from a transfer that succeeded.

        Args:
            transfer: What crossed the link. One whose server says that it took longer than the whole is ignored.
            now: When it ended: seconds on any clock that does not go back.

        Returns:
            What is known now.
        """
        begin = now - transfer.seconds
        busy = _Busy(begin, begin + transfer.wire_seconds, transfer.wire_bytes)
        if transfer.wire_seconds <= 0 or SMALL_BYTES < transfer.bytes < LARGE_BYTES:
            return self._estimate
        if transfer.bytes >= LARGE_BYTES:
            self._add_large(busy)
        elif not self._large or begin >= self._large[-1].end:  # else it waited behind a large one
            # At the bandwidth of its own time, which a later one may differ from.
            busy.end -= min(busy.bytes / (self._estimate.bytes_per_second or math.inf), transfer.wire_seconds)
            self._small.append(busy)
        for times in (self._small, self._large):
            while times and times[0].end < now - _OLDEST_SECONDS:
                times.popleft()
        self._estimate = self._fit(now)
        return self._estimate

    def _add_large(self, busy: _Busy) -> None:
        last = self._large[-1] if self._large else None
        if last is not None and busy.begin < last.end:
            if last.transfers < _MOST_OVERLAPPING:
                last.end = max(last.end, busy.end)
                last.bytes += busy.bytes
                last.transfers += 1
                return
            busy = _Busy(last.end, max(last.end, busy.end), busy.bytes, follows=True)
        self._large.append(busy)

    def _fit(self, now: float) -> LinkEstimate:
        before = self._estimate
        round_trip = self._round_trip()
        if round_trip is None:
            round_trip = before.round_trip_seconds
        if round_trip is None:
            return LinkEstimate(before.bytes_per_second, None, now)
        bandwidth = _bandwidth(tuple(self._large)[-_BUSY_WINDOW:], round_trip) or before.bytes_per_second
        return LinkEstimate(bandwidth, round_trip, now)

    def _round_trip(self) -> float | None:
        if not self._small:
            return _intercept([busy for busy in self._large if busy.transfers == 1 and not busy.follows])
        return min(busy.end - busy.begin for busy in self._small)


def _bandwidth(times: Sequence[_Busy], round_trip: float) -> float | None:
    """The rate that a third of the bytes were at least as fast as; None where none of the times shows one."""
    rates = sorted(((rate, busy.bytes) for busy in times if (rate := busy.rate(round_trip)) is not None), reverse=True)
    left = sum(weight for _, weight in rates) * _FAST_SHARE
    for rate, weight in rates:
        left -= weight
        if left <= 0:
            return rate
    return None


def _intercept(times: Sequence[_Busy]) -> float | None:
    """Seconds at zero bytes of the line through single transfers; None where their sizes are too much alike."""
    points = [(busy.bytes, busy.end - busy.begin) for busy in times]
    slopes = [
        (seconds - other_seconds) / (size - other_size)
        for (size, seconds), (other_size, other_seconds) in combinations(points, 2)
        if max(size, other_size) >= _DISTINCT_SIZES * min(size, other_size)
    ]
    if not slopes:
        return None
    slope = max(statistics.median(slopes), 0.0)
    return max(statistics.median(seconds - slope * size for size, seconds in points), 0.0)
