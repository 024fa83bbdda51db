"""What the images install is what pyproject.toml asks for."""

import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]


def pins(image: str) -> dict[str, str]:
    lines = (ROOT / "images" / f"{image}.txt").read_text().splitlines()
    split = (line.split("==") for line in lines if not line.startswith("#"))
    return {canonicalize_name(name): version for name, version in split}


def declared(*extras: str) -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    texts = [*project["dependencies"], *(text for extra in extras for text in project["optional-dependencies"][extra])]
    return [Requirement(text) for text in texts]


def closure(requirements: list[Requirement]) -> set[str]:
    """Names of all that the requirements need here, as their installed metadata says."""
    found: set[str] = set()
    ahead = list(requirements)
    while ahead:
        requirement = ahead.pop()
        name = canonicalize_name(requirement.name)
        extras = ["", *requirement.extras]
        if name not in found:
            found.add(name)
            for text in metadata.requires(name) or ():
                needed = Requirement(text)
                if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in extras):
                    ahead.append(needed)
    return found


@pytest.mark.parametrize(("image", "left_out"), [("worker", {"scipy"}), ("operator", set())])
def test_an_image_pins_all_that_its_program_needs_at_versions_that_are_asked_for(
    image: str, left_out: set[str]
) -> None:
    pinned = pins(image)
    wanted = declared(image, "s3")
    assert closure(wanted) - pinned.keys() == left_out, "run `make image-pins`"
    wrong = [
        f"{requirement} is pinned to {pinned[name]}"
        for requirement in wanted
        if (name := canonicalize_name(requirement.name)) in pinned
        and not requirement.specifier.contains(pinned[name], prereleases=True)
    ]
    assert wrong == []


def test_the_workers_image_holds_nothing_of_torch_and_of_planning() -> None:
    assert not {"torch", "torchvision", "scipy", "kopf", "kubernetes"} & pins("worker").keys()
