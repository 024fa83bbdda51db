"""What a worker does with a request, whichever face it came through: gRPC and REST call this, and nothing below it.

Raises errors of `tierflow.errors` alone; the faces translate them.
"""

import asyncio
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final, cast

import msgspec

from tierflow.descriptor import Downstream, SegmentDescriptor, WorkerDescriptor
from tierflow.errors import (
    DeadlineExceededError,
    IntegrityError,
    InvalidRequestError,
    OverloadedError,
    UnreachableError,
)
from tierflow.graph import Tensor
from tierflow.protocol.codec import decode_response
from tierflow.protocol.messages import (
    BOUNDARY_PARAMETER,
    HOLD_PARAMETER,
    PROBE_PARAMETER,
    RESULTS_PARAMETER,
    RUN_PARAMETER,
    SECONDS_PARAMETER,
    SEGMENT_PARAMETER,
    EncodedResponse,
    InferRequest,
    InferResponse,
    InferTensor,
    ModelMetadata,
    Parameter,
    ServerMetadata,
    TensorMetadata,
)
from tierflow_worker.afterwards import Afterwards
from tierflow_worker.arrival import Arrival
from tierflow_worker.asked import MODEL_VERSION, check_model, find_place, only_own, wanted_outputs
from tierflow_worker.logs import Log
from tierflow_worker.metrics import Metrics, Outcome, outcome_of
from tierflow_worker.onward import Onward, Sender
from tierflow_worker.queue import ComputeQueue
from tierflow_worker.rpc.coming import Coming
from tierflow_worker.segments import LoadedSegment, SegmentStore
from tierflow_worker.tensors import check_tensors
from tierflow_worker.tiling.holdings import Holdings
from tierflow_worker.tiling.requests import Tiling, compute_tile, hold_runs

PLATFORM: Final = "onnxruntime_onnx"
"""What serves the model, in the protocol's word for it."""


