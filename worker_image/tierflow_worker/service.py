"""A worker's life: assemble it, listen, load, serve, drain.

The segment is loaded in a thread while the servers start, so that requests and probes are answered from early on;
requests wait for the segment, as they do for a worker that is being replaced.
"""

import asyncio
import contextlib
import gc
import os
import signal
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tierflow.descriptor import Downstream, WorkerDescriptor
from tierflow.errors import TierflowError
from tierflow_worker.afterwards import Afterwards
from tierflow_worker.calibration import Calibration
from tierflow_worker.chain import DownstreamClient
from tierflow_worker.dataplane import DataPlane
from tierflow_worker.grpc_face import GrpcFace
from tierflow_worker.loads import note_loaded, note_unloaded
from tierflow_worker.logs import Log
from tierflow_worker.memory import give_back, use_huge_pages
from tierflow_worker.metrics import Metrics
from tierflow_worker.probing import LinkWatch, Prober, neighbours_of
from tierflow_worker.queue import ComputeQueue
from tierflow_worker.segments import SegmentLoader, SegmentStore
from tierflow_worker.settings import Settings
from tierflow_worker.tiling.holdings import Holdings
from tierflow_worker.waiting import happens_within

if TYPE_CHECKING:
    from tierflow_worker.rest_face import RestFace
    from tierflow_worker.tiling.peers import Peers

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_SHORTEST_CHECK_SECONDS = 0.05
_SHORTEST_IDLE_SECONDS = 10.0  # several times longer than an edge worker takes to ask again
_APPROVAL_CHECK_SECONDS = 0.05
_PREVIOUS_AFTER_SECONDS = 2.0
_HUGE_PAGES_AFTER_SECONDS = 15.0  # others that start with this worker have started by then
_POLITE_CHECKS = 10
_IDLE_CHECKS = 20  # so many in a row without a request under way: those in the servers' hands have come by then


