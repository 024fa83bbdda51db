"""The worker's REST face: the Open Inference Protocol v2 over HTTP, and `/metrics`.

It reads bodies, calls the data plane and translates its errors; what bodies mean is `tierflow.protocol.rest`.
Importing this module costs a worker's start some 0.2 s, which is why `tierflow_worker.main` does it off the way to
being ready.
"""

import asyncio
import errno
import math
import time
import zlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Final

from aiohttp import web

from tierflow.errors import (
    DeadlineExceededError,
    InvalidInputError,
    InvalidRequestError,
    OverloadedError,
    TierflowError,
    UnknownBoundaryError,
    UnknownModelError,
    UnreachableError,
)
from tierflow.protocol import rest
from tierflow.protocol.messages import InferRequest, Parameter
from tierflow_worker.inference import Inference
from tierflow_worker.logs import Log
from tierflow_worker.metrics import Metrics

TIMEOUT_PARAMETER: Final = "timeout"
"""Request parameter that Triton's clients send: the deadline of the request, in microseconds from its arrival."""

_JSON: Final = "application/json"
_BINARY: Final = "application/octet-stream"
_PLAIN: Final = ("", "identity")
_ZLIB_FORMATS: Final = {"gzip": 31, "deflate": 15}  # zlib's `wbits`; HTTP's deflate is zlib's format
_PATIENCE_SECONDS: Final = 60.0  # for the next piece of a body; a client that is silent for longer has gone
_STATUSES: Final[Mapping[type[TierflowError], int]] = {
    UnknownModelError: 404,
    InvalidInputError: 400,
    UnknownBoundaryError: 409,
    OverloadedError: 429,
    UnreachableError: 503,
    DeadlineExceededError: 504,
}


