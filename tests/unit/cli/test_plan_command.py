"""`tierflow plan`."""

import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

PLAN_KEYS = {
    "version", "algorithm", "predictedLatencyMilliseconds", "optimalityGapPercent", "planningMilliseconds",
    "backboneBytes", "segments",
}  # fmt: skip
SEGMENT_KEYS = {"tier", "layers", "lastLayer", "boundaryBytes"}


def spread_over_tiers(report: Any) -> list[int]:
    return [segment["layers"] for segment in report["segments"]]


def test_the_json_of_a_plan_has_the_keys_that_scripts_rely_on(run: Callable[..., Any]) -> None:
    result = run("plan", "zoo://resnet18", "--network", "wifi", "--json")
    assert (result.code, result.err) == (0, "")
    report = result.json
    assert set(report) >= PLAN_KEYS
    assert report["version"] == 1
    assert [segment["tier"] for segment in report["segments"]] == ["device", "edge", "cloud"]
    assert all(set(segment) >= SEGMENT_KEYS for segment in report["segments"])
    assert sum(spread_over_tiers(report)) == 69
    for segment in report["segments"]:
        assert (segment["lastLayer"] is None) == (segment["layers"] == 0)


def test_a_model_alone_is_planned_with_documented_defaults(run: Callable[..., Any]) -> None:
    plain = run("plan", "zoo://alexnet", "--json").json
    stated = run(
        "plan", "zoo://alexnet", "--json", "--network", "wifi", "--speeds", "device=0.1,edge=0.5,cloud=1",
        "--algorithm", "Exact", "--profile", "estimate",
    ).json  # fmt: skip
    for report in (plain, stated):
        report.pop("planningMilliseconds")
    assert plain == stated
    assert plain["profile"]["source"] == "estimated"


def test_network_and_speeds_decide_where_layers_go(run: Callable[..., Any], small_model: Path) -> None:
    slow_links = run("plan", small_model, "--json", "--network", "device-edge=1kbit/s:1s,edge-cloud=1kbit/s:1s").json
    assert spread_over_tiers(slow_links) == [7, 0, 0]
    fast_cloud = run(
        "plan", "zoo://vgg16", "--json", "--network", "ethernet", "--speeds", "device=0.01,edge=0.01,cloud=server"
    ).json
    assert spread_over_tiers(fast_cloud)[2] > 30
    assert fast_cloud["speeds"] == {"device": 0.01, "edge": 0.01, "cloud": 1.0}


def test_the_heuristic_is_never_better_than_the_optimum(run: Callable[..., Any]) -> None:
    exact, heuristic = (
        run("plan", "zoo://inceptionv4", "--json", "--network", "4g", "--algorithm", name).json
        for name in ("Exact", "heuristic")
    )
    assert (exact["algorithm"], heuristic["algorithm"]) == ("Exact", "Heuristic")
    assert exact["optimalityGapPercent"] == 0
    assert exact["predictedLatencyMilliseconds"] <= heuristic["predictedLatencyMilliseconds"] * (1 + 1e-9)


def test_a_pin_keeps_its_layers_on_their_tier(run: Callable[..., Any], small_model: Path) -> None:
    report = run("plan", small_model, "--json", "--layers", "--pin", "conv2=device").json
    tiers = {layer["name"]: layer["tier"] for layer in report["layers"]}
    assert [tiers[name] for name in ("conv1", "relu1", "conv2")] == ["device"] * 3


def test_layers_are_listed_with_their_sizes(run: Callable[..., Any], small_model: Path) -> None:
    layers = run("plan", small_model, "--json", "--layers").json["layers"]
    assert [layer["name"] for layer in layers] == ["conv1", "relu1", "conv2", "add", "pool", "flatten", "dense"]
    first = layers[0]
    assert (first["kind"], first["shape"], first["bytes"]) == ("Conv", [1, 16, 8, 8], 4096)
    assert first["multiplyAccumulates"] == 16 * 8 * 8 * 3 * 9
    text = run("plan", small_model, "--layers").out
    assert "1×16×8×8" in text
    assert "flatten" in text


def test_an_explanation_says_what_decided_what_lies_beside_and_what_would_change_it(
    run: Callable[..., Any], small_model: Path
) -> None:
    arguments = ("plan", small_model, "--pin", "relu1=device", "--memory", "edge=1Mi", "--explain")
    report = run(*arguments, "--json").json
    found = report["explain"]
    assert set(found) == {"parts", "singleTiers", "neighbours", "flips", "constraints", "orders"}
    assert found["orders"] is None
    assert sum(part["milliseconds"] for part in found["parts"]) == pytest.approx(report["predictedLatencyMilliseconds"])
    assert [each["name"] for each in found["singleTiers"]] == ["device-only", "edge-only", "cloud-only"]
    assert found["singleTiers"][2]["broken"] == ["planning.pins[relu1=device]"]
    assert all(sum(each["layers"].values()) == 7 for each in found["neighbours"])
    assert {(flip["link"], flip["direction"]) for flip in found["flips"]} >= {
        ("device-edge", "slower"), ("device-edge", "faster"), ("edge-cloud", "slower"), ("edge-cloud", "faster"),
    }  # fmt: skip
    assert [each["limitBytes"] for each in found["constraints"]] == [None, 2**20]
    text = run(*arguments).out
    for heading in ("What decided it", "Beside it", "What bandwidth would change it"):
        assert heading in text


