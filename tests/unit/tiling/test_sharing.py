"""A run shared with other workers: whatever they do, the answer is there and right."""

import asyncio
from collections.abc import Mapping

import numpy as np
import pytest

from tierflow.errors import TierflowError, UnreachableError
from tierflow.tiling.layout import Grid
from tierflow.tiling.region import Region
from tierflow.tiling.rules import Extents
from tierflow_worker.runtime import Array
from tierflow_worker.tiling.sharing import LOCAL, SharedRun
from tierflow_worker.tiling.speeds import TileSpeeds

EXTENTS = Extents(40, 30)
TWO_BY_TWO = Grid(2, 2)
WHOLE = np.arange(40 * 30, dtype=np.float32).reshape(1, 1, 40, 30)


class FakeWorker:
    """Computes the identity, after doing what it is told to do wrong."""

    def __init__(self, name: str, *, fails: bool = False, hangs: bool = False, wrong_shape: bool = False) -> None:
        self.name = name
        self.fails = fails
        self.hangs = hangs
        self.wrong_shape = wrong_shape
        self.tiles: list[Region] = []

    async def compute(self, run: str, tile: Region, inputs: Mapping[str, Array], deadline: float | None) -> Array:
        assert run == "run"
        assert inputs["x"].shape[-2:] == (tile.rows.length, tile.columns.length)
        self.tiles.append(tile)
        await asyncio.sleep(0)
        if self.hangs:
            await asyncio.Event().wait()
        if self.fails:
            raise UnreachableError(f"{self.name} is gone")
        return inputs["x"][..., 1:, :] if self.wrong_shape else inputs["x"]


class Notes:
    """Remembers what became of tiles."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.failed: list[str] = []
        self.hedged: list[str] = []

    def tile_done(self, run: str, worker: str, seconds: float) -> None:
        self.done.append(worker)

    def tile_failed(self, run: str, worker: str, error: BaseException) -> None:
        self.failed.append(worker)

    def tile_hedged(self, run: str, worker: str) -> None:
        self.hedged.append(worker)


def shared_run(grid: Grid = TWO_BY_TWO) -> SharedRun:
    return SharedRun("run", grid, EXTENTS, lambda tile: {"x": tile})


def compute(run: SharedRun, *others: FakeWorker, local: FakeWorker | None = None, notes: Notes | None = None) -> Array:
    """The run's answer, or a failure of the test where it takes forever."""

    async def once() -> Array:
        result = np.full_like(WHOLE, np.nan)
        here = local or FakeWorker(LOCAL)
        await asyncio.wait_for(run.compute({"x": WHOLE}, result, here, others, observer=notes or Notes()), 60)
        return result

    return asyncio.run(once())


def measured(run: SharedRun, *names: str, speed: int = 10**6) -> None:
    """Has the run know how fast workers are."""
    for name in names:
        run.speeds.observe(name, speed, 1.0)


def test_tiles_of_all_workers_make_the_whole() -> None:
    notes = Notes()
    others = [FakeWorker(name) for name in "abc"]
    np.testing.assert_array_equal(compute(shared_run(), *others, notes=notes), WHOLE)
    assert [len(other.tiles) for other in others] == [1, 1, 1]
    assert sorted(notes.done) == ["a", "b", "c", LOCAL]


def test_without_other_workers_the_run_is_one_tile() -> None:
    local = FakeWorker(LOCAL)
    np.testing.assert_array_equal(compute(shared_run(), local=local), WHOLE)
    assert local.tiles == [EXTENTS.region]


@pytest.mark.parametrize("fault", ["fails", "wrong_shape"])
def test_a_tile_that_fails_is_computed_by_another_worker(fault: str) -> None:
    notes = Notes()
    broken = FakeWorker("b", **{fault: True})
    np.testing.assert_array_equal(compute(shared_run(), FakeWorker("a"), broken, FakeWorker("c"), notes=notes), WHOLE)
    assert notes.failed == ["b"]
    assert len(notes.done) == 4


def test_a_worker_that_hangs_is_hedged_and_its_tile_computed_elsewhere() -> None:
    notes = Notes()
    run = shared_run()
    measured(run, LOCAL, "a", "b", "c")
    np.testing.assert_array_equal(
        compute(run, FakeWorker("a"), FakeWorker("b", hangs=True), FakeWorker("c"), notes=notes), WHOLE
    )
    assert notes.hedged == ["b"]


def test_a_worker_that_hangs_at_its_first_tile_does_not_hold_the_request() -> None:
    notes = Notes()
    np.testing.assert_array_equal(compute(shared_run(Grid(2, 1)), FakeWorker("a", hangs=True), notes=notes), WHOLE)
    assert notes.hedged == ["a"]


def test_when_all_others_fail_this_worker_computes_everything() -> None:
    local = FakeWorker(LOCAL)
    others = [FakeWorker(name, fails=True) for name in "abc"]
    np.testing.assert_array_equal(compute(shared_run(), *others, local=local), WHOLE)
    assert len(local.tiles) == 4


def test_what_this_worker_itself_fails_with_is_what_the_request_fails_with() -> None:
    with pytest.raises(TierflowError, match="local is gone"):
        compute(shared_run(), FakeWorker("a"), local=FakeWorker(LOCAL, fails=True))


def test_more_or_fewer_workers_than_planned_take_the_squarest_grid() -> None:
    run = shared_run(Grid(1, 4))
    workers = [FakeWorker(name) for name in "abcdef"]
    assert len({tile.rows for _, tile in run.divide(workers[:4])}) == 1
    assert len(run.divide(workers[:3])) == 3
    assert len({tile.rows for _, tile in run.divide(workers)}) == 3


def test_sizes_follow_a_worker_that_becomes_slow_and_stay_while_speeds_are_steady() -> None:
    speeds = TileSpeeds()
    workers = ["a", "b", "c", "d"]
    for worker in workers:
        speeds.observe(worker, 1000, 1.0)
    even = speeds.shares(workers)
    assert even == pytest.approx((0.25,) * 4)
    random = np.random.default_rng(1)
    for _ in range(100):
        for worker in workers:
            speeds.observe(worker, 1000, float(1 + 0.04 * random.standard_normal()))
        assert speeds.shares(workers) == even
    for _ in range(30):
        speeds.observe("d", 1000, 2.0)
    uneven = speeds.shares(workers)
    assert uneven[3] / uneven[0] == pytest.approx(0.5, rel=0.1)
    assert sum(uneven) == pytest.approx(1)


def test_one_outlier_does_not_resize_tiles() -> None:
    speeds = TileSpeeds()
    workers = ["a", "b"]
    for _ in range(20):
        for worker in workers:
            speeds.observe(worker, 1000, 1.0)
    before = speeds.shares(workers)
    speeds.observe("b", 1000, 30.0)
    after = speeds.shares(workers)
    assert after[1] >= before[1] * 0.85


def test_a_worker_that_comes_anew_is_taken_to_be_as_fast_as_the_others() -> None:
    speeds = TileSpeeds()
    speeds.observe("a", 1000, 1.0)
    speeds.observe("b", 1000, 1.0)
    assert speeds.shares(["a", "b", "new"]) == pytest.approx((1 / 3,) * 3)
    speeds.forget("b")
    assert speeds.expected_seconds("b", 10) is None
