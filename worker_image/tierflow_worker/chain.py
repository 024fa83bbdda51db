"""The client side of the chain: one connection to each worker that requests are sent on to.

A computation is pure, so a request may be sent again whenever its answer did not come because the connection or the
worker went away: while a worker is replaced behind a stable address, its requests wait for the new one. They are not
sent again where the worker answered, whatever it said, nor when their time is over.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Final, Protocol

from tierflow.descriptor import Downstream
from tierflow.errors import (
    DeadlineExceededError,
    InvalidRequestError,
    TierflowError,
    UnreachableError,
)
from tierflow.protocol import wire
from tierflow.protocol.codec import beginning_of, decode_response, request_parts, without_seconds
from tierflow.protocol.messages import SECONDS_PARAMETER, Data, EncodedResponse, InferRequest, InferResponse, Parameter
from tierflow.tiers import Tier
from tierflow_worker.afterwards import Afterwards
from tierflow_worker.links import Transfer
from tierflow_worker.rpc.client import Announced, Channel
from tierflow_worker.rpc.status import Code, RpcError
from tierflow_worker.statuses import from_status

_FIRST_PAUSE_SECONDS: Final = 0.02
_LONGEST_PAUSE_SECONDS: Final = 0.5
_LARGEST_MARGIN_SECONDS: Final = 0.05
_MARGIN: Final = 0.05  # of the time left, kept for the way back
_GONE: Final = frozenset((Code.UNAVAILABLE, Code.CANCELLED))


class LinkObserver(Protocol):
    """Who wants to know what the links do."""

    def transferred(self, to: Tier, transfer: Transfer) -> None:
        """A request and its answer have crossed the link to a tier."""

    def unreachable(self, to: Tier) -> None:
        """A request could not be sent to a tier, or its answer did not come."""


class DownstreamClient:
    """Sends requests on to the worker of the next tier that takes part.

    Must be made inside the event loop that uses it.

    Args:
        downstream: The worker.
        max_message_bytes: Largest message either way.
        patience_seconds: How long to try to reach it, deadline permitting.
        observer: Is told of transfers; None for nobody.
        afterwards: When it is told of them.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        downstream: Downstream,
        *,
        max_message_bytes: int,
        patience_seconds: float,
        observer: LinkObserver | None = None,
        afterwards: Afterwards | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._tier = downstream.tier
        self._name = f"{downstream.tier} at {downstream.address}"
        self._patience_seconds = patience_seconds
        self._observer = observer
        self._afterwards = Afterwards() if afterwards is None else afterwards
        self._clock = clock
        self._channel = Channel(downstream.address, max_message_bytes=max_message_bytes)

    def announce(self, request: InferRequest, size: int, *, deadline: float | None) -> "Announcement | None":
        """Sends what is known of a request with one tensor before the tensor's content is.

        The worker there does all that it can before it has the content.

        Args:
            request: As for `infer`; the tensor's content is not read.
            size: The content's, in bytes.
            deadline: On `clock`; None for none.

        Returns:
            What sends the content; None where there is no connection now.
        """
        beginning = beginning_of(request, size)
        left = None if deadline is None else deadline - self._clock()
        call = self._channel.announce(wire.INFER, beginning, len(beginning) + size, timeout=_timeout(left))
        return None if call is None else Announcement(call, len(beginning), size, self._clock)

    async def answer(
        self, announced: "Announcement", *, deadline: float | None, as_it_comes: bool = False
    ) -> InferResponse | EncodedResponse | None:
        """Waits for the answer to a request that was announced, and whose content was sent.

        Args:
            announced: The request.
            deadline: On `clock`; None for none.
            as_it_comes: Whether the answer need not be read, being another's.

        Returns:
            The answer; None where the worker was lost before it came, and the request should be sent again.

        Raises:
            DeadlineExceededError: where it did not answer in time.
            IntegrityError: where its answer is garbage.
            TierflowError: what it answered.
        """
        left = None if deadline is None else deadline - self._clock()
        try:
            answer = await announced.call.answer(timeout=_timeout(left))
        except RpcError as error:
            problem = self._understand(error)
            if isinstance(problem, _GoneError):
                return None
            raise problem from error
        if as_it_comes and (passed_on := without_seconds(answer)) is not None:
            self._learn(announced.size, len(answer), self._clock() - announced.sent_at, passed_on.seconds)
            return passed_on
        return self._received(answer, announced.size, announced.sent_at)

    async def infer(self, request: InferRequest, *, deadline: float | None) -> InferResponse:
        """Sends a request and waits for its answer, in spite of a worker that is being replaced.

        Args:
            request: With the boundary's id among its parameters.
            deadline: On `clock`; None for none.

        Raises:
            UnreachableError: where the worker could not be reached, or was lost, for the whole patience.
            DeadlineExceededError: where it did not answer in time.
            IntegrityError: where its answer is garbage.
            TierflowError: what it answered.
        """
        parts = request_parts(request)
        size = sum(map(len, parts))
        give_up = self._clock() + self._patience_seconds
        pause = _FIRST_PAUSE_SECONDS
        while True:
            began = self._clock()
            left = None if deadline is None else deadline - began
            try:
                answer = await self._channel.unary(wire.INFER, parts, timeout=_timeout(left))
            except RpcError as error:
                problem = self._understand(error)
                if not isinstance(problem, _GoneError):
                    raise problem from error
                limit = give_up if deadline is None else min(give_up, deadline - _margin(left or 0.0))
                if self._clock() + pause >= limit:
                    raise UnreachableError(f"{self._name} can't be reached: {problem}", subject=self._tier) from error
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
                continue
            return self._received(answer, size, began)

    async def close(self) -> None:
        """Ends the connection, and the requests that are under way on it."""
        await self._channel.close()

    def _received(self, answer: memoryview, sent: int, began: float) -> InferResponse:
        seconds = self._clock() - began
        response = decode_response(answer)
        self._learn(sent, len(answer), seconds, response.parameters.get(SECONDS_PARAMETER, 0.0))
        return response

    def _learn(self, sent: int, received: int, seconds: float, elsewhere: Parameter) -> None:
        """Tells what an answer says of the link."""
        if self._observer is not None and isinstance(elsewhere, float):
            transfer = Transfer(sent, received, seconds, elsewhere)
            self._afterwards.note(self._observer.transferred, self._tier, transfer)

    def _understand(self, error: RpcError) -> TierflowError:
        """What an attempt's failure means; `_GoneError` where another attempt makes sense."""
        meant = from_status(error, sender=self._name)
        if meant is not None and not (isinstance(meant, UnreachableError) and not meant.subject):
            return meant
        code, details = error.code(), error.details()
        if code in _GONE:
            self._tell_unreachable()
            return _GoneError(details or code.name)
        if code is Code.DEADLINE_EXCEEDED:
            if not self._channel.connected:
                self._tell_unreachable()
                return UnreachableError(
                    f"{self._name} can't be reached: no connection within the deadline", subject=self._tier
                )
            return DeadlineExceededError(f"{self._name} did not answer within the deadline", subject=self._tier)
        if code is Code.RESOURCE_EXHAUSTED:
            return InvalidRequestError(
                f"{self._name} refused the message: {details}; raise --max-message-bytes on both tiers",
                subject=self._tier,
            )
        return TierflowError(f"{self._name} failed: {code.name} {details}", subject=self._tier)

    def _tell_unreachable(self) -> None:
        if self._observer is not None:
            self._observer.unreachable(self._tier)


