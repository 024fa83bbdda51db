"""A worker that is to be approved before it takes requests: live at once, asked directly, and ready only then."""

import asyncio
import http.client
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from benchmarks.tiled_workers import edge_descriptor, tile_descriptor
from benchmarks.workers import PIPELINE, Start, WorkerProcess, segment_descriptor, worker_descriptor
from factories.models import convolutions, saved
from factories.planes import ask
from factories.tiled import everything_at_the_edge, residual, tiled_segment
from tierflow.descriptor import WorkerDescriptor
from tierflow.model import open_model
from tierflow.protocol import wire
from tierflow.protocol.messages import InferRequest, InferTensor
from tierflow.segment import segments_of
from tierflow.tiers import Tier

REQUEST = InferRequest(PIPELINE, (InferTensor("image", "float32", (1, 3, 8, 8), bytes(4 * 3 * 64)),), "r1")


@pytest.fixture
def device(tmp_path: Path) -> WorkerDescriptor:
    """Computes all layers."""
    uri = str(saved(convolutions(), tmp_path))
    model = open_model(uri)
    whole = segments_of(model.graph, (Tier.DEVICE,) * len(model.graph.layers))[0]
    return worker_descriptor(model, uri, Tier.DEVICE, [segment_descriptor(model, whole)])


def get(worker: WorkerProcess, path: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", worker.rest_port, timeout=30)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def readiness(worker: WorkerProcess) -> set[bool]:
    """What all who can be asked say of the worker's readiness."""
    with grpc.insecure_channel(worker.address) as channel:

        def ask_for(method: str, request: bytes, answer: type) -> bool:
            call = channel.unary_unary(f"/{wire.SERVICE}/{method}", response_deserializer=answer.FromString)
            return bool(call(request, timeout=30).ready)

        named = wire.ModelReadyRequest(name=PIPELINE).SerializeToString()
        said = {ask_for("ServerReady", b"", wire.ServerReadyResponse)}
        said.add(ask_for("ModelReady", named, wire.ModelReadyResponse))
        stub = health_pb2_grpc.HealthStub(channel)
        for service in ("", PIPELINE, wire.SERVICE):
            status = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=30).status
            said.add(status == health_pb2.HealthCheckResponse.SERVING)
        live = stub.Check(health_pb2.HealthCheckRequest(service="liveness"), timeout=30).status
        assert live == health_pb2.HealthCheckResponse.SERVING
    assert get(worker, "/v2/health/live")[0] == 200
    said.add(get(worker, "/v2/health/ready")[0] == 200)
    said.add(get(worker, f"/v2/models/{PIPELINE}/ready")[0] == 200)
    [line] = [line for line in get(worker, "/metrics")[1].splitlines() if line.startswith("tierflow_ready{")]
    said.add(float(line.split()[-1]) == 1)
    return said


def events(worker: WorkerProcess) -> list[str]:
    return [line["event"] for line in worker.lines]


def test_a_worker_is_live_and_answers_but_is_not_ready_until_it_is_approved(
    start: Start, device: WorkerDescriptor, tmp_path: Path
) -> None:
    approval = tmp_path / "not" / "yet" / "mounted"
    worker = start(device, approval_file=approval)
    worker.wait_for("waiting for approval")
    assert readiness(worker) == {False}
    assert asyncio.run(ask(worker.address, REQUEST)).tensors[0].name == "scores"
    assert readiness(worker) == {False}
    approval.parent.mkdir(parents=True)
    approval.touch()
    worker.wait_ready()
    assert readiness(worker) == {True}
    assert events(worker).index("approved") < events(worker).index("ready")
    approval.unlink()  # an approval holds for the process
    assert readiness(worker) == {True}
    assert worker.stop() == 0


def test_a_worker_that_starts_after_the_approval_does_not_wait(
    start: Start, device: WorkerDescriptor, tmp_path: Path
) -> None:
    (tmp_path / "approved").touch()
    worker = start(device, environment={"TIERFLOW_APPROVAL_FILE": str(tmp_path / "approved")})
    worker.wait_ready()
    assert "waiting for approval" not in events(worker)
    assert "approved" in events(worker)


def test_a_worker_that_waits_for_its_approval_stops_when_asked(
    start: Start, device: WorkerDescriptor, tmp_path: Path
) -> None:
    worker = start(device, approval_file=tmp_path / "never")
    worker.wait_for("waiting for approval")
    assert worker.stop() == 0
    assert "ready" not in events(worker)


@pytest.mark.parametrize("approved", [False, True])
def test_a_previous_segment_is_loaded_last_but_needs_no_approval(start: Start, tmp_path: Path, approved: bool) -> None:
    uri = str(saved(convolutions(), tmp_path))
    model = open_model(uri)
    count = len(model.graph.layers)
    whole, tail = (
        segments_of(model.graph, (Tier.DEVICE,) * place + (Tier.CLOUD,) * (count - place))[2]
        for place in (0, count - 1)
    )
    segments = [segment_descriptor(model, segment) for segment in (whole, tail)]
    worker = start(worker_descriptor(model, uri, Tier.CLOUD, segments), approval_file=tmp_path / "approved")
    worker.wait_for("waiting for approval")
    if approved:
        (tmp_path / "approved").touch()
        worker.wait_ready()
    worker.wait_for("segment loaded", count=2)
    loaded = [line["segment"] for line in worker.lines if line["event"] == "segment loaded"]
    assert loaded == [segment.id for segment in segments]


def test_tile_workers_and_standbys_wait_for_their_approval_too(start: Start, tmp_path: Path) -> None:
    uri = str(saved(residual(), tmp_path))
    model = open_model(uri)
    segment = tiled_segment(model, everything_at_the_edge(model.graph))
    workers = [
        start(tile_descriptor(edge_descriptor(model, uri, [segment])), approval_file=tmp_path / "approved"),
        start(worker_descriptor(model, uri, Tier.CLOUD, []), approval_file=tmp_path / "approved"),
    ]
    for worker in workers:
        worker.wait_for("waiting for approval")
        assert readiness(worker) == {False}
    (tmp_path / "approved").touch()
    for worker in workers:
        worker.wait_ready()
        assert readiness(worker) == {True}
