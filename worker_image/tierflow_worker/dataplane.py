"""What a worker does with a request, whichever face it came through: gRPC and REST call this, and nothing below it.

Raises errors of `tierflow.errors` alone; the faces translate them.
"""

import asyncio
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

import msgspec

from tierflow.descriptor import Downstream, SegmentDescriptor, WorkerDescriptor
from tierflow.errors import (
    DeadlineExceededError,
    IntegrityError,
    InvalidRequestError,
    OverloadedError,
    UnknownBoundaryError,
    UnknownModelError,
    UnreachableError,
)
from tierflow.graph import Tensor
from tierflow.protocol.messages import (
    BOUNDARY_PARAMETER,
    ONLY_OWN_PARAMETER,
    PROBE_PARAMETER,
    RESULTS_PARAMETER,
    RUN_PARAMETER,
    SECONDS_PARAMETER,
    SEGMENT_PARAMETER,
    InferRequest,
    InferResponse,
    InferTensor,
    ModelMetadata,
    Parameter,
    ServerMetadata,
    TensorMetadata,
)
from tierflow.segment import closest
from tierflow.tiers import Tier
from tierflow_worker.logs import Log
from tierflow_worker.metrics import Metrics, Outcome, outcome_of
from tierflow_worker.queue import ComputeQueue
from tierflow_worker.segments import LoadedSegment, SegmentStore
from tierflow_worker.tensors import check_tensors
from tierflow_worker.tiling.requests import Tiling, compute_tile

MODEL_VERSION: Final = "1"
"""The one version that a pipeline has for clients; a plan's change is no new version, since no answer changes."""

PLATFORM: Final = "onnxruntime_onnx"
"""What serves the model, in the protocol's word for it."""


class Inference(Protocol):
    """What the faces need of a worker. `DataPlane` is the one that serves; tests may put another in its place."""

    async def infer(self, request: InferRequest, *, timeout: float | None = None) -> InferResponse:
        """Answers a request.

        Cancelling the awaiting task cancels the request, here and on the tiers above.

        Args:
            request: At the entry `model` is the pipeline and the tensors are the model's inputs; between workers the
                parameter `tierflow_boundary` names the boundary whose tensors they are.
            timeout: Seconds until the answer is of no use any more; None where the client set no deadline.

        Raises:
            UnknownModelError: where the pipeline, or its version, isn't served here.
            InvalidRequestError: naming the tensor whose name, dtype, shape or size is wrong.
            UnknownBoundaryError: where no segment of this worker accepts the boundary.
            OverloadedError: where the queue is full, here or further up; says when to try again.
            DeadlineExceededError: where the time was over before the answer was there.
            UnreachableError: naming the tier above and its address, where it could not be reached.
        """

    def note_refused(self, error: Exception, seconds: float) -> None:
        """Counts and logs a request that a face could not read, `seconds` after it came."""

    def live(self) -> bool:
        """Whether the process answers at all."""

    def ready(self) -> bool:
        """Whether requests should be sent here: the segment is loaded and approved, the worker is not draining."""

    def server_metadata(self) -> ServerMetadata:
        """Name, version and extensions of this server."""

    def model_metadata(self, name: str, version: str = "") -> ModelMetadata:
        """Inputs and outputs of the pipeline `name`.

        Raises:
            UnknownModelError: where that isn't the pipeline served here, or not its version.
        """


