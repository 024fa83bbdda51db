"""The tier's speed: measured through the queue, when idle only; and the times of a segment's layers."""

import asyncio
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from factories.models import convolutions, saved
from tierflow.tiers import Tier
from tierflow_worker.calibration import PERIOD_SECONDS, Calibration, build
from tierflow_worker.layer_times import RUNS, LayerRecorder, layer_seconds
from tierflow_worker.metrics import Metrics
from tierflow_worker.queue import ComputeQueue
from tierflow_worker.runtime import create_session


def test_the_shipped_model_is_the_one_that_the_code_builds() -> None:
    assert files("tierflow_worker").joinpath("calibration.onnx").read_bytes() == build()


async def calibrated(queue: ComputeQueue, *, idle: bool = True) -> float | None:
    """The calibration that a worker exports, None where it exported none in a while."""
    metrics = Metrics(pipeline="p", namespace="n", tier=Tier.EDGE)
    asked = asyncio.Event()

    def is_idle() -> bool:
        asked.set()
        return idle

    def exported() -> float | None:
        return metrics.registry.get_sample_value(
            "tierflow_calibration_seconds", {"pipeline_namespace": "n", "pipeline": "p", "tier": "edge"}
        )

    task = asyncio.create_task(Calibration(queue, metrics, is_idle=is_idle, threads=1).run())
    try:
        async with asyncio.timeout(30):
            await asked.wait()
            while idle and exported() is None:
                await asyncio.sleep(0.01)
    finally:
        task.cancel()
        await asyncio.wait((task,))
    return exported()


@pytest.mark.asyncio
async def test_an_idle_worker_exports_how_long_the_fixed_computation_took() -> None:
    queue = ComputeQueue(1)
    seconds = await calibrated(queue)
    queue.close()
    assert seconds is not None
    assert seconds > 0


@pytest.mark.asyncio
async def test_a_worker_that_has_just_started_soon_measures_again(monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = Metrics(pipeline="p", namespace="n", tier=Tier.EDGE)
    exported: list[float] = []
    twice = asyncio.Event()

    def export(seconds: float) -> None:
        exported.append(seconds)
        if len(exported) > 1:
            twice.set()

    monkeypatch.setattr(metrics, "observe_calibration", export)
    queue = ComputeQueue(1)
    task = asyncio.create_task(Calibration(queue, metrics, is_idle=lambda: True, threads=1).run())
    async with asyncio.timeout(PERIOD_SECONDS / 2):  # of the period that comes later
        await twice.wait()
    task.cancel()
    await asyncio.wait((task,))
    queue.close()


@pytest.mark.asyncio
async def test_an_emulated_slow_tier_is_slow() -> None:
    fast, slow = ComputeQueue(1), ComputeQueue(1, speed=0.02)
    fast_seconds, slow_seconds = await calibrated(fast), await calibrated(slow)
    for queue in (fast, slow):
        queue.close()
    assert fast_seconds is not None
    assert slow_seconds is not None
    assert slow_seconds > 10 * fast_seconds


@pytest.mark.asyncio
async def test_a_busy_worker_is_left_alone() -> None:
    queue = ComputeQueue(1)
    assert await calibrated(queue, idle=False) is None
    queue.close()


def test_the_first_runs_of_a_segment_show_its_layers(tmp_path: Path) -> None:
    recorder = LayerRecorder()
    session = create_session(saved(convolutions(), tmp_path), profile=recorder.prefix)
    layers: dict[str, float] = {}
    folder = recorder.prefix.parent
    for _ in range(100_000):  # until the recording was read, which another thread does
        session.run({"image": np.ones((1, 3, 8, 8), np.float32)})
        recorder.ran(session)
        layers = layers or dict(recorder.take())
        if layers and not folder.exists():
            break
    assert "dense" in layers
    assert len(layers) >= 4, "two convolutions, the pool and the dense layer, by whatever names the runtime gave them"
    assert all(seconds >= 0 for seconds in layers.values())
    assert recorder.take() == {}, "they are handed out once"


def test_the_median_leaves_out_the_first_run_and_other_events() -> None:
    recording = b"""[
      {"cat": "Session", "name": "model_run", "dur": 99, "ts": 1, "args": {}},
      {"cat": "Node", "name": "conv_kernel_time", "dur": 5000, "ts": 1},
      {"cat": "Node", "name": "conv_fence_before", "dur": 7, "ts": 1},
      {"cat": "Node", "name": "conv_kernel_time", "dur": 10, "ts": 2},
      {"cat": "Node", "name": "conv_kernel_time", "dur": 30, "ts": 3},
      {"cat": "Node", "name": "conv_kernel_time", "dur": 20, "ts": 4}]"""
    assert layer_seconds(recording) == {"conv": pytest.approx(20e-6)}
    assert RUNS > 1
