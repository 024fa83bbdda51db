"""A cluster of a thousand nodes for the operator's figures: the real API server, kwok's nodes, pods that get ready.

Pods are played by the test bed's kubelet, which knows approvals and verdicts. All of it ends with the context.
"""

import contextlib
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tierflow.network import MEGABIT
from tierflow.tiers import TIERS, Tier

ROOT: Final = Path(__file__).parent.parent
sys.path.append(str(ROOT / "tests"))

from testbed.control_plane import ControlPlane  # noqa: E402 - the test bed is no package of the distribution
from testbed.kubelet import Kubelet  # noqa: E402 - as above
from testbed.kwok import KwokNodes  # noqa: E402 - as above
from testbed.operator_process import OperatorProcess  # noqa: E402 - as above
from testbed.pipelines import collection, pipeline  # noqa: E402 - as above
from testbed.process import wait_for  # noqa: E402 - as above
from testbed.rest import ApiServer, Manifest  # noqa: E402 - as above
from testbed.watched import Watched  # noqa: E402 - as above

CRD: Final = ROOT / "crds/tierflow.dev_inferencepipelines.yaml"
MODELS: Final = ("resnet18", "alexnet", "vgg16", "inception-v4", "darknet53")
SPEEDS: Final = {Tier.DEVICE: 0.1, Tier.EDGE: 0.5, Tier.CLOUD: 1.0}
_NAMESPACES: Final = 10
_PATIENCE_SECONDS: Final = 1800.0
_NOISE: Final = 0.02
_OWNED: Final = (
    "/api/v1/configmaps",
    "/api/v1/services",
    "/api/v1/serviceaccounts",
    "/apis/apps/v1/deployments",
    "/apis/policy/v1/poddisruptionbudgets",
    "/apis/tierflow.dev/v1alpha1/inferencepipelines",
    "/apis/events.k8s.io/v1/events",
)
"""What the operator writes, pods aside: their statuses are not its own."""

Name = tuple[str, str]
"""Namespace and name of a pipeline."""


def names(count: int) -> list[Name]:
    """The pipelines, spread over namespaces."""
    return [(f"team-{number % _NAMESPACES}", f"pipe-{number:03}") for number in range(count)]


def megabits(name: Name) -> tuple[float, float]:
    """The links of a pipeline, device to edge and edge to cloud: its own, so that no two have the same plan to make."""
    number = int(name[1].rpartition("-")[2])
    return round(84 + number / 10, 1), round(18.8 + number / 50, 2)


def manifest(name: Name) -> Manifest:
    """A pipeline with a model of the zoo; what to assume is in its annotations."""
    first, second = megabits(name)
    annotations = {
        "tierflow.dev/network": f"device-edge={first}Mbit/s:3ms,edge-cloud={second}Mbit/s:20ms",
        "tierflow.dev/speeds": ",".join(f"{tier}={speed:g}" for tier, speed in SPEEDS.items()),
    }
    model = MODELS[int(name[1].rpartition("-")[2]) % len(MODELS)]
    return pipeline(name[1], annotations=annotations, model={"uri": f"zoo://{model}"})


@dataclass
class Applied:
    """When pipelines were applied, and when all their Deployments were there."""

    asked: dict[Name, float] = field(default_factory=dict)
    there: dict[Name, float] = field(default_factory=dict)

    @property
    def seconds(self) -> list[float]:
        """From the one to the other, sorted."""
        return sorted(self.there[name] - asked for name, asked in self.asked.items())


