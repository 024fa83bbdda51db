"""`tierflow simulate`."""

import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tierflow_cli.picture.axes import Scale, stepped, time_ticks, value_scale, value_ticks

SVG = "{http://www.w3.org/2000/svg}"
# A link to the cloud that is good, then bad for ten minutes, then swings every 20 s.
ROWS = [(0, 100), (300, 0.05), (900, 100), *((1200 + 20 * n, (0.05, 100)[n % 2]) for n in range(30)), (1800, 100)]


@pytest.fixture
def trace(tmp_path: Path) -> Callable[..., Path]:
    """Writes a trace."""

    def write(*lines: str, head: str = "seconds,edge-cloud.mbps") -> Path:
        path = tmp_path / "trace.csv"
        path.write_text("\n".join([head, *(lines or [f"{when},{rate}" for when, rate in ROWS])]) + "\n")
        return path

    return write


@pytest.fixture
def pipeline(manifest: Callable[..., Path]) -> Path:
    """A pipeline whose second convolution is worth a fast link to the cloud."""
    return manifest(
        ("tierflow.dev/network: 3g", "tierflow.dev/network: 'device-edge=1Gbit/s:0.1ms,edge-cloud=1Gbit/s:0.1ms'"),
        ("device=0.2,edge=2,cloud=20", "device=0.0005,edge=0.001,cloud=1"),
    )


Run = Callable[..., Any]


def test_moves_are_counted_and_say_why(run: Run, pipeline: Path, trace: Callable[..., Path]) -> None:
    report = run("simulate", pipeline, "--trace", trace(), "--json").json
    assert report["version"] == 1
    assert (report["pipeline"], report["seconds"]) == ("small", 1800)
    assert [move["seconds"] for move in report["moves"]] == [330, 930]
    assert [move["epoch"] for move in report["moves"]] == [2, 3]
    assert {move["reason"] for move in report["moves"]} == {"BandwidthChanged"}
    assert "edge-cloud link 100.0 -> 0.1 Mbit/s; predicted" in report["moves"][0]["message"]
    assert [plan["epoch"] for plan in report["plans"]] == [1, 2, 3]
    assert all(sum(plan["layers"].values()) == 7 for plan in report["plans"])


def test_holds_are_timed_by_reason(run: Run, pipeline: Path, trace: Callable[..., Path]) -> None:
    report = run("simulate", pipeline, "--trace", trace(), "--json").json
    held = {each["reason"]: each["seconds"] for each in report["holds"]}
    assert held["Stabilizing"] == pytest.approx(60 + 15 * 20)
    assert sum(held.values()) + sum(5 for _ in report["plans"]) == pytest.approx(1800, abs=20)


def test_a_course_lies_between_never_moving_and_always_the_best(
    run: Run, pipeline: Path, trace: Callable[..., Path]
) -> None:
    report = run("simulate", pipeline, "--trace", trace(), "--json").json
    mean = {name: each["meanMilliseconds"] for name, each in report["latency"].items()}
    assert mean["alwaysBest"] < mean["decided"] < mean["neverMoving"]
    for step in report["steps"]:
        assert step["alwaysBestMilliseconds"] <= step["latencyMilliseconds"] * (1 + 1e-9)


def test_flags_take_the_place_of_the_manifest_s_thresholds(
    run: Run, pipeline: Path, trace: Callable[..., Path]
) -> None:
    flags = ("--stabilization", "0", "--min-interval", "40", "--min-improvement", "5")
    report = run("simulate", pipeline, "--trace", trace(), "--json", *flags).json
    assert report["thresholds"] == {"minImprovementPercent": 5, "minIntervalSeconds": 40, "stabilizationSeconds": 0}
    times = [move["seconds"] for move in report["moves"]]
    assert times[:2] == [300, 900]
    assert 5 <= len(times) <= 1800 / 40 + 1
    assert all(later - earlier >= 40 for earlier, later in pairwise(times))
    never = run("simulate", pipeline, "--trace", trace(), "--json", "--min-improvement", "100").json
    assert never["moves"] == []


