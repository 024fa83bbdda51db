"""What has to look the same for a while before it is taken to be at rest."""

from collections.abc import Sequence

import pytest

from factories.clocks import Clock
from testbed.stillness import Unchanged


def answers(looks: Sequence[str | None], seconds: float = 2.0) -> tuple[list[bool], Unchanged[str]]:
    """What the condition says of these looks, which are a second apart."""
    clock, left = Clock(), iter(looks)
    condition = Unchanged(lambda: next(left), seconds, clock)
    found = []
    for _ in looks:
        found.append(condition())
        clock.now += 1
    return found, condition


@pytest.mark.parametrize(
    ("looks", "expected"),
    [
        (["a", "a", "a", "a"], [False, False, True, True]),
        (["a", "a", "b", "b", "b"], [False, False, False, False, True]),
        (["a", "b", "a", "a", "b"], [False] * 5),
        ([None, None, None, None], [False] * 4),
        (["a", "a", None, "a", "a", "a"], [False, False, False, False, False, True]),
    ],
)
def test_it_holds_once_the_same_was_seen_for_long_enough(looks: list[str | None], expected: list[bool]) -> None:
    assert answers(looks)[0] == expected


def test_what_was_seen_can_be_asked_for_afterwards() -> None:
    assert answers(["a", "b", "b", "b"])[1].seen == "b"


def test_what_never_came_to_rest_was_not_seen() -> None:
    with pytest.raises(ValueError, match="nothing has come to rest"):
        _ = answers([None])[1].seen
