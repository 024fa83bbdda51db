"""How fast this tier is now: the time of one fixed computation, for workers with and without a segment.

The computation is a convolution of 3x3 over 64 channels and 56x56 pixels (116 million multiply-accumulates), in
`calibration.onnx`; its time on two tiers compares them, and on one tier over time shows what else the machine does. It
takes its turn in the worker's queue, five times in a row each minute that the worker is idle; the fastest run counts,
since what disturbs a run only makes it longer. A worker that has just started measures again after 2, 4, 8, ...
seconds: starts are when machines are busiest. `python -m tierflow_worker.calibration` writes the file.
"""

import asyncio
from collections.abc import Callable
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from tierflow.errors import OverloadedError
from tierflow_worker.metrics import Metrics
from tierflow_worker.queue import ComputeQueue

if TYPE_CHECKING:  # a standby has not loaded ONNX Runtime yet, and shall not stand still for it
    from tierflow_worker.runtime import Session

PERIOD_SECONDS: Final = 60.0
_RUNS: Final = 5
_FIRST_PAUSE_SECONDS: Final = 2.0
_RETRY_SECONDS: Final = 1.0
_SHAPE: Final = (1, 64, 56, 56)
_FILE: Final = "calibration.onnx"


class Calibration:
    """Measures the tier's speed while the worker is idle.

    Args:
        queue: Where the computation takes its turn; its emulated speed counts.
        metrics: Where the time is recorded.
        is_idle: Whether the worker has no request under way.
        threads: Threads within a layer, as for segments.
    """

    def __init__(self, queue: ComputeQueue, metrics: Metrics, *, is_idle: Callable[[], bool], threads: int) -> None:
        self._queue = queue
        self._metrics = metrics
        self._is_idle = is_idle
        self._threads = threads

    async def run(self) -> None:
        """Measures every minute, and more often at first, until it is cancelled."""
        while not self._is_idle():
            await asyncio.sleep(_RETRY_SECONDS)
        session = await asyncio.to_thread(_load, self._threads)
        pause = _FIRST_PAUSE_SECONDS
        while True:
            seconds = await self._measure(session)
            if seconds is None:
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            self._metrics.observe_calibration(seconds)
            await asyncio.sleep(pause)
            pause = min(2 * pause, PERIOD_SECONDS)

    async def _measure(self, session: "Session") -> float | None:
        """The fastest run; None where requests came in between."""
        from tierflow_worker.runtime import Cancellation

        feeds = {"x": np.ones(_SHAPE, np.float32)}
        times = []
        for _ in range(_RUNS):
            if not self._is_idle():
                return None
            cancellation = Cancellation()
            try:
                _, seconds = await self._queue.run(
                    lambda: session.run(feeds, cancellation=cancellation),  # noqa: B023 - called in this turn
                    cancel=cancellation.cancel,
                )
            except OverloadedError:
                return None
            times.append(seconds)
        return min(times)


def _load(threads: int) -> "Session":
    from tierflow_worker.runtime import create_session

    with as_file(files("tierflow_worker").joinpath(_FILE)) as path:
        return create_session(path, threads=threads)


def build() -> bytes:
    """The content of `calibration.onnx`; its weights are made when it is loaded."""
    from onnx import TensorProto, helper

    channels = _SHAPE[1]
    value = helper.make_tensor("value", TensorProto.FLOAT, [1], [0.01])
    shape = helper.make_tensor("shape", TensorProto.INT64, [4], [channels, channels, 3, 3])
    nodes = [
        helper.make_node("ConstantOfShape", ["shape"], ["w"], value=value),
        helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1]),
    ]
    graph = helper.make_graph(
        nodes,
        "calibration",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, _SHAPE)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, _SHAPE)],
        [shape],
    )
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
    content: bytes = model.SerializeToString()
    return content


if __name__ == "__main__":
    Path(__file__).with_name(_FILE).write_bytes(build())
