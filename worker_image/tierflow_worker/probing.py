"""Keeps the estimates of the links: from every request that crosses one, and from probes where none does.

Each link is probed with an OIP call to the neighbour, over a connection of its own:

- round trip: three `ServerLive` calls every 10 s while idle, and every 60 s while requests use the link, since messages
  of one size alone can't tell round trip from bandwidth;
- bandwidth: while idle, every 30 s `ModelInfer` with the parameter `tierflow_probe`, which the neighbour answers at
  once. The payload is what the link takes some 0.1 s for, at least 8 KiB and at most 512 KiB, in up to four messages of
  which the fastest counts: what else the two machines do makes a message slower and never faster. Only the first one
  can be too fast, where a link that is limited lets what comes after a rest pass at once: it does not count if it took
  less than half the time of each that followed. Where the link turns out to take much less than 0.1 s for the payload,
  a larger one follows.

A worker that has just started probes after 1, 2, 4, ... seconds until these periods are reached: at most 4 MiB in its
first minute.
So an idle link carries at most 1 MiB of probes per minute, and a slow one some 0.4 % of what it could; one of
0.13 Mbit/s, at 8 KiB per probe, 1.7 %. "Idle" means that this worker has no request under way, and that none crossed
the link for 2 s. A worker that has requests under way all the time measures a link that they don't use nevertheless, up
to 15 s later: a plan that leaves a tier out would else never learn that the way there is good again.
"""

import asyncio
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

from tierflow.descriptor import Downstream, WorkerDescriptor
from tierflow.errors import TierflowError, UnreachableError
from tierflow.protocol import wire
from tierflow.protocol.codec import decode_response, request_parts
from tierflow.protocol.messages import PROBE_PARAMETER, SECONDS_PARAMETER, Data, InferRequest, InferTensor
from tierflow.tiers import Tier
from tierflow_worker.links import LARGE_BYTES, LinkEstimate, LinkEstimator, Transfer
from tierflow_worker.logs import Log
from tierflow_worker.metrics import Metrics, Purpose
from tierflow_worker.rpc.client import Channel
from tierflow_worker.rpc.status import RpcError

PINGS: Final = 3
PING_SECONDS: Final = 10.0
BUSY_PING_SECONDS: Final = 60.0
PAYLOAD_SECONDS: Final = 30.0
BUSY_PAYLOAD_SECONDS: Final = PAYLOAD_SECONDS + 15.0
IDLE_SECONDS: Final = 2.0
SMALLEST_PAYLOAD: Final = LARGE_BYTES
LARGEST_PAYLOAD: Final = 512 * 1024

_PAYLOAD_WIRE_SECONDS: Final = 0.1
_MOST_MESSAGES: Final = 4
_PAYLOAD_GROWTH: Final = 8
_AT_ONCE: Final = 2.0
_FIRST_PAUSE_SECONDS: Final = 1.0
_TICK_SECONDS: Final = 0.5
_DOWN_SECONDS: Final = 1.0  # until a neighbour that did not answer is asked again
_DEADLINE_SECONDS: Final = 20.0


