"""The pictures in `docs/` are what the command draws today."""

import shlex
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from tierflow_cli.main import main

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "command-line.md"
COMMANDS = {
    "resnet18.svg": "tierflow plan samples/resnet18.yaml --picture docs/resnet18.svg",
    "simulate.svg": "tierflow simulate samples/resnet18.yaml --trace samples/traces/uplink.csv --stabilization 30 "
    "--picture docs/simulate.svg",
    "vgg16-tiles.svg": "tierflow plan zoo://vgg16 --edge-workers 4 --memory edge=256Mi --picture docs/vgg16-tiles.svg",
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name == "simulate.svg")) for name in COMMANDS]
)
def test_a_picture_of_the_docs_is_what_its_command_draws(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    monkeypatch.chdir(ROOT)
    command = COMMANDS[name]
    path = tmp_path / name
    arguments = [str(path) if word == f"docs/{name}" else word for word in shlex.split(command)[1:]]
    assert main(arguments) == 0
    assert path.read_text() == (ROOT / "docs" / name).read_text(), f"draw it again: {command}"


def test_the_page_on_the_command_line_says_how_its_pictures_are_drawn() -> None:
    page = " ".join(PAGE.read_text().split())
    assert all(command in page for command in COMMANDS.values())


def test_every_picture_of_the_docs_is_drawn_here() -> None:
    assert {path.name for path in (ROOT / "docs").glob("*.svg")} == set(COMMANDS)


def texts(name: str) -> list[str]:
    root = ElementTree.parse(ROOT / "docs" / name)
    return ["".join(text.itertext()) for text in root.iter("{http://www.w3.org/2000/svg}text")]


def test_the_picture_of_the_readme_shows_three_tiers() -> None:
    found = texts("resnet18.svg")
    assert {"device", "edge", "cloud"} <= set(found)
    assert not any("no layers" in text for text in found)


def test_the_picture_of_tiles_shows_runs_on_four_workers() -> None:
    assert sum(text.startswith("2x2 on 4 workers, halo 1.") for text in texts("vgg16-tiles.svg")) >= 2
