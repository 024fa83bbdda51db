"""A result with which the task that waits for it goes on at once."""

import asyncio
from typing import Any

import pytest

from factories.limited import run
from tierflow_worker.prompt import Prompt


def test_a_waiting_task_has_gone_on_when_the_result_is_set_by_a_callback() -> None:
    async def check() -> None:
        loop, seen = asyncio.get_running_loop(), list[str]()
        prompt: Prompt[str] = Prompt()

        async def wait() -> None:
            seen.append(await prompt)

        def set_it() -> None:
            prompt.set_result("there")
            seen.append("set")

        waiting = asyncio.ensure_future(wait())
        await asyncio.sleep(0)
        loop.call_soon(set_it)
        await waiting
        assert seen == ["there", "set"]

    run(check)


def test_set_by_a_task_it_leaves_the_other_task_to_the_next_turn() -> None:
    async def check() -> None:
        seen = list[str]()
        prompt: Prompt[str] = Prompt()

        async def wait() -> None:
            seen.append(await prompt)
            assert asyncio.current_task() is waiting

        waiting = asyncio.ensure_future(wait())
        await asyncio.sleep(0)
        prompt.set_result("there")
        seen.append("set")
        await waiting
        assert seen == ["set", "there"]

    run(check)


def test_what_is_there_already_is_not_waited_for() -> None:
    async def check() -> None:
        prompt: Prompt[int] = Prompt()
        with pytest.raises(asyncio.InvalidStateError):
            prompt.result()
        prompt.set_result(7)
        assert prompt.done()
        assert await prompt == 7
        with pytest.raises(asyncio.InvalidStateError):
            prompt.set_result(8)
        assert not prompt.cancel()

    run(check)


def test_an_error_is_raised_where_it_is_waited_for() -> None:
    async def check() -> None:
        prompt: Prompt[int] = Prompt()
        asyncio.get_running_loop().call_soon(prompt.set_exception, ValueError("wrong"))
        with pytest.raises(ValueError, match="wrong"):
            await prompt

    run(check)


def test_a_task_that_is_cancelled_while_it_waits_ends_and_so_does_one_with_a_timeout() -> None:
    async def check() -> None:
        prompts: list[Prompt[int]] = [Prompt(), Prompt()]

        async def wait(prompt: Prompt[int]) -> int:
            return await prompt

        waiting = asyncio.ensure_future(wait(prompts[0]))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait((waiting,))
        assert waiting.cancelled()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await prompts[1]
        assert all(prompt.cancelled() for prompt in prompts)

    run(check)


def test_asyncio_takes_it_for_a_future() -> None:
    async def check() -> None:
        loop = asyncio.get_running_loop()
        prompts: list[Prompt[int]] = [Prompt() for _ in range(3)]
        for number, prompt in enumerate(prompts):
            loop.call_soon(prompt.set_result, number)
        futures: list[Any] = list(prompts)
        assert await asyncio.gather(*futures) == [0, 1, 2]
        late: list[object] = []
        prompts[0].add_done_callback(late.append)
        removed: Prompt[int] = Prompt()
        removed.add_done_callback(late.append)
        assert removed.remove_done_callback(late.append) == 1
        removed.set_result(1)
        await asyncio.sleep(0)
        assert late == [prompts[0]]
        assert prompts[0].get_loop() is loop

    run(check)
