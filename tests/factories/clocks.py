"""Time that passes when a test says so."""

from dataclasses import dataclass


@dataclass
class Clock:
    """Seconds: the clock of what is tested."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now
