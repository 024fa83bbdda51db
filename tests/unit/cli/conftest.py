"""Runs the command line in this process and looks at what a user would see."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from factories.models import convolutions, saved
from tierflow_cli.main import main


@dataclass(frozen=True)
class Result:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Result]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Runs `tierflow` with arguments, its cache in an empty folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def run_main(*arguments: str | Path) -> Result:
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err or "--verbose" in arguments
        return Result(code, captured.out, captured.err)

    return run_main


@pytest.fixture
def refused(run: Run) -> Callable[..., str]:
    """Runs `tierflow`, which must refuse with exit code 2 and at most two lines; returns these."""

    def run_refused(*arguments: str | Path) -> str:
        result = run(*arguments)
        assert (result.code, result.out) == (2, ""), result
        lines = result.err.splitlines()
        assert lines[0].startswith("tierflow: ")
        assert 1 <= len(lines) <= 2
        return result.err.removeprefix("tierflow: ").strip()

    return run_refused


@pytest.fixture
def small_model(tmp_path: Path) -> Path:
    """An ONNX file of seven layers: conv1, relu1, conv2, add, pool, flatten, dense."""
    return saved(convolutions(), tmp_path)


MANIFEST = """
apiVersion: tierflow.dev/v1alpha1
kind: InferencePipeline
metadata:
  name: small
  annotations:
    tierflow.dev/network: 3g
    tierflow.dev/speeds: device=0.2,edge=2,cloud=20
spec:
  model:
    uri: {uri}
  tiers:
  - name: device
  - name: edge
  - name: cloud
"""


@pytest.fixture
def manifest(tmp_path: Path, small_model: Path) -> Callable[..., Path]:
    """Writes a manifest of the small model; texts to replace are given in pairs."""

    def write(*replacements: tuple[str, str]) -> Path:
        text = MANIFEST.format(uri=small_model)
        for old, new in replacements:
            assert old in text
            text = text.replace(old, new)
        path = tmp_path / "pipeline.yaml"
        path.write_text(text)
        return path

    return write
