"""What a segment's layers cost here: recorded by ONNX Runtime over the segment's first runs, which are requests.

Recording adds a microsecond or two per layer and ends after `RUNS` runs; nothing is loaded twice and no run is made for
it. How a tier's speed changes later shows in the segment's time, which is measured at every run. What the runtime
fused, and the changes of memory layout that it put in between, appear under names that it made, of a layer or a tensor.
(Profiles to plan with are another matter: `tierflow_worker.profiling`.)
"""

import statistics
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

RUNS: Final = 10
"""Runs that are recorded; the first warms up and does not count."""

_SUFFIX: Final = "_kernel_time"
_OWN_LAYOUT: Final = "_nchwc"  # added to the names of kernels that work on the runtime's own memory layout


class _Event(msgspec.Struct):
    name: str
    cat: str = ""
    dur: int = 0


class LayerRecorder:
    """Follows the first runs of one session.

    Attributes:
        prefix: What to create the session with: `create_session(profile=prefix)`.
    """

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="tierflow-layers-")
        self.prefix: Final = Path(self._folder.name, "kernels")
        self._runs = 0
        self._seconds: dict[str, float] = {}

    def ran(self, session: Any) -> None:
        """Counts a run of the session."""
        self._runs += 1
        if self._runs == RUNS:
            # Writing the recording takes milliseconds, which no request shall wait for; runs may go on meanwhile.
            threading.Thread(target=self._read, args=(session,), name="layer-times", daemon=True).start()

    def take(self) -> Mapping[str, float]:
        """Seconds by layer, once they are known and only once; else nothing."""
        seconds, self._seconds = self._seconds, {}
        return seconds

    def _read(self, session: Any) -> None:
        try:
            self._seconds = layer_seconds(session.end_profiling().read_bytes())
        finally:
            self._folder.cleanup()


def layer_seconds(recording: bytes) -> dict[str, float]:
    """The median seconds of each kernel in ONNX Runtime's recording, its first run left out where there are more."""
    found: dict[str, list[float]] = {}
    for event in msgspec.json.decode(recording, type=list[_Event]):
        if event.cat == "Node" and event.name.endswith(_SUFFIX):
            name = event.name.removesuffix(_SUFFIX).removesuffix(_OWN_LAYOUT)
            found.setdefault(name, []).append(event.dur * 1e-6)
    return {name: statistics.median(seconds[1:] or seconds) for name, seconds in found.items()}