def test_people_are_told_that_the_times_are_estimates(run: Callable[..., Any]) -> None:
    text = run("plan", "zoo://alexnet").out
    assert "estimated from the graph, not measured" in text
    assert "per request" in text
    assert "On one tier" in text


def test_a_manifest_gives_network_and_speeds_unless_flags_do(
    run: Callable[..., Any], manifest: Callable[..., Path]
) -> None:
    stated = run("plan", manifest(), "--json").json
    assert stated["network"]["name"] == "3g"
    assert stated["speeds"] == {"device": 0.2, "edge": 2, "cloud": 20}
    flagged = run("plan", manifest(), "--json", "--network", "wifi", "--speeds", "device=1,edge=1,cloud=1").json
    assert flagged["network"]["name"] == "wifi"
    assert flagged["speeds"] == {"device": 1, "edge": 1, "cloud": 1}


def test_a_manifest_s_own_cut_is_planned(run: Callable[..., Any], manifest: Callable[..., Path]) -> None:
    by_hand = "  planning:\n    mode: Manual\n    manual: {deviceLastLayer: relu1, edgeLastLayer: pool}\n  tiers:"
    path = manifest(("  tiers:", by_hand))
    report = run("plan", path, "--json").json
    assert report["byHand"] is True
    assert [segment["lastLayer"] for segment in report["segments"]] == ["relu1", "pool", "dense"]
    assert report["optimalityGapPercent"] > 0
    assert "cut by hand" in run("plan", path).out


def test_a_manifest_s_pins_hold(run: Callable[..., Any], manifest: Callable[..., Path]) -> None:
    pins = "  planning:\n    pins: [{name: privacy, layersUpTo: add, tier: device}]\n  tiers:"
    report = run("plan", manifest(("  tiers:", pins)), "--json", "--layers").json
    assert all(layer["tier"] == "device" for layer in report["layers"][:4])


def test_free_dimensions_are_fixed_by_input(run: Callable[..., Any]) -> None:
    small, large = (
        run("plan", "zoo://resnet18", "--json", "--layers", "--input", f"input=1,3,{size},{size}").json["layers"]
        for size in (96, 320)
    )
    assert small[0]["shape"] == [1, 64, 48, 48]
    assert large[0]["shape"] == [1, 64, 160, 160]


def test_a_picture_is_drawn(run: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "plan.svg"
    assert run("plan", "zoo://resnet18", "--picture", path).code == 0
    assert ElementTree.parse(path).getroot().tag == "{http://www.w3.org/2000/svg}svg"


def test_a_measured_profile_is_used_for_its_own_model_only(
    run: Callable[..., Any], refused: Callable[..., str], small_model: Path, tmp_path: Path
) -> None:
    profile = tmp_path / "small.json"
    assert run("profile", small_model, "--output", profile).code == 0
    report = run("plan", small_model, "--profile", profile, "--json").json
    assert report["profile"]["source"] == "measured"
    assert "belongs to another model" in refused("plan", "zoo://alexnet", "--profile", profile)


def test_a_plan_is_measured_where_that_is_asked_for(run: Callable[..., Any], small_model: Path) -> None:
    assert run("plan", small_model, "--profile", "measure", "--json").json["profile"]["source"] == "measured"


def test_names_with_markup_and_control_characters_are_printed_as_they_are(
    run: Callable[..., Any], tmp_path: Path
) -> None:
    import onnx

    from factories.models import convolutions

    model = convolutions()
    model.graph.node[0].name = "[bold]x[/nonsense]\x1b[2J\x07"
    path = tmp_path / "odd.onnx"
    onnx.save(model, path)
    text = run("plan", path, "--layers").out
    assert "[bold]x[/nonsense]" in text
    assert "\x1b" not in text
    assert "\x07" not in text
    names = [layer["name"] for layer in json.loads(run("plan", path, "--layers", "--json").out)["layers"]]
    assert names[0] == model.graph.node[0].name


@pytest.mark.parametrize("name", ["cat1", "3g", "4g", "wifi", "ethernet"])
def test_networks_have_names(run: Callable[..., Any], name: str) -> None:
    assert run("plan", "zoo://alexnet", "--network", name, "--json").json["network"]["name"] == name
