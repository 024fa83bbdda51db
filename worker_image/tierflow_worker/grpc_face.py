"""The Open Inference Protocol v2 and grpc.health.v1 on gRPC: bytes to values, one call of the data plane, and back."""

import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health

from tierflow.errors import InvalidInputError, InvalidRequestError, TierflowError, UnknownModelError
from tierflow.protocol import wire
from tierflow.protocol.codec import decode_request, encode_response
from tierflow.protocol.messages import OIP_DTYPES, TensorMetadata
from tierflow_worker.chain import LARGEST_FRAME
from tierflow_worker.dataplane import Inference
from tierflow_worker.logs import Log
from tierflow_worker.statuses import to_status

HEALTH_LIVENESS: Final = "liveness"
"""The service of grpc.health.v1 that is SERVING as long as the process answers; all others tell readiness."""


def server_options(max_message_bytes: int) -> tuple[tuple[str, int], ...]:
    """Options of a worker's server."""
    return (
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.http2.max_frame_size", LARGEST_FRAME),
        ("grpc.so_reuseport", 0),  # else a second worker on the same port would start, and take half of the requests
        # The workers below send keepalive pings; by default a server takes so many for an attack.
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
        ("grpc.http2.max_ping_strikes", 0),
    )


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
        self._health = health.HealthServicer()
        self._readiness = ("", wire.SERVICE, pipeline)
        self._server = grpc.aio.server(options=server_options(max_message_bytes))
        self._server.add_generic_rpc_handlers((self._handlers(),))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)

    async def start(self, host: str, port: int) -> int:
        """Listens; returns the port, which is a free one where 0 was asked for.

        Raises:
            InvalidInputError: where the port can't be had.
        """
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            bound: int = self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise InvalidInputError(
                f"can't listen on {address} for gRPC: the port is in use, or not this machine's; choose another with "
                "--grpc-port",
                subject="--grpc-port",
            ) from error
        await self._health.set(HEALTH_LIVENESS, health_pb2.HealthCheckResponse.SERVING)
        await self.tell_readiness()
        await self._server.start()
        return bound

    async def tell_readiness(self) -> None:
        """Tells grpc.health.v1's watchers whether the data plane is ready; call it when that has changed."""
        serving = health_pb2.HealthCheckResponse.SERVING
        status = serving if self._plane.ready() else health_pb2.HealthCheckResponse.NOT_SERVING
        for service in self._readiness:
            await self._health.set(service, status)

    async def stop(self, grace_seconds: float | None) -> None:
        """Stops listening, lets the requests under way end within the grace (None: at once), then cancels them."""
        await self._server.stop(grace_seconds)

    def _handlers(self) -> Any:
        methods = {
            "ModelInfer": grpc.unary_unary_rpc_method_handler(self._infer),  # bytes: the codec is ours
            "ServerLive": _unary(self._server_live, wire.ServerLiveRequest, wire.ServerLiveResponse),
            "ServerReady": _unary(self._server_ready, wire.ServerReadyRequest, wire.ServerReadyResponse),
            "ModelReady": _unary(self._model_ready, wire.ModelReadyRequest, wire.ModelReadyResponse),
            "ServerMetadata": _unary(self._server_metadata, wire.ServerMetadataRequest, wire.ServerMetadataResponse),
            "ModelMetadata": _unary(self._model_metadata, wire.ModelMetadataRequest, wire.ModelMetadataResponse),
        }
        return grpc.method_handlers_generic_handler(wire.SERVICE, methods)

    async def _infer(self, data: bytes, context: Any) -> bytes:
        began = time.perf_counter()
        try:
            request = decode_request(data)
        except InvalidRequestError as error:
            self._plane.note_refused(error, time.perf_counter() - began)
            await self._abort(context, error)
            raise  # not reached: aborting raises
        try:
            return encode_response(await self._plane.infer(request, timeout=context.time_remaining()))
        except Exception as error:
            await self._abort(context, error)
            raise  # not reached: aborting raises

    async def _server_live(self, _: Any, __: Any) -> Any:
        return wire.ServerLiveResponse(live=self._plane.live())

    async def _server_ready(self, _: Any, __: Any) -> Any:
        return wire.ServerReadyResponse(ready=self._plane.ready())

    async def _model_ready(self, request: Any, _: Any) -> Any:
        try:
            self._plane.model_metadata(request.name, request.version)
        except UnknownModelError:
            return wire.ModelReadyResponse(ready=False)
        return wire.ModelReadyResponse(ready=self._plane.ready())

    async def _server_metadata(self, _: Any, __: Any) -> Any:
        server = self._plane.server_metadata()
        return wire.ServerMetadataResponse(name=server.name, version=server.version, extensions=server.extensions)

    async def _model_metadata(self, request: Any, context: Any) -> Any:
        try:
            model = self._plane.model_metadata(request.name, request.version)
        except TierflowError as error:
            await self._abort(context, error)
            raise  # not reached, as above
        answer = wire.ModelMetadataResponse(name=model.name, versions=model.versions, platform=model.platform)
        for described, tensors in ((answer.inputs, model.inputs), (answer.outputs, model.outputs)):
            _describe(described, tensors)
        return answer

    async def _abort(self, context: Any, error: Exception) -> None:
        """Ends a call with an error's status; does not return."""
        if not isinstance(error, TierflowError):
            self._log.error("unexpected error", error=repr(error), trace=_trace(error))
        code, text, metadata = to_status(error)
        await context.abort(code, text, metadata)


def _unary(behaviour: Callable[[Any, Any], Awaitable[Any]], request: Any, response: Any) -> Any:
    return grpc.unary_unary_rpc_method_handler(
        behaviour, request_deserializer=request.FromString, response_serializer=response.SerializeToString
    )


def _describe(described: Any, tensors: tuple[TensorMetadata, ...]) -> None:
    for tensor in tensors:
        described.add(name=tensor.name, datatype=OIP_DTYPES[tensor.dtype], shape=tensor.shape)


def _trace(error: Exception) -> str:
    import traceback

    return "".join(traceback.format_exception(error))[-4000:]
