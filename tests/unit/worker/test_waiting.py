import asyncio

import pytest

from tierflow_worker.waiting import happens_within

pytestmark = pytest.mark.asyncio
_LONG_SECONDS = 60.0


@pytest.mark.parametrize(("is_set", "seconds"), [(True, _LONG_SECONDS), (True, 0.0), (False, 0.01), (False, 0.0)])
async def test_an_event_happens_or_time_is_over(is_set: bool, seconds: float) -> None:
    event = asyncio.Event()
    if is_set:
        event.set()
    assert await happens_within(event, seconds) is is_set


async def test_an_event_that_happens_meanwhile_is_not_waited_for_any_longer() -> None:
    event = asyncio.Event()
    asyncio.get_running_loop().call_soon(event.set)
    assert await happens_within(event, _LONG_SECONDS)


@pytest.mark.parametrize("turns", range(5))
async def test_a_cancellation_just_after_the_event_is_heeded(turns: int) -> None:
    event = asyncio.Event()

    async def wait_again_and_again() -> None:
        for _ in range(10):
            await happens_within(event, _LONG_SECONDS)
            event.clear()
        raise AssertionError("it was not cancelled")

    waiting = asyncio.ensure_future(wait_again_and_again())
    await asyncio.sleep(0)
    event.set()
    for _ in range(turns):
        await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait((waiting,), timeout=1)
    assert waiting.cancelled()
