"""How a local run ends: by a signal, by being killed, or by itself."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from factories.local_runs import LAYERS, narrowing
from factories.models import saved
from tierflow.model import open_model
from tierflow_local.run_directory import RunDirectory, live_runs

pytestmark = pytest.mark.slow

MANIFEST = """
apiVersion: tierflow.dev/v1alpha1
kind: InferencePipeline
metadata:
  name: narrowing
  annotations:
    tierflow.dev/network: "device-edge=400Mbit/s:1ms,edge-cloud=400Mbit/s:2ms,device-cloud=2Mbit/s:50ms"
    tierflow.dev/speeds: "device=0.005,edge=0.05,cloud=1"
spec:
  model: {{uri: "{model}"}}
  tiers: [{{name: device}}, {{name: edge}}, {{name: cloud}}]
  planning:
    minIntervalSeconds: 0
    stabilizationSeconds: 0
    pins: [{{name: here, layersUpTo: conv1, tier: device}}]
  rollout: {{drainSeconds: 3}}
"""


class Run:
    """`tierflow run` as a user starts it."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        manifest = folder / "pipeline.yaml"
        manifest.write_text(MANIFEST.format(model=saved(narrowing(), folder)))
        profile = folder / "profile.json"
        # Made-up times, so that every machine makes the same plans; near enough to the true ones, which are measured.
        layers = {**dict.fromkeys(LAYERS, 0.0001), "pool": 0, "flatten": 0}
        identity = open_model(str(folder / "model.onnx")).identity
        made_up = {"model": identity, "source": "measured", "machine": "test", "layers": layers}
        profile.write_text(json.dumps(made_up))
        self.runtime = folder / "runtime"
        self.runtime.mkdir()
        environment = {**os.environ, "XDG_RUNTIME_DIR": str(self.runtime), "XDG_CACHE_HOME": str(folder / "cache")}
        command = [sys.executable, "-m", "tierflow_cli.main", "run", str(manifest), "--profile", str(profile)]
        self.process = subprocess.Popen(
            [*command, "--requests", "5", "--grpc-port", "0", "--rest-port", "0", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self.workers: list[psutil.Process] = []

    def wait_for_workers(self) -> None:
        """Until all three tiers have a process."""
        parent = psutil.Process(self.process.pid)
        wait_until(lambda: len(self.children(parent)) == 3)
        self.workers = self.children(parent)

    @staticmethod
    def children(parent: psutil.Process) -> list[psutil.Process]:
        return [child for child in parent.children() if "tierflow_local.launch" in child.cmdline()]

    def left(self) -> list[str]:
        """What is in the directory of runs."""
        return sorted(path.name for path in (self.runtime / "tierflow" / "run").iterdir())


def wait_until(holds: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Run]]:
    runs: list[Run] = []

    def begin(*arguments: str) -> Run:
        runs.append(Run(tmp_path, *arguments))
        return runs[-1]

    yield begin
    for run in runs:
        run.process.kill()
        output, errors = run.process.communicate()
        print(output, errors)


def test_a_whole_run_holds_and_says_so_to_machines(start: Callable[..., Run]) -> None:
    run = start("--json", "--worsen", "edge-cloud=0.5Mbit/s")
    output, errors = run.process.communicate(timeout=240)
    assert run.process.returncode == 0, errors
    report = json.loads(output)
    assert (report["version"], report["holds"], report["failures"]) == (1, True, [])
    names = [found["name"] for found in report["measurements"]]
    assert names[:4] == ["plan", "device-only", "edge-only", "cloud-only"]
    for found in report["measurements"]:
        assert (found["lost"], found["wrong"]) == (0, 0)
        assert found["largestRelativeDifference"] <= 1e-6
    assert report["measurements"][3]["breaks"] == ["planning.pins[here]"]
    replanning = report["replanning"]
    assert (replanning["moved"], replanning["lost"], replanning["wrong"]) == (True, 0, 0)
    assert replanning["reason"] == "BandwidthChanged"
    changed = {worker["tier"]: worker["changed"] for worker in replanning["workers"]}
    assert changed["device"] is False
    assert changed["edge"] is True
    assert run.left() == ["lock"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_everything_in_order(start: Callable[..., Run], number: int, code: int) -> None:
    run = start("--keep")
    run.wait_for_workers()
    run.process.send_signal(number)
    assert run.process.wait(timeout=60) == code
    assert not any(worker.is_running() for worker in run.workers)
    assert run.left() == ["lock"]


def test_a_killed_run_leaves_no_process_and_the_next_run_clears_its_directory(start: Callable[..., Run]) -> None:
    run = start("--keep")
    run.wait_for_workers()
    assert [state.pid for state in live_runs(run.runtime / "tierflow" / "run")] == [run.process.pid]
    run.process.kill()
    run.process.wait()
    wait_until(lambda: not any(worker.is_running() for worker in run.workers))
    assert len(run.left()) == 2
    with RunDirectory("next", run.runtime / "tierflow" / "run") as directory:
        assert run.left() == sorted(["lock", directory.path.name])


def test_a_port_in_use_is_bad_usage_and_named(start: Callable[..., Run]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        run = start("--grpc-port", str(port))
        _, errors = run.process.communicate(timeout=120)
    assert run.process.returncode == 2
    assert f"port {port} of 127.0.0.1 is in use; choose another" in errors
