"""Data planes in the test's own process, with real gRPC between them: chains that start in milliseconds."""

import contextlib
import io
import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc.aio
import numpy as np

from benchmarks.workers import segment_descriptor, worker_descriptor
from tierflow.descriptor import Downstream, SegmentDescriptor, WorkerDescriptor
from tierflow.graph import Tensor
from tierflow.model.extract import extract_segment
from tierflow.model.model import Model
from tierflow.protocol import wire
from tierflow.protocol.codec import decode_response, encode_request
from tierflow.protocol.elements import NUMPY_DTYPES, pack_strings, unpack_strings
from tierflow.protocol.messages import InferRequest, InferResponse, InferTensor
from tierflow.segment import Route, segments_of
from tierflow.tiers import TIERS, Tier
from tierflow_worker.chain import DownstreamClient
from tierflow_worker.dataplane import DataPlane
from tierflow_worker.extraction import computed_tensors
from tierflow_worker.grpc_face import GrpcFace
from tierflow_worker.logs import Log
from tierflow_worker.metrics import Metrics
from tierflow_worker.queue import ComputeQueue
from tierflow_worker.runtime import create_session
from tierflow_worker.segments import LoadedSegment, SegmentStore

MESSAGE_BYTES = 64 * 2**20


def tensor_of(name: str, array: Any) -> InferTensor:
    """An array as a tensor of the wire."""
    if array.dtype == object:
        return InferTensor(name, "string", array.shape, pack_strings(str(item).encode() for item in array.flat))
    dtype = next(name for name, kind in NUMPY_DTYPES.items() if kind == array.dtype)
    return InferTensor(name, dtype, array.shape, array.tobytes())


def array_of(tensor: InferTensor) -> Any:
    """A tensor of the wire as an array."""
    if tensor.dtype == "string":
        texts = [text.decode() for text in unpack_strings(tensor.data, tensor=tensor.name)]
        return np.array(texts, dtype=object).reshape(tensor.shape)
    return np.frombuffer(tensor.data, NUMPY_DTYPES[tensor.dtype]).reshape(tensor.shape)


class GatedSegment:
    """In the place of a `LoadedSegment`: copies its one input to all its outputs, once the test lets it."""

    computes = True
    load_seconds = 0.0
    staged = None
    held = None

    def __init__(self, segment: SegmentDescriptor) -> None:
        self.computed = computed_tensors(segment)
        self.gate = threading.Event()
        self.gate.set()
        self.began = threading.Semaphore(0)
        self.runs = 0
        self.error: Exception | None = None
        self.ended_early = threading.Event()

    def cancellation(self) -> Any:
        segment = self

        class Cancellation:
            def cancel(self) -> None:
                segment.ended_early.set()
                segment.gate.set()

        return Cancellation()

    def prepare(self) -> None:
        """Nothing has to be made."""

    def take_layer_seconds(self) -> Mapping[str, float]:
        return {}

    def run(self, tensors: Mapping[str, InferTensor], cancellation: object) -> dict[str, InferTensor]:
        self.runs += 1
        self.began.release()
        if not self.gate.wait(30):
            raise RuntimeError("the test never opened the gate")
        if self.error is not None:
            raise self.error
        data = next(iter(tensors.values())).data
        return {tensor.name: InferTensor(tensor.name, tensor.dtype, tensor.shape, data) for tensor in self.computed}


@dataclass
class Node:
    """One tier's worker inside the test's process."""

    plane: DataPlane
    face: GrpcFace
    store: SegmentStore
    address: str
    clients: list[DownstreamClient]
    log: io.StringIO = field(default_factory=io.StringIO)


@contextlib.asynccontextmanager
async def serving(
    descriptor: WorkerDescriptor,
    load: Callable[[int], Any],
    *,
    queue: int = 16,
    patience_seconds: float = 5.0,
    port: int = 0,
    **more: Any,
) -> AsyncIterator[Node]:
    """A worker that serves a descriptor inside this process."""
    stream = io.StringIO()
    log = Log("debug", stream=stream)
    store = SegmentStore(descriptor.segments, load, idle_seconds=30)
    downstreams = {segment.downstream for segment in descriptor.segments if segment.downstream is not None}
    clients = {
        downstream: DownstreamClient(downstream, max_message_bytes=MESSAGE_BYTES, patience_seconds=patience_seconds)
        for downstream in downstreams
    }
    metrics = Metrics(pipeline=descriptor.pipeline, namespace=descriptor.namespace, tier=descriptor.tier)
    compute = ComputeQueue(queue)
    plane = DataPlane(descriptor, store, compute, clients, metrics=metrics, log=log, **more)
    face = GrpcFace(plane, pipeline=descriptor.pipeline, max_message_bytes=MESSAGE_BYTES, log=log)
    bound = await face.start("127.0.0.1", port)
    plane.set_ready()
    face.tell_readiness()
    try:
        yield Node(plane, face, store, f"127.0.0.1:{bound}", list(clients.values()), stream)
    finally:
        await face.stop(0)
        for client in clients.values():
            await client.close()
        compute.close()
        store.close()


@contextlib.asynccontextmanager
async def serving_chain(
    model: Model, tiers: Sequence[Tier], folder: Path, route: Route = Route.RELAYED
) -> AsyncIterator[dict[Tier, Node]]:
    """All tiers of a partition inside this process."""
    async with contextlib.AsyncExitStack() as stack:
        nodes: dict[Tier, Node] = {}
        above: Downstream | None = None
        for tier in reversed(TIERS):
            segment = segments_of(model.graph, tiers, route)[tier.rank]
            served = [segment_descriptor(model, segment, above)] if segment.takes_part else []
            descriptor = worker_descriptor(model, "file:///unused", tier, served)
            nodes[tier] = await stack.enter_async_context(serving(descriptor, loader(model, descriptor, folder)))
            if segment.takes_part:
                above = Downstream(tier=tier, address=nodes[tier].address)
        yield nodes


def loader(model: Model, descriptor: WorkerDescriptor, folder: Path) -> Callable[[int], LoadedSegment]:
    """Cuts out and loads segments as a worker does, without a process of its own."""

    def load(place: int) -> LoadedSegment:
        segment = descriptor.segments[place]
        computed = [tensor.name for tensor in computed_tensors(segment)]
        if not computed:
            return LoadedSegment(segment, None)
        path = folder / f"{segment.id}.onnx"
        extract_segment(model, [tensor.name for tensor in segment.accepts.tensors], computed, path)
        return LoadedSegment(segment, create_session(path))

    return load


async def ask(address: str, request: InferRequest, *, timeout: float = 20.0) -> InferResponse:
    """Sends a request over gRPC.

    Raises:
        grpc.aio.AioRpcError: where it is refused.
    """
    options = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        call = channel.unary_unary(wire.INFER)
        return decode_response(await call(encode_request(request), timeout=timeout))


def relay(name: str, elements: int = 4) -> Tensor:
    """A float32 tensor of one dimension."""
    return Tensor(name=name, dtype="float32", shape=(elements,))