class LinkWatch:
    """Learns from the transfers of all links of a worker, and exports what is known.

    Args:
        metrics: Where estimates and bytes are recorded.
        tells_loss: Whether a neighbour that doesn't answer is news now. It isn't for a worker that is not ready: those
            that it will send to may start after it.
        clock: Monotonic seconds.
        wall_clock: Seconds of the Unix epoch.
    """

    def __init__(
        self,
        metrics: Metrics,
        *,
        tells_loss: Callable[[], bool] = lambda: True,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._metrics = metrics
        self._tells_loss = tells_loss
        self._clock = clock
        self._wall_clock = wall_clock
        self._estimators: dict[Tier, LinkEstimator] = {}
        self._last_request: dict[Tier, float] = {}

    def transferred(self, to: Tier, transfer: Transfer) -> None:
        """A request and its answer have crossed the link to a tier."""
        self._last_request[to] = self._clock()
        self._count(to, transfer, Purpose.REQUEST)
        self._learn(to, transfer)

    def probed(self, to: Tier, transfer: Transfer) -> None:
        """A probe and its answer have crossed the link to a tier."""
        self.probed_in_a_row(to, [transfer])

    def probed_in_a_row(self, to: Tier, transfers: Sequence[Transfer]) -> None:
        """Probes of one size and their answers have crossed the link to a tier, one after the other.

        The fastest tells what it can do; not the first, where it passed at once and the others did not.
        """
        for transfer in transfers:
            self._count(to, transfer, Purpose.PROBE)
        fastest = min(transfers, key=_wire_seconds)
        if others := transfers[1:]:
            fastest_after = min(others, key=_wire_seconds)
            if fastest.wire_seconds < fastest_after.wire_seconds / _AT_ONCE:
                fastest = fastest_after
        self._learn(to, fastest)

    def unreachable(self, to: Tier) -> None:
        """A message could not be sent to a tier, or its answer did not come."""
        if self._tells_loss():
            self._metrics.set_link_up(to, False)

    def estimate(self, to: Tier) -> LinkEstimate:
        """What is known of the link to a tier."""
        return self._estimator(to).estimate

    def seconds_since_request(self, to: Tier) -> float:
        """Since a request last crossed the link to a tier; infinite where none did."""
        last = self._last_request.get(to)
        return float("inf") if last is None else self._clock() - last

    def _estimator(self, to: Tier) -> LinkEstimator:
        return self._estimators.setdefault(to, LinkEstimator())

    def _count(self, to: Tier, transfer: Transfer, purpose: Purpose) -> None:
        self._metrics.set_link_up(to, True)
        self._metrics.count_link_bytes(to, sent=transfer.sent_bytes, received=transfer.received_bytes, purpose=purpose)

    def _learn(self, to: Tier, transfer: Transfer) -> None:
        known = self._estimator(to).observe(transfer, now=self._clock())
        if known.measured is not None:
            self._metrics.observe_link(
                to,
                bytes_per_second=known.bytes_per_second,
                round_trip_seconds=known.round_trip_seconds,
                timestamp=self._wall_clock(),
            )


class Neighbour(Protocol):
    """Who answers probes."""

    async def ping(self) -> Transfer:
        """A message of next to no size.

        Raises:
            UnreachableError: where no answer came.
        """

    async def send(self, payload_bytes: int) -> Transfer:
        """A message with a payload.

        Raises:
            UnreachableError: where no answer came.
        """

    async def close(self) -> None:
        """Ends the connection."""


class GrpcNeighbour:
    """A worker that is probed over gRPC. Must be made inside the event loop that uses it."""

    def __init__(self, downstream: Downstream, *, pipeline: str, max_message_bytes: int) -> None:
        self._name = f"{downstream.tier} at {downstream.address}"
        self._pipeline = pipeline
        self._channel = Channel(downstream.address, max_message_bytes=max_message_bytes)

    async def ping(self) -> Transfer:
        """A `ServerLive` call; see `Neighbour`."""
        return await self._measure("ServerLive", [])

    async def send(self, payload_bytes: int) -> Transfer:
        """A `ModelInfer` call with the parameter `tierflow_probe`; see `Neighbour`."""
        # Random bytes, so that nothing on the way can make them fewer.
        tensor = InferTensor("probe", "uint8", (payload_bytes,), os.urandom(payload_bytes))
        request = InferRequest(self._pipeline, (tensor,), parameters={PROBE_PARAMETER: True})
        return await self._measure("ModelInfer", request_parts(request))

    async def close(self) -> None:
        """Ends the connection."""
        await self._channel.close()

    async def _measure(self, method: str, parts: Sequence[Data]) -> Transfer:
        began = time.perf_counter()
        try:
            answer = await self._channel.unary(f"/{wire.SERVICE}/{method}", parts, timeout=_DEADLINE_SECONDS)
        except RpcError as error:
            raise UnreachableError(f"{self._name} did not answer a probe: {error.details()}") from error
        seconds = time.perf_counter() - began
        elsewhere = decode_response(answer).parameters.get(SECONDS_PARAMETER, 0.0) if parts else 0.0
        return Transfer(sum(map(len, parts)), len(answer), seconds, float(elsewhere))


class Prober:
    """Probes the links of a worker that requests do not use.

    Args:
        neighbours: By tier.
        watch: What learns from the probes.
        is_idle: Whether the worker has no request under way.
        log: Bound to the worker.
        max_message_bytes: Largest message that the neighbours take; payloads stay below.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        neighbours: Mapping[Tier, Neighbour],
        watch: LinkWatch,
        *,
        is_idle: Callable[[], bool],
        log: Log,
        max_message_bytes: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._neighbours = neighbours
        self._watch = watch
        self._is_idle = is_idle
        self._log = log
        self._clock = clock
        self._largest_payload = min(LARGEST_PAYLOAD, max_message_bytes // 2)
        self._began = clock()
        self._next_ping = dict.fromkeys(neighbours, 0.0)
        self._next_payload = dict.fromkeys(neighbours, self._began)
        self._down: set[Tier] = set()

    async def run(self) -> None:
        """Probes until it is cancelled."""
        try:
            while True:
                # One after the other: links may share a medium.
                for to in self._neighbours:
                    await self.probe(to)
                await asyncio.sleep(_TICK_SECONDS)
        finally:
            for neighbour in self._neighbours.values():
                await neighbour.close()

    async def probe(self, to: Tier) -> None:
        """Sends the probes to a tier that are due."""
        try:
            sent = await self._send_due(to)
        except TierflowError as error:
            self._next_ping[to] = self._next_payload[to] = self._clock() + _DOWN_SECONDS
            self._watch.unreachable(to)
            if to not in self._down:
                self._down.add(to)
                self._log.warning("link down", to=to, error=str(error))
        else:
            if sent and to in self._down:
                self._down.remove(to)
                self._log.info("link up", to=to)

    async def _send_due(self, to: Tier) -> bool:
        """Whether anything was due."""
        unused = self._is_unused(to)
        idle = unused and self._is_idle()
        now = self._clock()
        ping = now >= self._next_ping[to] + (0.0 if idle else BUSY_PING_SECONDS - PING_SECONDS)
        if ping:
            self._next_ping[to] = now + self._pause(PING_SECONDS)
            await self._ping(to)
        payload = unused and now >= self._next_payload[to] + (0.0 if idle else BUSY_PAYLOAD_SECONDS - PAYLOAD_SECONDS)
        if payload:
            self._next_payload[to] = now + self._pause(PAYLOAD_SECONDS)
            await self._send_payloads(to, self._is_idle if idle else lambda: self._is_unused(to))
        return ping or payload

    def _is_unused(self, to: Tier) -> bool:
        """Whether no request has crossed the link to a tier lately."""
        return self._watch.seconds_since_request(to) >= IDLE_SECONDS

    def _pause(self, period: float) -> float:
        """Until the next probe: as long as the worker has run already, and at most its period."""
        return min(period, max(self._clock() - self._began, _FIRST_PAUSE_SECONDS))

    async def _ping(self, to: Tier) -> None:
        if self._watch.estimate(to).round_trip_seconds is None:
            await self._neighbours[to].ping()  # makes the connection, which is not to be measured
        for _ in range(PINGS):
            self._watch.probed(to, await self._neighbours[to].ping())

    async def _send_payloads(self, to: Tier, goes_on: Callable[[], bool]) -> None:
        """Sends payloads, ever larger ones until they tell the bandwidth, for as long as `goes_on` says so."""
        size = self._payload_size(to)
        while goes_on():
            size = await self._send_payload(to, size, goes_on)
            wanted = self._payload_size(to)
            if size >= wanted / 2:
                return
            size = min(size * _PAYLOAD_GROWTH, wanted)

    def _payload_size(self, to: Tier) -> int:
        return min(payload_size(self._watch.estimate(to)), self._largest_payload)

    async def _send_payload(self, to: Tier, size: int, goes_on: Callable[[], bool]) -> int:
        """Sends a payload in several messages, fewer where the link is slow; returns their bytes."""
        message_bytes = min(max(size // _MOST_MESSAGES, SMALLEST_PAYLOAD), size)
        round_trip = self._watch.estimate(to).round_trip_seconds or 0.0
        transfers: list[Transfer] = []
        fastest = 0.0
        while not transfers or (
            goes_on() and len(transfers) < _MOST_MESSAGES and fastest * len(transfers) < _PAYLOAD_WIRE_SECONDS
        ):
            transfers.append(await self._neighbours[to].send(message_bytes))
            fastest = min(map(_wire_seconds, transfers)) - round_trip
        self._watch.probed_in_a_row(to, transfers)
        return message_bytes * len(transfers)


def _wire_seconds(transfer: Transfer) -> float:
    return transfer.wire_seconds


def payload_size(estimate: LinkEstimate) -> int:
    """Bytes that the link takes some 0.1 s for, within bounds."""
    wanted = (estimate.bytes_per_second or 0.0) * _PAYLOAD_WIRE_SECONDS
    return int(min(max(wanted, SMALLEST_PAYLOAD), LARGEST_PAYLOAD))


def neighbours_of(descriptor: WorkerDescriptor, *, max_message_bytes: int) -> dict[Tier, Neighbour]:
    """A neighbour to probe for each tier that the descriptor says to probe or to send to."""
    downstreams = {downstream.tier: downstream for downstream in descriptor.probes}
    for segment in descriptor.segments[:1]:
        if segment.downstream is not None:
            downstreams[segment.downstream.tier] = segment.downstream
    return {
        tier: GrpcNeighbour(downstream, pipeline=descriptor.pipeline, max_message_bytes=max_message_bytes)
        for tier, downstream in downstreams.items()
    }
