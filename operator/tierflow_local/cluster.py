"""A cluster of processes: takes the objects that a Kubernetes cluster would take, and does with them what it would do.

ConfigMaps become files, Deployments worker processes that are replaced as a rolling update does (start, wait until
ready, switch, drain), Services proxies with stable ports, one per link so that each can be shaped. A tier has one
worker here, whatever its replicas; tile workers have theirs, each standing for a node of the edge.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Final

from tierflow.descriptor import WorkerDescriptor
from tierflow.errors import InvalidInputError
from tierflow.network import Link, Network
from tierflow.tiers import TIERS, Tier
from tierflow.tiling.choice import EdgeNodes
from tierflow_local.links import HOST, Proxies, Traffic
from tierflow_local.worker_process import WorkerProcess
from tierflow_operator.descriptors import TILES
from tierflow_operator.diff import Action, Change, Key, key_of
from tierflow_operator.observation import LINKS, TierLink, link_name
from tierflow_operator.pods import DESCRIPTOR_DIRECTORY, Manifest
from tierflow_operator.render import component_of, config_map_of, live_descriptors

_KILL_AFTER_SECONDS: Final = 3.0
"""What doesn't end by itself by then at the end of a run is killed."""

Report = Callable[[str, str], None]
"""Is told what happens to a worker, given by its name: `starting`, `ready`, `draining`."""

Place = tuple[str, int]
"""A component and which of its workers. Tile worker n stands for node n of the edge, whose own worker is on node 0."""


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


Judge = Callable[[Mapping[Tier, tuple[WorkerDescriptor, str]]], None]
"""Is asked before workers take over: gets, by tier, what the worker was told that would be in force, and its gRPC
address. Raises where they must not."""


