"""What a worker costs beside the bare computation and the bare wire: hops, a chain of three, its start, its memory.

Everything is measured against the simplest thing that could do the same, in turn, in one run.
"""

import asyncio
import contextlib
import functools
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from onnx import TensorProto, helper

from benchmarks.figure import Figure, at_most, interleaved, median_ratio
from benchmarks.workers import (
    PIPELINE,
    WorkerProcess,
    segment_descriptor,
    start_chain,
    start_worker,
    wait_settled,
    worker_descriptor,
)
from tierflow.descriptor import Downstream, WorkerDescriptor
from tierflow.model import open_model
from tierflow.model.extract import extract_segment
from tierflow.model.model import Model
from tierflow.protocol.messages import BOUNDARY_PARAMETER, InferRequest, InferResponse, InferTensor
from tierflow.segment import cut, segments_of
from tierflow.tiers import Tier
from tierflow_worker.chain import DownstreamClient
from tierflow_worker.extraction import segment_file
from tierflow_worker.memory import keep_freed_memory

_MODEL: Final = "zoo://resnet18"
_CUTS: Final = (("maxpool", "layer2"), ("layer1", "layer3"), ("layer2", "layer4"))
_ROUNDS: Final = 60
_WARM_UP: Final = 15  # more than a worker's first runs, of which it records the layers
_ANSWER_BYTES: Final = 100
_MESSAGE_BYTES: Final = 64 * 2**20

_RAW_SERVER: Final = """
import socket, sys
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
connection, _ = listener.accept()
connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
buffer = memoryview(bytearray(64 * 2**20))
while header := connection.recv(8, socket.MSG_WAITALL):
    size, answer = int.from_bytes(header[:4], "little"), int.from_bytes(header[4:], "little")
    while size:
        size -= connection.recv_into(buffer[:size])
    connection.sendall(buffer[:answer])
"""

_BARE_WORKER: Final = """
import sys
import onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
options.add_session_config_entry("session.intra_op.allow_spinning", "0")
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
print("ready", flush=True)
sys.stdin.read()
"""


def figures() -> Iterator[Figure]:
    """Measures the areas `worker` and `chain`."""
    keep_freed_memory()  # the client of these measurements is one like a worker's
    with tempfile.TemporaryDirectory() as folder:
        yield from hop_figures(Path(folder))
        yield from chain_figures(Path(folder))
        yield from start_figures(Path(folder))


class RawWire:
    """A raw socket to an echo in another process: the least that a transfer can cost on this machine."""

    def __init__(self) -> None:
        self._server = subprocess.Popen([sys.executable, "-c", _RAW_SERVER], stdout=subprocess.PIPE, text=True)
        if self._server.stdout is None:
            raise RuntimeError("the raw server has no output")
        port = int(self._server.stdout.readline())
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = memoryview(bytearray(_MESSAGE_BYTES))

    def exchange(self, data: bytes, answer: int) -> None:
        """Sends `data` and receives `answer` bytes."""
        self._socket.sendall(len(data).to_bytes(4, "little") + answer.to_bytes(4, "little"))
        self._socket.sendall(data)
        while answer:
            answer -= self._socket.recv_into(self._buffer[:answer])

    def close(self) -> None:
        """Ends the connection and the other process."""
        self._socket.close()
        self._server.wait()
        if self._server.stdout is not None:
            self._server.stdout.close()


def hop_figures(folder: Path) -> Iterator[Figure]:
    """A request of 4 MB, and of 800 kB, to a worker that computes next to nothing, against a raw socket."""
    hop, raw = _measure_hop(folder, 4_000_000, rounds=120)
    yield Figure("worker", "hop of 4 MB", statistics.median(hop) * 1000, "ms")
    yield at_most("worker", "hop of 4 MB to raw socket", median_ratio(hop, raw), "x", 4)
    hop, raw = _measure_hop(folder, 800_000, rounds=200)
    yield Figure("worker", "hop of 800 kB", statistics.median(hop) * 1000, "ms")
    more = statistics.median(one - bare for one, bare in zip(hop, raw, strict=True))
    yield at_most("worker", "hop of 800 kB more than raw socket", more * 1000, "ms", 2.5)


