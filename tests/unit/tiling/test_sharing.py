"""A run shared with other workers: whatever they do, the answer is there and right."""

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any

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

    def __init__(
        self,
        name: str,
        *,
        fails: bool = False,
        hangs: bool = False,
        hangs_after: int | None = None,
        wrong_shape: bool = False,
        error: Exception | None = None,
    ) -> None:
        self.name = name
        self.hangs_after = 0 if hangs else hangs_after
        self.wrong_shape = wrong_shape
        self.error = UnreachableError(f"{name} is gone") if fails else error
        self.tiles: list[Region] = []
        self.late = 0

    async def compute(
        self, run: str, tile: Region, cut: Callable[[], Mapping[str, Array]], deadline: float | None
    ) -> Array:
        assert run == "run"
        inputs = cut()
        assert inputs["x"].shape[-2:] == (tile.rows.length, tile.columns.length)
        self.tiles.append(tile)
        await asyncio.sleep(0)
        if self.hangs_after is not None and len(self.tiles) > self.hangs_after:
            await asyncio.Event().wait()
        if self.error is not None:
            raise self.error
        return inputs["x"][..., 1:, :] if self.wrong_shape else inputs["x"]

    def note_late(self) -> None:
        self.late += 1


class Notes:
    """Remembers what became of tiles."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.failed: list[str] = []
        self.hedged: list[str] = []
        self.sizes: list[Mapping[str, str]] = []

    def tile_done(self, run: str, worker: str, seconds: float) -> None:
        self.done.append(worker)

    def tile_failed(self, run: str, worker: str, error: BaseException) -> None:
        self.failed.append(worker)

    def tile_hedged(self, run: str, worker: str) -> None:
        self.hedged.append(worker)

    def tiles_resized(self, run: str, tiles: Mapping[str, str]) -> None:
        self.sizes.append(tiles)


def shared_run(grid: Grid = TWO_BY_TWO, **options: Any) -> SharedRun:
    return SharedRun("run", grid, EXTENTS, lambda tile: {"x": tile}, **options)


def compute(
    run: SharedRun,
    *others: FakeWorker,
    local: FakeWorker | None = None,
    notes: Notes | None = None,
    deadline: float | None = None,
) -> Array:
    """The run's answer, or a failure of the test where it takes forever."""

    async def once() -> Array:
        result = np.full_like(WHOLE, np.nan)
        here = local or FakeWorker(LOCAL)
        sharing = run.compute({"x": WHOLE}, result, here, others, observer=notes or Notes(), deadline=deadline)
        await asyncio.wait_for(sharing, 60)
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


def test_a_worker_that_ends_its_connection_is_no_failure_of_the_request() -> None:
    class Closed(FakeWorker):
        async def compute(self, *_: Any) -> Array:
            raise asyncio.CancelledError

    np.testing.assert_array_equal(compute(shared_run(), FakeWorker("a"), Closed("b")), WHOLE)


def test_an_error_of_a_worker_that_nobody_expected_is_no_failure_of_the_request() -> None:
    notes = Notes()
    broken = FakeWorker("b", error=ZeroDivisionError("nobody expected that"))
    np.testing.assert_array_equal(compute(shared_run(), FakeWorker("a"), broken, notes=notes), WHOLE)
    assert notes.failed == ["b"]


def test_a_rescuer_that_hangs_as_well_leaves_the_tile_to_this_worker() -> None:
    run = shared_run()
    measured(run, LOCAL, "a", "b", "c")
    notes = Notes()
    # All of them hang: each at its own tile, or at that of another one.
    others = [FakeWorker("a", hangs_after=1), FakeWorker("b", hangs=True), FakeWorker("c", hangs_after=1)]
    np.testing.assert_array_equal(compute(run, *others, notes=notes), WHOLE)
    assert "b" in notes.hedged
    assert others[1].late == 1


