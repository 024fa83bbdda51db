"""The REST face over a socket, in front of a data plane of the test's own."""

import asyncio
import contextlib
import gzip
import json
import socket
import zlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import numpy as np
import pytest

from tierflow.errors import (
    DeadlineExceededError,
    IntegrityError,
    InvalidInputError,
    InvalidRequestError,
    OverloadedError,
    UnknownBoundaryError,
    UnknownModelError,
    UnreachableError,
)
from tierflow.protocol.messages import InferRequest, InferResponse, ModelMetadata, ServerMetadata, TensorMetadata
from tierflow.tiers import Tier
from tierflow_worker.logs import Log
from tierflow_worker.metrics import Metrics
from tierflow_worker.rest_face import RestFace

MOST_BYTES = 100_000


class Echo:
    """A data plane that answers with the tensors that it was sent, or as it was told to."""

    def __init__(self) -> None:
        self.is_ready = True
        self.problem: Exception | None = None
        self.refused: list[str] = []
        self.timeouts: list[float | None] = []
        self.wait: Callable[[], Any] | None = None
        self.cancelled = asyncio.Event()
        self.came = asyncio.Event()

    async def infer(self, request: InferRequest, *, timeout: float | None = None) -> InferResponse:
        self.timeouts.append(timeout)
        self.came.set()
        try:
            if self.wait is not None:
                await self.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        if self.problem is not None:
            raise self.problem
        return InferResponse(request.model, request.tensors, request.id)

    def note_refused(self, error: Exception, seconds: float) -> None:
        self.refused.append(str(error))

    def live(self) -> bool:
        return True

    def ready(self) -> bool:
        return self.is_ready

    def server_metadata(self) -> ServerMetadata:
        return ServerMetadata("tierflow", "1.0")

    def model_metadata(self, name: str, version: str = "") -> ModelMetadata:
        if name != "m" or version not in ("", "1"):
            raise UnknownModelError(f"no model {name!r} is served here", subject=name)
        return ModelMetadata("m", "onnx", (TensorMetadata("x", "float32", (3,)),), (), ("1",))


class Face:
    """A running face and a client of it."""

    def __init__(self, plane: Echo, session: aiohttp.ClientSession, port: int) -> None:
        self.plane, self.session, self.port = plane, session, port

    async def get(self, path: str) -> tuple[int, Any]:
        async with self.session.get(f"http://127.0.0.1:{self.port}{path}") as response:
            return response.status, await response.json()

    async def post(
        self, body: Any, *, path: str = "/v2/models/m/infer", **headers: str
    ) -> tuple[int, Any, aiohttp.ClientResponse]:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.session.post(f"http://127.0.0.1:{self.port}{path}", data=data, headers=names) as response:
            return response.status, await response.json(), response


@contextlib.asynccontextmanager
async def running() -> AsyncIterator[Face]:
    plane = Echo()
    metrics = Metrics(pipeline="m", namespace="n", tier=Tier.DEVICE)
    face = RestFace(plane, metrics, max_message_bytes=MOST_BYTES, drain_seconds=5, log=Log("error"))
    port = await face.start("127.0.0.1", 0)
    try:
        async with aiohttp.ClientSession() as session:
            yield Face(plane, session, port)
    finally:
        await face.stop()


def request(count: int = 3, **more: Any) -> dict[str, Any]:
    return {"inputs": [{"name": "x", "datatype": "FP32", "shape": [count], "data": list(range(count))}]} | more


@pytest.mark.asyncio
async def test_health_and_metadata_are_answered() -> None:
    async with running() as face:
        assert await face.get("/v2/health/live") == (200, {"live": True})
        assert await face.get("/v2/health/ready") == (200, {"ready": True})
        assert await face.get("/v2/models/m/ready") == (200, {"name": "m", "ready": True})
        assert await face.get("/v2/models/m/versions/1/ready") == (200, {"name": "m", "ready": True})
        assert (await face.get("/v2"))[1]["extensions"] == ["binary_tensor_data"]
        assert (await face.get("/v2/models/m"))[1]["inputs"][0]["datatype"] == "FP32"
        face.plane.is_ready = False
        assert await face.get("/v2/health/live") == (200, {"live": True})
        assert await face.get("/v2/health/ready") == (503, {"ready": False})
        assert await face.get("/v2/models/m/ready") == (503, {"name": "m", "ready": False})


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "path", ["/v2/models/other", "/v2/models/other/ready", "/v2/models/m/versions/9", "/nothing", "/v2/models"]
)
async def test_what_is_not_there_is_404_in_words(path: str) -> None:
    async with running() as face:
        status, answer = await face.get(path)
        assert status == 404
        assert answer["error"]