class _RefusedError(Exception):
    """A request that HTTP itself has a status for."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class RestFace:
    """Serves one worker over HTTP.

    Args:
        inference: What answers.
        metrics: What `/metrics` shows.
        max_message_bytes: Largest body, after decompression; larger ones are refused with 413.
        drain_seconds: How long `stop` waits for requests under way.
        log: Where failures go that are nobody's fault but the worker's.
    """

    def __init__(
        self, inference: Inference, metrics: Metrics, *, max_message_bytes: int, drain_seconds: float, log: Log
    ) -> None:
        self._inference = inference
        self._metrics = metrics
        self._most_bytes = max_message_bytes
        self._log = log
        application = web.Application(middlewares=[self._translate])
        self._add_routes(application)
        # A client that goes away cancels its request here and on the tiers above.
        self._runner = web.AppRunner(
            application,
            access_log=None,
            auto_decompress=False,  # aiohttp drops the connection where the body is broken; see `_decompress`
            handler_cancellation=True,
            shutdown_timeout=drain_seconds,
        )

    async def start(self, host: str, port: int) -> int:
        """Begins to listen.

        Args:
            host: The address.
            port: The port; 0 takes a free one.

        Returns:
            The port.

        Raises:
            InvalidInputError: where the port is taken, or the address is not this machine's.
        """
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, host, port).start()
        except OSError as error:
            await self._runner.cleanup()
            taken = error.errno == errno.EADDRINUSE
            reason = "is taken; choose another with --rest-port" if taken else f"can't be opened: {error}"
            raise InvalidInputError(f"the REST port {port} of {host} {reason}", subject="--rest-port") from error
        return int(self._runner.addresses[0][1])

    async def stop(self) -> None:
        """Stops listening and waits for requests under way."""
        await self._runner.cleanup()

    def _add_routes(self, application: web.Application) -> None:
        router = application.router
        router.add_get("/v2", self._server_metadata)
        router.add_get("/v2/health/live", self._live)
        router.add_get("/v2/health/ready", self._ready)
        router.add_get("/metrics", self._show_metrics)
        for model in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
            router.add_get(model, self._model_metadata)
            router.add_get(f"{model}/ready", self._model_ready)
            router.add_post(f"{model}/infer", self._infer)

    async def _live(self, _: web.Request) -> web.Response:
        live = self._inference.live()
        return web.json_response({"live": live}, status=200 if live else 503)

    async def _ready(self, _: web.Request) -> web.Response:
        ready = self._inference.ready()
        return web.json_response({"ready": ready}, status=200 if ready else 503)

    async def _server_metadata(self, _: web.Request) -> web.Response:
        metadata = self._inference.server_metadata()
        extensions = tuple(dict.fromkeys((*metadata.extensions, "binary_tensor_data")))
        return _json(rest.write_server_metadata(replace(metadata, extensions=extensions)))

    async def _model_metadata(self, request: web.Request) -> web.Response:
        return _json(rest.write_model_metadata(self._inference.model_metadata(*_model(request))))

    async def _model_ready(self, request: web.Request) -> web.Response:
        name, version = _model(request)
        self._inference.model_metadata(name, version)  # raises where it isn't served here
        ready = self._inference.ready()
        return web.json_response({"name": name, "ready": ready}, status=200 if ready else 503)

    async def _show_metrics(self, _: web.Request) -> web.Response:
        body, content_type = self._metrics.render()
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def _infer(self, request: web.Request) -> web.Response:
        began = time.perf_counter()
        try:
            wanted, form = await self._read(request)
            timeout = _timeout(wanted.parameters)
        except (InvalidRequestError, _RefusedError) as error:
            self._inference.note_refused(error, time.perf_counter() - began)
            raise
        response = await self._inference.infer(wanted, timeout=timeout)
        answer, length = rest.write_response(response, form)
        if length is None:
            return _json(answer)
        return web.Response(body=answer, content_type=_BINARY, headers={rest.HEADER_LENGTH: str(length)})

    async def _read(self, request: web.Request) -> tuple[InferRequest, rest.ResponseForm]:
        model, version = _model(request)
        self._inference.model_metadata(model, version)  # raises before the body is read
        header_length = rest.read_header_length(request.headers.get(rest.HEADER_LENGTH))
        body = await self._read_body(request)
        return rest.read_request(body, header_length, model=model, version=version)

    async def _read_body(self, request: web.Request) -> bytes:
        """The whole body, decompressed."""
        encoding = request.headers.get("Content-Encoding", "").strip().lower()
        if encoding not in (*_PLAIN, *_ZLIB_FORMATS):
            raise _RefusedError(415, f"the Content-Encoding {encoding[:40]!r} is not supported; send gzip or deflate")
        if (request.content_length or 0) > self._most_bytes:
            raise self._too_large(f"{request.content_length} bytes")
        pieces: list[bytes] = []
        size = 0
        try:
            while not request.content.at_eof():
                async with asyncio.timeout(_PATIENCE_SECONDS):
                    pieces.append(await request.content.readany())
                size += len(pieces[-1])
                if size > self._most_bytes:
                    raise self._too_large(f"more than {self._most_bytes} bytes")
        except TimeoutError as error:
            raise _RefusedError(408, f"nothing of the body came for {_PATIENCE_SECONDS:g} s") from error
        except web.RequestPayloadError as error:
            raise InvalidRequestError(f"the request's body can't be read: {error}") from error
        body = b"".join(pieces)
        return body if encoding in _PLAIN else await asyncio.to_thread(self._decompress, body, encoding)

    def _decompress(self, body: bytes, encoding: str) -> bytes:
        decompressor = zlib.decompressobj(_ZLIB_FORMATS[encoding])
        try:
            # Never unpacks more than is accepted, however small the body is.
            unpacked = decompressor.decompress(body, self._most_bytes + 1)
        except zlib.error as error:
            raise InvalidRequestError(f"the request's body is no valid {encoding}: {error}") from error
        if len(unpacked) > self._most_bytes:
            raise self._too_large(f"more than {self._most_bytes} bytes, unpacked")
        if not decompressor.eof or decompressor.unused_data:
            problem = "goes on behind its end" if decompressor.eof else "is cut short"
            raise InvalidRequestError(f"the request's body of {encoding} {problem}")
        return unpacked

    def _too_large(self, size: str) -> _RefusedError:
        return _RefusedError(
            413,
            f"the request's body has {size}, at most {self._most_bytes} are accepted; "
            "raise the worker's --max-message-bytes on every tier",
        )

    @web.middleware
    async def _translate(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        response = await self._answer(request, handler)
        response.headers["Server"] = "tierflow"  # not which libraries it is made of
        return response

    async def _answer(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        try:
            return await handler(request)
        except TierflowError as error:
            return _refusal(error)
        except _RefusedError as error:
            return _json(rest.write_error(str(error)), error.status)
        except web.HTTPException as error:
            message = f"{error.reason}: {request.method} {request.path}; the protocol's paths begin with /v2"
            return _json(rest.write_error(message), error.status)
        except Exception as error:
            self._log.error("rest_failed", path=request.path, error=repr(error))
            return _json(rest.write_error("the worker failed; its log says why"), 500)


def _refusal(error: TierflowError) -> web.Response:
    status = next((status for kind, status in _STATUSES.items() if isinstance(error, kind)), 500)
    response = _json(rest.write_error(error.message), status)
    if isinstance(error, OverloadedError):
        response.headers["Retry-After"] = str(math.ceil(error.retry_after_seconds))
    return response


def _model(request: web.Request) -> tuple[str, str]:
    """The model's name and version that the path has; "" for none."""
    return request.match_info["model"], request.match_info.get("version", "")


def _json(body: bytes, status: int = 200) -> web.Response:
    return web.Response(body=body, status=status, content_type=_JSON)


def _timeout(parameters: Mapping[str, Parameter]) -> float | None:
    microseconds = parameters.get(TIMEOUT_PARAMETER, 0)
    if isinstance(microseconds, bool | str) or not microseconds >= 0:
        raise InvalidRequestError(
            f"the parameter {TIMEOUT_PARAMETER} is {microseconds!r:.40}; give microseconds, or 0 for no deadline",
            subject=TIMEOUT_PARAMETER,
        )
    return microseconds / 1e6 if microseconds else None
