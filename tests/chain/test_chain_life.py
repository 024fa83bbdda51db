"""A worker process from its start to its end."""

import asyncio
import signal
import socket
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from benchmarks.workers import PIPELINE, Start, WorkerProcess, segment_descriptor, start_chain, worker_descriptor
from factories.models import convolutions, model_of, node, saved, value
from factories.planes import ask
from tierflow.descriptor import Downstream, WorkerDescriptor
from tierflow.model import open_model
from tierflow.protocol.messages import BOUNDARY_PARAMETER, InferRequest, InferResponse, InferTensor
from tierflow.segment import Segment, cut, segments_of
from tierflow.tiers import TIERS, Tier

IMAGE = InferTensor("image", "float32", (1, 3, 8, 8), bytes(4 * 3 * 64))
REQUEST = InferRequest(PIPELINE, (IMAGE,), "r1")


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return str(saved(convolutions(), tmp_path))


def whole_descriptor(uri: str, **changes: Any) -> WorkerDescriptor:
    """A device that computes all layers."""
    model = open_model(uri)
    device = segments_of(model.graph, (Tier.DEVICE,) * len(model.graph.layers))[0]
    return worker_descriptor(model, uri, Tier.DEVICE, [segment_descriptor(model, device)])


def infer(worker: WorkerProcess, request: InferRequest = REQUEST) -> InferResponse:
    return asyncio.run(ask(worker.address, request))


def health(worker: WorkerProcess, service: str) -> int:
    with grpc.insecure_channel(worker.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        return int(stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=10).status)


def failure(worker: WorkerProcess) -> str:
    """What a worker that does not start says; it must be one line, and its code 2."""
    assert worker.wait() == 2
    [line] = [line for line in worker.lines if line.get("level") == "error" or line["event"] == "text"]
    return str(line["error"])


def test_a_worker_is_ready_serves_and_drains(start: Start, uri: str) -> None:
    worker = start(whole_descriptor(uri))
    worker.wait_ready()
    for service in ("", "inference.GRPCInferenceService", PIPELINE, "liveness"):
        assert health(worker, service) == health_pb2.HealthCheckResponse.SERVING
    assert infer(worker).tensors[0].name == "scores"
    assert worker.stop() == 0


def test_requests_under_way_are_answered_after_the_signal_to_stop(start: Start, uri: str) -> None:
    # At this speed the computation waits for seconds, far longer than it takes to send the signal.
    worker = start(whole_descriptor(uri), speed=0.0005, drain_seconds=60)
    worker.wait_ready()

    async def check() -> None:
        asking = asyncio.ensure_future(ask(worker.address, REQUEST, timeout=60))
        async with asyncio.timeout(30):
            while await in_flight(worker) == 0:
                await asyncio.sleep(0.01)
        worker.process.send_signal(signal.SIGTERM)
        assert (await asking).tensors[0].name == "scores"

    asyncio.run(check())
    assert worker.wait() == 0
    assert worker.wait_for("draining")["in_flight"] == 1


async def in_flight(worker: WorkerProcess) -> int:
    """How many requests the worker says it has, from its metrics."""
    reader, writer = await asyncio.open_connection("127.0.0.1", worker.rest_port)
    writer.write(b"GET /metrics HTTP/1.1\r\nHost: worker\r\nConnection: close\r\n\r\n")
    text = (await reader.read()).decode()
    writer.close()
    await writer.wait_closed()
    [line] = [line for line in text.splitlines() if line.startswith("tierflow_requests_in_flight{")]
    return int(float(line.rpartition(" ")[2]))


def test_a_second_signal_ends_a_draining_worker_at_once(start: Start, uri: str) -> None:
    worker = start(whole_descriptor(uri), speed=0.0001, drain_seconds=600)
    worker.wait_ready()

    async def check() -> None:
        asking = asyncio.ensure_future(ask(worker.address, REQUEST, timeout=60))
        async with asyncio.timeout(30):
            while await in_flight(worker) == 0:
                await asyncio.sleep(0.01)
        worker.process.send_signal(signal.SIGTERM)
        await asyncio.to_thread(worker.wait_for, "draining")
        worker.process.send_signal(signal.SIGTERM)
        with pytest.raises(grpc.aio.AioRpcError):
            await asking

    asyncio.run(check())
    assert worker.wait() == 1