@pytest.mark.asyncio
async def test_a_wrong_method_is_405_in_words() -> None:
    async with running() as face:
        status, answer = await face.get("/v2/models/m/infer")
        assert status == 405
        assert "GET /v2/models/m/infer" in answer["error"]


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("problem", "status"),
    [
        (InvalidRequestError("tensor 'x' is wrong"), 400),
        (UnknownBoundaryError("boundary b is not accepted here"), 409),
        (OverloadedError("the queue is full", retry_after_seconds=1.2), 429),
        (UnreachableError("the cloud can't be reached"), 503),
        (DeadlineExceededError("no answer within the deadline"), 504),
        (IntegrityError("the tiers above answered wrongly"), 500),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
async def test_each_error_has_its_status_and_its_message(problem: Exception, status: int) -> None:
    async with running() as face:
        face.plane.problem = problem
        answered, body, response = await face.post(request())
        assert (answered, body) == (status, {"error": str(problem)})
        assert response.headers.get("Retry-After") == ("2" if status == 429 else None)


@pytest.mark.asyncio
async def test_the_workers_own_fault_is_500_and_shows_nothing_of_its_inside() -> None:
    async with running() as face:
        face.plane.problem = RuntimeError("/secret/path")
        status, body, _ = await face.post(request())
        assert status == 500
        assert "secret" not in body["error"]
        face.plane.problem = None
        assert (await face.post(request()))[0] == 200


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("encoding", "compress"), [("gzip", gzip.compress), ("deflate", zlib.compress), ("identity", bytes)]
)
async def test_compressed_bodies_are_read(encoding: str, compress: Callable[[bytes], bytes]) -> None:
    async with running() as face:
        body = compress(json.dumps(request(id="seven")).encode())
        status, answer, _ = await face.post(body, Content_Encoding=encoding)
        assert status == 200
        assert answer["id"] == "seven"
        assert answer["outputs"][0]["data"] == [0, 1, 2]


@pytest.mark.asyncio
async def test_a_compressed_body_that_unpacks_to_too_much_is_refused() -> None:
    async with running() as face:
        bomb = gzip.compress(b" " * 50_000_000)
        assert len(bomb) < MOST_BYTES
        status, answer, _ = await face.post(bomb, Content_Encoding="gzip")
        assert status == 413
        assert "--max-message-bytes" in answer["error"]


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "body", [b"no gzip at all", gzip.compress(b"{}")[:-9], gzip.compress(b"{}") * 2], ids=["other", "cut", "more"]
)
async def test_a_broken_compressed_body_is_refused(body: bytes) -> None:
    async with running() as face:
        status, answer, _ = await face.post(body, Content_Encoding="gzip")
        assert status == 400
        assert "gzip" in answer["error"]
        assert (await face.post(request()))[0] == 200


@pytest.mark.asyncio
async def test_an_unknown_encoding_is_415() -> None:
    async with running() as face:
        status, answer, _ = await face.post(b"x", Content_Encoding="zstd")
        assert status == 415
        assert "gzip or deflate" in answer["error"]


