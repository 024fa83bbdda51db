"""What broken requests do to a worker, and how well it knows its links.

Ten thousand requests with a few bytes changed are sent over both faces to the entry of a chain; and workers measure
links that are shaped to known figures, with probes alone and with requests alone.
"""

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

import grpc.aio
import numpy as np
from onnx import TensorProto, helper

from benchmarks.figure import Figure, at_most
from benchmarks.fuzzing import fuzz, resident_bytes
from benchmarks.workers import PIPELINE, WorkerProcess, start_chain, start_worker, wait_settled
from tierflow.descriptor import Downstream, WorkerDescriptor
from tierflow.model import open_model
from tierflow.network import NETWORKS, Link
from tierflow.protocol import wire
from tierflow.protocol.codec import decode_request, encode_response
from tierflow.protocol.messages import (
    BOUNDARY_PARAMETER,
    SECONDS_PARAMETER,
    InferRequest,
    InferResponse,
    InferTensor,
)
from tierflow.segment import cut
from tierflow.tiers import Tier
from tierflow_local.links import Proxies
from tierflow_worker.chain import DownstreamClient
from tierflow_worker.links import LinkEstimate
from tierflow_worker.logs import Log
from tierflow_worker.metrics import Metrics
from tierflow_worker.probing import GrpcNeighbour, LinkWatch, Prober

_SHAPE: Final = (1, 3, 8, 8)
_WARM_UP: Final = 2_000
_BROKEN: Final = 10_000
_FAILURES: Final = {"INTERNAL", "UNKNOWN", "UNAVAILABLE", "DATA_LOSS", "500", "503", "DISCONNECTED"}
_MESSAGE_BYTES: Final = 64 * 2**20
_PROBED_SECONDS: Final = 5.0
_REQUEST_BYTES: Final = (300, 100_000, 300, 300_000)


def figures() -> Iterator[Figure]:
    """All figures of this module."""
    yield from _fuzzing_figures()
    yield from _link_figures()


def _fuzzing_figures() -> Iterator[Figure]:
    with tempfile.TemporaryDirectory() as name, _chain(Path(name)) as (workers, request):
        entry = workers[Tier.DEVICE]
        rest = f"127.0.0.1:{entry.rest_port}"
        wait_settled(workers.values())
        asyncio.run(fuzz(entry.address, rest, [request], count=_WARM_UP, seed=1))
        before = {tier: resident_bytes(worker.process.pid) for tier, worker in workers.items()}
        began = time.perf_counter()
        seen = asyncio.run(fuzz(entry.address, rest, [request], count=_BROKEN, seed=2))
        seconds = time.perf_counter() - began
        growth = max(resident_bytes(worker.process.pid) / before[tier] - 1 for tier, worker in workers.items())
        failures = sum(count for status, count in seen.items() if status in _FAILURES)
    area = "robustness"
    yield at_most(area, f"{_BROKEN} broken requests: failures of the worker", failures, "count", 0)
    yield at_most(area, f"{_BROKEN} broken requests: growth of memory, worst tier", 100 * growth, "%", 5)
    yield Figure(area, "broken requests handled per second", _BROKEN / seconds, "1/s")


@contextmanager
def _chain(folder: Path) -> Iterator[tuple[dict[Tier, WorkerProcess], InferRequest]]:
    """A chain of three, and a request that it answers."""
    path = folder / "small.onnx"
    path.write_bytes(_small_model())
    model = open_model(str(path))
    started: list[WorkerProcess] = []

    def start(descriptor: WorkerDescriptor) -> WorkerProcess:
        started.append(start_worker(descriptor, folder))
        return started[-1]

    tensor = InferTensor("image", "float32", _SHAPE, np.zeros(_SHAPE, np.float32).tobytes())
    try:
        tiers = cut(model.graph, "first", "second")
        yield start_chain(start, model, str(path), tiers), InferRequest(PIPELINE, (tensor,), "valid")
    finally:
        for worker in started:
            worker.stop()


