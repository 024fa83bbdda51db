"""When a request came."""

from collections.abc import Callable
from typing import Final

from tierflow_worker.rpc.coming import Coming


class Arrival:
    """When a request came: one that was announced, once it is whole.

    Args:
        clock: Monotonic seconds.
        coming: See below; None for a request that is whole.

    Attributes:
        coming: Tells when it is whole; None where it was from the beginning.
        at: When it was whole, on the clock; until it is, when it was announced.
    """

    def __init__(self, clock: Callable[[], float], coming: Coming | None = None) -> None:
        self.coming: Final = coming
        self.at = clock()
        self._clock: Final = clock
        if coming is not None:
            coming.call(self._note)

    @property
    def is_whole(self) -> bool:
        """Whether its tensors' contents are there."""
        return self.coming is None or self.coming.has_come

    async def whole(self) -> None:
        """Waits until it is whole."""
        if self.coming is not None:
            await self.coming.come()

    def _note(self) -> None:
        self.at = self._clock()
