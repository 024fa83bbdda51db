"""Waiting for something that may not come.

`asyncio.wait_for` of Python 3.11 forgets a cancellation that comes in the moment in which what it waits for happens
(fixed in 3.12); who cancels a task then waits for it for ever.
"""

import asyncio


async def happens_within(event: asyncio.Event, seconds: float) -> bool:
    """Waits for an event, not for longer than so many seconds; says whether it happened."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True
