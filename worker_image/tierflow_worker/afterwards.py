"""What is noted of a request once it is answered: a moment later, and of several requests together.

Whoever a message goes to is mostly woken on the sender's own processor, and waits there until the sender pauses. So
what nobody waits for, such as metrics, has to come after that pause. Notes of several requests together also cost less
than each on its own, since their code is in the processor's caches then.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Final

_PAUSE_SECONDS: Final = 0.003


class Afterwards:
    """Keeps notes for a moment, then takes them in the order in which they came. For one event loop."""

    def __init__(self) -> None:
        self._notes: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def note(self, take: Callable[..., None], *about: Any) -> None:
        """Has `take` called with `about` in a moment."""
        self._notes.append((take, about))
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_PAUSE_SECONDS, self.flush)

    def flush(self) -> None:
        """Takes all notes now; an error of one is the event loop's to tell, and no reason to leave out the others."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._notes:
            take, about = self._notes.popleft()
            try:
                take(*about)
            except Exception as error:
                asyncio.get_running_loop().call_exception_handler({"message": f"{take} failed", "exception": error})
