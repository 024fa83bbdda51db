"""The Open Inference Protocol v2 and grpc.health.v1 on gRPC: bytes to values, one call of the data plane, and back."""

import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

from google.protobuf.message import DecodeError

from tierflow.errors import InvalidInputError, InvalidRequestError, TierflowError, UnknownModelError
from tierflow.protocol import wire
from tierflow.protocol.codec import decode_request, response_parts
from tierflow.protocol.messages import OIP_DTYPES, Data, TensorMetadata
from tierflow_worker.health import Health
from tierflow_worker.inference import Inference
from tierflow_worker.logs import Log
from tierflow_worker.rpc.server import Call, Handler, Parts, Server
from tierflow_worker.rpc.status import Code, RpcError
from tierflow_worker.statuses import to_status

HEALTH_LIVENESS: Final = "liveness"
"""The service of grpc.health.v1 that is SERVING as long as the process answers; all others tell readiness."""


class GrpcFace:
    """The worker's gRPC server.

    Must be made inside the event loop that it is to serve in.

    Args:
        plane: What answers.
        pipeline: The pipeline's name; health is asked for by it, too.
        max_message_bytes: Largest message either way.
        log: Where unexpected errors go.
    """

    def __init__(self, plane: Inference, *, pipeline: str, max_message_bytes: int, log: Log) -> None:
        self._plane = plane
        self._log = log
        self._health = Health()
        self._readiness = ("", wire.SERVICE, pipeline)
        handlers = self._handlers() | self._health.handlers()
        self._server = Server(handlers, max_message_bytes=max_message_bytes, on_error=self._note_unexpected)

    async def start(self, host: str, port: int) -> int:
        """Listens; returns the port, which is a free one where 0 was asked for.

        Raises:
            InvalidInputError: where the port can't be had.
        """
        self._health.set(HEALTH_LIVENESS, serving=True)
        self.tell_readiness()
        try:
            return self._server.listen(host, port)
        except OSError as error:
            raise InvalidInputError(
                f"can't listen on {host}:{port} for gRPC: {error.strerror or error}; choose another with --grpc-port",
                subject="--grpc-port",
            ) from error

    def tell_readiness(self) -> None:
        """Tells grpc.health.v1's watchers whether the data plane is ready; call it when that has changed."""
        for service in self._readiness:
            self._health.set(service, serving=self._plane.ready())

    async def stop(self, grace_seconds: float | None) -> None:
        """Stops listening, lets the requests under way end within the grace (None: at once), then cancels them."""
        await self._server.stop(grace_seconds)

    def _handlers(self) -> dict[str, Handler]:
        methods = {
            "ModelInfer": Handler(unary=self._infer),  # bytes: the codec is ours
            "ServerLive": _unary(self._server_live, wire.ServerLiveRequest),
            "ServerReady": _unary(self._server_ready, wire.ServerReadyRequest),
            "ModelReady": _unary(self._model_ready, wire.ModelReadyRequest),
            "ServerMetadata": _unary(self._server_metadata, wire.ServerMetadataRequest),
            "ModelMetadata": _unary(self._model_metadata, wire.ModelMetadataRequest),
        }
        return {f"/{wire.SERVICE}/{name}": handler for name, handler in methods.items()}

    async def _infer(self, data: Data, call: Call) -> Parts:
        coming = call.coming
        began = time.perf_counter()
        try:
            try:
                request = decode_request(data, None if coming is None else call.there)
            except InvalidRequestError:
                if coming is None:
                    raise
                await coming.come()  # what is wrong with it shows once it is whole
                coming, began = None, time.perf_counter()
                request = decode_request(data)
        except InvalidRequestError as error:
            self._plane.note_refused(error, time.perf_counter() - began)
            raise RpcError(*to_status(error)) from error
        try:
            timeout = call.time_remaining()
            if coming is None:
                return response_parts(await self._plane.infer(request, timeout=timeout))
            return response_parts(await self._plane.infer_announced(request, coming, timeout=timeout))
        except TierflowError as error:
            raise RpcError(*to_status(error)) from error

    async def _server_live(self, _: Any) -> Any:
        return wire.ServerLiveResponse(live=self._plane.live())

    async def _server_ready(self, _: Any) -> Any:
        return wire.ServerReadyResponse(ready=self._plane.ready())

    async def _model_ready(self, request: Any) -> Any:
        try:
            self._plane.model_metadata(request.name, request.version)
        except UnknownModelError:
            return wire.ModelReadyResponse(ready=False)
        return wire.ModelReadyResponse(ready=self._plane.ready())

    async def _server_metadata(self, _: Any) -> Any:
        server = self._plane.server_metadata()
        return wire.ServerMetadataResponse(name=server.name, version=server.version, extensions=server.extensions)

    async def _model_metadata(self, request: Any) -> Any:
        try:
            model = self._plane.model_metadata(request.name, request.version)
        except TierflowError as error:
            raise RpcError(*to_status(error)) from error
        answer = wire.ModelMetadataResponse(name=model.name, versions=model.versions, platform=model.platform)
        for described, tensors in ((answer.inputs, model.inputs), (answer.outputs, model.outputs)):
            _describe(described, tensors)
        return answer

    def _note_unexpected(self, error: BaseException) -> None:
        self._log.error("unexpected error", error=repr(error), trace=_trace(error))


def _unary(behaviour: Callable[[Any], Awaitable[Any]], request: Any) -> Handler:
    async def answer(data: Data, _: Call) -> Parts:
        try:
            asked = request.FromString(bytes(data))
        except DecodeError as error:
            raise RpcError(Code.INTERNAL, f"no valid {request.DESCRIPTOR.name}: {error}") from error
        return ((await behaviour(asked)).SerializeToString(),)

    return Handler(unary=answer)


def _describe(described: Any, tensors: tuple[TensorMetadata, ...]) -> None:
    for tensor in tensors:
        described.add(name=tensor.name, datatype=OIP_DTYPES[tensor.dtype], shape=tensor.shape)


def _trace(error: BaseException) -> str:
    import traceback

    return "".join(traceback.format_exception(error))[-4000:]