class Announcement:
    """A request that a worker knows of before its tensor's content is sent.

    Args:
        call: The call to the worker.
        beginning: Bytes of the message that were sent.
        content: Bytes that are to follow.
        clock: Monotonic seconds.

    Attributes:
        size: Of the whole message, in bytes.
        sent_at: When the content was sent, on the clock.
    """

    def __init__(self, call: Announced, beginning: int, content: int, clock: Callable[[], float]) -> None:
        self.call: Final = call
        self.size: Final = beginning + content
        self._missing = content
        self.sent_at = 0.0
        self._clock = clock

    @property
    def sent(self) -> bool:
        """Whether the content was sent."""
        return self.call.sent

    def send(self, content: Data) -> None:
        """Sends the tensor's content, unless the worker has refused the request or was lost; see `sent`."""
        self.sent_at = self._clock()
        if len(content) == self._missing:  # else it is another request than was announced
            self.call.send((content,))

    def abandon(self) -> None:
        """Tells the worker that the content won't come; does nothing once it was sent."""
        self.call.abandon()


class _GoneError(UnreachableError):
    """The connection or the worker went away before it answered."""


def _timeout(left: float | None) -> float | None:
    """An attempt's own, in seconds, which leaves time for the way back."""
    return None if left is None else max(left - _margin(left), 0.001)


def _margin(left: float) -> float:
    return min(_MARGIN * left, _LARGEST_MARGIN_SECONDS)
