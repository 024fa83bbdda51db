"""Local mode with tile workers: they come and go under load, and what is left of them when it is over."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from factories.local_runs import Running, running, wanted
from tierflow.plan import Plan
from tierflow.segment import cut
from tierflow.tiers import TIERS, Tier
from tierflow.tiling.choice import EdgeNodes
from tierflow_local.load import Load, ask
from tierflow_local.scrape import Measurements, scrape
from tierflow_operator.manual import plan_for

pytestmark = pytest.mark.slow

NODES = EdgeNodes(speeds=(1.0, 1.0, 0.5))


@pytest.fixture(autouse=True)
def _own_run_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runtime").mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "runtime"))


@pytest.fixture
def local(tmp_path: Path) -> Iterator[Running]:
    with running(replace(wanted(tmp_path), edge=NODES)) as made:
        yield made


def tiled_plan(local: Running, last_device: str = "conv1", last_edge: str = "conv4") -> Plan:
    graph, what = local.model.graph, local.wanted
    assumed = local.session.assumed
    tiers = cut(graph, last_device, last_edge)
    plan = plan_for(graph, what.profile, assumed.network, assumed.tier_speeds, tiers, nodes=NODES)
    assert plan.tiling
    return plan


def seen(local: Running) -> Measurements:
    return scrape(local.session.cluster.workers.values(), now=0.0, max_staleness_seconds=60)


def wait_until(holds: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


def wait_for_tile_workers(local: Running, count: int) -> None:
    wait_until(lambda: seen(local).tile_workers == count)


def wait_for_requests(load: Load, more: int) -> None:
    enough = load.answers.sent + more
    wait_until(lambda: load.answers.sent >= enough)


def test_tiles_are_shared_and_answers_do_not_depend_on_how_many_share_them(local: Running) -> None:
    plan = tiled_plan(local)
    cluster = local.session.cluster
    contents: set[bytes] = set()
    with local.client() as client:
        for workers, nodes in ((3, [1, 2]), (2, [1]), (1, []), (3, [1, 2])):
            tiers = {tier: worker.pid for tier, worker in cluster.workers.items()}
            local.session.local.apply(plan, edge_workers=workers)
            assert list(cluster.tile_workers) == nodes
            if tiers:  # only tile workers come and go
                assert tiers == {tier: worker.pid for tier, worker in cluster.workers.items()}
            wait_for_tile_workers(local, workers - 1)
            before = cluster.tile_traffic
            answers = ask(client, 5)
            assert not answers.lost
            assert not answers.wrong
            contents |= answers.contents
            sent = cluster.tile_traffic.since(before).up
            assert sent > 5 * 1000 if workers > 1 else sent < 5 * 1000
    assert len(contents) == 1


def test_tile_workers_killed_one_by_one_under_load_lose_nothing_and_are_started_again(local: Running) -> None:
    plan = tiled_plan(local)
    local.session.local.apply(plan)
    wait_for_tile_workers(local, 2)
    with local.client() as one, local.client() as other, Load([one, other]) as load:
        for left, worker in zip((1, 0), local.session.cluster.tile_workers.values(), strict=True):
            wait_for_requests(load, 10)
            os.kill(worker.pid, signal.SIGKILL)
            wait_for_tile_workers(local, left)
        local.session.local.apply(plan, edge_workers=2)
        local.session.local.apply(plan, edge_workers=3)
        wait_for_tile_workers(local, 2)
    assert load.answers.sent > 20
    assert [answer.error for answer in load.answers.lost] == []
    assert not load.answers.wrong


def test_a_new_cut_under_load_leaves_tile_workers_as_they_are_and_has_them_compute_its_runs(local: Running) -> None:
    cluster = local.session.cluster
    local.session.local.apply(tiled_plan(local))
    wait_for_tile_workers(local, 2)
    with local.client() as one, Load([one]) as load:
        before = cluster.tile_workers
        local.session.local.apply(tiled_plan(local, last_device="", last_edge="conv4"))
        assert cluster.tile_workers == before
        wait_for_tile_workers(local, 2)
        shared = cluster.tile_traffic
        wait_until(lambda: cluster.tile_traffic.since(shared).up > 1000)
        local.session.local.apply(local.plan("dense", ""))
        assert cluster.tile_workers == {}
    assert load.answers.sent > 0
    assert [answer.error for answer in load.answers.lost] == []
    assert not load.answers.wrong


def test_each_worker_has_the_speed_of_its_node_and_nothing_is_left_of_it_when_a_run_ends(tmp_path: Path) -> None:
    with running(replace(wanted(tmp_path), edge=NODES)) as local:
        local.session.local.apply(tiled_plan(local))
        cluster = local.session.cluster
        tiles = [psutil.Process(worker.pid) for worker in cluster.tile_workers.values()]
        workers = [*tiles, *(psutil.Process(worker.pid) for worker in cluster.workers.values())]
        assert len(workers) == len(TIERS) + 2
        edge = local.session.assumed.tier_speeds[Tier.EDGE]
        assert [speed_of(process) for process in tiles] == [edge, edge * 0.5]
    assert not any(worker.is_running() for worker in workers)
    assert [path.name for path in (tmp_path / "runtime" / "tierflow" / "run").iterdir()] == ["lock"]


def speed_of(worker: psutil.Process) -> float:
    command = worker.cmdline()
    return float(command[command.index("--speed") + 1])
