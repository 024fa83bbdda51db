"""An edge worker with tile workers as real processes, and clients that must not notice what happens there."""

import asyncio
import contextlib
import http.client
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc.aio
import numpy as np
import onnx
from msgspec.structs import replace
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.tiled_workers import edge_descriptor, edge_segment, tile_descriptor
from benchmarks.workers import PIPELINE, WorkerProcess, segment_descriptor, start_worker, worker_descriptor
from factories.clients import send_grpc
from factories.models import model_of, node, value, weight
from tierflow.descriptor import Downstream, SegmentDescriptor, WorkerDescriptor
from tierflow.graph import Graph
from tierflow.model import open_model
from tierflow.model.extract import whole_model
from tierflow.model.model import Model
from tierflow.protocol import wire
from tierflow.protocol.codec import decode_response, encode_request
from tierflow.protocol.messages import BOUNDARY_PARAMETER, HOLD_PARAMETER, InferRequest, InferTensor
from tierflow.segment import segments_of
from tierflow.tiers import Tier
from tierflow.tiling.layout import Grid
from tierflow.tiling.runs import longest_runs
from tierflow_worker.runtime import create_session
from tierflow_worker.tiling.holdings import RunsHeld, read_held, write_wanted

PATIENCE_SECONDS = 60.0
FOUR = Grid(2, 2)


def residual(extent: int = 48) -> onnx.ModelProto:
    """Two residual blocks, the second with a stride, a pool and a dense layer over [1, 3, extent, extent]."""
    three = {"pads": [1, 1, 1, 1], "kernel_shape": [3, 3]}
    return model_of(
        [
            node("Conv", "image w1 b1", "c1", name="stem", **three),
            node("Relu", "c1", "r1", name="stem/relu"),
            node("Conv", "r1 w2 b2", "c2", name="block1/conv1", **three),
            node("Relu", "c2", "r2", name="block1/relu1"),
            node("Conv", "r2 w3 b3", "c3", name="block1/conv2", **three),
            node("Add", "c3 r1", "a3", name="block1/add"),
            node("Relu", "a3", "r3", name="block1/relu2"),
            node("Conv", "r3 w4 b4", "c4", name="block2/conv1", strides=[2, 2], **three),
            node("Relu", "c4", "r4", name="block2/relu1"),
            node("Conv", "r4 w5 b5", "c5", name="block2/conv2", **three),
            node("Conv", "r3 w6 b6", "c6", name="block2/shortcut", strides=[2, 2], kernel_shape=[1, 1]),
            node("Add", "c5 c6", "a6", name="block2/add"),
            node("Relu", "a6", "r6", name="block2/relu2"),
            node("GlobalAveragePool", "r6", "pooled", name="pool"),
            node("Flatten", "pooled", "flat", name="flatten"),
            node("Gemm", "flat w7 b7", "scores", name="dense", transB=1),
        ],
        [value("image", [1, 3, extent, extent])],
        [value("scores", [1, 10])],
        [
            weight("w1", 32, 3, 3, 3), weight("b1", 32), weight("w2", 32, 32, 3, 3), weight("b2", 32),
            weight("w3", 32, 32, 3, 3), weight("b3", 32), weight("w4", 64, 32, 3, 3), weight("b4", 64),
            weight("w5", 64, 64, 3, 3), weight("b5", 64), weight("w6", 64, 32, 1, 1), weight("b6", 64),
            weight("w7", 10, 64), weight("b7", 10),
        ],
    )  # fmt: skip


