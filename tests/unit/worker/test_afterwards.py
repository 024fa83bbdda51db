import asyncio
from typing import Any

import pytest

from tierflow_worker.afterwards import Afterwards

pytestmark = pytest.mark.asyncio


async def test_notes_are_taken_a_moment_later_in_their_order() -> None:
    afterwards, taken, last = Afterwards(), [], asyncio.Event()
    for number in range(3):
        afterwards.note(taken.append, number)
    afterwards.note(last.set)
    await asyncio.sleep(0)
    assert taken == []
    await asyncio.wait_for(last.wait(), 10)
    assert taken == [0, 1, 2]


async def test_a_note_made_while_notes_are_taken_is_taken_too() -> None:
    afterwards, taken = Afterwards(), []
    afterwards.note(lambda: afterwards.note(taken.append, "another"))
    afterwards.flush()
    assert taken == ["another"]


async def test_notes_can_be_taken_at_once_and_are_taken_once() -> None:
    afterwards, taken, last = Afterwards(), [], asyncio.Event()
    afterwards.note(taken.append, "early")
    afterwards.flush()
    assert taken == ["early"]
    afterwards.note(last.set)
    await asyncio.wait_for(last.wait(), 10)
    assert taken == ["early"]


async def test_a_note_that_fails_is_told_and_the_others_are_taken() -> None:
    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    afterwards, taken = Afterwards(), []
    afterwards.note(lambda: 1 / 0)
    afterwards.note(taken.append, "next")
    afterwards.flush()
    assert taken == ["next"]
    [context] = told
    assert isinstance(context["exception"], ZeroDivisionError)
