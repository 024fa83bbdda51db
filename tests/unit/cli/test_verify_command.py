"""`tierflow verify`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from factories.models import convolutions

CUT_KEYS = {"device", "edge", "bitIdentical", "largestRelativeDifference"}


def test_the_json_has_the_keys_that_scripts_rely_on(run: Callable[..., Any], small_model: Path) -> None:
    result = run("verify", small_model, "--cut", "conv1,add", "--json")
    assert (result.code, result.err) == (0, "")
    report = result.json
    assert set(report) >= {"version", "holds", "cuts"}
    assert (report["version"], report["holds"]) == (1, True)
    (found,) = report["cuts"]
    assert set(found) >= CUT_KEYS
    assert (found["device"], found["edge"]) == ("conv1", "add")
    assert isinstance(found["bitIdentical"], bool)
    assert found["largestRelativeDifference"] <= 1e-6


@pytest.mark.parametrize(
    ("text", "device", "edge"),
    [(",", None, None), (",add", None, "add"), ("relu1,", "relu1", None), ("relu1,relu1", "relu1", None),
     ("conv1,dense", "conv1", "dense"), ("dense,", "dense", None)],
)  # fmt: skip
def test_a_tier_may_be_left_empty(
    run: Callable[..., Any], small_model: Path, text: str, device: str | None, edge: str | None
) -> None:
    (found,) = run("verify", small_model, "--cut", text, "--json").json["cuts"]
    assert (found["device"], found["edge"]) == (device, edge)


def test_random_cuts_depend_on_the_seed_alone(run: Callable[..., Any], small_model: Path) -> None:
    first, again, other = (
        run("verify", small_model, "--random-cuts", "5", "--seed", seed, "--json").json["cuts"]
        for seed in ("1", "1", "2")
    )
    assert len(first) == 5
    assert first == again
    assert first != other


def test_the_plan_is_checked_by_default(
    run: Callable[..., Any], small_model: Path, manifest: Callable[..., Path]
) -> None:
    plan = run("plan", small_model, "--json").json
    (found,) = run("verify", small_model, "--json").json["cuts"]
    assert found["device"] == plan["segments"][0]["lastLayer"]
    by_hand = "  planning:\n    mode: Manual\n    manual: {deviceLastLayer: relu1, edgeLastLayer: pool}\n  tiers:"
    (found,) = run("verify", manifest(("  tiers:", by_hand)), "--json").json["cuts"]
    assert (found["device"], found["edge"]) == ("relu1", "pool")


def test_people_are_told_how_exact_it_is(run: Callable[..., Any], small_model: Path) -> None:
    text = run("verify", small_model, "--cut", "conv1,add", "--cut", ",").out
    assert "2 cuts checked" in text
    assert text.endswith("Lossless.\n")


def test_a_layer_with_a_comma_in_its_name_can_be_named(run: Callable[..., Any], tmp_path: Path) -> None:
    model = convolutions()
    model.graph.node[1].name = "relu,1"
    path = tmp_path / "comma.onnx"
    onnx.save(model, path)
    (by_option,) = run("verify", path, "--device-layer", "relu,1", "--edge-layer", "add", "--json").json["cuts"]
    (by_cut,) = run("verify", path, "--cut", "relu,1,add", "--json").json["cuts"]
    assert (by_option["device"], by_option["edge"]) == (by_cut["device"], by_cut["edge"]) == ("relu,1", "add")


@pytest.mark.parametrize("json_flag", [[], ["--json"]])
def test_a_cut_that_does_not_hold_exits_with_1(
    run: Callable[..., Any], small_model: Path, monkeypatch: pytest.MonkeyPatch, json_flag: list[str]
) -> None:
    from tierflow_worker import verification

    whole = verification.whole_outputs
    monkeypatch.setattr(
        "tierflow_cli.verifying.whole_outputs",
        lambda *given, **named: {name: answer + np.float32(1) for name, answer in whole(*given, **named).items()},
    )
    result = run("verify", small_model, "--cut", "conv1,add", *json_flag)
    assert result.code == 1
    assert result.json["holds"] is False if json_flag else "NOT lossless" in result.out


def test_a_cut_that_is_none_is_refused(refused: Callable[..., str], small_model: Path) -> None:
    assert "LAST_DEVICE_LAYER,LAST_EDGE_LAYER" in refused("verify", small_model, "--cut", "conv1")
    assert "did you mean conv" in refused("verify", small_model, "--cut", "conv9,")
    assert "comes before" in refused("verify", small_model, "--cut", "add,conv1")
    assert "--device-layer" in refused("verify", small_model, "--cut", "a,b,c")