def test_people_see_plans_holds_and_what_it_gains(run: Run, pipeline: Path, trace: Callable[..., Path]) -> None:
    text = run("simulate", pipeline, "--trace", trace()).out
    assert "small: 2 moves in 30:00 of trace.csv (34 lines" in text
    assert "5:30" in text
    for words in ("Held because of", "Stabilizing", "as decided", "never moving", "always the best plan"):
        assert words in text


def test_tiers_that_are_lost_and_metrics_that_are_missing_are_replayed(
    run: Run, pipeline: Path, trace: Callable[..., Path]
) -> None:
    path = trace(
        "0,100,1,1", "100,,0,", "200,,1,", "300,0.05,,0", "500,100,,1", "600,,,",
        head="seconds,edge-cloud.mbps,nodes.cloud,metrics",
    )  # fmt: skip
    report = run("simulate", pipeline, "--trace", path, "--json").json
    assert [(move["seconds"], move["reason"]) for move in report["moves"]] == [
        (100, "NodesChanged"), (230, "NodesChanged"),
    ]  # fmt: skip
    assert {each["reason"]: each["seconds"] for each in report["holds"]}["MetricsUnavailable"] == 200
    assert report["latency"]["neverMoving"]["unservedSeconds"] == 100
    assert report["latency"]["decided"]["unservedSeconds"] == 0


def test_what_a_line_leaves_out_is_as_before(run: Run, pipeline: Path, trace: Callable[..., Path]) -> None:
    full = trace("0,100,1", "300,0.05,1", "600,0.05,2", head="seconds,edge-cloud.mbps,speed.cloud")
    known = run("simulate", pipeline, "--trace", full, "--json").json
    sparse = trace("# a remark", "0,100,1", "", "300,0.05,", "600,,2", head="seconds,edge-cloud.mbps,speed.cloud")
    assert run("simulate", pipeline, "--trace", sparse, "--json").json == known


def test_a_picture_shows_the_plan_its_moves_and_the_figures(
    run: Run, pipeline: Path, trace: Callable[..., Path], tmp_path: Path
) -> None:
    path = tmp_path / "course.svg"
    assert run("simulate", pipeline, "--trace", trace(), "--picture", path).code == 0
    root = ElementTree.parse(path).getroot()
    texts = [each.text or "" for each in root.iter(f"{SVG}text")]
    for words in ("small: 2 moves in 30:00", "device", "edge", "cloud", "Latency", "Bandwidth", "Mbit/s", "edge-cloud"):
        assert words in texts
    assert "Speed" not in texts  # it doesn't change
    hints = [each.text or "" for each in root.iter(f"{SVG}title")]
    assert sum(text.startswith(("5:30 BandwidthChanged", "15:30 BandwidthChanged")) for text in hints) == 2
    assert sum(text.startswith("epoch 2: ") for text in hints) >= 1
    again = tmp_path / "again.svg"
    run("simulate", pipeline, "--trace", trace(), "--picture", again)
    assert again.read_text() == path.read_text()


def test_a_line_has_a_gap_where_nothing_is_known() -> None:
    x, y = Scale(0, 10, 0, 100), Scale(0, 1, 50, 0)
    points = [(0.0, 0.5), (2.0, 0.5), (4.0, None), (6.0, 1.0), (8.0, 0.0)]
    assert stepped(points, 10.0, x, y) == "M0 25H40M60 0H80V50H100"
    assert stepped([(0.0, None)], 10.0, x, y) == ""


@pytest.mark.parametrize("span", [1, 59, 300, 3600, 86_400, 1e7])
def test_times_are_told_in_a_dozen_round_numbers(span: float) -> None:
    ticks = time_ticks(span, 12)
    assert 2 <= len(ticks) <= 13
    assert ticks[-1] <= span


@pytest.mark.parametrize("values", [(1, 2), (0.001, 1000), (3, 3), (0, 5), (2, 19), (0.1, 0.6), (1e6, 8e6)])
def test_values_are_told_in_a_few_round_numbers_that_lie_inside(values: tuple[float, float]) -> None:
    scale = value_scale(values, 100, 0)
    ticks = value_ticks(scale)
    assert 1 <= len(ticks) <= 6
    assert all(scale.low <= tick <= scale.high for tick in ticks)
    assert 0 <= scale.at(values[1]) <= scale.at(values[0]) <= 100