class Sender(Protocol):
    """What sends a request on: `tierflow_worker.chain.DownstreamClient`."""

    async def infer(self, request: InferRequest, *, deadline: float | None) -> InferResponse:
        """The answer of the worker there; `deadline` is on the data plane's clock."""


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
        version: str = "",
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._descriptor = descriptor
        self._store = store
        self._queue = queue
        self._downstream = downstream
        self._metrics = metrics
        self._log = log
        self._in_flight_limit = in_flight_limit
        self._tiling = tiling
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
        self._check_model(name, version)
        return ModelMetadata(
            name=name,
            platform=PLATFORM,
            inputs=_metadata(self._descriptor.inputs),
            outputs=_metadata(self._descriptor.outputs),
            versions=(MODEL_VERSION,),
        )

    async def infer(self, request: InferRequest, *, timeout: float | None = None) -> InferResponse:
        """Answers a request; see `Inference`."""
        if PROBE_PARAMETER in request.parameters:
            return InferResponse(request.model, (), request.id, {SECONDS_PARAMETER: 0.0}, MODEL_VERSION)
        began = self._clock()
        self._in_flight += 1
        problem: BaseException | None = None
        try:
            if timeout is None:
                return await self._admit(request, began, None)
            async with asyncio.timeout(timeout):
                return await self._admit(request, began, began + timeout)
        except TimeoutError as error:
            problem = DeadlineExceededError(f"no answer within the deadline of {timeout or 0:.3f} s")
            raise problem from error
        except BaseException as error:
            problem = error
            raise
        finally:
            self._in_flight -= 1
            # Counted once the answer is on its way, not before.
            asyncio.get_running_loop().call_soon(self._note_end, request, problem, self._clock() - began)

    def note_refused(self, error: Exception, seconds: float) -> None:
        """Counts and logs a request that a face could not read; see `Inference`."""
        self._metrics.observe_request(Outcome.INVALID, seconds)
        self._log.warning("request refused", error=str(error)[:500])

    def _note_end(self, request: InferRequest, problem: BaseException | None, seconds: float) -> None:
        outcome = outcome_of(problem)
        self._metrics.observe_request(outcome, seconds)
        fields = {"request": request.id, "seconds": round(seconds, 6)}
        if problem is None:
            self._log.debug("request answered", **fields)
        elif outcome is Outcome.CANCELLED:
            self._log.debug("request cancelled", **fields)
        else:
            self._log.warning("request failed", outcome=outcome, error=str(problem)[:500], **fields)

    async def _admit(self, request: InferRequest, began: float, deadline: float | None) -> InferResponse:
        if self._in_flight > self._in_flight_limit:
            raise OverloadedError(
                f"{self._in_flight_limit} requests are under way already, which is the limit; try again later, or "
                "raise --in-flight",
                retry_after_seconds=1.0,
            )
        if deadline is not None and began >= deadline:
            raise DeadlineExceededError("the deadline had passed before the request came")
        self._check_model(request.model, request.version)
        if RUN_PARAMETER in request.parameters:
            made = await compute_tile(request, self._descriptor, self._store, self._queue)
            spent = {SECONDS_PARAMETER: self._clock() - began}
            return InferResponse(request.model, (made,), request.id, spent, MODEL_VERSION)
        wanted = self._wanted(request.outputs)
        boundary = request.parameters.get(BOUNDARY_PARAMETER)
        place = self._place(boundary)
        if _only_own(request):
            return await self._answer_own(request, place, wanted, deadline)
        if boundary is not None:
            tensors = await self._answer(self._named(request), place, wanted, deadline)
            spent = {SECONDS_PARAMETER: self._clock() - began}
            return InferResponse(request.model, tensors, request.id, spent, MODEL_VERSION)
        wanted = wanted or tuple(tensor.name for tensor in self._descriptor.outputs)
        tensors = await self._answer(self._named(request), place, wanted, deadline)
        return InferResponse(request.model, self._ordered(tensors, wanted), request.id, {}, MODEL_VERSION)

    def _named(self, request: InferRequest) -> InferRequest:
        """The request with an id for logs and for its way up, where the client gave none."""
        if request.id:
            return request
        name = f"{self._descriptor.tier}-{next(self._numbers)}"
        return InferRequest(request.model, request.tensors, name, request.outputs, request.parameters, request.version)

    def _check_model(self, name: str, version: str) -> None:
        served = self._descriptor.pipeline
        if name != served:
            raise UnknownModelError(f"no model {name!r} is served here; this worker serves {served}", subject=name)
        if version not in ("", MODEL_VERSION):
            raise UnknownModelError(
                f"{name} has no version {version!r}; its only one is {MODEL_VERSION}, or leave it out", subject=version
            )

    def _wanted(self, outputs: Sequence[str]) -> tuple[str, ...]:
        known = [tensor.name for tensor in self._descriptor.outputs]
        for place, name in enumerate(outputs):
            if name not in known:
                raise InvalidRequestError(
                    f"the model has no output {name!r}{closest(name, known)}; it has {', '.join(known)}", subject=name
                )
            if name in outputs[:place]:
                raise InvalidRequestError(f"the output {name!r} is asked for twice; ask once", subject=name)
        return tuple(outputs)

    def _place(self, boundary: object) -> int:
        """The place of the segment that a request is for."""
        if self._descriptor.role == "tiles":
            raise UnknownBoundaryError(
                f"this worker of {self._descriptor.pipeline} computes tiles, and accepts no boundary; send requests to "
                "the pipeline's device tier",
                subject=BOUNDARY_PARAMETER,
            )
        if boundary is not None:
            return self._store.find(str(boundary))
        if self._descriptor.tier is not Tier.DEVICE:
            raise InvalidRequestError(
                f"this is the {self._descriptor.tier} tier of {self._descriptor.pipeline}; send requests to its device "
                f"tier, or name a boundary in the parameter {BOUNDARY_PARAMETER}",
                subject=BOUNDARY_PARAMETER,
            )
        if not self._descriptor.segments:
            raise UnreachableError("this worker has no segment yet; its descriptor gives none", subject=Tier.DEVICE)
        return 0

    async def _answer(
        self, request: InferRequest, place: int, wanted: tuple[str, ...], deadline: float | None
    ) -> tuple[InferTensor, ...]:
        """The wanted outputs that this segment and those above it make; () wants all."""
        segment = self._descriptor.segments[place]
        tensors = await self._made(request, place, deadline)
        own = tuple(tensors[result.name] for result in segment.results if not wanted or result.name in wanted)
        missing = tuple(name for name in wanted if all(tensor.name != name for tensor in own))
        if segment.sends is None or segment.downstream is None or (wanted and not missing):
            return own
        onward = InferRequest(
            model=request.model,
            tensors=tuple(tensors[tensor.name] for tensor in segment.sends.tensors),
            id=request.id,
            outputs=missing if len(missing) < len(self._descriptor.outputs) else (),
            parameters={BOUNDARY_PARAMETER: segment.sends.id},
        )
        answer = await self._downstream[segment.downstream].infer(onward, deadline=deadline)
        return own + answer.tensors

    async def _answer_own(
        self, request: InferRequest, place: int, wanted: tuple[str, ...], deadline: float | None
    ) -> InferResponse:
        """What this segment sends on, and the wanted results that it makes; see `ONLY_OWN_PARAMETER`."""
        segment = self._descriptor.segments[place]
        tensors = await self._made(request, place, deadline)
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

    async def _made(self, request: InferRequest, place: int, deadline: float | None) -> dict[str, InferTensor]:
        """The request's tensors, checked, and what this segment makes of them."""
        segment = self._descriptor.segments[place]
        entry = BOUNDARY_PARAMETER not in request.parameters
        what = f"the model {request.model}" if entry else f"boundary {segment.accepts.id}"
        tensors = check_tensors(request.tensors, segment.accepts.tensors, what=what)
        loaded = await self._store.get(place)
        if loaded.computes:
            tensors |= await self._compute(segment, loaded, tensors, deadline)
        return tensors

    async def _compute(
        self,
        segment: SegmentDescriptor,
        loaded: LoadedSegment,
        tensors: Mapping[str, InferTensor],
        deadline: float | None,
    ) -> dict[str, InferTensor]:
        if self._tiling is not None and loaded.is_shared(self._tiling):
            began = self._clock()
            shared = await loaded.run_shared(tensors, self._queue, self._tiling, deadline)
            asyncio.get_running_loop().call_soon(self._note_run, segment.id, loaded, self._clock() - began)
            return shared
        cancellation = loaded.cancellation()
        computed, seconds = await self._queue.run(lambda: loaded.run(tensors, cancellation), cancel=cancellation.cancel)
        asyncio.get_running_loop().call_soon(self._note_run, segment.id, loaded, seconds)
        return computed

    def _note_run(self, segment: str, loaded: LoadedSegment, seconds: float) -> None:
        self._metrics.observe_segment(segment, seconds)
        self._log.debug("segment computed", segment=segment, seconds=round(seconds, 6))
        layers = loaded.take_layer_seconds()
        if layers:
            slowdown = self._queue.slowdown
            self._metrics.observe_layers(segment, {name: spent * slowdown for name, spent in layers.items()})

    def _ordered(self, tensors: Sequence[InferTensor], wanted: Sequence[str]) -> tuple[InferTensor, ...]:
        """The wanted outputs in the order wanted, checked, since the tiers above may be other programs."""
        outputs = {tensor.name: tensor for tensor in self._descriptor.outputs}
        try:
            found = check_tensors(tensors, [outputs[name] for name in wanted], what="the answer")
        except InvalidRequestError as error:
            raise IntegrityError(f"the tiers above answered wrongly: {error}", subject=error.subject) from error
        return tuple(found[name] for name in wanted)


def _only_own(request: InferRequest) -> bool:
    """Whether a request asks for this worker's own part alone."""
    asked = request.parameters.get(ONLY_OWN_PARAMETER, False)
    if not isinstance(asked, bool):
        raise InvalidRequestError(
            f"the parameter {ONLY_OWN_PARAMETER} is {asked!r:.40}; it must be true or false", subject=ONLY_OWN_PARAMETER
        )
    return asked


def _metadata(tensors: Sequence[Tensor]) -> tuple[TensorMetadata, ...]:
    return tuple(TensorMetadata(tensor.name, tensor.dtype, tensor.shape) for tensor in tensors)
