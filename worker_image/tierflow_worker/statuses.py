"""Errors of the core as gRPC statuses, and back: what one worker raises, the worker below it raises again.

The status code and its text are for any client. Between workers the trailing metadata `tierflow-error-bin` carries the
error's kind, so that nothing is lost on the way down; `retry-after-ms` is for both.
"""

from typing import Final

import msgspec

from tierflow import errors
from tierflow.errors import (
    DeadlineExceededError,
    IntegrityError,
    InvalidRequestError,
    OverloadedError,
    TierflowError,
    UnknownBoundaryError,
    UnknownModelError,
    UnreachableError,
)
from tierflow_worker.rpc.status import Code, RpcError

RETRY_AFTER: Final = "retry-after-ms"
_ERROR: Final = "tierflow-error-bin"
_LONGEST_MESSAGE: Final = 1500  # trailing metadata has to fit 8 KiB, each byte of a text taking up to three

_CODES: Final = {
    UnknownModelError: Code.NOT_FOUND,
    InvalidRequestError: Code.INVALID_ARGUMENT,
    UnknownBoundaryError: Code.FAILED_PRECONDITION,
    OverloadedError: Code.RESOURCE_EXHAUSTED,
    DeadlineExceededError: Code.DEADLINE_EXCEEDED,
    UnreachableError: Code.UNAVAILABLE,
    IntegrityError: Code.DATA_LOSS,
}


class _Error(msgspec.Struct):
    kind: str
    subject: str


def to_status(error: Exception) -> tuple[Code, str, tuple[tuple[str, str | bytes], ...]]:
    """The code, text and trailing metadata of an error; INTERNAL for one that nobody anticipated."""
    if not isinstance(error, TierflowError):
        return Code.INTERNAL, "an unexpected error, which the worker's log describes", ()
    code = next((code for kind, code in _CODES.items() if isinstance(error, kind)), Code.INTERNAL)
    kind = _Error(type(error).__name__, _shortened(error.subject, 200))
    metadata: list[tuple[str, str | bytes]] = [(_ERROR, msgspec.json.encode(kind))]
    if isinstance(error, OverloadedError):
        metadata.append((RETRY_AFTER, str(max(1, round(error.retry_after_seconds * 1000)))))
    return code, _shortened(error.message, _LONGEST_MESSAGE), tuple(metadata)


def from_status(error: RpcError, *, sender: str) -> TierflowError | None:
    """The error that a worker meant, its message beginning with `sender`; None where the status isn't a worker's own.

    Args:
        error: How a call ended.
        sender: Who answered, like `edge at 10.0.0.7:8001`.
    """
    metadata = dict(error.trailing_metadata())
    try:
        meant = msgspec.json.decode(metadata.get(_ERROR, b""), type=_Error)
    except msgspec.DecodeError:
        return None
    message = f"{sender}: {error.details()}"
    if meant.kind == OverloadedError.__name__:
        retry = metadata.get(RETRY_AFTER, "")
        seconds = int(retry) / 1000 if isinstance(retry, str) and retry.isdecimal() else 1.0
        return OverloadedError(message, retry_after_seconds=seconds, subject=meant.subject)
    kind = getattr(errors, meant.kind, TierflowError)
    if not (isinstance(kind, type) and issubclass(kind, TierflowError)):
        kind = TierflowError
    return kind(message, subject=meant.subject)


def _shortened(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest - 1]}…"
