"""The README's picture is what the command draws today."""

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from tierflow_cli.main import main

ROOT = Path(__file__).parents[3]
PICTURE = ROOT / "docs" / "resnet18.svg"


def test_the_picture_of_the_readme_is_what_the_command_draws(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "resnet18.svg"
    assert main(["plan", str(ROOT / "samples" / "resnet18.yaml"), "--picture", str(path)]) == 0
    again = "tierflow plan samples/resnet18.yaml --picture docs/resnet18.svg"
    assert path.read_text() == PICTURE.read_text(), f"draw it again: {again}"


def test_the_picture_of_the_readme_shows_three_tiers() -> None:
    texts = ["".join(text.itertext()) for text in ElementTree.parse(PICTURE).iter("{http://www.w3.org/2000/svg}text")]
    assert {"device", "edge", "cloud"} <= set(texts)
    assert not any("no layers" in text for text in texts)
