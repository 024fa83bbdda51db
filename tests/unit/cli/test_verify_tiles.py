"""`tierflow verify --grid`."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from factories.models import model_of, node, saved, value, weight
from tierflow_worker.tiling.verification import verify_tiling

KEYS = {"version", "holds", "grid", "runs", "refused"}
RUN_KEYS = {"firstLayer", "lastLayer", "bitIdentical", "largestRelativeDifference"}


def test_the_json_has_the_keys_that_scripts_rely_on(run: Callable[..., Any], small_model: Path) -> None:
    result = run("verify", small_model, "--grid", "2x2", "--json")
    assert (result.code, result.err) == (0, "")
    report = result.json
    assert set(report) >= KEYS
    assert (report["version"], report["holds"], report["grid"]) == (1, True, "2x2")
    (found,) = report["runs"]
    assert set(found) >= RUN_KEYS
    assert (found["firstLayer"], found["lastLayer"]) == ("conv1", "add")
    assert (found["bitIdentical"], found["largestRelativeDifference"]) == (True, 0)
    assert (report["layers"], report["tiledLayers"], found["layers"], found["tiles"]) == (7, 4, 4, 4)
    assert [(each["layer"], each["kind"]) for each in report["refused"]] == [
        ("pool", "GlobalAveragePool"), ("flatten", "Flatten"), ("dense", "Gemm"),
    ]  # fmt: skip
    assert all(each["reason"] for each in report["refused"])


def test_people_are_told_what_was_tiled_how_exact_it_is_and_what_can_not_be(
    run: Callable[..., Any], small_model: Path
) -> None:
    text = run("verify", small_model, "--grid", "2x2").out
    assert "4 of 7 layers computed in tiles of 2x2, in 1 run" in text
    assert "bit-identical" in text
    assert "flat is no map of rows and columns" in text
    assert text.endswith("Lossless.\n")


def test_one_run_can_be_asked_for_by_its_layers(run: Callable[..., Any], small_model: Path) -> None:
    (found,) = run("verify", small_model, "--grid", "4x1", "--run", "relu1,add", "--json").json["runs"]
    assert (found["firstLayer"], found["lastLayer"], found["tiles"]) == ("relu1", "add", 4)


def test_tiles_may_be_sized_by_speeds(run: Callable[..., Any], small_model: Path) -> None:
    report = run("verify", small_model, "--grid", "1x3", "--edge-speeds", "1,0.5,2", "--json").json
    assert report["holds"] is True


def test_layers_whose_last_bits_depend_on_the_tile_are_tiled_only_where_that_is_asked_for(
    run: Callable[..., Any], tmp_path: Path
) -> None:
    # Six channels per group: the sums of such a convolution are in an order that depends on the map.
    grouped = node("Conv", "x w", "y", name="grouped", group=2, pads=[1, 1, 1, 1], kernel_shape=[3, 3])
    ends = (node("Relu", "image", "x", name="first"), grouped)
    model = model_of(ends, [value("image", [1, 12, 16, 16])], [value("y", [1, 12, 16, 16])], [weight("w", 12, 6, 3, 3)])
    path = saved(model, tmp_path)
    refused = {each["layer"] for each in run("verify", path, "--grid", "2x2", "--json").json["refused"]}
    allowed = run("verify", path, "--grid", "2x2", "--approximate", "--json").json
    assert "grouped" in refused
    assert "grouped" not in {each["layer"] for each in allowed["refused"]}
    assert allowed["approximate"] is True
    assert max(each["largestRelativeDifference"] for each in allowed["runs"]) <= 1e-6


@pytest.mark.parametrize("json_flag", [[], ["--json"]])
def test_tiles_that_do_not_hold_exit_with_1(
    run: Callable[..., Any], small_model: Path, monkeypatch: pytest.MonkeyPatch, json_flag: list[str]
) -> None:
    def differing(*given: Any, **named: Any) -> Any:
        check = verify_tiling(*given, **named)
        (found,) = check.runs
        worse = replace(found, bit_identical=False, largest_relative_difference=0.25)
        return replace(check, runs=(worse,), bit_identical=False, largest_relative_difference=0.5, holds=False)

    monkeypatch.setattr("tierflow_cli.tiles_verifying.verify_tiling", differing)
    result = run("verify", small_model, "--grid", "2x2", *json_flag)
    assert result.code == 1
    if json_flag:
        assert result.json["holds"] is False
    else:
        assert "differs by 0.25 of the largest output" in result.out
        assert "The answer is 0.5 off" in result.out
        assert "NOT lossless" in result.out


def test_a_grid_larger_than_the_map_is_refused(refused: Callable[..., str], small_model: Path) -> None:
    message = refused("verify", small_model, "--grid", "99x2")
    assert "grid of 99x2 is larger" in message
    assert "use a smaller grid" in message
    assert "grid of 9x1 is larger than the map of 8 x 8" in refused(
        "verify", small_model, "--grid", "9x1", "--run", "conv1,add"
    )


def test_a_run_that_can_not_be_tiled_is_refused_with_the_layer_and_why(
    refused: Callable[..., str], small_model: Path
) -> None:
    message = refused("verify", small_model, "--grid", "2x2", "--run", "conv2,dense")
    assert "layer pool (GlobalAveragePool)" in message
    assert "can depend on the whole map" in message


def test_a_model_without_a_run_is_refused_with_the_layer_and_why(refused: Callable[..., str], tmp_path: Path) -> None:
    path = saved(model_of([node("Relu", "x", "y", name="only")], [value("x", [1, 4])], [value("y", [1, 4])]), tmp_path)
    assert "only" in refused("verify", path, "--grid", "2x2")


@pytest.mark.parametrize("grid", ["2", "2y2", "0x2", "-1x2", "x", "2x2x2", "²x2", ""])
def test_a_text_that_is_no_grid_is_refused(refused: Callable[..., str], small_model: Path, grid: str) -> None:
    message = refused("verify", small_model, "--grid", grid)
    assert repr(grid) in message
    assert "like 2x2" in message


@pytest.mark.parametrize("text", ["conv1", "conv1,", ",pool", ",", "a,b,c"])
def test_a_text_that_is_no_run_is_refused(refused: Callable[..., str], small_model: Path, text: str) -> None:
    message = refused("verify", small_model, "--grid", "2x2", "--run", text)
    assert "FIRST_LAYER,LAST_LAYER" in message


def test_a_run_of_layers_that_are_not_there_or_in_the_wrong_order_is_refused(
    refused: Callable[..., str], small_model: Path
) -> None:
    assert "did you mean conv" in refused("verify", small_model, "--grid", "2x2", "--run", "conv9,pool")
    assert "comes before" in refused("verify", small_model, "--grid", "2x2", "--run", "pool,conv1")


def test_there_is_one_speed_per_tile(refused: Callable[..., str], small_model: Path) -> None:
    assert "--grid asks for 4" in refused("verify", small_model, "--grid", "2x2", "--edge-speeds", "1,2")


def test_flags_about_tiles_need_a_grid_and_those_about_cuts_refuse_one(
    refused: Callable[..., str], small_model: Path
) -> None:
    for flags in (["--run", "conv1,add"], ["--edge-speeds", "1,1"], ["--approximate"]):
        message = refused("verify", small_model, *flags)
        assert message.startswith(flags[0])
        assert "--grid 2x2" in message
    for flags in (["--cut", "conv1,"], ["--random-cuts", "2"], ["--device-layer", "conv1"], ["--edge-layer", "add"]):
        assert refused("verify", small_model, "--grid", "2x2", *flags).startswith(flags[0])