@pytest.mark.asyncio
@pytest.mark.parametrize("chunked", [False, True], ids=["announced", "chunked"])
async def test_a_body_that_is_too_large_is_413_and_says_the_limit(chunked: bool) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b" " * (MOST_BYTES // 2)

    async with running() as face:
        url = f"http://127.0.0.1:{face.port}/v2/models/m/infer"
        data: Any = pieces() if chunked else b" " * (MOST_BYTES + 1)
        async with face.session.post(url, data=data) as response:
            assert response.status == 413
            assert str(MOST_BYTES) in (await response.json())["error"]
        assert (await face.post(request()))[0] == 200


@pytest.mark.asyncio
async def test_the_timeout_parameter_becomes_the_deadline() -> None:
    async with running() as face:
        await face.post(request(parameters={"timeout": 1_500_000}))
        await face.post(request())
        await face.post(request(parameters={"timeout": 0}))
        assert face.plane.timeouts == [1.5, None, None]
        for wrong in ("soon", -1, True):
            status, answer, _ = await face.post(request(parameters={"timeout": wrong}))
            assert status == 400
            assert "timeout" in answer["error"]


@pytest.mark.asyncio
async def test_a_client_that_leaves_cancels_its_request() -> None:
    async with running() as face:
        face.plane.wait = asyncio.Event().wait
        sending = asyncio.create_task(face.post(request()))
        await asyncio.wait_for(face.plane.came.wait(), 5)
        sending.cancel()
        await asyncio.wait_for(face.plane.cancelled.wait(), 5)


@pytest.mark.asyncio
async def test_requests_under_way_end_before_the_face_has_stopped() -> None:
    plane, go = Echo(), asyncio.Event()
    plane.wait = go.wait
    metrics = Metrics(pipeline="m", namespace="n", tier=Tier.DEVICE)
    face = RestFace(plane, metrics, max_message_bytes=MOST_BYTES, drain_seconds=30, log=Log("error"))
    port = await face.start("127.0.0.1", 0)
    async with aiohttp.ClientSession() as session:
        sending = asyncio.create_task(Face(plane, session, port).post(request()))
        await asyncio.wait_for(plane.came.wait(), 5)
        stopping = asyncio.create_task(face.stop())
        await asyncio.sleep(0)
        go.set()
        assert (await asyncio.wait_for(sending, 5))[0] == 200
        await asyncio.wait_for(stopping, 5)


@pytest.mark.asyncio
async def test_a_port_in_use_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        metrics = Metrics(pipeline="m", namespace="n", tier=Tier.DEVICE)
        face = RestFace(Echo(), metrics, max_message_bytes=MOST_BYTES, drain_seconds=1, log=Log("error"))
        with pytest.raises(InvalidInputError, match=rf"{port} of 127.0.0.1 is taken; choose another with --rest-port"):
            await face.start("127.0.0.1", port)


@pytest.mark.asyncio
async def test_binary_tensors_go_both_ways() -> None:
    array = np.arange(5, dtype=np.float32)
    tensor = {"name": "x", "datatype": "FP32", "shape": [5], "parameters": {"binary_data_size": array.nbytes}}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    async with running() as face:
        url = f"http://127.0.0.1:{face.port}/v2/models/m/versions/1/infer"
        headers = {"Inference-Header-Content-Length": str(len(head))}
        async with face.session.post(url, data=head + array.tobytes(), headers=headers) as response:
            body = await response.read()
            length = int(response.headers["Inference-Header-Content-Length"])
    assert response.content_type == "application/octet-stream"
    assert body[length:] == array.tobytes()


@pytest.mark.asyncio
async def test_requests_that_never_reach_the_data_plane_are_told_to_it() -> None:
    async with running() as face:
        await face.post(b"{")
        await face.post(b" " * (MOST_BYTES + 1))
        await face.post(request(), path="/v2/models/other/infer")
        unread, large, unknown = face.plane.refused
    assert "no valid JSON" in unread
    assert str(MOST_BYTES) in large
    assert "'other'" in unknown


@pytest.mark.asyncio
async def test_metrics_are_shown_to_prometheus() -> None:
    async with running() as face, face.session.get(f"http://127.0.0.1:{face.port}/metrics") as response:
        text = await response.text()
    assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert "tierflow_build_info" in text
    assert response.headers["Server"] == "tierflow"


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "raw",
    [
        b"nonsense\r\n\r\n",
        b"POST /v2/models/m/infer HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        b"POST /v2/models/m/infer HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST /v2/models/m/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{}",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
        b"GET /v2 HTTP/1.1\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
        b"GET /v2/models/%ff%fe/ready HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
    ids=["nonsense", "negative", "chunk", "cut", "path", "header", "escape"],
)
async def test_broken_http_harms_nobody_else(raw: bytes) -> None:
    async with running() as face:
        reader, writer = await asyncio.open_connection("127.0.0.1", face.port)
        writer.write(raw)
        writer.write_eof()
        with contextlib.suppress(ConnectionError):
            await asyncio.wait_for(reader.read(), 5)
        writer.close()
        assert (await face.post(request()))[0] == 200