def _small_model() -> bytes:
    """A layer per tier; small, so that the time goes into requests and what they leave behind can be seen."""
    names = ["image", "a", "b", "scores"]
    nodes = [
        helper.make_node(kind, [reads], [makes], name=name)
        for kind, reads, makes, name in zip(
            ("Relu", "Sigmoid", "Softmax"), names, names[1:], ("first", "second", "third"), strict=False
        )
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, _SHAPE) for name in (names[0], names[-1])]
    graph = helper.make_graph(nodes, "small", ends[:1], ends[1:])
    content: bytes = helper.make_model(
        graph, ir_version=10, opset_imports=[helper.make_opsetid("", 21)]
    ).SerializeToString()
    return content


def _link_figures() -> Iterator[Figure]:
    for name in ("cat1", "4g", "wifi"):
        link = NETWORKS[name].edge_cloud
        for way, measure in (("probes", probed), ("requests", requested)):
            estimate = asyncio.run(measure(link))
            bandwidth = 100 * abs((estimate.bytes_per_second or 0.0) / link.bytes_per_second - 1)
            yield at_most("links", f"{name}: bandwidth by {way}, error", bandwidth, "%", 15)
            # What two processes take for a message is part of it, however short the link is.
            limit = max(5.0, 0.15 * 1000 * link.round_trip_seconds)
            round_trip = 1000 * abs((estimate.round_trip_seconds or 0.0) - link.round_trip_seconds)
            yield at_most("links", f"{name}: round trip by {way}, error", round_trip, "ms", limit)


async def probed(link: Link) -> LinkEstimate:
    """What a worker knows of an idle link some seconds after its start."""
    async with _behind(link) as address:
        watch = LinkWatch(Metrics(pipeline=PIPELINE, namespace="default", tier=Tier.EDGE))
        downstream = Downstream(tier=Tier.CLOUD, address=address)
        neighbour = GrpcNeighbour(downstream, pipeline=PIPELINE, max_message_bytes=_MESSAGE_BYTES)
        prober = Prober(
            {Tier.CLOUD: neighbour}, watch, is_idle=lambda: True, log=Log("error"), max_message_bytes=_MESSAGE_BYTES
        )
        task = asyncio.create_task(prober.run())
        await asyncio.sleep(_PROBED_SECONDS)
        task.cancel()
        await asyncio.wait((task,))
        return watch.estimate(Tier.CLOUD)


async def requested(link: Link) -> LinkEstimate:
    """What a worker knows of a link that was never probed, from requests of several sizes."""
    async with _behind(link) as address:
        watch = LinkWatch(Metrics(pipeline=PIPELINE, namespace="default", tier=Tier.EDGE))
        client = DownstreamClient(
            Downstream(tier=Tier.CLOUD, address=address),
            max_message_bytes=_MESSAGE_BYTES,
            patience_seconds=10,
            observer=watch,
        )
        # So that each takes about half a second at most.
        most = max(int(link.bytes_per_second / 2), 10_000)
        for size in _REQUEST_BYTES * 4:
            payload = bytes(min(size, most))
            request = InferRequest(
                PIPELINE,
                (InferTensor("x", "uint8", (len(payload),), payload),),
                parameters={BOUNDARY_PARAMETER: "any"},
            )
            await client.infer(request, deadline=None)
        await client.close()
        return watch.estimate(Tier.CLOUD)


@asynccontextmanager
async def _behind(link: Link) -> AsyncIterator[str]:
    """The address of a worker that answers at once, behind a shaped link."""

    async def infer(data: bytes, _: object) -> bytes:
        began = time.perf_counter()
        request = decode_request(data)
        response = InferResponse(request.model, (), request.id)
        return encode_response(replace(response, parameters={SECONDS_PARAMETER: time.perf_counter() - began}))

    async def live(_: bytes, __: object) -> bytes:
        return wire.ServerLiveResponse(live=True).SerializeToString()  # type: ignore[no-any-return]  # of protobuf

    server = grpc.aio.server(options=(("grpc.max_receive_message_length", _MESSAGE_BYTES),))
    handlers = {
        "ModelInfer": grpc.unary_unary_rpc_method_handler(infer),
        "ServerLive": grpc.unary_unary_rpc_method_handler(live),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(wire.SERVICE, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        with Proxies() as proxies:
            front = proxies.open("link", link=link)
            proxies.set_target("link", port)
            yield f"127.0.0.1:{front}"
    finally:
        await server.stop(0)