class Cluster:
    """The cluster; see `running`."""

    def __init__(self, plane: ControlPlane, nodes: KwokNodes) -> None:
        self.plane = plane
        self.nodes = nodes
        self.api: ApiServer = plane.api
        self._applied: Applied | None = None
        self._deployments = Watched(self.api, "/apis/apps/v1/deployments", changed=self._seen)
        self._deployments.wait_listed()

    def close(self) -> None:
        """Ends watching."""
        self._deployments.stop()

    def apply(self, wanted: Sequence[Name]) -> Applied:
        """Applies pipelines one after the other, without waiting between, then waits for their Deployments."""
        applied = self._applied = Applied()
        for name in wanted:
            applied.asked[name] = time.perf_counter()
            self.api.create(collection(name[0]), manifest(name))
        wait_for("the Deployments", lambda: applied.there.keys() >= applied.asked.keys(), seconds=_PATIENCE_SECONDS)
        self._applied = None
        return applied

    def wait_until_ready(self, count: int) -> None:
        """Waits until so many pipelines are Ready."""
        wait_for(f"{count} pipelines to be Ready", lambda: self.ready() >= count, seconds=_PATIENCE_SECONDS)

    def ready(self) -> int:
        """How many pipelines are."""
        return sum(map(_is_ready, self.api.items("/apis/tierflow.dev/v1alpha1/inferencepipelines")))

    def versions(self) -> dict[str, str]:
        """The resourceVersion of all that the operator writes."""
        return {
            f"{path}/{entry['metadata']['namespace']}/{entry['metadata']['name']}": entry["metadata"]["resourceVersion"]
            for path in _OWNED
            for entry in self.api.items(path)
        }

    def wait_until_available(self) -> None:
        """Waits until Kubernetes counts all pods as available: tile workers are that seconds after they are ready."""

        def are_available() -> bool:
            return all(
                entry.get("status", {}).get("availableReplicas", 0) == entry["spec"]["replicas"]
                for entry in list(self._deployments.objects.values())
            )

        wait_for("all pods to be available", are_available, seconds=_PATIENCE_SECONDS)

    def _seen(self) -> None:
        applied, now = self._applied, time.perf_counter()
        if applied is None:
            return
        there = self._deployments.objects
        for name in applied.asked.keys() - applied.there.keys():
            if all((name[0], f"{name[1]}-{tier}") in there for tier in TIERS):
                applied.there[name] = now


def _is_ready(found: Manifest) -> bool:
    conditions = found.get("status", {}).get("conditions", ())
    return any(entry["type"] == "Ready" and entry["status"] == "True" for entry in conditions)


