"""Collects what the lossless tests found and prints it at the end of the run."""

from collections.abc import Callable, Sequence
from pathlib import Path

import onnx
import pytest

from tierflow.model import extract as extraction
from tierflow.model.model import Model
from tierflow_worker.verification import CutCheck

_FOUND = pytest.StashKey[list[str]]()
_LARGE_BYTES = 50_000_000  # onnx's checker reads the whole file: of larger ones it sees the first of each test
_LARGE_CHECKED = 3

Report = Callable[[str, Sequence[CutCheck]], None]


@pytest.fixture
def report(request: pytest.FixtureRequest, record_property: Callable[[str, object], None]) -> Report:
    """Notes how many of a model's cuts were bit-identical, and by how much the others differed."""

    def note(name: str, checks: Sequence[CutCheck]) -> None:
        identical = sum(check.bit_identical for check in checks)
        worst = max(check.largest_relative_difference for check in checks)
        record_property("bit_identical", f"{identical}/{len(checks)}")
        record_property("largest_relative_difference", worst)
        found = request.config.stash.setdefault(_FOUND, [])
        found.append(f"{name}: {identical} of {len(checks)} bit-identical, largest relative difference {worst:.1e}")

    return note


@pytest.fixture(autouse=True)
def checked_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has onnx's checker look at each segment that is cut out; that it opens in the runtime shows by itself."""
    extract = extraction.extract_segment
    large = 0

    def extract_and_check(model: Model, accepts: Sequence[str], outputs: Sequence[str], path: Path) -> None:
        nonlocal large
        extract(model, accepts, outputs, path)
        large += path.stat().st_size > _LARGE_BYTES
        if path.stat().st_size <= _LARGE_BYTES or large <= _LARGE_CHECKED:
            onnx.checker.check_model(str(path))

    monkeypatch.setattr(extraction, "extract_segment", extract_and_check)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    found = terminalreporter.config.stash.get(_FOUND, [])
    if found:
        terminalreporter.section("lossless: segments against the whole model")
        for line in found:
            terminalreporter.write_line(line)
