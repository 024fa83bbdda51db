"""What a worker exports to Prometheus: one registry, one method per event that is counted or timed.

The table of all metrics is `worker_image/METRICS.md`; a test keeps it equal to this registry. Measuring is done
elsewhere (the data plane, `tierflow_worker.links`, `tierflow_worker.calibration`); here it is only recorded.
"""

from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from tierflow.errors import (
    DeadlineExceededError,
    InvalidInputError,
    OverloadedError,
    UnknownBoundaryError,
    UnreachableError,
)
from tierflow.tiers import Tier

_SECONDS: Final = (
    0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2.5, 5, 10, 30,
)  # fmt: skip
_WORKER: Final = ("pipeline_namespace", "pipeline", "tier")
_LINK: Final = ("pipeline_namespace", "pipeline", "from_tier", "to_tier")


class Outcome(StrEnum):
    """How a request ended."""

    OK = "ok"
    INVALID = "invalid"
    UNKNOWN_BOUNDARY = "unknown_boundary"
    REJECTED = "rejected"
    DEADLINE = "deadline"
    UNREACHABLE = "unreachable"
    CANCELLED = "cancelled"
    FAILED = "failed"


_OUTCOMES: Final[Mapping[type[Exception], Outcome]] = {
    InvalidInputError: Outcome.INVALID,
    UnknownBoundaryError: Outcome.UNKNOWN_BOUNDARY,
    OverloadedError: Outcome.REJECTED,
    DeadlineExceededError: Outcome.DEADLINE,
    UnreachableError: Outcome.UNREACHABLE,
}


def outcome_of(error: BaseException | None) -> Outcome:
    """The outcome of a request that ended with `error`, None where it was answered."""
    if error is None:
        return Outcome.OK
    for kind, outcome in _OUTCOMES.items():
        if isinstance(error, kind):
            return outcome
    # CancelledError is no Exception; like the others of its kind it means that the client, or the server, gave up.
    return Outcome.FAILED if isinstance(error, Exception) else Outcome.CANCELLED


class Purpose(StrEnum):
    """Why bytes crossed a link: for a request, or only to measure it."""

    REQUEST = "request"
    PROBE = "probe"