def _measure_hop(folder: Path, size: int, *, rounds: int) -> tuple[list[float], list[float]]:
    """Seconds of each round for a request of `size` bytes: to a worker, and over a raw socket."""
    data = np.random.default_rng(0).bytes(size)
    elements = size // 4
    with _first_elements(folder, elements) as (worker, boundary), contextlib.closing(RawWire()) as raw:
        tensor = InferTensor("x", "float32", (elements,), data)
        request = InferRequest(PIPELINE, (tensor,), parameters={BOUNDARY_PARAMETER: boundary})
        with _client(worker.address) as hop:
            hops, bare = interleaved(
                [lambda: hop(request), lambda: raw.exchange(data, _ANSWER_BYTES)], rounds=rounds, warm_up=_WARM_UP
            )
    return hops, bare


@contextlib.contextmanager
def _first_elements(folder: Path, elements: int) -> Iterator[tuple[WorkerProcess, str]]:
    """A worker whose segment returns the first ten elements of a vector, and its boundary."""
    graph = helper.make_graph(
        [helper.make_node("Slice", ["x", "begin", "end"], ["y"])],
        "first",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [elements])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [10])],
        [helper.make_tensor(name, TensorProto.INT64, [1], [place]) for name, place in (("begin", 0), ("end", 10))],
    )
    file = folder / f"first-{elements}.onnx"
    onnx.save(helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 21)]), file)
    model = open_model(str(file))
    segment = segment_descriptor(model, segments_of(model.graph, (Tier.CLOUD,))[2])
    worker = start_worker(worker_descriptor(model, str(file), Tier.CLOUD, [segment]), folder)
    try:
        worker.wait_ready()
        yield worker, segment.accepts.id
    finally:
        worker.kill()


@contextlib.contextmanager
def _client(address: str) -> Iterator[Callable[[InferRequest], InferResponse]]:
    """Sends requests to a worker as another worker does, from code that isn't asynchronous."""
    loop = asyncio.new_event_loop()

    async def connect() -> DownstreamClient:
        downstream = Downstream(tier=Tier.CLOUD, address=address)
        return DownstreamClient(downstream, max_message_bytes=_MESSAGE_BYTES, patience_seconds=5)

    client = loop.run_until_complete(connect())
    try:
        yield lambda request: loop.run_until_complete(client.infer(request, deadline=None))
    finally:
        loop.run_until_complete(client.close())
        loop.close()


def chain_figures(folder: Path) -> Iterator[Figure]:
    """A chain of three against its segments, as its own workers time them, and its messages over a raw socket.

    Beside it stand the same segments one after the other in this process, in a loop that keeps the processor's caches
    warm: what a machine of one's own could do that nothing else runs on.
    """
    model = open_model(_MODEL)
    more, more_than_warm = [], []
    for device, edge in _CUTS:
        tiers = cut(model.graph, _last_layer(model, device), _last_layer(model, edge))
        times = _measure_chain(folder, model, tiers)
        more.append(times.more)
        more_than_warm.append((times.chain / times.warm - 1) * 100)
        name = f"ResNet-18 cut after {device} and {edge}"
        yield Figure("chain", f"{name}: as the client sees it", times.client * 1000, "ms")
        yield Figure("chain", f"{name}: from arrival to answer", times.chain * 1000, "ms")
        yield Figure("chain", f"{name}: its segments", times.segments * 1000, "ms")
        yield Figure("chain", f"{name}: its raw transfers", times.transfers * 1000, "ms")
    yield at_most("chain", "more than segments and raw transfers", statistics.median(more), "%", 5)
    yield Figure("chain", "more than the segments in a warm loop", statistics.median(more_than_warm), "%")


@dataclass(frozen=True, slots=True)
class _ChainTimes:
    """Seconds per request, medians; `more` is the median, in percent, of what each request cost beside its parts."""

    client: float
    chain: float
    segments: float
    transfers: float
    warm: float
    more: float


def _last_layer(model: Model, block: str) -> str:
    """The last layer whose name begins with `block`."""
    return [layer.name for layer in model.graph.layers if layer.name.startswith(block)][-1]


