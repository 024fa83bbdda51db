"""The compute queue: one at a time, bounded, and cancellable before and during a run."""

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from factories.limited import run
from tierflow.errors import OverloadedError
from tierflow_worker.queue import ComputeQueue
from tierflow_worker.rpc.coming import Coming


def nothing() -> None:
    return None


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_work_runs_one_after_the_other_in_order_of_arrival() -> None:
    async def check() -> None:
        queue, order = ComputeQueue(10), list[int]()
        running = 0

        def work(number: int) -> int:
            nonlocal running
            running += 1
            assert running == 1
            order.append(number)
            running -= 1
            return number * 2

        results = await asyncio.gather(*(queue.run(partial(work, n), cancel=nothing) for n in range(10)))
        assert [result for result, _ in results] == [number * 2 for number in range(10)]
        assert order == list(range(10))
        queue.close()

    run(check)


def test_a_full_queue_refuses_and_says_when_to_try_again() -> None:
    async def check() -> None:
        gate, lengths = threading.Event(), list[int]()
        queue = ComputeQueue(1, observe_length=lengths.append)
        accepted = [asyncio.ensure_future(queue.run(gate.wait, cancel=nothing)) for _ in range(2)]
        await settle()
        with pytest.raises(OverloadedError, match="--queue") as caught:
            await queue.run(nothing, cancel=nothing)
        assert caught.value.retry_after_seconds > 0
        gate.set()
        await asyncio.gather(*accepted)
        await queue.run(nothing, cancel=nothing)
        assert lengths[-1] == 0
        assert max(lengths) == 1
        queue.close()

    run(check)


def test_cancelled_while_waiting_it_is_never_run() -> None:
    async def check() -> None:
        gate, ran = threading.Event(), list[str]()
        queue = ComputeQueue(5)
        first = asyncio.ensure_future(queue.run(gate.wait, cancel=nothing))
        second = asyncio.ensure_future(queue.run(lambda: ran.append("second"), cancel=nothing))
        await settle()
        second.cancel()
        gate.set()
        await first
        await queue.run(lambda: ran.append("third"), cancel=nothing)
        assert ran == ["third"]
        queue.close()

    run(check)


def test_cancelled_while_running_it_is_ended_before_the_next_begins() -> None:
    async def check() -> None:
        gate, began, events = threading.Event(), threading.Event(), list[str]()
        queue = ComputeQueue(5)

        def work() -> None:
            began.set()
            gate.wait(30)
            events.append("ended")

        first = asyncio.ensure_future(queue.run(work, cancel=gate.set))
        await asyncio.to_thread(began.wait)
        second = asyncio.ensure_future(queue.run(lambda: events.append("next"), cancel=nothing))
        await settle()
        first.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await first
        await second
        assert events == ["ended", "next"]
        queue.close()

    run(check)


def test_cancelled_in_the_moment_in_which_its_work_ends_it_does_not_wait_for_that_any_more() -> None:
    async def check() -> None:
        queue, gate, handed_over = ComputeQueue(10), threading.Event(), threading.Event()
        loop = asyncio.get_running_loop()
        hand_over = loop.call_soon_threadsafe

        def noted(*call: Any) -> asyncio.Handle:
            handle = hand_over(*call)
            handed_over.set()
            return handle

        ending = asyncio.ensure_future(queue.run(gate.wait, cancel=nothing))
        await settle()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(loop, "call_soon_threadsafe", noted)
            gate.set()
            assert handed_over.wait(30)  # the loop, which stands still here, hears of the end after the cancellation
        ending.cancel()
        await asyncio.wait((ending,), timeout=10)
        assert ending.cancelled()
        assert (await queue.run(lambda: "next", cancel=nothing))[0] == "next"
        queue.close()

    run(check)


def test_what_the_work_raises_is_raised_and_the_queue_goes_on() -> None:
    async def check() -> None:
        queue = ComputeQueue(5)

        def work() -> None:
            raise ValueError("no")

        with pytest.raises(ValueError, match="no"):
            await queue.run(work, cancel=nothing)
        assert (await queue.run(lambda: 1, cancel=nothing))[0] == 1
        queue.close()

    run(check)


def computing_for(seconds: float) -> Callable[[], None]:
    """Work that keeps a processor busy for so long."""

    def work() -> None:
        until = time.thread_time() + seconds
        while time.thread_time() < until:
            pass

    return work


def test_an_emulated_tier_says_and_takes_the_time_of_a_slower_machine() -> None:
    async def check() -> None:
        loop = asyncio.get_running_loop()
        queue = ComputeQueue(5, speed=0.5)
        began = loop.time()
        _, seconds = await queue.run(computing_for(0.02), cancel=nothing)
        assert seconds >= 0.04
        assert loop.time() - began >= 0.04
        queue.close()

    run(check)