class Metrics:
    """The metrics of one worker.

    Safe to call from several threads. Series of a segment or of a link appear with their first observation.

    Args:
        pipeline: The pipeline's name.
        namespace: The pipeline's namespace. Its label is `pipeline_namespace`, because Prometheus gives every target
            of Kubernetes a label `namespace` of its own.
        tier: The worker's tier.
        version: Of Tierflow, for `tierflow_build_info`.
        runtime_version: Of ONNX Runtime, for the same.
    """

    def __init__(
        self, *, pipeline: str, namespace: str, tier: Tier, version: str = "", runtime_version: str = ""
    ) -> None:
        # The `_created` series would double the number of series and nothing reads them.
        disable_created_metrics()  # type: ignore[no-untyped-call]  # prometheus-client has no types for it
        self.registry = CollectorRegistry(auto_describe=True)
        self._catch_up: Callable[[], None] = lambda: None
        self._worker = (namespace, pipeline, str(tier))
        ProcessCollector(registry=self.registry)
        self._declare_requests()
        self._declare_segments()
        self._declare_links()
        self._declare_tiles()
        build = self._gauge(
            "tierflow_build_info", "Constant 1; the labels say what runs.", "version", "runtime_version"
        )
        build.labels(*self._worker, version, runtime_version).set(1)

    def _gauge(self, name: str, documentation: str, *labels: str) -> Gauge:
        return Gauge(name, documentation, (*_WORKER, *labels), registry=self.registry)

    def _link_gauge(self, name: str, documentation: str) -> Gauge:
        return Gauge(name, documentation, _LINK, registry=self.registry)

    def _histogram(self, name: str, documentation: str, *labels: str) -> Histogram:
        return Histogram(name, documentation, (*_WORKER, *labels), buckets=_SECONDS, registry=self.registry)

    def _declare_requests(self) -> None:
        self._requests = Counter(
            "tierflow_requests",
            "Requests that ended, by how they ended.",
            (*_WORKER, "outcome"),
            registry=self.registry,
        )
        for outcome in Outcome:  # so that rates start at zero
            self._requests.labels(*self._worker, outcome)
        self._request_seconds = self._histogram(
            "tierflow_request_seconds", "Time of the answered requests, queue and downstream tiers included."
        ).labels(*self._worker)
        self._in_flight = self._gauge("tierflow_requests_in_flight", "Requests that have come and not ended.").labels(
            *self._worker
        )
        self._queue = self._gauge("tierflow_queue_length", "Requests that wait for their segment.").labels(
            *self._worker
        )
        self._queue_capacity = self._gauge(
            "tierflow_queue_capacity", "Requests that may wait before further ones are rejected."
        ).labels(*self._worker)
        self._ready = self._gauge("tierflow_ready", "1 while the worker takes requests, else 0.").labels(*self._worker)

    def _declare_segments(self) -> None:
        self._segment_seconds = self._histogram(
            "tierflow_segment_seconds", "Time of one run of the segment's layers, without waiting.", "segment"
        )
        self._segment_load_seconds = self._gauge(
            "tierflow_segment_load_seconds", "Time that it took to cut out and load the segment.", "segment"
        )
        self._layer_seconds = self._gauge(
            "tierflow_layer_seconds",
            "Median time of a layer in the segment's first runs; fused ones share one series.",
            "segment",
            "layer",
        )
        self._calibration_seconds = self._gauge(
            "tierflow_calibration_seconds", "Time of a fixed computation, measured when idle: the tier's speed now."
        )
        self._layers_of: dict[str, tuple[str, ...]] = {}  # by segment; a key for each that was loaded

    def _declare_links(self) -> None:
        self._bandwidth = self._link_gauge(
            "tierflow_link_bandwidth_bytes_per_second", "Bandwidth of the link, as requests see it."
        )
        self._round_trip = self._link_gauge(
            "tierflow_link_round_trip_seconds", "Round trip of the link for a message of no size."
        )
        self._measured = self._link_gauge(
            "tierflow_link_measured_timestamp_seconds", "When the link was last measured, in seconds of the Unix epoch."
        )
        self._up = self._link_gauge("tierflow_link_up", "1 while the neighbour answers, else 0.")
        self._sent = Counter(
            "tierflow_link_sent_bytes", "Bytes sent over the link.", (*_LINK, "purpose"), registry=self.registry
        )
        self._received = Counter(
            "tierflow_link_received_bytes", "Bytes received over it.", (*_LINK, "purpose"), registry=self.registry
        )

    def _declare_tiles(self) -> None:
        self._tile_seconds = self._histogram(
            "tierflow_tile_seconds",
            "Time of the tiles of this worker's requests, the way to other workers included.",
            "run",
            "worker",
        )
        self._tiles_failed = Counter(
            "tierflow_tiles_failed",
            "Tiles that another worker could not compute, and that were computed elsewhere.",
            (*_WORKER, "run"),
            registry=self.registry,
        )
        self._tiles_hedged = Counter(
            "tierflow_tiles_hedged",
            "Tiles that were late, and were computed elsewhere as well.",
            (*_WORKER, "run"),
            registry=self.registry,
        )
        self._tile_workers = self._gauge(
            "tierflow_tile_workers", "Tile workers that answer and hold the current segment's runs."
        )

    def observe_tile(self, run: str, worker: str, seconds: float) -> None:
        """Records the time of a tile, given by its run's id and by who computed it: `local`, or an address."""
        self._tile_seconds.labels(*self._worker, run, worker).observe(seconds)

    def count_failed_tile(self, run: str) -> None:
        """Counts a tile that another worker could not compute."""
        self._tiles_failed.labels(*self._worker, run).inc()

    def count_hedged_tile(self, run: str) -> None:
        """Counts a tile that was late."""
        self._tiles_hedged.labels(*self._worker, run).inc()

    def set_tile_workers(self, workers: int) -> None:
        """Sets how many tile workers answer and hold the current segment's runs."""
        self._tile_workers.labels(*self._worker).set(workers)

    def observe_request(self, outcome: Outcome, seconds: float) -> None:
        """Counts a request that ended, `seconds` after it came."""
        self._requests.labels(*self._worker, outcome).inc()
        if outcome is Outcome.OK:
            self._request_seconds.observe(seconds)

    def follow_in_flight(self, requests: Callable[[], int]) -> None:
        """Has every scrape ask how many requests have come and not ended."""
        self._in_flight.set_function(requests)

    def set_queue(self, length: int) -> None:
        """Sets how many requests wait for their segment."""
        self._queue.set(length)

    def set_queue_capacity(self, capacity: int) -> None:
        """Sets how many requests may wait."""
        self._queue_capacity.set(capacity)

    def set_ready(self, ready: bool) -> None:
        """Sets whether the worker takes requests."""
        self._ready.set(int(ready))

    def observe_segment(self, segment: str, seconds: float) -> None:
        """Records the time of one run of a segment, given by its id."""
        self._segment_seconds.labels(*self._worker, segment).observe(seconds)

    def observe_load(self, segment: str, seconds: float) -> None:
        """Records how long it took to cut out and load a segment."""
        self._segment_load_seconds.labels(*self._worker, segment).set(seconds)
        self._layers_of.setdefault(segment, ())

    def observe_layers(self, segment: str, layers: Mapping[str, float]) -> None:
        """Records the seconds of a segment's layers by name, in place of what was recorded before."""
        for name in self._layers_of.get(segment, ()):
            if name not in layers:
                self._layer_seconds.remove(*self._worker, segment, name)
        for name, seconds in layers.items():
            self._layer_seconds.labels(*self._worker, segment, name).set(seconds)
        self._layers_of[segment] = tuple(layers)

    def forget_segment(self, segment: str) -> None:
        """Removes the gauges of a segment that was unloaded; its histogram stays, since counters must not vanish."""
        if segment in self._layers_of:
            self.observe_layers(segment, {})
            del self._layers_of[segment]
            self._segment_load_seconds.remove(*self._worker, segment)

    def observe_calibration(self, seconds: float) -> None:
        """Records the time of the fixed computation."""
        self._calibration_seconds.labels(*self._worker).set(seconds)

    def observe_link(
        self, to: Tier, *, bytes_per_second: float | None, round_trip_seconds: float | None, timestamp: float
    ) -> None:
        """Records the estimate of the link to a neighbour.

        Args:
            to: The neighbour's tier.
            bytes_per_second: Bandwidth; None where it is not known yet.
            round_trip_seconds: Round trip; None where it is not known yet.
            timestamp: When it was last measured, in seconds of the Unix epoch.
        """
        if bytes_per_second is not None:
            self._bandwidth.labels(*self._worker, to).set(bytes_per_second)
        if round_trip_seconds is not None:
            self._round_trip.labels(*self._worker, to).set(round_trip_seconds)
        self._measured.labels(*self._worker, to).set(timestamp)

    def count_link_bytes(self, to: Tier, *, sent: int, received: int, purpose: Purpose) -> None:
        """Counts what crossed the link to a neighbour, each way."""
        self._sent.labels(*self._worker, to, purpose).inc(sent)
        self._received.labels(*self._worker, to, purpose).inc(received)

    def set_link_up(self, to: Tier, up: bool) -> None:
        """Sets whether a neighbour answers."""
        self._up.labels(*self._worker, to).set(int(up))

    def before_render(self, catch_up: Callable[[], None]) -> None:
        """Has `catch_up` called before the metrics are shown, so that they tell of all that has happened until then."""
        self._catch_up = catch_up

    def render(self) -> tuple[bytes, str]:
        """All metrics in Prometheus' text format, and its content type."""
        self._catch_up()
        return generate_latest(self.registry), CONTENT_TYPE_PLAIN_0_0_4
