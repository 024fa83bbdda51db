"""A result that a task waits for, and with which it goes on at once."""

import asyncio
from collections.abc import Callable, Generator
from contextvars import Context
from typing import Any, Final, Generic, TypeVar

Value = TypeVar("Value")


class Prompt(Generic[Value]):
    """What asyncio takes for a future, for one task that waits.

    A future's waiting task goes on in the event loop's next turn, after it has asked the system for events. That costs
    a request more than all that is done between two turns. Here the task goes on within `set_result`, unless another
    task is running then. Errors and cancellations are left to the next turn: they may come in the middle of something.

    Must be made inside the event loop.
    """

    __slots__ = ("_asyncio_future_blocking", "_callbacks", "_cancelled", "_done", "_error", "_loop", "_value")

    def __init__(self) -> None:
        self._asyncio_future_blocking = False
        self._loop: Final = asyncio.get_running_loop()
        self._callbacks: list[tuple[Callable[[Any], object], Context | None]] = []
        self._done = False
        self._cancelled = False
        self._error: BaseException | None = None
        self._value: Value | None = None

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """The event loop that it was made in."""
        return self._loop

    def done(self) -> bool:
        """Whether there is a result, an error or a cancellation."""
        return self._done

    def cancelled(self) -> bool:
        """Whether it was cancelled."""
        return self._cancelled

    def result(self) -> Value:
        """The result.

        Raises:
            CancelledError: where it was cancelled.
            InvalidStateError: where there is nothing yet.
            BaseException: the error that was set.
        """
        if self._cancelled:
            raise asyncio.CancelledError
        if not self._done:
            raise asyncio.InvalidStateError("there is no result yet")
        if self._error is not None:
            raise self._error
        return self._value  # type: ignore[return-value]  # of the type that was set

    def exception(self) -> BaseException | None:
        """The error that was set; None where there is a result.

        Raises:
            CancelledError: where it was cancelled.
            InvalidStateError: where there is nothing yet.
        """
        if self._error is None:
            self.result()
        return self._error

    def set_result(self, value: Value) -> None:
        """Sets the result; whoever waits for it has gone on when this returns, unless it is called by a task."""
        self._end()
        self._value = value
        at_once = asyncio.current_task(self._loop) is None
        callbacks, self._callbacks = self._callbacks, []
        for callback, context in callbacks:
            if at_once and context is not None:
                context.run(callback, self)
            else:
                self._loop.call_soon(callback, self, context=context)

    def set_exception(self, error: BaseException) -> None:
        """Sets an error."""
        self._end()
        self._error = error
        self._call_soon()

    def cancel(self, msg: object = None) -> bool:
        """Cancels it; False where it is done."""
        del msg
        if self._done:
            return False
        self._end()
        self._cancelled = True
        self._call_soon()
        return True

    def add_done_callback(self, callback: Callable[[Any], object], *, context: Context | None = None) -> None:
        """Has something called when it is done."""
        self._callbacks.append((callback, context))
        if self._done:
            self._call_soon()

    def remove_done_callback(self, callback: Callable[[Any], object]) -> int:
        """Does not call it; returns how often it would have been."""
        left = [(one, context) for one, context in self._callbacks if one != callback]
        removed = len(self._callbacks) - len(left)
        self._callbacks = left
        return removed

    def __await__(self) -> Generator[Any, None, Value]:
        """Waits for the result."""
        if not self._done:
            self._asyncio_future_blocking = True
            yield self
        return self.result()

    def _end(self) -> None:
        if self._done:
            raise asyncio.InvalidStateError("it is done already")
        self._done = True

    def _call_soon(self) -> None:
        callbacks, self._callbacks = self._callbacks, []
        for callback, context in callbacks:
            self._loop.call_soon(callback, self, context=context)
