"""What is measured and logged of segments that are loaded and unloaded: a worker's own, and those it is asked for."""

from tierflow.descriptor import SegmentDescriptor
from tierflow_worker.logs import Log
from tierflow_worker.metrics import Metrics


def note_loaded(segment: SegmentDescriptor, seconds: float, metrics: Metrics, log: Log) -> None:
    """Records that a segment was loaded, and how long that took."""
    metrics.observe_load(segment.id, seconds)
    log.info("segment loaded", segment=segment.id, layers=segment.layers, seconds=round(seconds, 3))


def note_unloaded(segment: SegmentDescriptor, metrics: Metrics, log: Log) -> None:
    """Records that a segment was unloaded."""
    metrics.forget_segment(segment.id)
    log.info("segment unloaded", segment=segment.id)