def test_a_port_in_use_is_named(start: Start, uri: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert "--grpc-port" in failure(start(whole_descriptor(uri), grpc_port=port))
        assert "--rest-port" in failure(start(whole_descriptor(uri), rest_port=port))


def test_a_descriptor_that_is_none_is_refused(start: Start) -> None:
    assert "no worker descriptor of version 1" in failure(start(b'{"tier": "moon"}'))


def test_a_model_that_is_not_there_is_named(start: Start, uri: str) -> None:
    descriptor = whole_descriptor(uri)
    Path(uri).unlink()
    assert uri in failure(start(descriptor))


def test_a_model_that_has_changed_since_the_plan_is_refused(start: Start, uri: str, tmp_path: Path) -> None:
    descriptor = whole_descriptor(uri)
    other = model_of([node("Relu", "image", "scores")], [value("image", [1, 3])], [value("scores", [1, 3])])
    saved(other, tmp_path)
    assert "plan again" in failure(start(descriptor))


def test_a_damaged_file_in_the_cache_is_replaced(start: Start, uri: str, tmp_path: Path) -> None:
    first = start(whole_descriptor(uri))
    first.wait_ready()
    assert first.stop() == 0
    [kept] = tmp_path.glob("cache/segments/*/model.onnx")
    kept.write_bytes(kept.read_bytes()[:100])
    second = start(whole_descriptor(uri))
    second.wait_ready()
    assert infer(second).tensors[0].name == "scores"


def test_an_idle_previous_segment_is_unloaded_and_comes_back_when_it_is_asked_for(start: Start, uri: str) -> None:
    model = open_model(uri)
    names = [layer.name for layer in model.graph.layers]
    new, old = (segments_of(model.graph, cut(model.graph, last, last))[2] for last in (names[2], names[0]))
    served = [segment_descriptor(model, segment) for segment in (new, old)]
    worker = start(worker_descriptor(model, uri, Tier.CLOUD, served), drain_seconds=0.2)
    assert worker.wait_for("segment unloaded")["segment"] == served[1].id
    tensors = tuple(
        InferTensor(tensor.name, tensor.dtype, tensor.shape, bytes(tensor.size)) for tensor in served[1].accepts.tensors
    )
    request = InferRequest(PIPELINE, tensors, parameters={BOUNDARY_PARAMETER: served[1].accepts.id})
    assert infer(worker, request).tensors[0].name == "scores"


def test_a_plan_is_rolled_out_from_the_cloud_down_without_losing_a_request(start: Start, uri: str) -> None:
    model = open_model(uri)
    old, new = cut(model.graph, "conv1", "conv2"), cut(model.graph, "relu1", "add")
    workers = start_chain(start, model, uri, old)
    addresses = {tier: worker.address for tier, worker in workers.items()}
    [before, after] = [segments_of(model.graph, tiers) for tiers in (old, new)]

    def both(tier: Tier) -> WorkerDescriptor:
        above = (
            Downstream(tier=TIERS[tier.rank + 1], address=addresses[TIERS[tier.rank + 1]]) if tier.rank < 2 else None
        )
        segments: list[Segment] = [after[tier.rank]]
        if before[tier.rank].accepts != after[tier.rank].accepts:
            segments.append(before[tier.rank])
        return worker_descriptor(model, uri, tier, [segment_descriptor(model, part, above) for part in segments])

    async def keep_asking(stop: asyncio.Event) -> int:
        answered = 0
        while not stop.is_set():
            response = await ask(addresses[Tier.DEVICE], REQUEST)
            assert response.tensors[0].name == "scores"
            answered += 1
        return answered

    async def check() -> None:
        stop = asyncio.Event()
        asking = [asyncio.ensure_future(keep_asking(stop)) for _ in range(2)]
        for tier in (Tier.CLOUD, Tier.EDGE):
            assert await asyncio.to_thread(workers[tier].stop) == 0
            port = int(addresses[tier].rpartition(":")[2])
            workers[tier] = start(both(tier), grpc_port=port)
            await asyncio.to_thread(workers[tier].wait_ready)
        stop.set()
        assert sum(await asyncio.gather(*asking)) > 2

    asyncio.run(check())
