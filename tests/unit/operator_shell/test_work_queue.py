"""The queue's threads: one per key at a time, failures that don't hold up others, an orderly end."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tierflow.errors import UnreachableError
from tierflow_operator.keys import PipelineKey
from tierflow_operator.schedule import Pace
from tierflow_operator.work_queue import Resync, WorkQueue

BRISK = Pace(settle=0.0, first_backoff=0.01, longest_backoff=0.02)
DEADLINE_SECONDS = 20.0


def key(name: str) -> PipelineKey:
    return PipelineKey("vision", name)


def eventually(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not holds():
        assert time.monotonic() < deadline, "it did not come to hold"
        threading.Event().wait(0.005)


@contextmanager
def running(visit: Callable[[PipelineKey], float | None], workers: int = 4, pace: Pace = BRISK) -> Iterator[WorkQueue]:
    queue = WorkQueue(visit, workers=workers, pace=pace)
    queue.start()
    try:
        yield queue
    finally:
        queue.stop(DEADLINE_SECONDS)


def test_a_key_is_visited_by_one_thread_at_a_time_however_often_it_is_asked_for() -> None:
    inside: Counter[PipelineKey] = Counter()
    most: Counter[PipelineKey] = Counter()
    visits: Counter[PipelineKey] = Counter()
    lock = threading.Lock()

    def visit(visited: PipelineKey) -> None:
        with lock:
            inside[visited] += 1
            most[visited] = max(most[visited], inside[visited])
            visits[visited] += 1
        threading.Event().wait(0.001)
        with lock:
            inside[visited] -= 1

    keys = [key(f"p{number}") for number in range(3)]
    with running(visit) as queue:
        adders = [threading.Thread(target=lambda: [queue.add(each) for _ in range(50) for each in keys]) for _ in "ab"]
        for adder in adders:
            adder.start()
        for adder in adders:
            adder.join()
        eventually(lambda: queue.length() == 0 and sum(inside.values()) == 0)
    assert set(most.values()) == {1}
    assert all(1 <= visits[each] <= 100 for each in keys)


def test_what_is_asked_for_during_a_visit_is_seen_by_a_later_one() -> None:
    wanted = 0
    seen = []
    first_is_inside = threading.Event()
    go_on = threading.Event()

    def visit(_: PipelineKey) -> None:
        seen.append(wanted)
        first_is_inside.set()
        go_on.wait(DEADLINE_SECONDS)

    with running(visit) as queue:
        queue.add(key("one"))
        first_is_inside.wait(DEADLINE_SECONDS)
        wanted = 1
        queue.add(key("one"))
        go_on.set()
        eventually(lambda: len(seen) == 2)
    assert seen == [0, 1]


def test_who_only_wished_to_come_again_looks_and_what_was_asked_for_is_visited() -> None:
    done: list[str] = []

    def visit(_: PipelineKey) -> float:
        done.append("visit")
        return 0.001

    def look(_: PipelineKey) -> float | None:
        done.append("look")
        return 0.001 if len(done) < 3 else None

    queue = WorkQueue(visit, look=look, workers=1, pace=BRISK)
    queue.start()
    queue.add(key("one"))
    eventually(lambda: len(done) == 3)
    queue.add(key("one"))
    eventually(lambda: len(done) == 5)
    queue.stop(DEADLINE_SECONDS)
    assert done == ["visit", "look", "look", "visit", "look"]


def test_a_key_that_always_fails_does_not_hold_up_the_others(caplog: pytest.LogCaptureFixture) -> None:
    visits: Counter[str] = Counter()

    def visit(visited: PipelineKey) -> float | None:
        visits[visited.name] += 1
        if visited.name == "broken":
            raise UnreachableError("the model's server does not answer", subject="spec.model.uri")
        return 0.001

    with running(visit, workers=1) as queue:
        queue.add(key("broken"))
        queue.add(key("sound"))
        eventually(lambda: visits["sound"] >= 20 and visits["broken"] >= 3)
    assert "the model's server does not answer" in caplog.text


def test_a_defect_is_reported_with_its_traceback_and_the_key_comes_again(caplog: pytest.LogCaptureFixture) -> None:
    visits = []

    def visit(visited: PipelineKey) -> None:
        visits.append(visited)
        if len(visits) == 1:
            raise ZeroDivisionError

    with running(visit) as queue:
        queue.add(key("one"))
        eventually(lambda: len(visits) == 2)
        assert queue.is_healthy(DEADLINE_SECONDS)
    assert any(record.exc_info and record.levelname == "ERROR" for record in caplog.records)


def test_keys_that_are_added_before_the_start_wait_for_it_and_are_not_old_then() -> None:
    now = 0.0
    visits = []
    queue = WorkQueue(visits.append, workers=1, pace=BRISK, clock=lambda: now)
    queue.add(key("one"))
    now = 500.0
    assert queue.oldest_age() == 0
    assert queue.is_healthy(60)
    queue.start()
    eventually(lambda: visits == [key("one")])
    assert queue.stop(DEADLINE_SECONDS)


def test_stopping_waits_for_the_visit_under_way_and_begins_no_other() -> None:
    inside = threading.Event()
    go_on = threading.Event()
    ended = []

    def visit(visited: PipelineKey) -> None:
        inside.set()
        go_on.wait(DEADLINE_SECONDS)
        ended.append(visited.name)

    queue = WorkQueue(visit, workers=1, pace=BRISK)
    queue.start()
    queue.add(key("first"))
    queue.add(key("second"))
    inside.wait(DEADLINE_SECONDS)
    assert not queue.stop(timeout_seconds=0.01)
    go_on.set()
    assert queue.stop(DEADLINE_SECONDS)
    assert ended == ["first"]


def test_a_visit_that_hangs_makes_the_queue_unhealthy() -> None:
    now = 0.0
    inside = threading.Event()
    go_on = threading.Event()

    def visit(_: PipelineKey) -> None:
        inside.set()
        go_on.wait(DEADLINE_SECONDS)

    queue = WorkQueue(visit, workers=1, pace=BRISK, clock=lambda: now)
    queue.start()
    queue.add(key("one"))
    inside.wait(DEADLINE_SECONDS)
    assert queue.is_healthy(60)
    now = 61.0
    assert not queue.is_healthy(60)
    go_on.set()
    eventually(lambda: queue.is_healthy(60))
    queue.stop(DEADLINE_SECONDS)


def test_the_resync_makes_all_due_at_once_and_then_each_at_its_own_time_of_the_period() -> None:
    added: list[tuple[PipelineKey, float]] = []
    keys = [key(f"p{number}") for number in range(200)]
    resync = Resync(lambda each, after: added.append((each, after)), lambda: keys, seconds=0.05)
    resync.start()
    eventually(lambda: len(added) >= 600)
    resync.stop()
    first, second, third = added[:200], added[200:400], added[400:600]
    assert all(after == 0 for _, after in first)
    assert second == third
    delays = sorted(after for _, after in second)
    assert delays[0] < 0.01
    assert 0.04 < delays[-1] <= 0.05


def test_a_listing_that_fails_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    calls = []
    added: list[PipelineKey] = []

    def keys() -> list[PipelineKey]:
        calls.append(1)
        if len(calls) < 3:
            raise UnreachableError("the API server is away")
        return [key("one")]

    resync = Resync(lambda each, _: added.append(each), keys, seconds=0.01)
    resync.start()
    eventually(lambda: key("one") in added)
    resync.stop()
    assert "the API server is away" in caplog.text
