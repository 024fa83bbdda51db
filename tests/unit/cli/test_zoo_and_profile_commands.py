"""`tierflow zoo` and `tierflow profile`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx

NAMES = ["alexnet", "vgg16", "resnet18", "darknet53", "inceptionv4"]


def test_the_zoo_lists_its_networks_with_published_figures(run: Callable[..., Any]) -> None:
    models = run("zoo", "--json").json["models"]
    assert [model["name"] for model in models] == NAMES
    for model in models:
        assert abs(model["parameters"] / model["published"]["parameters"] - 1) < 0.05
        assert abs(model["multiplyAccumulates"] / model["published"]["multiplyAccumulates"] - 1) < 0.05
        assert model["paper"]
    text = run("zoo").out
    assert all(name in text for name in NAMES)
    assert "11.7 M" in text


def test_one_network_can_be_looked_up_for_another_input(run: Callable[..., Any]) -> None:
    (model,) = run("zoo", "resnet18", "--input", "input=1,3,96,96", "--json").json["models"]
    assert model["inputShape"] == [1, 3, 96, 96]


def test_a_network_s_file_is_the_same_model(run: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "resnet18.onnx"
    written = run("zoo", "resnet18", "--output", path, "--json").json
    assert written == {"version": 1, "path": str(path), "bytes": path.stat().st_size}
    onnx.checker.check_model(path)
    by_file, by_name = (
        run("plan", uri, "--json", "--layers", "--network", "3g").json["layers"] for uri in (path, "zoo://resnet18")
    )
    assert by_file == by_name


def test_the_zoo_says_what_it_needs(refused: Callable[..., str], tmp_path: Path) -> None:
    assert "inceptionv4" in refused("zoo", "lenet")
    assert "NAME" in refused("zoo", "--output", tmp_path / "x.onnx")
    assert "can't be written" in refused("zoo", "alexnet", "--output", tmp_path / "missing" / "x.onnx")


def test_a_profile_has_a_time_for_every_layer(run: Callable[..., Any], small_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    report = run("profile", small_model, "--json", "--output", path).json
    assert [layer["name"] for layer in report["layers"]] == [
        "conv1", "relu1", "conv2", "add", "pool", "flatten", "dense",
    ]  # fmt: skip
    assert report["totalMilliseconds"] > 0
    assert path.is_file()


def test_people_see_the_slowest_layers(run: Callable[..., Any], small_model: Path) -> None:
    text = run("profile", small_model, "--top", "2").out
    assert sum(line.startswith(("conv", "relu", "add", "pool", "flatten", "dense")) for line in text.splitlines()) == 2
    assert "ONNX Runtime" in text
