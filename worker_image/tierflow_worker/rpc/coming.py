"""A message that is on its way: begun, but not whole."""

import asyncio
from collections.abc import Callable
from typing import Final


class Coming:
    """Tells when the rest of a message has come.

    Attributes:
        has_come: Whether the message is whole.
    """

    def __init__(self) -> None:
        self.has_come = False
        self._calls: Final[list[Callable[[], None]]] = []

    def arrive(self) -> None:
        """Notes that the message is whole."""
        self.has_come = True
        for call in tuple(self._calls):
            call()

    def call(self, call: Callable[[], None]) -> None:
        """Has something called in the very moment in which the message is whole; at once where it is already."""
        if self.has_come:
            call()
        else:
            self._calls.append(call)

    def forget(self) -> None:
        """Calls nothing any more."""
        self._calls.clear()

    async def come(self) -> None:
        """Waits until the message is whole."""
        came = asyncio.Event()
        self.call(came.set)
        await came.wait()