class LocalCluster:
    """Processes and proxies of one pipeline.

    All methods belong to the thread that made it, which has to live as long as the workers.

    Args:
        directory: For descriptors and logs.
        proxies: Where Services and links live.
        network: What the links are shaped to.
        speeds: By tier, the speed to emulate, as a multiple of one core of this machine.
        nodes: Those of the edge, relative to its speed, and the link that the first one has to all others.
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
        nodes: EdgeNodes | None = None,
        cache_dir: Path,
        entry: Entry | None = None,
        report: Report | None = None,
    ) -> None:
        edge = nodes or EdgeNodes()
        self._speeds = _speeds_of(speeds, edge)
        self._directory = directory
        self._proxies = proxies
        self._cache_dir = cache_dir
        self._report = report or (lambda _name, _what: None)
        self._objects: dict[Key, Manifest] = {}
        self._workers: dict[Place, WorkerProcess] = {}
        self._draining: list[WorkerProcess] = []
        self._started = 0
        wanted = entry or Entry(0, 0)
        self.entry: Final = Entry(
            proxies.open("entry-grpc", port=wanted.grpc), proxies.open("entry-rest", port=wanted.rest)
        )
        self._ports = {link: proxies.open(link_name(link), link=network.link(*link)) for link in LINKS}
        tiles = [(TILES, node) for node in range(1, len(edge.speeds))]
        ports = [proxies.open(_name(place), link=edge.link, beside=_name(tiles[0])) for place in tiles]
        self.tile_addresses: Final = ",".join(f"{HOST}:{port}" for port in ports)

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
            if (worker := self._workers.get((tier, 0))) is not None
        }

    @property
    def tile_workers(self) -> dict[int, RunningWorker]:
        """The tile workers in force by the node of the edge that they stand for, from 1 on."""
        return {
            node: RunningWorker(Tier.EDGE, worker.pid, worker.started_at, worker.ports.rest)
            for (component, node), worker in sorted(self._workers.items())
            if component == TILES
        }

    def set_link(self, link: TierLink, shape: Link) -> None:
        """Shapes a link anew, also for what is under way."""
        self._proxies.set_link(link_name(link), shape)

    def traffic(self, link: TierLink) -> Traffic:
        """The bytes that have entered a link."""
        return self._proxies.traffic(link_name(link))

    @property
    def tile_traffic(self) -> Traffic:
        """The bytes that the edge's own worker and the tile workers have exchanged."""
        return self._proxies.traffic(_name((TILES, 1))) if self.tile_addresses else Traffic()

    def apply(self, steps: Sequence[Change], judge: Judge | None = None) -> None:
        """Does the steps in their order; workers that change one after the other start side by side.

        Args:
            steps: What to do.
            judge: Is asked before tiers' new workers take over; None lets them.

        Raises:
            TierflowError: where a worker doesn't get ready, or the judge's; those before stay in force.
        """
        for is_rollout, group in groupby(steps, key=_rolls_out):
            if is_rollout:
                self._roll_out([step.manifest for step in group], judge)
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
        if step.action is Action.DELETE:
            del self._objects[step.key]
        else:
            self._objects[step.key] = step.manifest
        if kind == "Deployment":
            self._retire([place for place in self._workers if place[0] == component_of(step.manifest)])
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

    def _roll_out(self, deployments: Sequence[Manifest], judge: Judge | None) -> None:
        """Starts the workers side by side; puts them in force in the order given, once all are ready and judged.

        Tile workers are not judged but used by those that are, and so come first.
        """
        started: list[tuple[Manifest, Place, WorkerProcess]] = []
        try:
            for deployment in deployments:
                started.extend((deployment, place, self._start(deployment, place)) for place in self._stale(deployment))
            for deployment, _, worker in started:
                probe = _container(deployment)["readinessProbe"]["httpGet"]["path"]
                worker.wait_ready(probe, deployment["spec"]["progressDeadlineSeconds"])
                self._report(worker.name, "ready")
            tiers = [entry for entry in deployments if component_of(entry) != TILES]
            for deployment in (entry for entry in deployments if component_of(entry) == TILES):
                self._take_over(deployment, started)
            if judge is not None and tiers:
                judge(self._candidates(tiers, started))
            for deployment in tiers:
                self._take_over(deployment, started)
        finally:
            for _, place, worker in started:
                if self._workers.get(place) is not worker:
                    worker.kill()

    def _take_over(self, deployment: Manifest, started: Sequence[tuple[Manifest, Place, WorkerProcess]]) -> None:
        """Puts the workers of a Deployment in force."""
        for of, place, worker in started:
            if of is deployment:
                self._put_in_force(place, worker)
        self._objects[key_of(deployment)] = deployment
        self._retire(self._surplus(deployment))

    def _candidates(
        self, deployments: Sequence[Manifest], started: Sequence[tuple[Manifest, Place, WorkerProcess]]
    ) -> dict[Tier, tuple[WorkerDescriptor, str]]:
        """The tiers' workers as they would be in force: those that were started, and those that stay."""
        changed = {component_of(entry): entry for entry in deployments}
        wanted = {component_of(entry): entry for entry in self._objects.values() if entry["kind"] == "Deployment"}
        described = live_descriptors([*self._objects.values(), *(wanted | changed).values()])
        workers = self._workers | {place: worker for of, place, worker in started if component_of(of) in changed}
        return {
            tier: (described[tier], f"{HOST}:{workers[tier, 0].ports.grpc}")
            for tier in TIERS
            if tier in described and (tier, 0) in workers
        }

    def _stale(self, deployment: Manifest) -> list[Place]:
        """The places that need another worker: all of them where its template changed, else those without one."""
        before = self._objects.get(key_of(deployment))
        same = before is not None and before["spec"]["template"] == deployment["spec"]["template"]
        return [
            place
            for place in _places(deployment)
            if not (same and place in self._workers and self._workers[place].is_alive)
        ]

    def _surplus(self, deployment: Manifest) -> list[Place]:
        """The places of a Deployment that it has no replicas for any more."""
        wanted = _places(deployment)
        return [place for place in self._workers if place[0] == component_of(deployment) and place not in wanted]

    def _start(self, deployment: Manifest, place: Place) -> WorkerProcess:
        container = _container(deployment)
        mounted = str(self._directory / config_map_of(deployment))
        arguments = [argument.replace(DESCRIPTOR_DIRECTORY, mounted) for argument in container["args"]]
        # What follows stands for the node: its cores, its speed and its disk.
        arguments += ["--threads", "1", "--speed", str(self._speeds[place]), "--cache-dir", str(self._cache_dir)]
        environment = {entry["name"]: entry["value"] for entry in container["env"] if "value" in entry}
        self._started += 1
        name = _name(place)
        self._report(name, "starting")
        return WorkerProcess(name, arguments, environment, self._directory / f"{place[0]}-{self._started}.log")

    def _put_in_force(self, place: Place, worker: WorkerProcess) -> None:
        before = self._workers.get(place)
        self._workers[place] = worker
        self._route()
        if before is not None:
            self._drain(before)

    def _retire(self, places: Sequence[Place]) -> None:
        """Takes workers out of force."""
        leaving = [self._workers.pop(place) for place in places]
        self._route()
        for worker in leaving:
            self._drain(worker)

    def _drain(self, worker: WorkerProcess) -> None:
        """Lets a worker that nothing leads to any more finish its requests and end."""
        self._draining = [leaving for leaving in self._draining if leaving.is_alive]
        self._report(worker.name, "draining")
        worker.terminate()
        self._draining.append(worker)

    def _route(self) -> None:
        """Points each Service's proxies at the worker that it selects."""
        served = {component_of(entry) for entry in self._objects.values() if entry["kind"] == "Service"}

        def port(component: str, place: int = 0) -> int | None:
            worker = self._workers.get((component, place)) if component in served else None
            return worker.ports.grpc if worker else None

        for link in LINKS:
            self._proxies.set_target(link_name(link), port(link[1]))
        for component, node in self._speeds:
            if component == TILES:
                self._proxies.set_target(_name((component, node)), port(component, node))
        self._proxies.set_target("entry-grpc", port(Tier.DEVICE))
        entry = self._workers.get((Tier.DEVICE, 0)) if Tier.DEVICE in served else None
        self._proxies.set_target("entry-rest", entry.ports.rest if entry else None)


def _speeds_of(speeds: Mapping[Tier, float], nodes: EdgeNodes) -> dict[Place, float]:
    """The speed of each worker that there can be, as a multiple of one core of this machine.

    Raises:
        InvalidInputError: where one would have to be faster than this machine.
    """
    found: dict[Place, float] = {(tier, 0): speed for tier, speed in speeds.items()}
    for node, speed in enumerate(nodes.speeds):
        found[(TILES, node) if node else (Tier.EDGE, 0)] = speeds[Tier.EDGE] * speed
    for place, speed in found.items():
        if speed > 1:
            raise InvalidInputError(
                f"the {_name(place)} can't be {speed:g} times as fast as this machine in local mode; divide all speeds "
                f"by {max(found.values()):g}",
                subject=f"speed of {_name(place)}",
            )
    return found


def _rolls_out(step: Change) -> bool:
    return step.key[0] == "Deployment" and step.action is not Action.DELETE


def _places(deployment: Manifest) -> list[Place]:
    component = component_of(deployment)
    return (
        [(TILES, node + 1) for node in range(deployment["spec"]["replicas"])]
        if component == TILES
        else [(component, 0)]
    )


def _name(place: Place) -> str:
    return f"tile worker {place[1]}" if place[0] == TILES else str(place[0])


def _container(deployment: Manifest) -> Manifest:
    container: Manifest = deployment["spec"]["template"]["spec"]["containers"][0]
    return container