def vgg_like(extent: int = 64) -> onnx.ModelProto:
    """Pairs of convolutions with pools between them, and dense layers."""
    nodes, weights, name, channels = [], [], "image", 3
    for block, wide in enumerate((16, 32, 64), start=1):
        for place in (1, 2):
            made = f"c{block}_{place}"
            nodes.append(
                node(
                    "Conv",
                    f"{name} w{made} b{made}",
                    made,
                    name=f"conv{block}_{place}",
                    pads=[1] * 4,
                    kernel_shape=[3, 3],
                )
            )
            nodes.append(node("Relu", made, f"r{made}", name=f"relu{block}_{place}"))
            weights += [weight(f"w{made}", wide, channels, 3, 3), weight(f"b{made}", wide)]
            name, channels = f"r{made}", wide
        nodes.append(node("MaxPool", name, f"p{block}", name=f"pool{block}", kernel_shape=[2, 2], strides=[2, 2]))
        name = f"p{block}"
    size = channels * (extent // 8) ** 2
    nodes += [
        node("Flatten", name, "flat", name="flatten"),
        node("Gemm", "flat wd1 bd1", "d1", name="dense1"),
        node("Relu", "d1", "rd1", name="dense1/relu"),
        node("Gemm", "rd1 wd2 bd2", "scores", name="dense2"),
    ]
    weights += [weight("wd1", size, 32), weight("bd1", 32), weight("wd2", 32, 10), weight("bd2", 10)]
    return model_of(nodes, [value("image", [1, 3, extent, extent])], [value("scores", [1, 10])], weights)


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now, and that the system will not give to others soon."""
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(listener.getsockname()[1]) for listener in listeners]
    for listener in listeners:
        listener.close()
    return ports


def everything_at_the_edge(graph: Graph) -> tuple[Tier, ...]:
    """The partition whose device relays."""
    return (Tier.EDGE,) * len(graph.layers)


def tiled_segment(
    model: Model,
    tiers: Sequence[Tier],
    grid: Grid = FOUR,
    above: Downstream | None = None,
    *,
    every_block: bool = False,
) -> SegmentDescriptor:
    """The edge's segment, with all of its layers that can be tiled as runs."""
    graph = model.graph
    edge = segments_of(graph, tuple(tiers))[Tier.EDGE.rank]
    mine = set(edge.layers)
    runs = [run for run in longest_runs(graph, grid, every_block=every_block) if mine.issuperset(run.layers)]
    assert runs, "nothing of the segment can be tiled"
    return edge_segment(model, tiers, [(run, grid) for run in runs])


@dataclass
class Cast:
    """Processes of one test or module; they end with it."""

    model: Model
    uri: str
    folder: Path
    workers: list[WorkerProcess] = field(default_factory=list)

    def start(self, descriptor: WorkerDescriptor, **flags: Any) -> WorkerProcess:
        """Starts a worker."""
        self.workers.append(start_worker(descriptor, self.folder, **flags))
        return self.workers[-1]

    def start_ready(self, descriptor: WorkerDescriptor, **flags: Any) -> WorkerProcess:
        """Starts a worker, and waits until it is ready."""
        worker = self.start(descriptor, **flags)
        worker.wait_ready()
        return worker

    def device_of(self, edge: WorkerProcess, **flags: Any) -> WorkerProcess:
        """Starts the device of a partition without layers there, which relays to an edge worker."""
        device = segments_of(self.model.graph, everything_at_the_edge(self.model.graph))[Tier.DEVICE.rank]
        segment = segment_descriptor(self.model, device, Downstream(tier=Tier.EDGE, address=edge.address))
        return self.start_ready(worker_descriptor(self.model, self.uri, Tier.DEVICE, [segment]), **flags)

    def tile_workers(self, segments: Sequence[SegmentDescriptor], count: int, **flags: Any) -> list[WorkerProcess]:
        """Starts tile workers, and has them hold the runs of segments."""
        workers = [self.start(self.tile_descriptor(), **flags) for _ in range(count)]
        for worker in workers:
            worker.wait_ready()
            for segment in segments:
                hold(worker, edge_descriptor(self.model, self.uri, [segment]))
        return workers

    def edge_worker(self, segments: Sequence[SegmentDescriptor], where: str, **flags: Any) -> WorkerProcess:
        """Starts an edge worker that knows of the tile workers at `where`."""
        return self.start_ready(edge_descriptor(self.model, self.uri, segments, where), **flags)

    def tile_descriptor(self) -> WorkerDescriptor:
        """The descriptor of tile workers."""
        return tile_descriptor(edge_descriptor(self.model, self.uri, ()))


def hold(worker: WorkerProcess, edge: WorkerDescriptor) -> None:
    """Has a tile worker hold the runs of an edge worker's current segment, and waits until it does."""
    wanted = {run.id for run in edge.segments[0].runs}

    def is_held() -> bool:
        held = ask_to_hold(worker, write_wanted(edge))
        assert not held.refused, held.refused
        return wanted.issubset(held.runs)

    eventually(is_held, "runs held")


def ask_to_hold(worker: WorkerProcess, wanted: str) -> RunsHeld:
    """What a tile worker answers that is asked to hold something."""
    request = encode_request(InferRequest(PIPELINE, (), parameters={HOLD_PARAMETER: wanted}))
    with grpc.insecure_channel(worker.address) as channel:
        answer = channel.unary_unary(wire.INFER)(request, timeout=PATIENCE_SECONDS)
    return read_held(decode_response(answer))


@contextlib.contextmanager
def cast_of(uri: str, folder: Path) -> Iterator[Cast]:
    """Processes that serve a model; their logs are shown where a test fails."""
    cast = Cast(open_model(uri), uri, folder)
    try:
        yield cast
    finally:
        for worker in cast.workers:
            worker.kill()
            print(" ".join(worker.command), worker.text(), sep="\n")


def infer(address: str, request: InferRequest) -> bytes:
    """The bytes of an answer's first tensor."""
    answer = send_grpc(address, encode_request(request))
    assert answer.status == "OK", answer
    assert answer.tensors is not None
    return bytes(next(iter(answer.tensors.values())).data)


@dataclass(frozen=True)
class Example:
    """A request with the answer that it must get, bit by bit."""

    request: InferRequest
    answer: bytes


def inputs_of(model: Model, seed: int) -> dict[str, Any]:
    """Random inputs of a model."""
    random = np.random.default_rng(seed)
    shapes = {name: model.graph.tensors[name].shape for name in model.graph.inputs}
    return {name: random.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}


def request_of(inputs: dict[str, Any], **parameters: str) -> InferRequest:
    """A request with these inputs."""
    tensors = tuple(InferTensor(name, "float32", array.shape, array.tobytes()) for name, array in inputs.items())
    return InferRequest(PIPELINE, tensors, parameters=parameters)


def untiled_examples(cast: Cast, segment: SegmentDescriptor, count: int = 6) -> list[Example]:
    """Requests to the device, with the answers of an edge worker that never heard of runs."""
    plain = cast.edge_worker([replace(segment, runs=())], "")
    examples = []
    for seed in range(count):
        inputs = inputs_of(cast.model, seed)
        answer = infer(plain.address, request_of(inputs, **{BOUNDARY_PARAMETER: segment.accepts.id}))
        examples.append(Example(request_of(inputs), answer))
    plain.kill()
    return examples


def whole_answers(model: Model, folder: Path, inputs: Sequence[dict[str, Any]]) -> list[Any]:
    """The first output of the whole model, computed in this process."""
    path = folder / "whole.onnx"
    whole_model(model, path)
    session = create_session(path)
    return [session.run(given)[model.graph.outputs[0]] for given in inputs]


def counted(of: WorkerProcess, name: str, **labels: str) -> float:
    """The sum of a metric's samples that have these labels."""
    return sum(value for found, value in _samples(of, name) if labels.items() <= found.items())


def computed_by(edge: WorkerProcess, run: str = "") -> set[str]:
    """Who has computed tiles of an edge worker's requests: `local`, and addresses."""
    return {
        labels["worker"]
        for labels, value in _samples(edge, "tierflow_tile_seconds_count")
        if value and run in ("", labels["run"])
    }


def _samples(of: WorkerProcess, name: str) -> list[tuple[dict[str, str], float]]:
    connection = http.client.HTTPConnection("127.0.0.1", of.rest_port, timeout=30)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    return [
        (sample.labels, sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name
    ]


def eventually(condition: Callable[[], bool], what: str) -> None:
    """Waits until a condition holds."""
    until = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < until, f"{what}: not within {PATIENCE_SECONDS} s"
        time.sleep(0.02)


def wait_for_tile_workers(edge: WorkerProcess, count: int) -> None:
    """Waits until an edge worker knows of so many tile workers that answer."""
    eventually(lambda: counted(edge, "tierflow_tile_workers") == count, f"{count} tile workers")


class Load:
    """Clients that send requests one after the other, all the time, and check each answer.

    Args:
        address: Where to.
        examples: What they send, in turn.
        clients: How many.
    """

    def __init__(self, address: str, examples: Sequence[Example], *, clients: int = 3) -> None:
        self.answered = 0
        self.problems: list[str] = []
        self._address = address
        self._examples = [(encode_request(example.request), example.answer) for example in examples]
        self._clients = clients
        self._stop = threading.Event()
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    def __enter__(self) -> "Load":
        self._thread.start()
        self.wait_for(self._clients)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._stop.set()
        self._thread.join(PATIENCE_SECONDS)
        if kind is None:
            assert not self.problems, self.problems[:5]

    def wait_for(self, more: int) -> None:
        """Waits for so many further answers, and checks that all so far were right."""
        with self._changed:
            wanted = self.answered + more
            enough = self._changed.wait_for(lambda: self.answered >= wanted or self.problems, PATIENCE_SECONDS)
        assert not self.problems, self.problems[:5]
        assert enough, f"{self.answered} of {wanted} answers within {PATIENCE_SECONDS} s"

    def wait_until(self, condition: Callable[[], bool], *, answers: int = 1) -> None:
        """Waits until a condition holds, looking at it every so many answers."""
        for _ in range(2000):
            if condition():
                return
            self.wait_for(answers)
        raise AssertionError("the condition never came true")

    async def _run(self) -> None:
        options = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))
        async with grpc.aio.insecure_channel(self._address, options=options) as channel:
            call = channel.unary_unary(wire.INFER)
            await asyncio.gather(*(self._client(call, number) for number in range(self._clients)))

    async def _client(self, call: Any, number: int) -> None:
        turn = number
        while not self._stop.is_set() and not self.problems:
            request, expected = self._examples[turn % len(self._examples)]
            turn += 1
            problem = ""
            try:
                answer = decode_response(await call(request, timeout=PATIENCE_SECONDS))
                if bytes(answer.tensors[0].data) != expected:
                    problem = f"request {turn} of client {number} was answered with other bits"
            except grpc.aio.AioRpcError as error:
                problem = f"request {turn} of client {number} failed: {error.code().name} {error.details()}"
            with self._changed:
                self.answered += 1
                self.problems += [problem] if problem else []
                self._changed.notify_all()