class DataPlane:
    """The worker's part in answering requests: check, compute, send on, merge.

    Args:
        descriptor: What the worker serves.
        store: Its segments.
        queue: Where computations wait for their turn.
        downstream: A sender for each downstream that a segment has.
        metrics: Where requests and runs are counted.
        log: Bound to the worker.
        in_flight_limit: Requests that may be under way in all.
        tiling: The tile workers that are there, for runs that are shared; None where there never are any.
        holdings: The runs that this worker computes tiles of for others; None where it is no tile worker.
        afterwards: When requests and runs are counted and logged.
        version: Of Tierflow.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        descriptor: WorkerDescriptor,
        store: SegmentStore,
        queue: ComputeQueue,
        downstream: Mapping[Downstream, Sender],
        *,
        metrics: Metrics,
        log: Log,
        in_flight_limit: int = 128,
        tiling: Tiling | None = None,
        holdings: Holdings | None = None,
        afterwards: Afterwards | None = None,
        version: str = "",
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._descriptor = descriptor
        self._outputs: Final = {tensor.name: tensor for tensor in descriptor.outputs}
        self._store = store
        self._queue = queue
        self._downstream = downstream
        self._metrics = metrics
        self._log = log
        self._in_flight_limit = in_flight_limit
        self._tiling = tiling
        self._holdings = holdings
        self._afterwards = Afterwards() if afterwards is None else afterwards
        self._version = version
        self._clock = clock
        self._opened = False
        self._draining = False
        self._in_flight = 0
        self._numbers = itertools.count(1)
        metrics.follow_in_flight(lambda: self._in_flight)

    @property
    def in_flight(self) -> int:
        """Requests that have come and not ended."""
        return self._in_flight

    def set_ready(self) -> None:
        """Makes the worker ready: its current segment is loaded, and nothing else has to be waited for."""
        self._opened = True
        self._metrics.set_ready(self.ready())

    def drain(self) -> None:
        """Makes the worker unready for good. What still reaches it is answered: whoever sent it may not know yet."""
        self._draining = True
        self._metrics.set_ready(False)

    def live(self) -> bool:
        """Whether the process answers at all."""
        return True

    def ready(self) -> bool:
        """Whether requests should be sent here: the segment is loaded and approved, the worker is not draining."""
        return self._opened and not self._draining

    def server_metadata(self) -> ServerMetadata:
        """Name, version and extensions of this server."""
        return ServerMetadata("tierflow", self._version)

    def model_metadata(self, name: str, version: str = "") -> ModelMetadata:
        """Inputs and outputs of the pipeline `name`; see `Inference`."""
        check_model(self._descriptor, name, version)
        return ModelMetadata(
            name=name,
            platform=PLATFORM,
            inputs=_metadata(self._descriptor.inputs),
            outputs=_metadata(self._descriptor.outputs),
            versions=(MODEL_VERSION,),
        )

    async def infer(self, request: InferRequest, *, timeout: float | None = None) -> InferResponse:
        """Answers a request; see `Inference`."""
        # Only the answers to announced requests are passed on as they came.
        return cast(InferResponse, await self._infer(request, Arrival(self._clock), timeout))

    async def infer_announced(
        self, request: InferRequest, coming: Coming, *, timeout: float | None = None
    ) -> InferResponse | EncodedResponse:
        """Answers a request that is still on its way; see `Inference`."""
        try:
            return await self._infer(request, Arrival(self._clock, coming), timeout)
        finally:
            coming.forget()

    async def _infer(
        self, request: InferRequest, arrival: Arrival, timeout: float | None
    ) -> InferResponse | EncodedResponse:
        if PROBE_PARAMETER in request.parameters:
            await arrival.whole()
            return InferResponse(request.model, (), request.id, {SECONDS_PARAMETER: 0.0}, MODEL_VERSION)
        if HOLD_PARAMETER in request.parameters:
            return await self._hold(request, arrival)
        self._in_flight += 1
        problem: BaseException | None = None
        try:
            if timeout is None:
                return await self._admit(request, arrival, None)
            async with asyncio.timeout(timeout):
                return await self._admit(request, arrival, arrival.at + timeout)
        except TimeoutError as error:
            problem = DeadlineExceededError(f"no answer within the deadline of {timeout or 0:.3f} s")
            raise problem from error
        except BaseException as error:
            problem = error
            raise
        finally:
            self._in_flight -= 1
            never_came = not arrival.is_whole and isinstance(problem, asyncio.CancelledError | DeadlineExceededError)
            if not never_came:
                self._afterwards.note(self._note_end, request.id, problem, self._clock() - arrival.at)

    async def _hold(self, request: InferRequest, arrival: Arrival) -> InferResponse:
        await arrival.whole()
        check_model(self._descriptor, request.model, request.version)
        if self._draining:
            raise UnreachableError("this worker is about to end, and takes no more tiles")
        return hold_runs(request, self._holdings)

    def note_refused(self, error: Exception, seconds: float) -> None:
        """Counts and logs a request that a face could not read; see `Inference`."""
        self._metrics.observe_request(Outcome.INVALID, seconds)
        self._log.warning("request refused", error=str(error)[:500])

    def _note_end(self, request: str, problem: BaseException | None, seconds: float) -> None:
        outcome = outcome_of(problem)
        self._metrics.observe_request(outcome, seconds)
        fields = {"request": request, "seconds": round(seconds, 6)}
        if problem is None:
            self._log.debug("request answered", **fields)
        elif outcome is Outcome.CANCELLED:
            self._log.debug("request cancelled", **fields)
        else:
            self._log.warning("request failed", outcome=outcome, error=str(problem)[:500], **fields)

    async def _admit(
        self, request: InferRequest, arrival: Arrival, deadline: float | None
    ) -> InferResponse | EncodedResponse:
        if self._in_flight > self._in_flight_limit:
            raise OverloadedError(
                f"{self._in_flight_limit} requests are under way already, which is the limit; try again later, or "
                "raise --in-flight",
                retry_after_seconds=1.0,
            )
        if deadline is not None and arrival.at >= deadline:
            raise DeadlineExceededError("the deadline had passed before the request came")
        check_model(self._descriptor, request.model, request.version)
        if RUN_PARAMETER in request.parameters:
            await arrival.whole()
            made = await compute_tile(request, self._holdings, self._queue)
            spent = {SECONDS_PARAMETER: self._clock() - arrival.at}
            return InferResponse(request.model, (made,), request.id, spent, MODEL_VERSION)
        wanted = wanted_outputs(self._descriptor, request.outputs)
        boundary = request.parameters.get(BOUNDARY_PARAMETER)
        place = find_place(self._descriptor, self._store, boundary)
        if only_own(request):
            return await self._answer_own(request, place, arrival, wanted, deadline)
        if boundary is not None:
            answer = await self._answer(self._named(request), place, arrival, wanted, deadline)
            seconds = self._clock() - arrival.at
            if isinstance(answer, EncodedResponse):
                return EncodedResponse(answer.data, seconds)
            return InferResponse(request.model, answer, request.id, {SECONDS_PARAMETER: seconds}, MODEL_VERSION)
        wanted = wanted or tuple(self._outputs)
        tensors = await self._answer(self._named(request), place, arrival, wanted, deadline)
        return InferResponse(request.model, self._ordered(tensors, wanted), request.id, {}, MODEL_VERSION)

    def _named(self, request: InferRequest) -> InferRequest:
        """The request with an id for logs and for its way up, where the client gave none."""
        if request.id:
            return request
        name = f"{self._descriptor.tier}-{next(self._numbers)}"
        return InferRequest(request.model, request.tensors, name, request.outputs, request.parameters, request.version)

    async def _answer(
        self,
        request: InferRequest,
        place: int,
        arrival: Arrival,
        wanted: tuple[str, ...],
        deadline: float | None,
    ) -> tuple[InferTensor, ...] | EncodedResponse:
        """The wanted outputs that this segment and those above it make; () wants all."""
        segment = self._descriptor.segments[place]
        own = [result.name for result in segment.results if not wanted or result.name in wanted]
        missing = tuple(name for name in wanted if name not in own)
        if segment.sends is None or segment.downstream is None or (wanted and not missing):
            tensors = await self._made(request, place, arrival, deadline)
            return tuple(tensors[name] for name in own)
        asked = InferRequest(
            model=request.model,
            tensors=(),
            id=request.id,
            outputs=missing if len(missing) < len(self._descriptor.outputs) else (),
            parameters={BOUNDARY_PARAMETER: segment.sends.id},
        )
        onward = Onward(self._downstream[segment.downstream], asked, segment.sends.tensors, deadline)
        try:
            tensors = await self._made(request, place, arrival, deadline, onward)
            answer = await onward.infer(tensors, as_it_comes=arrival.coming is not None and not own)
        finally:
            onward.end()
        if isinstance(answer, EncodedResponse):
            return answer
        return (*[tensors[name] for name in own], *answer.tensors)

    async def _answer_own(
        self,
        request: InferRequest,
        place: int,
        arrival: Arrival,
        wanted: tuple[str, ...],
        deadline: float | None,
    ) -> InferResponse:
        """What this segment sends on, and the wanted results that it makes; see `ONLY_OWN_PARAMETER`."""
        if self._tiling is not None:
            await self._tiling.prepared()  # whoever asks for this part alone tries it, and is to try all of it
        segment = self._descriptor.segments[place]
        tensors = await self._made(request, place, arrival, deadline)
        sends = segment.sends.tensors if segment.sends is not None else ()
        results = [result.name for result in segment.results if not wanted or result.name in wanted]
        names = dict.fromkeys((*(tensor.name for tensor in sends), *results))
        parameters: dict[str, Parameter] = {
            SEGMENT_PARAMETER: segment.id,
            RESULTS_PARAMETER: msgspec.json.encode(results).decode(),
        }
        if segment.sends is not None:
            parameters[BOUNDARY_PARAMETER] = segment.sends.id
        made = tuple(tensors[name] for name in names)
        return InferResponse(request.model, made, request.id, parameters, MODEL_VERSION)

    async def _made(
        self,
        request: InferRequest,
        place: int,
        arrival: Arrival,
        deadline: float | None,
        onward: Onward | None = None,
    ) -> dict[str, InferTensor]:
        """The request's tensors, checked, and what this segment makes of them."""
        segment = self._descriptor.segments[place]
        entry = BOUNDARY_PARAMETER not in request.parameters
        what = f"the model {request.model}" if entry else f"boundary {segment.accepts.id}"
        if not arrival.is_whole and any(tensor.dtype == "string" for tensor in segment.accepts.tensors):
            await arrival.whole()  # to check these is to read them
        tensors = check_tensors(request.tensors, segment.accepts.tensors, what=what)
        loaded = await self._store.get(place)
        if not loaded.computes:
            await arrival.whole()
            return tensors
        return tensors | await self._compute(segment, loaded, tensors, arrival, deadline, onward)

    async def _compute(
        self,
        segment: SegmentDescriptor,
        loaded: LoadedSegment,
        tensors: Mapping[str, InferTensor],
        arrival: Arrival,
        deadline: float | None,
        onward: Onward | None,
    ) -> dict[str, InferTensor]:
        if self._tiling is not None and loaded.is_shared(self._tiling):
            await arrival.whole()
            began = self._clock()
            shared = await loaded.run_shared(tensors, self._queue, self._tiling, deadline)
            self._afterwards.note(self._note_run, segment.id, loaded, self._clock() - began)
            return shared
        cancellation = loaded.cancellation()
        meanwhile, then = (None, None) if onward is None else (onward.announce, onward.send)
        computed, seconds = await self._queue.run(
            lambda: loaded.run(tensors, cancellation),
            cancel=cancellation.cancel,
            coming=arrival.coming,
            meanwhile=meanwhile,
            then=then,
        )
        self._afterwards.note(self._note_run, segment.id, loaded, seconds)
        return computed

    def _note_run(self, segment: str, loaded: LoadedSegment, seconds: float) -> None:
        self._metrics.observe_segment(segment, seconds)
        self._log.debug("segment computed", segment=segment, seconds=round(seconds, 6))
        loaded.prepare()
        layers = loaded.take_layer_seconds()
        if layers:
            slowdown = self._queue.slowdown
            self._metrics.observe_layers(segment, {name: spent * slowdown for name, spent in layers.items()})

    def _ordered(
        self, answer: tuple[InferTensor, ...] | EncodedResponse, wanted: Sequence[str]
    ) -> tuple[InferTensor, ...]:
        """The wanted outputs in the order wanted, checked, since the tiers above may be other programs."""
        tensors = decode_response(answer.data).tensors if isinstance(answer, EncodedResponse) else answer
        try:
            found = check_tensors(tensors, [self._outputs[name] for name in wanted], what="the answer")
        except InvalidRequestError as error:
            raise IntegrityError(f"the tiers above answered wrongly: {error}", subject=error.subject) from error
        return tuple(found[name] for name in wanted)


def _metadata(tensors: Sequence[Tensor]) -> tuple[TensorMetadata, ...]:
    return tuple(TensorMetadata(tensor.name, tensor.dtype, tensor.shape) for tensor in tensors)
