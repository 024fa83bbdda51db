"""All that the operator asks Prometheus, in one place: two queries, for all pipelines at once.

Both ask for raw samples, not for aggregates: what is robust to an outlier depends on how many scrapes there were, and
the scrape interval is the user's. What the samples mean is `tierflow_operator.readings`; docs/metrics.md says the same
for people. One pair of queries per Prometheus serves every pipeline, since the metrics' own labels `pipeline_namespace`
and `pipeline` say whose they are.
"""

from collections.abc import Mapping
from typing import Final

BANDWIDTH: Final = "tierflow_link_bandwidth_bytes_per_second"
ROUND_TRIP: Final = "tierflow_link_round_trip_seconds"
MEASURED_AT: Final = "tierflow_link_measured_timestamp_seconds"
LINK_UP: Final = "tierflow_link_up"
CALIBRATION: Final = "tierflow_calibration_seconds"
QUEUE_LENGTH: Final = "tierflow_queue_length"
SEGMENT_SECONDS: Final = "tierflow_segment_seconds_sum"
SEGMENT_RUNS: Final = "tierflow_segment_seconds_count"
REQUEST_SECONDS: Final = "tierflow_request_seconds_sum"
REQUESTS: Final = "tierflow_request_seconds_count"

READ: Final[Mapping[str, str]] = {
    BANDWIDTH: "the bandwidth of a link, as a lower tier's workers see it",
    ROUND_TRIP: "its round trip",
    MEASURED_AT: "when both were measured last",
    LINK_UP: "whether the upper tier answers",
    SEGMENT_SECONDS: "with the next: the mean time of a segment's runs, from which follows the tier's speed",
    SEGMENT_RUNS: "see above",
    CALIBRATION: "the speed of a tier whose segment nobody runs now",
    REQUEST_SECONDS: "with the next: what requests take, measured at the device: whether a plan holds what it promised",
    REQUESTS: "see above",
    QUEUE_LENGTH: "requests that wait at a tier",
}
"""The metrics that are read, and what for."""

LIVE: Final = "group without (version, runtime_version) (tierflow_build_info)"
"""The workers that are scraped now, with the labels that their targets have.

The samples of a worker that has ended stay in the window for a while; this tells them apart.
"""


def recent(window_seconds: int) -> str:
    """The samples of all metrics that are read, over the last `window_seconds`."""
    names = "|".join(sorted(name.removeprefix("tierflow_") for name in READ))
    return f'{{__name__=~"tierflow_({names})"}}[{window_seconds}s]'
