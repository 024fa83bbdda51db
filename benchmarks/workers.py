"""Worker processes for benchmarks and tests: descriptors of a cut model, processes on free ports, their log.

Ends only what it started.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tierflow import descriptor as descriptors
from tierflow.descriptor import Boundary, Downstream, ModelReference, SegmentDescriptor, WorkerDescriptor
from tierflow.graph import Graph
from tierflow.model.model import Model
from tierflow.segment import Route, Segment, boundary_id, segment_id, segments_of
from tierflow.tiers import TIERS, Tier

PIPELINE = "pipe"
_PATIENCE_SECONDS = 60.0


def boundary_of(model: str, graph: Graph, names: Sequence[str]) -> Boundary:
    """The boundary of the named tensors."""
    return Boundary(id=boundary_id(model, names), tensors=tuple(graph.tensors[name] for name in names))


def segment_descriptor(
    model: Model, segment: Segment, downstream: Downstream | None = None, graph: Graph | None = None
) -> SegmentDescriptor:
    """What a worker is told about a segment."""
    graph = graph or model.graph
    known = {**graph.weights, **graph.tensors}
    return SegmentDescriptor(
        id=segment_id(model.identity, segment),
        layers=len(segment.layers),
        accepts=boundary_of(model.identity, graph, segment.accepts),
        sends=boundary_of(model.identity, graph, segment.sends) if segment.sends else None,
        results=tuple(known[name] for name in segment.results),
        downstream=downstream if segment.sends else None,
    )


def worker_descriptor(model: Model, uri: str, tier: Tier, segments: Sequence[SegmentDescriptor]) -> WorkerDescriptor:
    """The descriptor of a tier's worker that serves these segments, the current one first."""
    graph = model.graph
    known = {**graph.weights, **graph.tensors}
    return WorkerDescriptor(
        pipeline=PIPELINE,
        namespace="default",
        tier=tier,
        model=ModelReference(uri=uri, identity=model.identity),
        inputs=tuple(known[name] for name in graph.inputs),
        outputs=tuple(known[name] for name in graph.outputs),
        segments=tuple(segments),
    )


@dataclass
class WorkerProcess:
    """A running worker; `lines` is its log so far."""

    process: subprocess.Popen[str]
    command: list[str]
    began: float
    lines: list[dict[str, Any]] = field(default_factory=list)
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _reader: threading.Thread | None = None

    @property
    def grpc_port(self) -> int:
        """The port that it listens on for gRPC."""
        return int(self.wait_for("listening")["grpc_port"])

    @property
    def rest_port(self) -> int:
        """The port that it listens on for REST."""
        return int(self.wait_for("listening")["rest_port"])

    @property
    def address(self) -> str:
        """Its gRPC address."""
        return f"127.0.0.1:{self.grpc_port}"

    def read(self) -> None:
        """Reads its log until it ends; runs in a thread."""
        if self.process.stderr is None:
            raise RuntimeError("the worker was started without a pipe")
        for text in self.process.stderr:
            try:
                line = json.loads(text)
            except ValueError:
                line = {"event": "text", "text": text.rstrip()}
            with self._changed:
                self.lines.append({**line, "seen": time.perf_counter()})
                self._changed.notify_all()
        with self._changed:
            self.lines.append({"event": "end of log", "seen": time.perf_counter()})
            self._changed.notify_all()

    def wait_for(self, event: str, *, count: int = 1, **fields: object) -> dict[str, Any]:
        """The first line with this event and these fields, or the one that makes `count`; waits for it.

        Raises:
            RuntimeError: with the log, where it doesn't come.
        """

        def found() -> list[dict[str, Any]]:
            return [line for line in self.lines if line["event"] == event and fields.items() <= line.items()]

        def ended() -> bool:
            return any(line["event"] == "end of log" for line in self.lines)

        with self._changed:
            self._changed.wait_for(lambda: len(found()) >= count or ended(), _PATIENCE_SECONDS)
            lines = found()
        if len(lines) < count:
            raise RuntimeError(f"no {event!r} in the log of {' '.join(self.command)}:\n{self.text()}")
        return lines[count - 1]

    def wait_ready(self) -> float:
        """Waits until it is ready; returns the seconds that this took from its start."""
        return float(self.wait_for("ready")["seen"]) - self.began

    def text(self) -> str:
        """Its log as text."""
        return "\n".join(json.dumps(line) for line in self.lines)

    def stop(self) -> int:
        """Asks it to drain, waits for its end, and returns its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.wait()

    def kill(self) -> None:
        """Ends it at once."""
        if self.process.poll() is None:
            self.process.kill()
        self.wait()

    def wait(self) -> int:
        """Waits for its end; returns its exit code."""
        try:
            code = self.process.wait(_PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        if self._reader is not None:
            self._reader.join()
        if self.process.stderr is not None:
            self.process.stderr.close()
        return code


def start_worker(
    descriptor: WorkerDescriptor | bytes,
    folder: Path,
    *,
    grpc_port: int = 0,
    rest_port: int = 0,
    environment: Mapping[str, str] | None = None,
    program: str = "tierflow_worker.main",
    **flags: object,
) -> WorkerProcess:
    """Starts a worker process on this machine.

    Args:
        descriptor: What it serves; bytes are written as they are.
        folder: Where its descriptor and its cache live.
        grpc_port: 0 takes a free one.
        rest_port: 0 takes a free one.
        environment: Variables beside this process's own.
        program: The module that is the worker.
        flags: Flags by their names, `max_message_bytes=1000` for `--max-message-bytes 1000`.
    """
    content = descriptor if isinstance(descriptor, bytes) else descriptors.encode(descriptor)
    file = folder / f"descriptor-{time.time_ns()}.json"
    file.write_bytes(content)
    options: dict[str, object] = {
        "descriptor": file, "host": "127.0.0.1", "grpc-port": grpc_port, "rest-port": rest_port,
        "cache-dir": folder / "cache", "threads": 1, **{name.replace("_", "-"): value for name, value in flags.items()},
    }  # fmt: skip
    command = [sys.executable, "-m", program]
    command += [text for name, value in options.items() for text in (f"--{name}", str(value))]
    began = time.perf_counter()
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, **(environment or {})})
    worker = WorkerProcess(process, command, began)
    worker._reader = threading.Thread(target=worker.read, daemon=True)
    worker._reader.start()
    return worker


def wait_settled(workers: Iterable[WorkerProcess]) -> None:
    """Waits until workers have moved what stays in their memory: until then its size and their speed change."""
    for worker in workers:
        worker.wait_for("settled")


Start = Callable[..., WorkerProcess]


def start_chain(
    start: Start, model: Model, uri: str, tiers: Sequence[Tier], route: Route = Route.RELAYED, **flags: object
) -> dict[Tier, WorkerProcess]:
    """Starts a worker per tier for a partition, from the cloud down to the device, and waits until all are ready.

    Args:
        start: `start_worker` with its folder bound.
        model: The whole model.
        uri: Where workers find it.
        tiers: The tier of each layer.
        route: Whether the edge relays.
        flags: As `start_worker` takes them.
    """
    segments = segments_of(model.graph, tiers, route)
    workers: dict[Tier, WorkerProcess] = {}
    above: Downstream | None = None
    for tier in reversed(TIERS):
        segment = segments[tier.rank]
        served = [segment_descriptor(model, segment, above)] if segment.takes_part else []
        workers[tier] = start(worker_descriptor(model, uri, tier, served), **flags)
        if segment.takes_part:
            above = Downstream(tier=tier, address=workers[tier].address)
    for worker in workers.values():
        worker.wait_ready()
    return workers
