"""What is wrong with the input is said in a line or two that name the culprit and the way out; exit code 2."""

import hashlib
import importlib.util
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from factories.models import convolutions, model_of, node, saved, value

Refused = Callable[..., str]


def test_a_file_that_is_no_onnx(refused: Refused, tmp_path: Path) -> None:
    path = tmp_path / "picture.onnx"
    path.write_bytes(b"\x89PNG\r\n" + bytes(range(256)) * 20)
    assert str(path) in refused("plan", path)


def test_an_empty_file_a_folder_and_a_file_that_is_not_there(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "empty.onnx").touch()
    assert "empty" in refused("plan", tmp_path / "empty.onnx")
    assert "directory" in refused("plan", tmp_path)
    assert "missing.onnx" in refused("plan", tmp_path / "missing.onnx")


def test_a_truncated_file(refused: Refused, small_model: Path) -> None:
    content = small_model.read_bytes()
    small_model.write_bytes(content[: len(content) * 2 // 3])
    assert str(small_model) in refused("plan", small_model)


def test_a_missing_external_weight_file(refused: Refused, tmp_path: Path) -> None:
    path = tmp_path / "external.onnx"
    onnx.save(
        convolutions(), path, save_as_external_data=True, location="weights.bin", size_threshold=0,
    )  # fmt: skip
    (tmp_path / "weights.bin").unlink()
    assert "weights.bin" in refused("verify", path, "--cut", ",")


def test_a_wrong_sha256(refused: Refused, run: Callable[..., Any], small_model: Path) -> None:
    right = hashlib.sha256(small_model.read_bytes()).hexdigest()
    assert run("plan", small_model, "--sha256", right).code == 0
    message = refused("plan", small_model, "--sha256", "0" * 64)
    assert right in message
    assert "no SHA-256" in refused("plan", "zoo://alexnet", "--sha256", right)


def test_an_unknown_scheme_and_an_unknown_network_of_the_zoo(refused: Refused) -> None:
    assert "gopher" in refused("plan", "gopher://example/model.onnx")
    assert "alexnet" in refused("plan", "zoo://alexnett")


def test_a_server_that_does_not_answer(refused: Refused) -> None:
    with socket.socket() as bound:  # bound, but it does not listen
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
        assert f"127.0.0.1:{port}" in refused("plan", f"http://127.0.0.1:{port}/model.onnx")


def test_a_cycle(refused: Refused, tmp_path: Path) -> None:
    nodes = [node("Add", "x b", "a", name="first"), node("Relu", "a", "b", name="second")]
    path = saved(model_of(nodes, [value("x", [1, 4])], [value("b", [1, 4])]), tmp_path)
    message = refused("plan", path)
    assert "cycle" in message
    assert "first" in message


def test_an_unresolved_dimension_and_the_way_out(refused: Refused, run: Callable[..., Any], tmp_path: Path) -> None:
    path = saved(
        model_of([node("Relu", "x", "y", name="relu")], [value("x", ["N", 3])], [value("y", ["N", 3])]), tmp_path
    )
    message = refused("plan", path)
    assert "x" in message
    assert "--input" in message or "input" in message
    assert run("plan", path, "--input", "x=2,3").code == 0


def test_an_unknown_operator(refused: Refused, tmp_path: Path) -> None:
    path = saved(
        model_of([node("Frobnicate", "x", "y", name="odd")], [value("x", [1, 3])], [value("y", [1, 3])]), tmp_path
    )
    assert "Frobnicate" in refused("verify", path, "--cut", ",")


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("spec:", "spec:\n  modle: {}", "spec.modle"),
        ("- name: edge", "- name: edge\n    memoryBudget: 512Mo", "512Mo"),
        ("- name: edge", "- name: device", "device"),
        ("  - name: edge\n", "", "edge"),
        ("network: 3g", "network: 7g", "7g"),
        ("kind: InferencePipeline", "kind: Pipeline", "kind"),
        ("spec:", "spec: [", "line"),
    ],
    ids=["unknown field", "wrong unit", "tier twice", "tier missing", "network", "kind", "no YAML"],
)
def test_a_wrong_manifest(refused: Refused, manifest: Callable[..., Path], old: str, new: str, named: str) -> None:
    message = refused("plan", manifest((old, new)))
    assert named in message
    assert "pipeline.yaml" in message or "metadata.annotations" in message