class Worker:
    """One worker process, assembled.

    Must be made inside the event loop.

    Args:
        settings: How to run.
        descriptor: What to serve.
        store: The segments, the current one being loaded already.
        loader: Loads others.
        log: Bound to the worker.
    """

    def __init__(
        self, settings: Settings, descriptor: WorkerDescriptor, store: SegmentStore, loader: SegmentLoader, log: Log
    ) -> None:
        self._settings = settings
        self._descriptor = descriptor
        self._store = store
        self._log = log
        self._stop = asyncio.Event()
        self._background: list[asyncio.Future[None]] = []
        self._metrics = Metrics(
            pipeline=descriptor.pipeline,
            namespace=descriptor.namespace,
            tier=descriptor.tier,
            version=_version("tierflow"),
            runtime_version=_version("onnxruntime"),
        )
        self._queue = ComputeQueue(settings.queue, speed=settings.speed, observe_length=self._metrics.set_queue)
        self._metrics.set_queue_capacity(settings.queue)
        self._afterwards = Afterwards()
        self._metrics.before_render(self._afterwards.flush)
        self._links = LinkWatch(self._metrics, tells_loss=self._is_ready)
        self._clients = {
            downstream: DownstreamClient(
                downstream,
                max_message_bytes=settings.max_message_bytes,
                patience_seconds=settings.patience_seconds,
                observer=self._links,
                afterwards=self._afterwards,
            )
            for downstream in _downstreams(descriptor)
        }
        self._peers = self._tile_workers()
        self._holdings = self._held_for_others(loader)
        self._plane = DataPlane(
            descriptor,
            store,
            self._queue,
            self._clients,
            metrics=self._metrics,
            log=log,
            in_flight_limit=settings.in_flight,
            tiling=self._peers,
            holdings=self._holdings,
            afterwards=self._afterwards,
            version=_version("tierflow"),
        )
        self._rest: RestFace | None = None
        self._grpc = GrpcFace(
            self._plane, pipeline=descriptor.pipeline, max_message_bytes=settings.max_message_bytes, log=log
        )

    def _is_ready(self) -> bool:
        return self._plane.ready()

    def _tile_workers(self) -> "Peers | None":
        descriptor = self._descriptor
        if not descriptor.tile_workers or descriptor.role == "tiles":
            return None
        from tierflow_worker.tiling.peers import Peers

        return Peers(
            descriptor.tile_workers,
            descriptor,
            max_message_bytes=self._settings.max_message_bytes,
            metrics=self._metrics,
            log=self._log,
        )

    def _held_for_others(self, loader: SegmentLoader) -> Holdings | None:
        if self._descriptor.role != "tiles":
            return None
        return Holdings(
            self._descriptor.model.identity,
            loader.load,
            idle_seconds=max(self._settings.drain_seconds, _SHORTEST_IDLE_SECONDS),
            metrics=self._metrics,
            log=self._log,
        )

    async def run(self, began: float) -> None:
        """Serves until a signal to stop, then drains.

        Args:
            began: When the process began, on `time.perf_counter`, for the log.

        Raises:
            TierflowError: where a port can't be had, or the segment not be loaded.
        """
        with _signals(self._ask_to_stop):
            grpc_port = await self._grpc.start(self._settings.host, self._settings.grpc_port)
            try:
                rest_port = await self._start_rest()
                self._log.info("listening", grpc_port=grpc_port, rest_port=rest_port)
                if self._peers is not None:  # they load what is wanted of them while this worker does
                    self._keep_going(self._peers.run())
                if await self._load_current():

                    async def become_ready() -> None:
                        self._plane.set_ready()
                        # What was made until now stays: no request is to wait while it is looked through for garbage.
                        gc.freeze()
                        self._grpc.tell_readiness()
                        seconds = round(time.perf_counter() - began, 3)
                        self._log.info("ready", grpc_port=grpc_port, rest_port=rest_port, seconds=seconds)

                    await self._serve(become_ready)
            finally:
                await self._end_background()
                await self._drain()

    async def _start_rest(self) -> int:
        from tierflow_worker.rest_face import RestFace  # takes its time, in which gRPC answers already

        self._rest = RestFace(
            self._plane,
            self._metrics,
            max_message_bytes=self._settings.max_message_bytes,
            drain_seconds=self._settings.drain_seconds,
            log=self._log,
        )
        return await self._rest.start(self._settings.host, self._settings.rest_port)

    async def _load_current(self) -> bool:
        """Waits for the current segment; False where a signal to stop came first."""
        if not self._descriptor.segments:
            return True
        loading = asyncio.ensure_future(self._load(0))
        stopping = asyncio.ensure_future(self._stop.wait())
        await asyncio.wait((loading, stopping), return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if loading.done():
            loading.result()
            return True
        loading.cancel()
        return False

    async def _load(self, place: int) -> None:
        segment = self._descriptor.segments[place]
        seconds = (await self._store.get(place)).load_seconds
        note_loaded(segment, seconds, self._metrics, self._log)

    async def _serve(self, become_ready: Callable[[], Awaitable[None]]) -> None:
        """Serves until asked to stop, ready once that is approved; loads previous segments, unloads them when idle."""
        approval = self._settings.approval_file
        taking_over = asyncio.Event()
        if approval is None:
            taking_over.set()
            await become_ready()
        self._keep_going(self._keep_house(taking_over))
        self._measure()
        if approval is not None and await self._is_approved(approval):
            taking_over.set()
            await become_ready()
        self._keep_going(self._settle())
        await self._stop.wait()

    def _keep_going(self, work: Coroutine[Any, Any, None]) -> None:
        """Does something in the background until the worker is asked to stop; logs what it fails with."""
        task = asyncio.ensure_future(work)
        task.add_done_callback(self._note_failure)
        self._background.append(task)

    async def _end_background(self) -> None:
        for task in self._background:
            task.cancel()
        if self._background:
            await asyncio.wait(self._background)

    async def _is_approved(self, approval: Path) -> bool:
        """Waits until the file is there; False where a signal to stop came first."""
        if not _is_there(approval):
            self._log.info("waiting for approval", file=str(approval))
        while not _is_there(approval):
            if await happens_within(self._stop, _APPROVAL_CHECK_SECONDS):
                return False
        self._log.info("approved")
        return True

    def _measure(self) -> None:
        """Begins what measures the links and the tier's speed while no request does."""

        def is_idle() -> bool:
            return self._plane.in_flight == 0

        settings, descriptor = self._settings, self._descriptor
        tells_links = descriptor.role == "tier"
        neighbours = neighbours_of(descriptor, max_message_bytes=settings.max_message_bytes) if tells_links else {}
        prober = Prober(
            neighbours, self._links, is_idle=is_idle, log=self._log, max_message_bytes=settings.max_message_bytes
        )
        calibration = Calibration(self._queue, self._metrics, is_idle=is_idle, threads=settings.threads)
        self._keep_going(prober.run())
        self._keep_going(calibration.run())

    def _note_failure(self, task: "asyncio.Future[None]") -> None:
        """Logs that something in the background failed, which nobody anticipated; the worker serves on."""
        if not task.cancelled() and (error := task.exception()) is not None:
            self._log.error("background task failed", error=repr(error))

    async def _settle(self) -> None:
        """Has what stays in memory mapped by huge pages, some time after the worker has become ready."""
        await asyncio.sleep(_HUGE_PAGES_AFTER_SECONDS)
        moved, steps = 0, use_huge_pages()
        while (step := await asyncio.to_thread(next, steps, None)) is not None:
            moved += step
            # A request would wait for the pages that are being moved: one at a time, and mostly when there is none.
            for _ in range(_POLITE_CHECKS):
                if not self._plane.in_flight:
                    break
                await asyncio.sleep(_SHORTEST_CHECK_SECONDS)
        self._log.info("settled", huge_page_bytes=moved)

    async def _keep_house(self, taking_over: asyncio.Event) -> None:
        # Others that start with this worker load what they will serve; what is only for the time of a switch can wait.
        await happens_within(taking_over, _PREVIOUS_AFTER_SECONDS)
        for place in range(1, len(self._descriptor.segments)):
            try:
                await self._load(place)
            except TierflowError as error:
                self._log.error("previous segment can't be loaded", place=place, error=str(error))
        while True:
            await asyncio.sleep(max(self._settings.drain_seconds / 4, _SHORTEST_CHECK_SECONDS))
            for place in self._store.unload_idle():
                note_unloaded(self._descriptor.segments[place], self._metrics, self._log)
                give_back()
            if self._holdings is not None and self._holdings.unload_idle():
                give_back()

    def _ask_to_stop(self) -> None:
        if self._stop.is_set():
            os._exit(1)  # asked twice: at once
        self._stop.set()

    async def _stop_grpc(self) -> None:
        """Stops gRPC: when the requests under way have ended, at the latest when the time to drain is over.

        A request that arrives in the very moment of stopping may never reach the data plane, and would wait for the
        whole time to drain; once nothing else is under way it is cancelled, so that its sender soon tries elsewhere.
        """
        stopping = asyncio.ensure_future(self._grpc.stop(self._settings.drain_seconds))
        idle_checks = 0
        while not stopping.done() and idle_checks < _IDLE_CHECKS:
            await asyncio.wait((stopping,), timeout=_SHORTEST_CHECK_SECONDS)
            idle_checks = 0 if self._plane.in_flight else idle_checks + 1
        if not stopping.done():
            await self._grpc.stop(None)
        await stopping

    async def _drain(self) -> None:
        self._log.info("draining", in_flight=self._plane.in_flight)
        self._plane.drain()
        self._grpc.tell_readiness()
        stopping = [self._stop_grpc()]
        if self._rest is not None:
            stopping.append(self._rest.stop())
        await asyncio.gather(*stopping)
        for client in self._clients.values():
            await client.close()
        if self._peers is not None:
            await self._peers.close()
        if self._holdings is not None:
            self._holdings.close()
        self._queue.close()
        self._afterwards.flush()
        self._log.info("stopped", in_flight=self._plane.in_flight)


def _downstreams(descriptor: WorkerDescriptor) -> set[Downstream]:
    if descriptor.role == "tiles":
        return set()  # its segments are the edge worker's, but it sends nothing on
    return {segment.downstream for segment in descriptor.segments if segment.downstream is not None}


def _is_there(file: Path) -> bool:
    """Whether a file exists; not where that can't be told, as while its volume is being mounted."""
    try:
        return file.exists()
    except OSError:
        return False


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


@contextlib.contextmanager
def _signals(ask_to_stop: Callable[[], None]) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    for number in _STOP_SIGNALS:
        loop.add_signal_handler(number, ask_to_stop)
    yield
    # Left in place: a second signal during the drain ends the process at once.
