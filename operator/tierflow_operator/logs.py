"""Structured logs on standard error: one line per event, as JSON or as text, with the pipeline that it is about."""

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final, TextIO

from pythonjsonlogger.json import JsonFormatter

from tierflow_operator.keys import PipelineKey

LEVELS: Final = ("debug", "info", "warning", "error")
FORMATS: Final = ("json", "text")

_about: ContextVar[dict[str, Any]] = ContextVar("about", default={})  # noqa: B039 - replaced, never changed

_QUIET: Final = ("kopf", "kubernetes", "urllib3", "aiohttp", "asyncio", "prometheus_api_client")
"""Libraries whose steps say nothing about pipelines."""
_LIBRARY_FIELDS: Final = ("k8s_skip", "k8s_ref", "settings")
"""What kopf carries along in its records for itself."""
_FIELDS: Final = ("namespace", "pipeline", "epoch")


def configure(level: str, style: str, stream: TextIO | None = None) -> None:
    """Sends all logs of this process to standard error.

    Args:
        level: The lowest of `LEVELS` that is written. Libraries write from warnings on, unless it is `debug`.
        style: One of `FORMATS`.
        stream: Where to instead.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.addFilter(_with_pipeline)
    handler.setFormatter(_Json() if style == "json" else _Text())
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    logging.captureWarnings(True)
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.INFO if level == "debug" else max(logging.WARNING, _number(level)))


@contextmanager
def about(key: PipelineKey) -> Iterator[None]:
    """Has every line that this thread writes in the block say which pipeline it is about."""
    token = _about.set({"namespace": key.namespace, "pipeline": key.name})
    try:
        yield
    finally:
        _about.reset(token)


def set_epoch(epoch: int) -> None:
    """Has the rest of the lines of the block that `about` began say which plan is in force; nothing outside of one."""
    if said := _about.get():
        _about.set({**said, "epoch": epoch})


def _number(level: str) -> int:
    return logging.getLevelNamesMapping()[level.upper()]


def _with_pipeline(record: logging.LogRecord) -> bool:
    record.level = record.levelname.lower()
    for name, value in _about.get().items():
        if not hasattr(record, name):
            setattr(record, name, value)
    for name in _LIBRARY_FIELDS:
        record.__dict__.pop(name, None)
    return True


class _Json(JsonFormatter):
    """One object per line, as a log collector reads it; the worker's lines have the same first fields."""

    converter = time.gmtime  # type: ignore[assignment]
    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"

    def __init__(self) -> None:
        super().__init__(
            "{asctime}{level}{name}{message}",
            style="{",
            rename_fields={"asctime": "time", "name": "logger", "message": "event"},
        )


class _Text(logging.Formatter):
    """Time, level, pipeline, message and what else is known in one line, for people."""

    converter = time.gmtime  # type: ignore[assignment]

    def __init__(self) -> None:
        super().__init__("%(asctime)sZ %(level)-7s %(about)s%(message)s%(more)s", datefmt="%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        values = [str(getattr(record, name)) for name in _FIELDS if hasattr(record, name)]
        more = {name: value for name, value in vars(record).items() if name not in _ORDINARY}
        record.about = f"[{'/'.join(values)}] " if values else ""
        record.more = "".join(f" {name}={value}" for name, value in more.items())
        return super().format(record)


_ORDINARY: Final = {*vars(logging.makeLogRecord({})), *_FIELDS, "level", "about", "more", "message", "asctime"}