def test_what_the_machine_does_beside_does_not_slow_an_emulated_tier_down() -> None:
    async def check() -> None:
        loop = asyncio.get_running_loop()
        queue, gate = ComputeQueue(5, speed=0.01), threading.Event()
        loop.call_later(0.1, gate.set)
        _, seconds = await queue.run(gate.wait, cancel=nothing)
        assert seconds < 0.1 / 0.01 / 2  # the thread has waited, not computed
        queue.close()

    run(check)


def test_a_request_that_was_admitted_is_not_refused_half_way() -> None:
    async def check() -> None:
        queue, gate = ComputeQueue(0), threading.Event()
        first = asyncio.ensure_future(queue.run(gate.wait, cancel=gate.set))
        await asyncio.sleep(0)
        with pytest.raises(OverloadedError):
            queue.check_room()
        second = asyncio.ensure_future(queue.run(lambda: 7, cancel=nothing, admitted=True))
        gate.set()
        await first
        assert (await second)[0] == 7
        queue.close()

    run(check)


def test_what_is_coming_begins_in_the_moment_in_which_it_has_come() -> None:
    async def check() -> None:
        queue, coming, began = ComputeQueue(5), Coming(), threading.Event()
        waiting = asyncio.ensure_future(queue.run(began.set, cancel=nothing, coming=coming))
        await settle()
        assert (await queue.run(lambda: "another", cancel=nothing))[0] == "another"  # the turn is nobody's meanwhile
        assert not began.is_set()
        coming.arrive()
        assert began.wait(30)  # while the loop stands still
        await waiting
        queue.close()

    run(check)


def test_what_has_come_waits_for_its_turn_and_is_refused_where_there_is_no_room() -> None:
    async def check() -> None:
        queue, gate, order = ComputeQueue(1), threading.Event(), list[str]()
        first = asyncio.ensure_future(queue.run(gate.wait, cancel=gate.set))
        coming = [Coming(), Coming()]
        late = asyncio.ensure_future(queue.run(lambda: order.append("late"), cancel=nothing, coming=coming[0]))
        refused = asyncio.ensure_future(queue.run(nothing, cancel=nothing, coming=coming[1]))
        await settle()
        for one in coming:
            one.arrive()
        with pytest.raises(OverloadedError, match="--queue"):
            await refused
        assert not late.done()
        gate.set()
        await asyncio.gather(first, late)
        assert order == ["late"]
        assert (await queue.run(lambda: 1, cancel=nothing))[0] == 1
        queue.close()

    run(check)


@pytest.mark.parametrize("settled", [True, False], ids=["cancelled", "being cancelled"])
def test_what_was_given_up_before_it_came_is_never_run(settled: bool) -> None:
    async def check() -> None:
        queue, coming, ran = ComputeQueue(5), Coming(), list[str]()
        waiting = asyncio.ensure_future(queue.run(lambda: ran.append("ran"), cancel=nothing, coming=coming))
        await settle()
        waiting.cancel()
        if settled:
            await settle()
        coming.arrive()
        await asyncio.wait((waiting,))
        assert waiting.cancelled()
        await queue.run(lambda: ran.append("next"), cancel=nothing)
        assert ran == ["next"]
        queue.close()

    run(check)


@pytest.mark.parametrize("speed", [1.0, 0.5])
def test_what_is_to_be_done_meanwhile_and_with_the_result_is_done_in_that_order(speed: float) -> None:
    async def check() -> None:
        queue, events, gate = ComputeQueue(5, speed=speed), list[str](), threading.Event()

        def meanwhile() -> None:
            events.append("meanwhile")
            gate.set()

        def work() -> str:
            return "made" if gate.wait(30) else "late"

        result, _ = await queue.run(work, cancel=gate.set, meanwhile=meanwhile, then=events.append)
        events.append("waited for")
        assert result == "made"
        assert events == ["meanwhile", "made", "waited for"]
        queue.close()

    run(check)


def test_an_error_in_what_is_done_with_the_result_reaches_whoever_waits() -> None:
    async def check() -> None:
        queue = ComputeQueue(5)

        def refuse(result: int) -> None:
            raise ValueError(f"no use for {result}")

        with pytest.raises(ValueError, match="no use for 7"):
            await queue.run(lambda: 7, cancel=nothing, then=refuse)
        assert (await queue.run(lambda: 8, cancel=nothing))[0] == 8
        queue.close()

    run(check)


def test_nothing_is_done_with_the_result_of_what_was_given_up_or_failed() -> None:
    async def check() -> None:
        queue, events, gate, began = ComputeQueue(5), list[Any](), threading.Event(), threading.Event()

        def fail() -> None:
            raise ValueError("wrong")

        def work() -> str:
            began.set()
            gate.wait(30)
            return "late"

        with pytest.raises(ValueError, match="wrong"):
            await queue.run(fail, cancel=nothing, then=events.append)
        given_up = asyncio.ensure_future(queue.run(work, cancel=gate.set, then=events.append))
        await asyncio.to_thread(began.wait)
        given_up.cancel()
        await asyncio.wait((given_up,))
        assert events == []
        queue.close()

    run(check)
