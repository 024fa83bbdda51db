"""A cluster of processes: takes the objects that a Kubernetes cluster would take, and does with them what it would do.

ConfigMaps become files, Deployments worker processes that are replaced as a rolling update does (start, wait until
ready, switch, drain), Services proxies with stable ports, one per link so that each can be shaped.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Final

from tierflow.errors import InvalidInputError
from tierflow.network import Link, Network
from tierflow.tiers import TIERS, Tier
from tierflow_local.links import HOST, Proxies, Traffic
from tierflow_local.worker_process import WorkerProcess
from tierflow_operator.diff import Action, Change, Key, key_of, tier_of
from tierflow_operator.observation import LINKS, TierLink, link_name
from tierflow_operator.render import DESCRIPTOR_DIRECTORY, Manifest, config_map_of

_KILL_AFTER_SECONDS: Final = 3.0
"""What doesn't end by itself by then at the end of a run is killed."""

Report = Callable[[Tier, str], None]
"""Is told what happens to a tier's worker: `starting`, `ready`, `draining`."""


@dataclass(frozen=True, slots=True)
class Entry:
    """The ports on which clients reach the pipeline."""

    grpc: int
    rest: int


@dataclass(frozen=True, slots=True)
class RunningWorker:
    """A worker that is in force.

    Attributes:
        tier: Its tier.
        pid: Its process.
        started_at: When that was started, in seconds of the Unix epoch.
        rest_port: Where it can be asked for its metrics.
    """

    tier: Tier
    pid: int
    started_at: float
    rest_port: int


