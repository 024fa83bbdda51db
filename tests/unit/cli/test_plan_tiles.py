"""`tierflow plan` with several workers at the edge."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

RUN_KEYS = {
    "firstLayer", "lastLayer", "grid", "haloFactor", "scatterBytes", "gatherBytes", "predictedMilliseconds",
    "untiledMilliseconds",
}  # fmt: skip
FOUR = ("plan", "zoo://alexnet", "--edge-workers", "4")


@pytest.fixture
def annotated(tmp_path: Path) -> Callable[..., Path]:
    """Writes a manifest of AlexNet that assumes so many edge workers."""

    def write(workers: str, tiling: str = "") -> Path:
        path = tmp_path / "alexnet.yaml"
        path.write_text(f"""
apiVersion: tierflow.dev/v1alpha1
kind: InferencePipeline
metadata:
  name: alexnet
  annotations: {{tierflow.dev/edge-workers: "{workers}"}}
spec:
  model: {{uri: "zoo://alexnet"}}
  tiers:
  - name: device
  - name: edge
    {tiling}
  - name: cloud
""")
        return path

    return write


def test_the_json_of_a_tiled_plan_has_the_keys_that_scripts_rely_on(run: Callable[..., Any]) -> None:
    result = run(*FOUR, "--json")
    assert (result.code, result.err) == (0, "")
    tiling = result.json["tiling"]
    assert tiling["workers"] == 4
    assert tiling["runs"]
    for found in tiling["runs"]:
        assert set(found) >= RUN_KEYS
        rows, columns = map(int, found["grid"].split("x"))
        assert 2 <= rows * columns <= 4
        assert found["predictedMilliseconds"] < found["untiledMilliseconds"]
        assert found["scatterBytes"] > 0 < found["gatherBytes"]
    assert tiling["network"] == {"megabitsPerSecond": 1000, "roundTripMilliseconds": 0.5}


def test_without_edge_workers_nothing_is_tiled(run: Callable[..., Any]) -> None:
    default, one = (run("plan", "zoo://alexnet", "--json", *flags).json for flags in ([], ["--edge-workers", "1"]))
    for report in (default, one):
        report.pop("planningMilliseconds")
        assert (report["tiling"]["workers"], report["tiling"]["runs"]) == (1, [])
        assert report["tiling"]["untiledLatencyMilliseconds"] == report["predictedLatencyMilliseconds"]
    assert default == one
    assert "Tiles" not in run("plan", "zoo://alexnet", "--layers").out


def test_figures_of_a_tiled_plan_add_up(run: Callable[..., Any]) -> None:
    report = run(*FOUR, "--json").json
    compute = sum(segment["computeMilliseconds"] for segment in report["segments"])
    transfers = sum(each["milliseconds"] for each in report["transfers"])
    assert report["predictedLatencyMilliseconds"] == pytest.approx(compute + transfers)
    saved = sum(each["untiledMilliseconds"] - each["predictedMilliseconds"] for each in report["tiling"]["runs"])
    assert report["tiling"]["untiledLatencyMilliseconds"] == pytest.approx(
        report["predictedLatencyMilliseconds"] + saved
    )
    assert report["predictedLatencyMilliseconds"] <= min(report["singleTierMilliseconds"].values()) * (1 + 1e-9)


def test_more_workers_are_never_predicted_slower(run: Callable[..., Any]) -> None:
    latencies = [
        run("plan", "zoo://alexnet", "--edge-workers", str(workers), "--json").json["predictedLatencyMilliseconds"]
        for workers in (1, 2, 3, 4)
    ]
    assert latencies == sorted(latencies, reverse=True)
    assert latencies[-1] < latencies[0]


@pytest.mark.parametrize("flags", [["--edge-speeds", "1,0.1,0.1,0.1"], ["--edge-network", "10Mbit/s:20ms"]])
def test_slower_workers_and_a_slower_network_between_them_count(run: Callable[..., Any], flags: list[str]) -> None:
    fast, slow = (run(*FOUR, *more, "--json").json for more in ([], flags))
    assert fast["predictedLatencyMilliseconds"] < slow["predictedLatencyMilliseconds"]


def test_speeds_say_how_many_workers_there_are(run: Callable[..., Any]) -> None:
    tiling = run("plan", "zoo://alexnet", "--edge-speeds", "1,0.5,1", "--json").json["tiling"]
    assert (tiling["workers"], tiling["speeds"]) == (3, [1, 0.5, 1])
    assert (
        "3 edge workers at 1, 0.5, 1 of the edge's speed"
        in run("plan", "zoo://alexnet", "--edge-speeds", "1,0.5,1").out
    )


def test_people_see_runs_and_what_they_bring(run: Callable[..., Any]) -> None:
    text = run(*FOUR).out
    assert "Tiles on 4 edge workers, 1 Gbit/s 500 µs between them" in text
    for word in ("Halo", "Scatters", "Gathers", "Untiled", "In tiles", "Speed-up", "2x2", "instead of"):
        assert word in text
    assert "cut and tiles decided together" in text


def test_people_are_told_why_nothing_is_tiled(run: Callable[..., Any], small_model: Path) -> None:
    assert "the edge has no layers" in run("plan", small_model, "--pin", "dense=device", "--edge-workers", "4").out
    at_edge = run("plan", small_model, "--pin", "dense=edge", "--edge-workers", "4").out
    assert "no run of the edge's layers is faster" in at_edge


def test_layers_in_tiles_are_marked(run: Callable[..., Any]) -> None:
    report = run(*FOUR, "--layers", "--json").json
    for number, found in enumerate(report["tiling"]["runs"]):
        own = [layer for layer in report["layers"] if layer["run"] == number]
        assert (own[0]["name"], own[-1]["name"]) == (found["firstLayer"], found["lastLayer"])
        assert len(own) == found["layers"]
        assert {layer["tier"] for layer in own} == {"edge"}
    assert report["layers"][-1]["run"] is None
    assert "2x2" in next(line for line in run(*FOUR, "--layers").out.splitlines() if line.startswith("conv1 "))


def test_an_explanation_shows_both_orders_of_deciding(run: Callable[..., Any]) -> None:
    arguments = ("plan", "zoo://vgg16", "--edge-workers", "4", "--explain")
    report = run(*arguments, "--json").json
    first, together = (report["explain"]["orders"][name] for name in ("partitionThenTile", "together"))
    assert together["predictedLatencyMilliseconds"] == report["predictedLatencyMilliseconds"]
    assert together["runs"] == report["tiling"]["runs"]
    # Without tiles in mind the cut goes to the cloud, where none can help.
    assert first["layers"] == {"device": 0, "edge": 0, "cloud": 37}
    assert together["layers"] == {"device": 0, "edge": 37, "cloud": 0}
    assert together["predictedLatencyMilliseconds"] < 0.7 * first["predictedLatencyMilliseconds"]
    assert together["untiledLatencyMilliseconds"] > first["untiledLatencyMilliseconds"]
    text = run(*arguments).out
    assert "cut first, then tile (the paper's)" in text
    assert "Last edge layer" in text
    together_line = next(line for line in text.splitlines() if line.startswith("  decided together"))
    assert together_line.split()[-1] == "fc8"


def test_what_lies_beside_a_tiled_plan_is_priced_with_tiles(run: Callable[..., Any]) -> None:
    report = run(*FOUR, "--explain", "--json").json
    found = report["explain"]
    assert sum(part["milliseconds"] for part in found["parts"]) == pytest.approx(report["predictedLatencyMilliseconds"])
    for each in [*found["singleTiers"], *found["neighbours"]]:
        assert each["changePercent"] >= -1e-6


def test_a_budget_s_cost_counts_tiles(run: Callable[..., Any]) -> None:
    free = run("plan", "zoo://vgg16", "--edge-workers", "4", "--json").json
    bound = run("plan", "zoo://vgg16", "--edge-workers", "4", "--memory", "edge=256Mi", "--explain", "--json").json
    (found,) = bound["explain"]["constraints"]
    assert found["costsMilliseconds"] == pytest.approx(
        bound["predictedLatencyMilliseconds"] - free["predictedLatencyMilliseconds"]
    )
    assert found["costsMilliseconds"] > 0


def test_the_heuristic_s_cut_is_tiled_too(run: Callable[..., Any]) -> None:
    report = run(*FOUR, "--algorithm", "heuristic", "--json").json
    assert report["algorithm"] == "Heuristic"
    assert report["tiling"]["runs"]


def test_a_cut_by_hand_keeps_its_cut_and_is_tiled(run: Callable[..., Any], annotated: Callable[..., Path]) -> None:
    path = annotated("4")
    by_hand = '  planning:\n    mode: Manual\n    manual: {deviceLastLayer: "", edgeLastLayer: pool5}\n'
    path.write_text(path.read_text() + by_hand)
    report = run("plan", path, "--json").json
    assert report["byHand"] is True
    assert report["segments"][1]["lastLayer"] == "pool5"
    assert report["tiling"]["runs"]
    assert "cut by hand, tiles chosen for it" in run("plan", path).out


@pytest.mark.parametrize(
    ("assumed", "tiling", "flags", "workers"),
    [
        ("3", "", [], 3),
        ("9", "", [], 4),
        ("9", "tiling: {maxWorkers: 6}", [], 6),
        ("4", "tiling: {mode: 'Off'}", [], 1),
        ("4", "tiling: {maxWorkers: 2}", ["--edge-workers", "3"], 3),
        ("4", "tiling: {mode: 'Off'}", ["--edge-workers", "2"], 2),
    ],
)
def test_a_manifest_assumes_and_allows_edge_workers_unless_a_flag_says_otherwise(
    run: Callable[..., Any], annotated: Callable[..., Path], assumed: str, tiling: str, flags: list[str], workers: int
) -> None:
    assert run("plan", annotated(assumed, tiling), *flags, "--json").json["tiling"]["workers"] == workers


@pytest.mark.parametrize("text", ["four", "0", "-1", "1.5", ""])
def test_an_annotation_that_is_no_number_of_workers_is_refused(
    refused: Callable[..., str], annotated: Callable[..., Path], text: str
) -> None:
    message = refused("plan", annotated(text))
    assert "metadata.annotations[tierflow.dev/edge-workers]" in message


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--edge-workers", "0"], "--edge-workers"),
        (["--edge-workers", "four"], "--edge-workers"),
        (["--edge-workers", "17"], "more than the 16"),
        (["--edge-speeds", "1,fast"], "'fast' is no speed"),
        (["--edge-speeds", "1,0"], "'0' is no speed"),
        (["--edge-speeds", "1,nan"], "'nan' is no speed"),
        (["--edge-workers", "3", "--edge-speeds", "1,1"], "--edge-workers asks for 3"),
        (["--edge-network", "fast"], "--edge-network"),
        (["--edge-network", "1Gbit/s:soon"], "--edge-network"),
    ],
)
def test_bad_flags_about_edge_workers_are_refused_by_name(
    refused: Callable[..., str], small_model: Path, flags: list[str], words: str
) -> None:
    assert words in refused("plan", small_model, *flags)
