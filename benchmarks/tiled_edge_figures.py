"""An edge segment on one to four workers, end to end with scatter and gather: speed-up, sizes, bytes and memory.

Workers are real processes. Each is a tenth as fast as a core of this machine: after a computation it waits until ten
times its processor time are over, so that two cores are enough for four of them. What leaves the edge's worker for the
others, and what comes back, goes through one shaped link of 1 Gbit/s, as through its network card.
"""

import contextlib
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import grpc
import numpy as np

from benchmarks.figure import Figure, at_least, at_most
from benchmarks.tiled_workers import answering, edge_descriptor, edge_segment, tile_descriptor
from benchmarks.workers import PIPELINE, WorkerProcess, start_worker
from tierflow.descriptor import SegmentDescriptor
from tierflow.model.model import Model
from tierflow.protocol import wire
from tierflow.protocol.codec import decode_response, encode_request
from tierflow.protocol.messages import BOUNDARY_PARAMETER, SECONDS_PARAMETER, InferRequest, InferTensor
from tierflow.segment import cut, segments_of
from tierflow.tiers import Tier
from tierflow.tiling.blocks import blocks_of
from tierflow.tiling.choice import EDGE_NETWORK, EdgeNodes, choose_for_segment
from tierflow.zoo.model import open_zoo_model
from tierflow_local.links import Proxies
from tierflow_worker.profiling import cached_profile

AREA: Final = "tiled edge"
_SPEED: Final = 0.1
_MODELS: Final = {"vgg16": "pool5", "darknet53": "stage5.3/add", "resnet18": "layer4.1/relu"}
"""The models, and the last layer of their convolutional part, which the edge computes."""

