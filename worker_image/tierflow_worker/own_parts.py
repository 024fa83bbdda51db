"""Drives an input through a chain without letting it flow: each worker is asked for its own part alone.

What it would send on is handed on from here, so workers can be tried that the ones below them don't reach yet.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from tierflow.descriptor import SegmentDescriptor, WorkerDescriptor
from tierflow.errors import (
    IntegrityError,
    InvalidInputError,
    InvalidRequestError,
    OverloadedError,
    TierflowError,
    UnknownBoundaryError,
    UnreachableError,
)
from tierflow.graph import Tensor
from tierflow.protocol import wire
from tierflow.protocol.codec import decode_response, request_parts
from tierflow.protocol.messages import (
    BOUNDARY_PARAMETER,
    ONLY_OWN_PARAMETER,
    SEGMENT_PARAMETER,
    Data,
    InferRequest,
    InferTensor,
    Parameter,
)
from tierflow.tiers import TIERS, Tier
from tierflow_worker.rpc.client import Channel
from tierflow_worker.rpc.status import Code, RpcError
from tierflow_worker.statuses import from_status
from tierflow_worker.tensors import check_tensors

Tensors = Mapping[str, InferTensor]
Clock = Callable[[], float]
Pause = Callable[[float], Awaitable[None]]

_UNLIMITED: Final = 2**31 - 1  # the worker's own limit counts
_PAUSE_SECONDS: Final = 0.1
_REQUEST_ID: Final = "check"


@dataclass(frozen=True, slots=True)
class Stop:
    """A worker that the input comes by, and the segment that it computes of it."""

    tier: Tier
    pipeline: str
    segment: SegmentDescriptor


def route_of(descriptors: Mapping[Tier, WorkerDescriptor]) -> tuple[Stop, ...]:
    """The way of a request through the workers that these descriptors describe, from the device on.

    Raises:
        InvalidInputError: where a tier on the way has no descriptor, or none of its segments accepts what it is sent.
    """
    tier, boundary = Tier.DEVICE, ""
    stops: list[Stop] = []
    for _ in TIERS:
        if tier not in descriptors:
            raise InvalidInputError(
                f"requests come by the {tier} tier, whose descriptor is not given: add --descriptor {tier}=PATH",
                subject=str(tier),
            )
        segments = descriptors[tier].segments
        found = [segment for segment in segments if boundary in ("", segment.accepts.id)]
        if not found:
            sent = f"accepts the boundary {boundary} that it is sent" if boundary else "is there"
            raise InvalidInputError(f"no segment in the {tier} tier's descriptor {sent}", subject=str(tier))
        stops.append(Stop(tier, descriptors[tier].pipeline, found[0]))
        if found[0].sends is None or found[0].downstream is None:
            break
        tier, boundary = found[0].downstream.tier, found[0].sends.id
    return tuple(stops)


async def drive(
    inputs: Tensors,
    route: Sequence[Stop],
    addresses: Mapping[Tier, str],
    *,
    deadline: float,
    clock: Clock = time.monotonic,
    pause: Pause = asyncio.sleep,
) -> dict[str, InferTensor]:
    """The results of all workers on the route.

    Args:
        inputs: The model's, by name.
        route: Where they come by.
        addresses: The worker of each tier, as `host:port`.
        deadline: Until when workers are waited for, on `clock`.
        clock: Monotonic seconds.
        pause: Waits so many seconds until a worker is asked again; what it raises ends the drive.

    Raises:
        UnreachableError: naming the worker that did not answer until the deadline.
        UnknownBoundaryError: naming the worker that has another segment than its descriptor says.
        IntegrityError: naming the worker whose answer is not what its segment makes.
        TierflowError: what a worker answered instead.
    """
    results: dict[str, InferTensor] = {}
    arriving, boundary = dict(inputs), ""
    for stop in route:
        segment = stop.segment
        parameters: dict[str, Parameter] = {ONLY_OWN_PARAMETER: True}
        if boundary:
            parameters[BOUNDARY_PARAMETER] = boundary
        given = tuple(arriving[tensor.name] for tensor in segment.accepts.tensors)
        request = InferRequest(stop.pipeline, given, _REQUEST_ID, parameters=parameters)
        made = await _Worker(stop, addresses[stop.tier], clock, pause).ask(request, deadline)
        results |= {tensor.name: made[tensor.name] for tensor in segment.results}
        arriving, boundary = made, segment.sends.id if segment.sends is not None else ""
    return results


class _Worker:
    """One worker on the route."""

    def __init__(self, stop: Stop, address: str, clock: Clock, pause: Pause) -> None:
        self._stop = stop
        self._name = f"{stop.tier} at {address}"
        self._address = address
        self._clock = clock
        self._pause = pause

    async def ask(self, request: InferRequest, deadline: float) -> dict[str, InferTensor]:
        """The tensors that the worker's segment sends on and returns; waits for a worker that is still starting."""
        parts = request_parts(request)
        channel = Channel(self._address, max_message_bytes=_UNLIMITED)
        reason = "the time was over before it could be asked"
        try:
            while (left := deadline - self._clock()) > 0:
                try:
                    return self._read(await channel.unary(wire.INFER, parts, timeout=left))
                except RpcError as error:
                    reason, seconds = self._understand(error)
                await self._pause(max(min(seconds, deadline - self._clock()), 0.0))
        finally:
            await channel.close()
        raise UnreachableError(f"{self._name} did not answer in time: {reason}", subject=self._stop.tier)

    def _understand(self, error: RpcError) -> tuple[str, float]:
        """Why there is no answer yet, and the seconds until it makes sense to ask again.

        Raises:
            TierflowError: what the worker answered for good.
        """
        meant = from_status(error, sender=self._name)
        if isinstance(meant, OverloadedError):
            return meant.message, meant.retry_after_seconds
        if meant is not None:
            raise meant from error
        reason = f"{error.code().name}: {error.details()}"
        if error.code() not in (Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED):
            raise TierflowError(f"{self._name} failed: {reason}", subject=self._stop.tier) from error
        return reason, _PAUSE_SECONDS

    def _read(self, answer: Data) -> dict[str, InferTensor]:
        segment = self._stop.segment
        sends: tuple[Tensor, ...] = segment.sends.tensors if segment.sends is not None else ()
        try:
            response = decode_response(answer)
        except IntegrityError as error:
            raise self._wrong(error) from error
        served = response.parameters.get(SEGMENT_PARAMETER)
        if served != segment.id:
            raise UnknownBoundaryError(
                f"{self._name} serves the segment {served}, its descriptor says {segment.id}: it was started with "
                "another one",
                subject=self._stop.tier,
            )
        wanted = {tensor.name: tensor for tensor in (*sends, *segment.results)}
        try:
            return check_tensors(response.tensors, tuple(wanted.values()), what="the answer")
        except InvalidRequestError as error:
            raise self._wrong(error) from error

    def _wrong(self, error: TierflowError) -> IntegrityError:
        return IntegrityError(f"{self._name} answers wrongly: {error}", subject=self._stop.tier)
