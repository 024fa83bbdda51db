"""When something has come to rest: it has looked the same for a while."""

import time
from collections.abc import Callable, Collection, Mapping
from typing import Any, Generic, TypeVar

Seen = TypeVar("Seen")


def all_available(deployments: Collection[Mapping[str, Any]], pods: int) -> bool:
    """Whether all workers of these Deployments are available, and of so many pods none is anybody else."""
    wanted = [entry["spec"]["replicas"] for entry in deployments]
    available = [entry.get("status", {}).get("availableReplicas", 0) for entry in deployments]
    return wanted == available and sum(wanted) == pods


class Unchanged(Generic[Seen]):
    """A condition to wait for: that the same has been seen for a while.

    Args:
        look: What is seen now; None while it can't be at rest yet.
        seconds: For how long it has to stay the same.
        clock: Seconds of any monotonic origin.
    """

    def __init__(
        self, look: Callable[[], Seen | None], seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._look = look
        self._seconds = seconds
        self._clock = clock
        self._since = clock()
        self._seen: Seen | None = None

    def __call__(self) -> bool:
        now = self._look()
        if now is None or now != self._seen:
            self._seen, self._since = now, self._clock()
            return False
        return self._clock() >= self._since + self._seconds

    @property
    def seen(self) -> Seen:
        """What was seen all the time; only once the condition holds."""
        if self._seen is None:
            raise ValueError("nothing has come to rest yet")
        return self._seen