_MOST_WORKERS: Final = 4
_WARM_UP: Final = 4
_ROUNDS: Final = 5
_SETTLING: Final = 12  # requests until sizes follow a worker of another speed
_RESIZING_SECONDS: Final = 2.0
_UNLIMITED: Final = (("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1))


def figures() -> Iterator[Figure]:
    """Measures the area `tiled edge`."""
    for name, last_layer in _MODELS.items():
        with tempfile.TemporaryDirectory() as folder, Proxies() as proxies, contextlib.ExitStack() as stack:
            edge = _Edge(open_zoo_model(name), name, last_layer, Path(folder), proxies, stack)
            yield from model_figures(edge)


def model_figures(edge: "_Edge") -> Iterator[Figure]:
    """All figures of one model; what unequal workers do is measured for the largest."""
    together = {count: edge.start(f"{count} workers", [_SPEED] * count) for count in range(1, _MOST_WORKERS + 1)}
    for count, workers in together.items():
        workers.ask_often(_WARM_UP if count > 1 else 1)
    moved = together[_MOST_WORKERS].bytes_of(lambda: together[_MOST_WORKERS].ask_often(1))
    times: dict[int, list[float]] = {count: [] for count in together}
    for _ in range(_ROUNDS):
        for count, workers in together.items():
            times[count] += workers.ask_often(1)
    yield from _speed_figures(edge.name, together, times)
    yield Figure(AREA, f"{edge.name}: bytes moved per request with {_MOST_WORKERS} workers", moved / 1e6, "MB")
    alike = [workers.answer == together[1].answer for workers in together.values()]
    yield at_least(AREA, f"{edge.name}: answers with the untiled one's bits", 100 * statistics.mean(alike), "%", 100)
    yield from _memory_figures(edge, together)
    if edge.name == next(iter(_MODELS)):
        yield from _unequal_figures(edge, together[_MOST_WORKERS])


def _speed_figures(name: str, together: dict[int, "_Workers"], times: dict[int, list[float]]) -> Iterator[Figure]:
    nodes = f"nodes of {_SPEED:g} of a core"
    alone = statistics.median(times[1])
    yield Figure(AREA, f"{name}: edge segment on 1 worker, {nodes}", alone * 1000, "ms")
    for count in list(together)[1:]:
        seconds, predicted = statistics.median(times[count]), together[count].planned.seconds
        yield Figure(AREA, f"{name}: edge segment on {count} workers, 1 Gbit/s", seconds * 1000, "ms")
        yield Figure(AREA, f"{name}: the same, predicted by the plan", predicted * 1000, "ms")
        title = f"{name}: speed-up with {count} workers"
        has_goal = name == next(iter(_MODELS)) and count == _MOST_WORKERS
        yield (
            at_least(AREA, title, alone / seconds, "x", 2.8) if has_goal else Figure(AREA, title, alone / seconds, "x")
        )
        yield Figure(AREA, f"{title}, predicted", together[1].planned.seconds / predicted, "x")


def _memory_figures(edge: "_Edge", together: dict[int, "_Workers"]) -> Iterator[Figure]:
    four = together[_MOST_WORKERS]
    standby = _peak_bytes(edge.start_standby())
    untiled, shared = _peak_bytes(together[1].edge), _peak_bytes(four.edge)
    tiles = max(_peak_bytes(worker) for worker in four.tiles)
    title = f"{edge.name}: peak memory of"
    yield Figure(AREA, f"{title} a standby worker, without any segment", standby / 1e6, "MB")
    yield Figure(AREA, f"{title} the untiled edge worker", untiled / 1e6, "MB")
    yield Figure(AREA, f"{title} the edge worker with {_MOST_WORKERS - 1} others", shared / 1e6, "MB")
    yield Figure(AREA, f"{title} a tile worker", tiles / 1e6, "MB")
    title = f"{edge.name}: tile worker beside untiled edge worker"
    yield Figure(AREA, f"{title} (DeepThings: -68)", 100 * (tiles / untiled - 1), "%")
    beyond = (tiles - standby) / (untiled - standby)
    yield Figure(AREA, f"{title}, beyond what a standby takes", 100 * (beyond - 1), "%")


def _unequal_figures(edge: "_Edge", equals: "_Workers") -> Iterator[Figure]:
    """One of four workers at half speed: sized tiles, and equal ones, beside the ideal split of the work."""
    speeds = [_SPEED] * (_MOST_WORKERS - 1) + [_SPEED / 2]
    sized = edge.start("sized tiles", speeds)
    equal = edge.start("equal tiles", speeds, program="benchmarks.equal_tiles")
    settling = sized.ask_often(_SETTLING)
    equal.ask_often(2)
    times: dict[str, list[float]] = {"sized": [], "equal": [], "ideal": []}
    for _ in range(_ROUNDS):
        times["sized"] += sized.ask_often(1)
        times["equal"] += equal.ask_often(1)
        times["ideal"] += [seconds * sum([_SPEED] * _MOST_WORKERS) / sum(speeds) for seconds in equals.ask_often(1)]
    medians = {name: statistics.median(seconds) for name, seconds in times.items()}
    title = f"{edge.name}: one of {_MOST_WORKERS} workers at half speed"
    # The first request finds out how fast workers are. With its answer the edge's worker decides on sizes, which the
    # very next request has.
    first, second = settling[:2]
    yield Figure(AREA, f"{title}: the request that finds out", first, "s")
    yield at_most(AREA, f"{title}: decision on sizes to the first answer with them", second, "s", _RESIZING_SECONDS)
    yield Figure(AREA, f"{title}: longest request while sizes follow", max(settling), "s")
    for name in ("sized", "equal"):
        yield Figure(AREA, f"{title}, {name} tiles", medians[name] * 1000, "ms")
    loss = {name: 100 * (medians[name] / medians["ideal"] - 1) for name in ("sized", "equal")}
    yield at_most(AREA, f"{title}: sized tiles lose against the ideal split", loss["sized"], "%", 15)
    yield Figure(AREA, f"{title}: equal tiles lose against the ideal split", loss["equal"], "%")


@dataclass(frozen=True)
class _Planned:
    """An edge segment with the runs that a plan for so many workers chooses, and its predicted seconds."""

    segment: SegmentDescriptor
    seconds: float


@dataclass(frozen=True)
class _Ends:
    """Where a run begins and ends."""

    input: str
    output: str


@dataclass
class _Edge:
    """Starts workers for one model's edge segment; they end with `stack`."""

    model: Model
    name: str
    last_layer: str
    folder: Path
    proxies: Proxies
    stack: contextlib.ExitStack

    def start(self, title: str, speeds: Sequence[float], program: str = "tierflow_worker.main") -> "_Workers":
        """An edge worker and tile workers of these speeds behind one link, once they know each other."""
        uri = f"zoo://{self.name}"
        planned = self._planned(len(speeds))
        descriptor = edge_descriptor(self.model, uri, [planned.segment])
        ports, tiles = [], []
        for place, speed in enumerate(speeds[1:]):
            tiles.append(self._begin(tile_descriptor(descriptor), speed=speed))
            tiles[-1].wait_ready()
            name = f"{title} {place}"
            ports.append(self.proxies.open(name, link=EDGE_NETWORK, beside=f"{title} 0"))
            self.proxies.set_target(name, tiles[-1].grpc_port)
        where = ",".join(f"127.0.0.1:{port}" for port in ports)
        edge = self._begin(edge_descriptor(self.model, uri, [planned.segment], where), speed=speeds[0], program=program)
        edge.wait_ready()
        if tiles:
            edge.wait_for("tile workers", available=len(tiles))
        return _Workers(edge, tiles, planned, self._request(planned), lambda: self._traffic(f"{title} 0"), self.stack)

    def start_standby(self) -> WorkerProcess:
        """A worker that has no segment."""
        worker = self._begin(edge_descriptor(self.model, f"zoo://{self.name}", []))
        worker.wait_ready()
        return worker

    def _begin(self, descriptor: Any, **flags: Any) -> WorkerProcess:
        worker = start_worker(descriptor, self.folder, **flags)
        self.stack.callback(worker.kill)
        return worker

    def _planned(self, workers: int) -> _Planned:
        graph = self.model.graph
        tiers = cut(graph, "", self.last_layer)
        profile = cached_profile(self.model).scaled(_SPEED)
        part = segments_of(graph, tiers)[Tier.EDGE.rank]
        parts = blocks_of(graph, part.layers, part.accepts, part.sends, profile.layers)
        blocks = parts.blocks
        choice = choose_for_segment(graph, profile, parts, EdgeNodes(speeds=(1.0,) * workers))
        runs = [(_Ends(blocks[run.start].input, blocks[run.stop - 1].output), run.grid) for run in choice.runs]
        return _Planned(answering(edge_segment(self.model, tiers, runs)), choice.seconds)

    def _request(self, planned: _Planned) -> InferRequest:
        [source] = planned.segment.accepts.tensors
        pixels = np.random.default_rng(0).standard_normal(source.shape, dtype=np.float32)
        tensor = InferTensor(source.name, source.dtype, source.shape, pixels.tobytes())
        return InferRequest(PIPELINE, (tensor,), parameters={BOUNDARY_PARAMETER: planned.segment.accepts.id})

    def _traffic(self, name: str) -> int:
        traffic = self.proxies.traffic(name)
        return traffic.up + traffic.down


class _Workers:
    """An edge worker with tile workers, and a client of it."""

    def __init__(
        self,
        edge: WorkerProcess,
        tiles: Sequence[WorkerProcess],
        planned: _Planned,
        request: InferRequest,
        traffic: Callable[[], int],
        stack: contextlib.ExitStack,
    ) -> None:
        self.edge = edge
        self.tiles = tiles
        self.planned = planned
        self.answer = b""
        self._traffic = traffic
        self._request = encode_request(request)
        channel = stack.enter_context(grpc.insecure_channel(edge.address, options=_UNLIMITED))
        self._infer = channel.unary_unary(wire.INFER)

    def ask_often(self, times: int) -> list[float]:
        """Sends requests; returns for each the seconds from its arrival at the edge's worker to its answer."""
        seconds = []
        for _ in range(times):
            response = decode_response(self._infer(self._request, timeout=600))
            self.answer = bytes(response.tensors[0].data)
            seconds.append(float(response.parameters[SECONDS_PARAMETER]))
        return seconds

    def bytes_of(self, action: Callable[[], object]) -> int:
        """How many bytes cross the edge's network, both ways together, while something is done."""
        before = self._traffic()
        action()
        return self._traffic() - before


def _peak_bytes(worker: WorkerProcess) -> float:
    """The most memory that a process ever had."""
    lines = Path(f"/proc/{worker.process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024.0
