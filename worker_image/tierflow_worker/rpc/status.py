"""gRPC's status codes, and the error that carries one."""

from collections.abc import Sequence
from enum import IntEnum

Metadata = Sequence[tuple[str, str | bytes]]


class Code(IntEnum):
    """How a call ended, by gRPC's numbers."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class RpcError(Exception):
    """A call that ended with another status than OK.

    Args:
        code: The status.
        details: Its text.
        metadata: The trailing metadata; names that end in `-bin` have bytes.
    """

    def __init__(self, code: Code, details: str = "", metadata: Metadata = ()) -> None:
        super().__init__(f"{code.name}: {details}")
        self._code = code
        self._details = details
        self._metadata = tuple(metadata)

    def code(self) -> Code:
        """The status."""
        return self._code

    def details(self) -> str:
        """Its text."""
        return self._details

    def trailing_metadata(self) -> Metadata:
        """What came with it."""
        return self._metadata