@contextlib.contextmanager
def running(nodes: int) -> Iterator[Cluster]:
    """A cluster with so many nodes, a tenth of them devices and as many of the cloud."""
    with tempfile.TemporaryDirectory(prefix="tierflow-bench-") as name:
        folder = Path(name)
        with contextlib.ExitStack() as stack:
            plane = stack.enter_context(ControlPlane(folder))
            plane.define(CRD.read_text())
            plane.start_controllers()
            kwok = KwokNodes(plane.api, plane.kubeconfig, folder)
            stack.callback(kwok.stop)
            kwok.add("device", nodes // 10)
            kwok.add("cloud", nodes // 10)
            kwok.add("edge", nodes - 2 * (nodes // 10), seconds=_PATIENCE_SECONDS)
            kubelet = Kubelet(plane.api)
            stack.callback(kubelet.stop)
            for number in range(_NAMESPACES):
                plane.api.create("/api/v1/namespaces", {"metadata": {"name": f"team-{number}"}})
                kubelet.behave(f"team-{number}")
            cluster = Cluster(plane, kwok)
            stack.callback(cluster.close)
            yield cluster


class MeasuredOperator:
    """An operator of a cluster, as a process whose figures are read from outside and from its own metrics."""

    def __init__(self, cluster: Cluster, *flags: str) -> None:
        self._began = time.perf_counter()
        self._process = OperatorProcess(cluster.plane.kubeconfig, cluster.plane.folder, "--no-leader-elect", *flags)

    def __enter__(self) -> "MeasuredOperator":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait_for_exit()
        finally:
            self._process.kill()

    def seconds_to_know(self, pipelines: int) -> float:
        """From its start until it has reconciled all pipelines that there are, and none is due any more."""
        self._wait(lambda: len(self._process.metric("tierflow_operator_plan_epoch")) >= pipelines and self._is_idle())
        return time.perf_counter() - self._began

    @contextlib.contextmanager
    def resync(self, pipelines: int, seconds: list[float]) -> Iterator[None]:
        """What is within makes all pipelines due; the time until all were reconciled is added to `seconds`."""
        before, began = self.reconciles, time.perf_counter()
        yield
        self._wait(lambda: self.reconciles >= before + pipelines and self._is_idle())
        seconds.append(time.perf_counter() - began)

    def wait_until_idle(self) -> None:
        """Waits until nothing is due, and no write has happened since the last look."""
        before = [-1.0]

        def is_idle() -> bool:
            writes, before[0] = before[0], sum(self.writes().values())
            return self._is_idle() and writes == before[0]

        wait_for("rest", is_idle, seconds=_PATIENCE_SECONDS)

    @property
    def reconciles(self) -> float:
        """How many there were."""
        return sum(self._process.metric("tierflow_operator_reconcile_seconds_count").values())

    def writes(self) -> dict[str, float]:
        """What it has written, the Lease aside."""
        return self._process.writes()

    def requests(self) -> float:
        """How often it has asked the API server for anything, watches aside."""
        return sum(self._process.metric("tierflow_operator_api_requests_total").values())

    def decisions(self) -> float:
        """How often it has decided, looks among them."""
        return sum(self._process.metric("tierflow_operator_decisions_total").values())

    def megabytes(self, *, peak: bool = False) -> float:
        """Its resident memory; the most that it ever was with `peak`."""
        lines = Path(f"/proc/{self._process.pid}/status").read_text().splitlines()
        name = "VmHWM" if peak else "VmRSS"
        return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1000

    def cpu_seconds(self) -> float:
        """The time that it has computed."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def _is_idle(self) -> bool:
        age = self._process.metric("tierflow_operator_queue_oldest_age_seconds")
        return sum(age.values()) == 0

    def _wait(self, condition: Any) -> None:
        self._process.wait_until("all pipelines to be reconciled", condition, seconds=_PATIENCE_SECONDS)


class Figures:
    """What the workers of all pipelines would tell Prometheus, with the noise that links have."""

    def __init__(self, wanted: Sequence[Name]) -> None:
        self._names = wanted
        self._noise = random.Random(1)

    def text(self) -> str:
        """One scrape of all workers."""
        now = time.time()
        return "".join(line for name in self._names for line in self._lines(name, now))

    def _lines(self, name: Name, now: float) -> Iterator[str]:
        whose = {"pipeline_namespace": name[0], "pipeline": name[1]}
        first, second = megabits(name)
        links = {(0, 1): (first, 0.003), (1, 2): (second, 0.020), (0, 2): (min(first, second), 0.023)}
        for tier in TIERS:
            own = whose | {"tier": tier.value}
            yield _line("tierflow_build_info", own | {"version": "1", "runtime_version": "1"}, 1)
            yield _line("tierflow_calibration_seconds", own, 0.002 / SPEEDS[tier])
            yield _line("tierflow_queue_length", own, 0)
            yield _line("tierflow_request_seconds_sum", own, 0.2)
            yield _line("tierflow_request_seconds_count", own, 1)
        for (lower, upper), (bandwidth, round_trip) in links.items():
            own = whose | {"from_tier": TIERS[lower].value, "to_tier": TIERS[upper].value}
            noisy = bandwidth * MEGABIT * (1 + self._noise.uniform(-_NOISE, _NOISE))
            yield _line("tierflow_link_bandwidth_bytes_per_second", own, noisy)
            yield _line("tierflow_link_round_trip_seconds", own, round_trip)
            yield _line("tierflow_link_measured_timestamp_seconds", own, now)
            yield _line("tierflow_link_up", own, 1)


def _line(name: str, labels: Mapping[str, str], value: float) -> str:
    shown = ",".join(f'{key}="{text}"' for key, text in labels.items())
    return f"{name}{{{shown}}} {value!r}\n"