def test_a_manifest_that_is_not_there(refused: Refused, tmp_path: Path) -> None:
    assert "missing.yaml" in refused("plan", tmp_path / "missing.yaml")


def test_a_pin_that_is_none_on_no_layer_or_on_no_tier(refused: Refused, small_model: Path) -> None:
    assert "did you mean conv" in refused("plan", small_model, "--pin", "conv9=device")
    assert "write it like conv1=device" in refused("plan", small_model, "--pin", "conv1")
    assert "there is no tier 'phone'" in refused("plan", small_model, "--pin", "conv1=phone")


def test_constraints_that_no_plan_meets_are_named(refused: Refused, small_model: Path) -> None:
    message = refused("plan", small_model, "--pin", "conv1=cloud", "--pin", "add=device")
    assert "conv1=cloud" in message
    assert "add=device" in message


def test_budgets_that_no_plan_meets_are_named(refused: Refused, small_model: Path) -> None:
    message = refused("plan", small_model, "--memory", "device=1k", "--memory", "edge=1k", "--memory", "cloud=1k")
    assert "memory" in message
    assert "device" in message


@pytest.mark.parametrize(
    ("option", "text", "named"),
    [
        ("--network", "5g", "cat1, 3g, 4g, wifi, ethernet"),
        ("--network", "device-edge=fast,edge-cloud=1Mbit/s", "fast"),
        ("--network", "device-edge=1Mbit/s", "edge-cloud"),
        ("--speeds", "device=1", "edge"),
        ("--speeds", "device=1,edge=1,cloud=warp", "warp"),
        ("--speeds", "device=1,edge=1,cloud=-1", "-1"),
        ("--memory", "512Mi", "device=512Mi"),
        ("--memory", "device=12parsecs", "parsecs"),
        ("--memory", "fog=1Mi", "fog"),
        ("--backbone-bytes", "much", "much"),
        ("--input", "image", "image"),
        ("--input", "image=1,3,x", "image=1,3,x"),
        ("--input", "image=0,3,8,8", "image=0,3,8,8"),
        ("--input", "picture=1,3,8,8", "picture"),
        ("--profile", "missing.json", "missing.json"),
        ("--picture", "/nowhere/plan.svg", "/nowhere/plan.svg"),
        ("--algorithm", "Magic", "Magic"),
    ],
)
def test_an_option_that_is_wrong(refused: Refused, small_model: Path, option: str, text: str, named: str) -> None:
    message = refused("plan", small_model, option, text)
    assert named in message
    assert option in message or named == "picture"


def test_an_option_twice(refused: Refused, small_model: Path) -> None:
    assert "given twice" in refused("plan", small_model, "--memory", "edge=1Mi", "--memory", "edge=2Mi")
    assert "given twice" in refused("plan", small_model, "--input", "image=1,3,8,8", "--input", "image=1,3,9,9")


def test_a_profile_that_is_none(refused: Refused, small_model: Path, tmp_path: Path) -> None:
    (tmp_path / "odd.json").write_text('{"layers": 3}')
    message = refused("plan", small_model, "--profile", tmp_path / "odd.json")
    assert "tierflow profile" in message


@pytest.mark.parametrize(
    "arguments", [["plan"], ["plan", "x", "--nonsense"], ["nonsense"], ["verify", "x", "--seed", "y"]]
)
def test_usage_that_is_wrong_points_to_the_help(refused: Refused, arguments: list[str]) -> None:
    assert "--help" in refused(*arguments)


@pytest.mark.skipif(importlib.util.find_spec("torch") is not None, reason="torch is there")
def test_export_without_torch_says_what_to_install(refused: Refused, tmp_path: Path) -> None:
    assert "pip install 'tierflow[torch]'" in refused("export", "resnet18", "--output", tmp_path / "x.onnx")
