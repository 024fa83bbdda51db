"""A plan that isn't in force yet is not judged by what requests took meanwhile: the plan before answered them."""

import pytest

from factories.pipelines import network
from factories.reconciling import Bench
from tierflow_operator.record import Record, read_record

QUICK, SLOW = 0.01, 100.0
WIDE, NARROW, NARROW_FIRST = network(300, 300), network(300, 1), network(1, 300)


def record_of(bench: Bench) -> Record:
    record = read_record(bench.cluster.objects["ConfigMap", "small-plan"])
    assert record is not None
    return record


def decisions(bench: Bench) -> list[str]:
    """What was decided, the first of it first."""
    return [entry["decision"] for entry in reversed(bench.status["decisions"])]


@pytest.fixture
def bench() -> Bench:
    """A pipeline on its way from its first plan, under which requests were quick, to a second one."""
    bench = Bench()
    bench.run()
    bench.figures.latency_seconds = QUICK
    bench.figures.links = NARROW
    bench.now += 60
    bench.reconcile()
    found = record_of(bench)
    assert (found.settled, found.target.plan.epoch) == (False, 2)
    assert found.target.replaced is not None
    return bench


def test_slow_requests_during_a_move_take_no_plan_back(bench: Bench) -> None:
    bench.figures.latency_seconds = SLOW
    for _ in range(5):
        bench.now += 10
        bench.reconcile()
    assert decisions(bench) == ["Move", "Move"]
    assert record_of(bench).target.plan.epoch == 2


def test_slow_requests_after_it_do(bench: Bench) -> None:
    bench.figures.latency_seconds = None
    bench.run()
    assert bench.epoch == 2
    bench.figures.latency_seconds = SLOW
    bench.now += 60
    bench.run()
    assert bench.epoch == 3
    assert "Rollback" in decisions(bench)


def test_a_plan_that_supersedes_one_that_never_was_in_force_is_not_judged_by_that(bench: Bench) -> None:
    bench.figures.latency_seconds = SLOW
    bench.figures.links = NARROW_FIRST
    bench.now += 10
    bench.reconcile()
    found = record_of(bench).target
    assert found.plan.epoch == 3
    assert found.replaced is None


def test_a_plan_that_returns_before_another_was_in_force_is_not_judged_by_itself(bench: Bench) -> None:
    bench.figures.links = WIDE
    bench.now += 10
    bench.reconcile()
    found = record_of(bench).target
    assert found.plan.epoch == 3
    assert found.replaced is None