def _measure_chain(folder: Path, model: Model, tiers: Sequence[Tier]) -> _ChainTimes:
    start = functools.partial(start_worker, folder=folder)
    workers = start_chain(start, model, _MODEL, tiers, log_level="debug")
    [image] = [model.graph.tensors[name] for name in model.graph.inputs]
    pixels = np.random.default_rng(0).standard_normal(image.shape, dtype=np.float32)
    request = InferRequest(PIPELINE, (InferTensor(image.name, image.dtype, image.shape, pixels.tobytes()),))
    try:
        wait_settled(workers.values())
        with _client(workers[Tier.DEVICE].address) as ask, contextlib.closing(RawWire()) as raw:
            calls = [lambda: ask(request), *_parts(folder, model, tiers, {image.name: pixels}, raw)]
            client, *parts = interleaved(calls, rounds=_ROUNDS, warm_up=_WARM_UP)
        warm, transfers = ([sum(times) for times in zip(*kind, strict=True)] for kind in (parts[::2], parts[1::2]))
        chain = _logged_seconds(workers[Tier.DEVICE], "request answered")
        segments = [
            sum(parts)
            for parts in zip(*(_logged_seconds(one, "segment computed") for one in workers.values()), strict=True)
        ]
    finally:
        for worker in workers.values():
            worker.kill()
    bare = [one + other for one, other in zip(transfers, warm, strict=True)]
    own = [one + other for one, other in zip(transfers, segments, strict=True)]
    return _ChainTimes(
        statistics.median(client),
        statistics.median(chain),
        statistics.median(segments),
        statistics.median(transfers),
        statistics.median(bare),
        (median_ratio(chain, own) - 1) * 100,
    )


def _logged_seconds(worker: WorkerProcess, event: str) -> list[float]:
    """What a worker logged of each counted request."""
    worker.wait_for(event, count=_WARM_UP + _ROUNDS)
    return [float(line["seconds"]) for line in worker.lines if line["event"] == event][-_ROUNDS:]


def _parts(
    folder: Path, model: Model, tiers: Sequence[Tier], inputs: Mapping[str, Any], raw: RawWire
) -> list[Callable[[], object]]:
    """A chain's parts in its order: a segment in this process, its message and the answer to it, raw, the next segment.

    So a raw message, too, comes to who has slept while a segment was computed, which takes longer to wake up than who
    has just had another. The client's own message to the device is none of the chain's.
    """
    from tierflow_worker.runtime import Session, create_session

    tensors = dict(inputs)

    def compute(session: Session) -> None:
        tensors.update(session.run({name: tensors[name] for name in session.inputs}))

    result = int(sum(model.graph.tensors[name].size for name in model.graph.outputs))
    parts: list[Callable[[], object]] = []
    for segment in segments_of(model.graph, tiers):
        computed = [name for name in (*segment.sends, *segment.results) if name not in segment.accepts]
        file = folder / f"part-{segment.tier}.onnx"
        extract_segment(model, segment.accepts, computed, file)
        parts.append(functools.partial(compute, create_session(file, threads=1)))
        if segment.sends:
            message = bytes(sum(model.graph.tensors[name].size for name in segment.sends))
            parts.append(functools.partial(raw.exchange, message, result))
    return parts


def start_figures(folder: Path) -> Iterator[Figure]:
    """A worker's start and memory with ResNet-18, against ONNX Runtime alone with the same file."""
    model = open_model(_MODEL)
    device = segments_of(model.graph, (Tier.DEVICE,) * len(model.graph.layers))[0]
    descriptor = worker_descriptor(model, _MODEL, Tier.DEVICE, [segment_descriptor(model, device)])
    first = _start_worker(descriptor, folder)
    file = segment_file(descriptor, descriptor.segments[0], folder / "cache")
    cached = [(_start_worker(descriptor, folder), _start_bare(file)) for _ in range(9)]
    ratio = median_ratio([worker[0] for worker, _ in cached], [bare[0] for _, bare in cached])
    memory = median_ratio([worker[1] for worker, _ in cached], [bare[1] for _, bare in cached])
    yield Figure("worker", "first start to ready, model cut out", first[0] * 1000, "ms")
    yield Figure("worker", "start to ready", statistics.median(worker[0] for worker, _ in cached) * 1000, "ms")
    yield at_most("worker", "start to ready to bare ONNX Runtime", ratio, "x", 3)
    yield Figure("worker", "resident memory", statistics.median(worker[1] for worker, _ in cached) / 1e6, "MB")
    yield at_most("worker", "resident memory to bare ONNX Runtime", memory, "x", 1.5)


def _start_worker(descriptor: WorkerDescriptor, folder: Path) -> tuple[float, float]:
    """Seconds to ready, and resident bytes then."""
    worker = start_worker(descriptor, folder)
    try:
        return worker.wait_ready(), _resident_bytes(worker.process.pid)
    finally:
        worker.kill()


def _start_bare(file: Path) -> tuple[float, float]:
    """Seconds until ONNX Runtime has a session, and resident bytes then."""
    began = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-c", _BARE_WORKER, str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        if process.stdout is None or not process.stdout.readline():
            raise RuntimeError("ONNX Runtime alone did not start")
        return time.perf_counter() - began, _resident_bytes(process.pid)


def _resident_bytes(process: int) -> float:
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return float(pages * os.sysconf("SC_PAGE_SIZE"))
