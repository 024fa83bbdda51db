"""Tile workers die, hang, come and go while clients send requests all the time: none fails, and no answer is wrong."""

import math
import signal
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest

from benchmarks.workers import WorkerProcess
from factories.models import saved
from factories.tiled import (
    Cast,
    Example,
    Load,
    cast_of,
    counted,
    everything_at_the_edge,
    free_ports,
    residual,
    tiled_segment,
    untiled_examples,
    wait_for_tile_workers,
)
from tierflow.descriptor import SegmentDescriptor
from tierflow_worker.tiling.requests import read_tile

# So that a tile takes long enough to be under way when its worker dies.
SPEED = 0.2
MANY = 12


@dataclass
class Stage:
    """An edge worker behind its device, and three places where tile workers can be."""

    cast: Cast
    segment: SegmentDescriptor
    examples: list[Example]
    ports: list[int]
    edge: WorkerProcess
    device: WorkerProcess
    tiles: dict[int, WorkerProcess] = field(default_factory=dict)

    def begin(self, place: int, **flags: Any) -> WorkerProcess:
        """Starts a tile worker at one of the places."""
        descriptor = self.cast.tile_descriptor()
        self.tiles[place] = self.cast.start(descriptor, grpc_port=self.ports[place], **{"speed": SPEED, **flags})
        return self.tiles[place]

    def all_there(self) -> list[WorkerProcess]:
        """Sees to it that there is a tile worker at each place, and that the edge worker knows."""
        for place in range(len(self.ports)):
            if place not in self.tiles or self.tiles[place].process.poll() is not None:
                self.begin(place)
        wait_for_tile_workers(self.edge, len(self.ports))
        return [self.tiles[place] for place in range(len(self.ports))]

    def load(self, clients: int = 3) -> Load:
        """Clients of the device."""
        return Load(self.device.address, self.examples, clients=clients)

    def available(self) -> int:
        """How many tile workers the edge worker has."""
        return int(counted(self.edge, "tierflow_tile_workers"))

    def tiles_by(self, place: int) -> float:
        """How many tiles the workers at a place have computed so far."""
        return counted(self.edge, "tierflow_tile_seconds_count", worker=f"127.0.0.1:{self.ports[place]}")


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("faults")
    with cast_of(str(saved(residual(), folder)), folder) as cast:
        segment = tiled_segment(cast.model, everything_at_the_edge(cast.model.graph), every_block=True)
        examples = untiled_examples(cast, segment)
        ports = free_ports(3)
        edge = cast.edge_worker([segment], ",".join(f"127.0.0.1:{port}" for port in ports), speed=SPEED)
        yield Stage(cast, segment, examples, ports, edge, cast.device_of(edge))


def test_a_tile_worker_that_hangs_is_left_out_until_it_is_back(stage: Stage) -> None:
    workers = stage.all_there()
    with stage.load() as load:
        load.wait_for(MANY)
        workers[0].process.send_signal(signal.SIGSTOP)
        load.wait_until(lambda: stage.available() == 2)
        assert counted(stage.edge, "tierflow_tiles_hedged_total") > 0
        load.wait_for(MANY)
        workers[0].process.send_signal(signal.SIGCONT)
        load.wait_until(lambda: stage.available() == 3)
        before = stage.tiles_by(0)
        load.wait_until(lambda: stage.tiles_by(0) > before)


def test_when_all_tile_workers_hang_the_edge_computes_alone(stage: Stage) -> None:
    workers = stage.all_there()
    with stage.load() as load:
        load.wait_for(MANY)
        for worker in workers:
            worker.process.send_signal(signal.SIGSTOP)
        load.wait_until(lambda: stage.available() == 0)
        load.wait_for(MANY)
        for worker in workers:
            worker.process.send_signal(signal.SIGCONT)
        load.wait_until(lambda: stage.available() == len(workers))


def test_tile_workers_killed_one_by_one_until_none_is_left_and_started_again(stage: Stage) -> None:
    workers = stage.all_there()
    with stage.load() as load:
        load.wait_for(MANY)
        for place, worker in enumerate(workers):
            worker.kill()
            left = len(workers) - 1 - place
            load.wait_until(partial(stage_has, stage, left))
            load.wait_for(MANY)
        before = counted(stage.edge, "tierflow_tile_seconds_count")
        load.wait_for(MANY)
        assert counted(stage.edge, "tierflow_tile_seconds_count") == before  # computed as a whole
        for place in range(len(workers)):
            stage.begin(place)
        load.wait_until(partial(stage_has, stage, len(workers)))
        for place in range(len(workers)):
            load.wait_until(partial(has_computed_more, stage, place, stage.tiles_by(place)))


def test_all_tile_workers_killed_at_once(stage: Stage) -> None:
    workers = stage.all_there()
    with stage.load() as load:
        load.wait_for(MANY)
        for worker in workers:
            worker.process.kill()
        load.wait_until(partial(stage_has, stage, 0))
        load.wait_for(MANY)


def test_tile_workers_join_and_leave_under_load(stage: Stage) -> None:
    stage.all_there()
    with stage.load() as load:
        for place in (0, 1, 2):
            load.wait_until(partial(has_computed_more, stage, place, stage.tiles_by(place)))
            assert stage.tiles[place].stop() == 0
            load.wait_until(partial(stage_has, stage, 2))
            stage.begin(place)
            load.wait_until(partial(stage_has, stage, 3))


def test_a_tile_worker_whose_queue_is_full_refuses_tiles_that_others_compute(stage: Stage) -> None:
    stage.all_there()
    stage.tiles[0].kill()
    wait_for_tile_workers(stage.edge, 2)
    busy = stage.begin(0, queue=0, speed=SPEED / 10)
    wait_for_tile_workers(stage.edge, 3)
    with stage.load(clients=8) as load:
        load.wait_until(lambda: counted(busy, "tierflow_requests_total", outcome="rejected") > 0)
        load.wait_for(MANY)
    busy.kill()


def test_sizes_follow_a_worker_of_half_the_speed(stage: Stage) -> None:
    stage.all_there()
    stage.tiles[1].kill()
    wait_for_tile_workers(stage.edge, 2)
    stage.begin(1, speed=SPEED / 2)
    wait_for_tile_workers(stage.edge, 3)
    before = len(stage.edge.lines)
    with stage.load(clients=1) as load:
        load.wait_until(lambda: share_of(stage, 1, before) < 0.8)
    stage.tiles[1].kill()


def share_of(stage: Stage, place: int, after: int) -> float:
    """The area of a place's tile of the first run by the log's newest line, beside the mean of all."""
    sizes = [line for line in stage.edge.lines[after:] if line["event"] == "tiles resized"]
    tiles: dict[str, str] = next(
        (line["tiles"] for line in reversed(sizes) if line["run"] == stage.segment.runs[0].id), {}
    )
    areas = {worker: read_tile(tile).area for worker, tile in tiles.items()}
    mine = areas.get(f"127.0.0.1:{stage.ports[place]}")
    return math.inf if mine is None else mine / statistics.mean(areas.values())


def stage_has(stage: Stage, tile_workers: int) -> bool:
    return stage.available() == tile_workers


def has_computed_more(stage: Stage, place: int, before: float) -> bool:
    return stage.tiles_by(place) > before
