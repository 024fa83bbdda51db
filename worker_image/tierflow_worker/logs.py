"""Structured logs: one JSON object per line on standard error.

Of the standard library's logging only the level names and a bridge for libraries' own warnings are used; a line of a
worker is an event with fields, not a sentence.
"""

import logging
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, TextIO

import msgspec

LEVELS: Final[Mapping[str, int]] = {"debug": 10, "info": 20, "warning": 30, "error": 40}
_PER_SECOND: Final = 5
"""Lines of one event at one level that are written within a second; the rest are counted."""


class Log:
    """Writes events with the fields that it is bound to.

    Args:
        level: The lowest of `LEVELS` that is written.
        stream: Where to write; None means standard error.
        clock: Seconds of the Unix epoch.
    """

    def __init__(
        self,
        level: str = "info",
        *,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._lowest = LEVELS[level]
        self._stream = stream or sys.stderr
        self._clock = clock
        self._fields: dict[str, Any] = {}
        self._flood: dict[tuple[str, str], tuple[int, int]] = {}

    def bind(self, **fields: Any) -> "Log":
        """A log whose every line has these fields too."""
        bound = Log.__new__(Log)
        bound.__dict__.update(self.__dict__)
        bound._fields = {**self._fields, **fields}
        return bound

    def debug(self, event: str, **fields: Any) -> None:
        """What only someone who looks for a fault wants to see."""
        self._write("debug", event, fields)

    def info(self, event: str, **fields: Any) -> None:
        """A step of the worker's life."""
        self._write("info", event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        """What went wrong for one request, or may go wrong soon; at most a few lines per second and event."""
        self._limited("warning", event, fields)

    def error(self, event: str, **fields: Any) -> None:
        """What somebody has to look at; at most a few lines per second and event."""
        self._limited("error", event, fields)

    def _limited(self, level: str, event: str, fields: dict[str, Any]) -> None:
        second = int(self._clock())
        began, count = self._flood.get((level, event), (second, 0))
        if began != second:
            left_out = count - _PER_SECOND
            if left_out > 0:
                fields = {**fields, "left_out": left_out}
            began, count = second, 0
        self._flood[(level, event)] = (began, count + 1)
        if count < _PER_SECOND:
            self._write(level, event, fields)

    def _write(self, level: str, event: str, fields: Mapping[str, Any]) -> None:
        if LEVELS[level] < self._lowest:
            return
        now = self._clock()
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now * 1000) % 1000:03d}Z"
        line = {"time": stamp, "level": level, "event": event, **self._fields, **fields}
        self._stream.write(msgspec.json.encode(line, enc_hook=str).decode() + "\n")
        self._stream.flush()


class _Bridge(logging.Handler):
    """Hands what libraries log to a `Log`."""

    def __init__(self, log: Log) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        fields: dict[str, Any] = {"logger": record.name, "message": record.getMessage()}
        if record.exc_info and record.exc_info[1]:
            fields["error"] = repr(record.exc_info[1])
        write = self._log.error if record.levelno >= logging.ERROR else self._log.warning
        write("library", **fields)


def adopt_libraries(log: Log) -> None:
    """Sends the warnings and errors that libraries log through `logging` to `log`."""
    logging.basicConfig(handlers=[_Bridge(log)], level=logging.WARNING, force=True)