class LocalCluster:
    """Processes and proxies of one pipeline.

    All methods belong to the thread that made it, which has to live as long as the workers.

    Args:
        directory: For descriptors and logs.
        proxies: Where Services and links live.
        network: What the links are shaped to.
        speeds: By tier, the speed to emulate, as a multiple of one core of this machine.
        cache_dir: Where workers keep models and segments.
        entry: The ports for clients; 0 takes a free one.
        report: Is told what happens.

    Raises:
        InvalidInputError: where a tier is to be faster than this machine, or a port is in use.
    """

    def __init__(
        self,
        directory: Path,
        proxies: Proxies,
        network: Network,
        speeds: Mapping[Tier, float],
        *,
        cache_dir: Path,
        entry: Entry | None = None,
        report: Report | None = None,
    ) -> None:
        for tier, speed in speeds.items():
            if speed > 1:
                raise InvalidInputError(
                    f"the {tier} can't be {speed:g} times as fast as this machine in local mode; divide all speeds by "
                    f"{max(speeds.values()):g}",
                    subject=f"speed of {tier}",
                )
        self._directory = directory
        self._proxies = proxies
        self._speeds = dict(speeds)
        self._cache_dir = cache_dir
        self._report = report or (lambda _tier, _what: None)
        self._objects: dict[Key, Manifest] = {}
        self._workers: dict[Tier, WorkerProcess] = {}
        self._draining: list[WorkerProcess] = []
        self._started = 0
        wanted = entry or Entry(0, 0)
        self.entry: Final = Entry(
            proxies.open("entry-grpc", port=wanted.grpc), proxies.open("entry-rest", port=wanted.rest)
        )
        self._ports = {link: proxies.open(link_name(link), link=network.link(*link)) for link in LINKS}

    def addresses(self, sender: Tier, receiver: Tier) -> str:
        """Where the worker of a tier reaches that of a higher one: the proxy of their link."""
        return f"{HOST}:{self._ports[(sender, receiver)]}"

    @property
    def objects(self) -> tuple[Manifest, ...]:
        """All objects, as they were applied."""
        return tuple(self._objects.values())

    @property
    def workers(self) -> dict[Tier, RunningWorker]:
        """The workers in force, device first."""
        return {
            tier: RunningWorker(tier, worker.pid, worker.started_at, worker.ports.rest)
            for tier in TIERS
            if (worker := self._workers.get(tier)) is not None
        }

    def set_link(self, link: TierLink, shape: Link) -> None:
        """Shapes a link anew, also for what is under way."""
        self._proxies.set_link(link_name(link), shape)

    def traffic(self, link: TierLink) -> Traffic:
        """The bytes that have entered a link."""
        return self._proxies.traffic(link_name(link))

    def apply(self, steps: Sequence[Change]) -> None:
        """Does the steps in their order; workers that are all new start side by side, as they would in a cluster.

        Raises:
            TierflowError: where a worker doesn't get ready; the one before it stays in force.
        """
        for is_start, group in groupby(steps, key=_starts_worker):
            if is_start:
                self._roll_out([step.manifest for step in group])
                continue
            for step in group:
                self._apply(step)

    def close(self) -> None:
        """Ends all workers: lets them finish for a moment, then kills them and what they started."""
        leaving = [*self._workers.values(), *self._draining]
        self._workers.clear()
        self._draining.clear()
        try:
            for worker in leaving:
                worker.terminate()
            deadline = time.monotonic() + _KILL_AFTER_SECONDS
            for worker in leaving:
                worker.wait(max(0.0, deadline - time.monotonic()))
        finally:
            for worker in leaving:
                worker.kill()

    def _apply(self, step: Change) -> None:
        kind, _, name = step.key
        if kind == "ConfigMap":
            self._write_files(step, self._directory / name)
        elif kind == "Deployment" and step.action is Action.REPLACE:
            self._roll_out([step.manifest])
        elif kind == "Deployment":
            self._retire(self._workers.pop(_tier(step.manifest), None))
        if step.action is Action.DELETE:
            del self._objects[step.key]
        else:
            self._objects[step.key] = step.manifest
        self._route()

    def _write_files(self, step: Change, directory: Path) -> None:
        directory.mkdir(exist_ok=True)
        for name, content in step.manifest["data"].items():
            if step.action is Action.DELETE:
                (directory / name).unlink()
            else:
                (directory / name).write_text(content)
        if step.action is Action.DELETE:
            directory.rmdir()

    def _roll_out(self, deployments: Sequence[Manifest]) -> None:
        """Starts the workers side by side; puts each in force when it is ready, in the order given."""
        waiting: list[tuple[Manifest, WorkerProcess]] = []
        try:
            waiting.extend((deployment, self._start(deployment)) for deployment in deployments)
            while waiting:
                deployment, worker = waiting[0]
                probe = _container(deployment)["readinessProbe"]["httpGet"]["path"]
                worker.wait_ready(probe, deployment["spec"]["progressDeadlineSeconds"])
                before = self._workers.get(worker.tier)
                self._workers[worker.tier] = worker
                self._objects[key_of(deployment)] = deployment
                waiting.pop(0)
                self._report(worker.tier, "ready")
                self._route()
                self._retire(before)
        finally:
            for _, worker in waiting:
                worker.kill()

    def _start(self, deployment: Manifest) -> WorkerProcess:
        tier = _tier(deployment)
        container = _container(deployment)
        mounted = str(self._directory / config_map_of(deployment))
        arguments = [argument.replace(DESCRIPTOR_DIRECTORY, mounted) for argument in container["args"]]
        # What follows stands for the node: its cores, its speed and its disk.
        arguments += ["--threads", "1", "--speed", str(self._speeds[tier]), "--cache-dir", str(self._cache_dir)]
        environment = {entry["name"]: entry["value"] for entry in container["env"] if "value" in entry}
        self._started += 1
        self._report(tier, "starting")
        return WorkerProcess(tier, arguments, environment, self._directory / f"{tier}-{self._started}.log")

    def _retire(self, worker: WorkerProcess | None) -> None:
        """Lets a worker that nothing leads to any more finish its requests and end."""
        self._draining = [leaving for leaving in self._draining if leaving.is_alive]
        if worker is not None:
            self._report(worker.tier, "draining")
            worker.terminate()
            self._draining.append(worker)

    def _route(self) -> None:
        """Points each Service's proxies at the worker that it selects."""
        served = {tier_of(entry) for entry in self._objects.values() if entry["kind"] == "Service"}
        for tier in TIERS:
            worker = self._workers.get(tier) if tier in served else None
            for link in LINKS:
                if link[1] is tier:
                    self._proxies.set_target(link_name(link), worker.ports.grpc if worker else None)
            if tier is Tier.DEVICE:
                self._proxies.set_target("entry-grpc", worker.ports.grpc if worker else None)
                self._proxies.set_target("entry-rest", worker.ports.rest if worker else None)


def _starts_worker(step: Change) -> bool:
    return step.action is Action.CREATE and step.key[0] == "Deployment"


def _container(deployment: Manifest) -> Manifest:
    container: Manifest = deployment["spec"]["template"]["spec"]["containers"][0]
    return container


def _tier(deployment: Manifest) -> Tier:
    tier = tier_of(deployment)
    if tier is None:
        raise InvalidInputError(f"{deployment['metadata']['name']} belongs to no tier", subject="deployment")
    return tier
