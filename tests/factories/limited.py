"""Tests that are coroutines."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

_SECONDS: Final = 120.0


def run(test: Callable[[], Awaitable[None]]) -> None:
    """Runs a test in an event loop of its own; one that waits for ever fails."""

    async def limited() -> None:
        async with asyncio.timeout(_SECONDS):
            await test()

    asyncio.run(limited())
