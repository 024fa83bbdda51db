"""Collects how much of each network can be tiled, and prints it at the end of the run."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

_FOUND = pytest.StashKey[list[str]]()
_ROOMY_BYTES = 4_000_000_000


@pytest.fixture
def report(request: pytest.FixtureRequest, record_property: Callable[[str, object], None]) -> Callable[..., None]:
    """Notes how many layers of a network were tiled, and whether its answer has the whole model's bits."""

    def note(name: str, *, tiled: int, layers: int, bit_identical: bool, difference: float, refused: int) -> None:
        record_property("tiled_layers", f"{tiled}/{layers}")
        record_property("bit_identical", bit_identical)
        record_property("largest_relative_difference", difference)
        against = "the whole model's bits" if bit_identical else f"{difference:.1e} beside the whole model"
        line = f"{name}: {tiled} of {layers} layers tiled, {refused} parts refused, {against}"
        request.config.stash.setdefault(_FOUND, []).append(line)

    return note


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where that is large enough: a disk would take most of the time."""
    memory = Path("/dev/shm")
    if not memory.is_dir() or shutil.disk_usage(memory).free < _ROOMY_BYTES:
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(prefix="tierflow-", dir=memory) as place:
        yield Path(place)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    found = terminalreporter.config.stash.get(_FOUND, [])
    if found:
        terminalreporter.section("tiles: layers of real networks")
        for line in found:
            terminalreporter.write_line(line)