def test_several_failed_tiles_are_shared_among_those_that_are_left() -> None:
    local = FakeWorker(LOCAL)
    good = [FakeWorker("a"), FakeWorker("b")]
    bad = [FakeWorker(name, fails=True) for name in "cdef"]
    np.testing.assert_array_equal(compute(shared_run(Grid(7, 1)), *good, *bad, local=local), WHOLE)
    assert max(len(worker.tiles) for worker in (local, *good)) <= 4  # of seven


def test_with_little_time_left_a_tile_is_not_waited_for_longer_than_half_of_it() -> None:
    began = time.perf_counter()
    compute(shared_run(Grid(2, 1)), FakeWorker("a", hangs=True), deadline=began + 1.0)
    assert time.perf_counter() - began < 2.0  # which is the patience with a worker that was never measured


def test_a_worker_that_is_late_becomes_slower_in_the_eyes_of_this_one() -> None:
    run = shared_run(Grid(2, 1))
    measured(run, LOCAL, "a")
    before = run.speeds.shares([LOCAL, "a"])
    for _ in range(6):
        compute(run, FakeWorker("a", hangs=True))
    assert run.speeds.shares([LOCAL, "a"])[1] < before[1] / 2


def test_sizes_are_told_when_they_change_and_only_then() -> None:
    run, notes = shared_run(), Notes()
    measured(run, LOCAL, "a", "b", "c", speed=10**9)
    workers = [FakeWorker(name) for name in "abc"]
    for _ in range(3):
        compute(run, *workers, notes=notes)
    compute(run, *workers[:1], notes=notes)
    assert notes.sizes[0] == {LOCAL: "0:20,0:15", "a": "0:20,15:30", "b": "20:40,0:15", "c": "20:40,15:30"}
    assert notes.sizes[-1].keys() == {LOCAL, "a"}


def test_a_run_that_the_plan_gives_few_workers_takes_the_fastest_of_many() -> None:
    run = shared_run(Grid(2, 1), most_workers=2)
    run.speeds.observe("slow", 1000, 2.0)
    run.speeds.observe("fast", 1000, 0.5)
    workers = [FakeWorker(name) for name in (LOCAL, "slow", "fast")]
    assert [worker.name for worker, _ in run.divide(workers)] == [LOCAL, "fast"]
    workers.append(FakeWorker("new"))
    assert [worker.name for worker, _ in run.divide(workers)] == [LOCAL, "new"]


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
    assert speeds.patience("new", 10) is None


def test_the_first_tile_which_includes_what_a_worker_does_once_does_not_count_for_long() -> None:
    speeds = TileSpeeds()
    for worker, first in (("a", 1.0), ("b", 5.0)):
        speeds.observe(worker, 1000, first)
        speeds.observe(worker, 1000, 1.0)
    assert speeds.shares(["a", "b"]) == pytest.approx((0.5, 0.5))


def test_patience_grows_with_the_requests_that_may_be_ahead_and_with_unsteadiness() -> None:
    speeds = TileSpeeds()
    for _ in range(20):
        speeds.observe("steady", 1000, 1.0)
        speeds.observe("crowded", 1000, 4.0, crowd=4)
    assert speeds.patience("steady", 1000) == pytest.approx(2.0)
    assert speeds.patience("steady", 1000, crowd=3) == pytest.approx(6.0)
    assert speeds.patience("crowded", 1000, crowd=4) == pytest.approx(8.0)
    for turn in range(40):
        speeds.observe("steady", 1000, 1.5 if turn % 2 else 0.7)
    unsteady = speeds.patience("steady", 1000)
    assert unsteady is not None
    assert unsteady > 3.0


def test_workers_that_were_replaced_are_forgotten_at_last() -> None:
    speeds = TileSpeeds()
    for number in range(1000):
        speeds.observe(f"10.0.0.{number}:8001", 1000, 1.0)
    assert not speeds.knows("10.0.0.0:8001")
    assert speeds.knows("10.0.0.999:8001")