def test_an_hour_of_figures_that_do_not_change_is_looked_at_as_the_operator_would(
    run: Run, pipeline: Path, trace: Callable[..., Path]
) -> None:
    report = run("simulate", pipeline, "--trace", trace("0,100", "3600,100"), "--json", "--every", "10").json
    assert report["looks"] == 361
    assert report["moves"] == []


@pytest.mark.parametrize(
    ("head", "lines", "message"),
    [
        ("time,edge-cloud.mbps", ["0,1"], "line 1: there is no column 'time'"),
        ("seconds,edge-cloud.mbsp", ["0,1"], "did you mean edge-cloud.mbps"),
        ("edge-cloud.mbps", ["1"], "line 1: no column is named seconds"),
        ("seconds,edge-cloud.mbps,edge-cloud.mbps", ["0,1,1"], "line 1: column edge-cloud.mbps is there twice"),
        (
            "seconds,edge-cloud.mbps",
            ["0,1", "5,fast"],
            "line 3, column edge-cloud.mbps: 'fast' can't be; give a",
        ),
        ("seconds,edge-cloud.mbps", ["0,0"], "line 2, column edge-cloud.mbps: '0' can't be"),
        ("seconds,edge-cloud.mbps", ["0,inf"], "line 2, column edge-cloud.mbps: 'inf' can't be"),
        ("seconds,edge-cloud.rtt_ms", ["0,-1"], "line 2, column edge-cloud.rtt_ms: '-1' can't be"),
        ("seconds,nodes.edge", ["0,1.5"], "line 2, column nodes.edge: '1.5' can't be; give a whole number"),
        ("seconds,metrics", ["0,2"], "line 2, column metrics: '2' can't be; give 1 where there are measurements"),
        ("seconds,speed.edge", ["5,1", "5,1"], "line 3, column seconds: 5 doesn't come after 5"),
        ("seconds,speed.edge", ["-1,1"], "line 2, column seconds: '-1' is no time"),
        ("seconds,speed.edge", ["0"], "line 2: has 1 cells where the first line names 2 columns"),
        ("seconds,speed.edge", [" "], "has column names but no line below them"),
        ("# nothing", ["# but remarks"], "the trace is empty"),
    ],
)
def test_a_trace_that_is_wrong_is_refused_with_line_and_column(
    refused: Callable[..., str], pipeline: Path, trace: Callable[..., Path], head: str, lines: list[str], message: str
) -> None:
    assert message in refused("simulate", pipeline, "--trace", trace(*lines, head=head))


def test_a_trace_that_is_not_there_or_no_text_is_refused(
    refused: Callable[..., str], pipeline: Path, tmp_path: Path
) -> None:
    assert "can't be read" in refused("simulate", pipeline, "--trace", tmp_path / "none.csv")
    binary = tmp_path / "binary.csv"
    binary.write_bytes(b"\xff\xfe\x00seconds")
    assert "it is no CSV text in UTF-8" in refused("simulate", pipeline, "--trace", binary)


def test_a_model_alone_has_no_thresholds_to_simulate(refused: Callable[..., str], trace: Callable[..., Path]) -> None:
    assert "is no manifest; thresholds are a pipeline's" in refused("simulate", "zoo://alexnet", "--trace", trace())


def test_a_paused_pipeline_has_nothing_to_simulate(
    refused: Callable[..., str], manifest: Callable[..., Path], trace: Callable[..., Path]
) -> None:
    paused = manifest(("  tiers:", "  planning: {mode: Paused}\n  tiers:"))
    assert "set spec.planning.mode to Auto" in refused("simulate", paused, "--trace", trace())


def test_the_sample_trace_is_read_and_shows_every_kind_of_trouble(run: Run, manifest: Callable[..., Path]) -> None:
    sample = Path(__file__).parents[3] / "samples" / "traces" / "uplink.csv"
    report = run("simulate", manifest(), "--trace", sample, "--json").json
    assert report["seconds"] == 3600
    assert "MetricsUnavailable" in {each["reason"] for each in report["holds"]}
