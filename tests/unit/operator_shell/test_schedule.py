"""When keys are due: laws of the state machine under any order of wishes, visits and failures."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierflow_operator.keys import PipelineKey
from tierflow_operator.schedule import Pace, Schedule

ONE, TWO, THREE = (PipelineKey("vision", name) for name in ("one", "two", "three"))
PACE = Pace(settle=0.1, first_backoff=0.5, longest_backoff=60)


def schedule() -> Schedule:
    return Schedule(PACE, jitter=lambda: 0.0)


def test_wishes_for_a_key_that_waits_are_one_visit() -> None:
    subject = schedule()
    for _ in range(5):
        subject.add(ONE, now=0)
    assert subject.take(0) == ONE
    assert subject.take(1000) is None


def test_wishes_for_a_key_that_runs_bring_it_back_once_after_that_run() -> None:
    subject = schedule()
    subject.add(ONE, now=0)
    subject.take(0)
    subject.add(ONE, now=1)
    subject.add(ONE, now=2)
    assert subject.take(3) is None
    subject.succeeded(ONE, 3, None)
    assert subject.take(3 + PACE.settle) == ONE
    subject.succeeded(ONE, 4, None)
    assert subject.seconds_to_next(4) is None


def test_the_earliest_of_several_wishes_counts() -> None:
    subject = schedule()
    subject.add(ONE, now=0, after=300)
    subject.add(ONE, now=0, after=7)
    subject.add(ONE, now=0, after=60)
    assert subject.take(6.9) is None
    assert subject.take(7) == ONE
    assert subject.seconds_to_next(7) is None


def test_a_key_comes_again_when_it_said() -> None:
    subject = schedule()
    subject.add(ONE, now=0)
    subject.take(0)
    subject.succeeded(ONE, 1, again_after=20)
    assert subject.seconds_to_next(1) == 20


def test_a_visit_that_was_asked_for_is_told_from_one_that_a_key_wished_itself() -> None:
    subject = schedule()
    subject.add(ONE, now=0)
    subject.take(0)
    assert subject.was_asked_for(ONE)
    subject.succeeded(ONE, 1, again_after=5)
    subject.take(6)
    assert not subject.was_asked_for(ONE)
    subject.add(ONE, now=6)
    assert not subject.was_asked_for(ONE)
    subject.succeeded(ONE, 7, again_after=5)
    assert subject.take(7 + PACE.settle) == ONE
    assert subject.was_asked_for(ONE)
    subject.failed(ONE, 8)
    subject.take(20)
    assert subject.was_asked_for(ONE)


def test_looks_leave_a_visit_that_was_asked_for_later_to_its_own_time() -> None:
    subject = schedule()
    subject.add(ONE, now=0, after=12)
    subject.add(ONE, now=0)
    subject.take(0)
    subject.succeeded(ONE, 0, again_after=5)
    subject.add(ONE, now=1, after=11)
    asked = []
    for now in (5, 10, 12):
        assert subject.take(now) == ONE
        asked.append(subject.was_asked_for(ONE))
        subject.succeeded(ONE, now, again_after=5)
    assert asked == [False, False, True]


def test_keys_are_visited_in_the_order_in_which_they_became_due() -> None:
    subject = schedule()
    subject.add(TWO, now=0)
    subject.add(ONE, now=1)
    subject.add(THREE, now=0, after=0.5)
    assert [subject.take(10) for _ in range(3)] == [TWO, THREE, ONE]


def test_backoff_doubles_up_to_its_bound_and_a_success_ends_it() -> None:
    subject = schedule()
    now = 0.0
    backoffs = []
    subject.add(ONE, now)
    for _ in range(10):
        now += subject.seconds_to_next(now) or 0
        assert subject.take(now) == ONE
        backoffs.append(subject.failed(ONE, now))
    assert backoffs[:4] == [0.5, 0.75, 1.5, 3.0]
    assert backoffs[-1] == pytest.approx(45)  # 60 s less the whole of the jitter
    now += 60
    subject.take(now)
    subject.succeeded(ONE, now, None)
    subject.add(ONE, now)
    subject.take(now + 1)
    assert subject.failed(ONE, now + 1) == 0.5


def test_an_edit_brings_a_failed_key_back_soon_but_not_at_once() -> None:
    subject = schedule()
    subject.add(ONE, now=0)
    for now in (0, 10, 20, 30, 40):
        subject.take(now)
        subject.failed(ONE, now)
        subject.add(ONE, now + 5)
    subject.take(50)
    subject.failed(ONE, 50)
    subject.add(ONE, 50)
    assert subject.seconds_to_next(50) == PACE.first_backoff


def test_the_oldest_key_is_the_one_that_waits_or_runs_for_longest() -> None:
    subject = schedule()
    assert subject.oldest(5) == 5
    subject.add(ONE, now=1)
    subject.add(TWO, now=2, after=100)
    assert subject.oldest(5) == 1
    subject.take(3)
    assert subject.oldest(5) == 3
    subject.succeeded(ONE, 5, None)
    assert subject.oldest(6) == 6


@dataclass
class World:
    """What a schedule should do, said plainly: sets, and the moment until which a key has been asked for."""

    subject: Schedule
    now: float = 0.0
    running: set[PipelineKey] = field(default_factory=set)
    asked: dict[PipelineKey, float] = field(default_factory=dict)
    """By when a visit was asked for, of those that were since their last visit of that kind began."""
    wished: set[PipelineKey] = field(default_factory=set)
    """What wished itself to come again."""

    @property
    def owed(self) -> set[PipelineKey]:
        return self.wished | self.asked.keys()

    def ask(self, key: PipelineKey, due: float) -> None:
        self.asked[key] = min(due, self.asked.get(key, due))


KEYS = st.sampled_from([ONE, TWO, THREE])
STEPS = st.one_of(
    st.tuples(st.just("add"), KEYS, st.floats(0, 50)),
    st.tuples(st.just("pass"), st.none(), st.floats(0, 30)),
    st.tuples(st.just("take"), st.none(), st.just(0.0)),
    st.tuples(st.just("succeed"), KEYS, st.one_of(st.none(), st.floats(0, 40))),
    st.tuples(st.just("fail"), KEYS, st.just(0.0)),
)


def played(steps: list[tuple[str, PipelineKey | None, float | None]]) -> Iterator[World]:
    world = World(Schedule(PACE, jitter=lambda: 0.5))
    for verb, key, number in steps:
        if verb == "pass":
            world.now += number or 0
        elif verb == "take":
            if (taken := world.subject.take(world.now)) is not None:
                assert taken not in world.running
                world.running.add(taken)
                world.wished.discard(taken)
                assert world.subject.was_asked_for(taken) == (world.asked.get(taken, float("inf")) <= world.now)
                if world.subject.was_asked_for(taken):
                    del world.asked[taken]
        elif verb == "add" and key is not None:
            world.subject.add(key, world.now, number or 0)
            world.ask(key, world.now + (number or 0))
        elif key in world.running and key is not None:
            world.running.remove(key)
            if verb == "fail":
                world.ask(key, world.now + world.subject.failed(key, world.now))
            else:
                world.subject.succeeded(key, world.now, number)
                if number is not None:
                    world.wished.add(key)
        yield world


@given(st.lists(STEPS, max_size=60))
def test_no_key_runs_twice_at_a_time_and_none_that_was_asked_for_is_forgotten(
    steps: list[tuple[str, PipelineKey | None, float | None]],
) -> None:
    world = World(schedule())
    for world in played(steps):
        assert world.subject.length(world.now) <= len(world.owed)
    for key in list(world.running):
        world.subject.succeeded(key, world.now, None)
    later = world.now + 1000
    visited = set()
    while (key := world.subject.take(later)) is not None:
        assert key not in visited
        visited.add(key)
    assert visited == world.owed
    assert world.subject.length(later) == 0
