"""What a local scenario is made of: answers, checks, links that get worse, photographs."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from factories.graphs import chain
from factories.pipelines import network, observation, pipeline, profile
from factories.tiled_pipelines import convolutions, edge_workers, tiled_plan
from tierflow.errors import InvalidInputError
from tierflow.manifest import Tiling
from tierflow.network import MEGABIT, Link
from tierflow.plan import Plan
from tierflow.segment import cut
from tierflow.tiers import TIERS, Tier
from tierflow.zoo.model import open_zoo_model
from tierflow_cli.run_json import report_of
from tierflow_local.checks import failures
from tierflow_local.client import Answer
from tierflow_local.cluster import RunningWorker
from tierflow_local.links import Traffic
from tierflow_local.load import Answers
from tierflow_local.photograph import default_photograph, inputs_with
from tierflow_local.reconcile import with_algorithm, with_edge_workers
from tierflow_local.scenario import Measurement, Replanning, Results
from tierflow_local.shared_edge import SharedEdge, predicted_edge_seconds
from tierflow_local.worsening import default_worsening, parse_worsening
from tierflow_operator.decide import Hold, HoldReason, decide
from tierflow_operator.manual import plan_for
from tierflow_operator.observation import LINKS

GRAPH = chain(4, sizes=[100, 50, 20, 10, 5])
SPEEDS = {Tier.DEVICE: 0.1, Tier.EDGE: 0.5, Tier.CLOUD: 1.0}
EDGE_CLOUD = (Tier.EDGE, Tier.CLOUD)


def plan(device: str, edge: str) -> Plan:
    return plan_for(GRAPH, profile(GRAPH), network(), SPEEDS, cut(GRAPH, device, edge))


def answers(*seconds: float, difference: float = 0.0, error: str = "") -> Answers:
    return Answers(tuple(Answer(float(n), each, difference, error) for n, each in enumerate(seconds)))


def test_quantiles_are_of_the_answered_requests_alone() -> None:
    found = Answers((*answers(0.1, 0.2, 0.3).all, *answers(9.0, error="UNAVAILABLE").all))
    assert found.quantile(0.5) == pytest.approx(0.2)
    assert found.quantile(0.99) < 0.31
    assert (found.sent, len(found.lost), len(found.wrong)) == (4, 1, 0)


def test_without_an_answer_there_is_no_quantile() -> None:
    assert math.isnan(answers(1.0, error="x").quantile(0.5))
    assert answers(1.0).quantile(0.99) == 1.0


def test_an_answer_that_differs_beyond_the_tolerance_is_wrong_and_nan_is_too() -> None:
    assert not answers(0.1, difference=9e-7).wrong
    assert len(answers(0.1, difference=2e-6).wrong) == 1
    assert len(answers(0.1, difference=math.nan).wrong) == 1


def worker(tier: Tier, pid: int) -> RunningWorker:
    return RunningWorker(tier, pid, float(pid), 1)


def results(
    *, of: Answers | None = None, replaced: frozenset[Tier] = frozenset(), affected: frozenset[Tier] = frozenset()
) -> Results:
    measured = Measurement(
        "plan", plan("L0", "L2"), of or answers(0.1, 0.2), dict.fromkeys(LINKS, Traffic(7, 5)), {Tier.DEVICE: 0.1}
    )
    link = Link(bytes_per_second=MEGABIT, round_trip_seconds=0.01)
    decision = decide(pipeline().spec, GRAPH, profile(GRAPH), observation(), None, 0.0)
    replanning = Replanning(
        link=EDGE_CLOUD,
        before=link,
        after=link,
        decision=decision,
        noticed=True,
        decided_seconds=1.0,
        rollout_seconds=2.0,
        answers=answers(0.1),
        settled=None,
        workers={
            tier: (worker(tier, 10 + tier.rank), worker(tier, 20 + tier.rank if tier in replaced else 10 + tier.rank))
            for tier in TIERS
        },
        wanted=affected,
        affected=affected,
    )
    return Results([measured], replanning, {"planning": 0.1})


def test_a_scenario_in_which_all_holds_has_no_failures() -> None:
    both = frozenset({Tier.EDGE, Tier.CLOUD})
    assert failures(results(replaced=both, affected=both)) == ()


def test_lost_and_wrong_requests_are_failures_with_their_figures() -> None:
    assert failures(results(of=answers(1.0, error="UNAVAILABLE: gone"))) == (
        "1 of 1 requests were lost under plan: UNAVAILABLE: gone",
    )
    (failure,) = failures(results(of=answers(1.0, 1.0, difference=0.5)))
    assert failure.startswith("2 of 2 answers under plan differ from the whole model's by up to 5.0e-01")


def test_a_worker_that_changed_for_nothing_or_did_not_change_is_a_failure() -> None:
    assert failures(results(replaced=frozenset({Tier.DEVICE}))) == (
        "the worker of device was changed though the plan left it alone",
    )
    assert failures(results(affected=frozenset({Tier.CLOUD}))) == (
        "the worker of cloud was not changed though the plan wanted it",
    )


def test_a_change_that_nobody_noticed_is_a_failure() -> None:
    found = results()
    assert found.replanning is not None
    held = Hold(HoldReason.UP_TO_DATE, "", None)
    found.replanning = replace(found.replanning, decision=held, noticed=False)
    assert failures(found) == ("no worker noticed that the edge-cloud link changed",)


def shared(workers: int, *, found: int | None = None, content: bytes = b"same") -> SharedEdge:
    kept = Answers(tuple(replace(answer, content=content) for answer in answers(0.1, 0.1).all))
    return SharedEdge(workers, workers if found is None else found, 0.4 / workers, 0.5 / workers, kept)


def test_edge_workers_that_were_not_found_are_a_failure() -> None:
    found = results()
    found.replanning = None
    found.shared_edge = (shared(3), shared(2), shared(1))
    assert failures(found) == ()
    found.shared_edge = (shared(3, found=2), shared(2), shared(1))
    assert failures(found) == ("the edge's worker found 2 of 3 edge workers, itself among them",)


def test_answers_that_depend_on_the_number_of_edge_workers_are_a_failure() -> None:
    found = results()
    found.replanning = None
    found.shared_edge = (shared(2), shared(1, content=b"other"))
    assert failures(found) == ("the answers depend on how many edge workers computed them",)


def test_the_edge_s_times_are_reported_from_one_worker_upwards() -> None:
    found = results()
    found.shared_edge = (shared(2), shared(1))
    report = report_of(found, (), pipeline="small", photograph="flower.jpg")["sharedEdge"]
    assert report["bitIdentical"] is True
    assert [entry["workers"] for entry in report["edgeWorkers"]] == [1, 2]
    assert [entry["measuredMilliseconds"] for entry in report["edgeWorkers"]] == [500.0, 250.0]
    assert report_of(results(), (), pipeline="small", photograph="")["sharedEdge"] is None


def test_what_the_edge_should_take_with_fewer_workers_lies_between_tiled_and_alone() -> None:
    tiled, graph = tiled_plan(4), convolutions()
    times = [predicted_edge_seconds(graph, profile(graph), tiled, edge_workers(4), n) for n in (4, 2, 1)]
    assert times == sorted(times)
    assert times[0] == pytest.approx(tiled.segment(Tier.EDGE).compute_seconds)
    assert times[-1] == pytest.approx(tiled_plan(1).segment(Tier.EDGE).compute_seconds)


def test_the_number_of_edge_workers_replaces_what_the_manifest_says_of_tiling() -> None:
    edge = with_edge_workers(pipeline(), 6).spec.tier(Tier.EDGE)
    assert edge.tiling == Tiling(max_workers=6)
    assert with_edge_workers(pipeline(), 6).spec.tier(Tier.CLOUD) == pipeline().spec.tier(Tier.CLOUD)


def test_the_report_for_machines_says_whether_it_holds() -> None:
    found = results(of=answers(1.0, error="gone"))
    report = report_of(found, failures(found), pipeline="small", photograph="flower.jpg")
    assert report["holds"] is False
    assert len(report["failures"]) == 1
    assert report["measurements"][0]["p50Milliseconds"] is None
    assert report["measurements"][0]["links"][0] == {"from": "device", "to": "edge", "bytesUp": 7, "bytesDown": 5}
    assert report["replanning"]["workers"][0] == {
        "tier": "device",
        "changed": False,
        "processBefore": 10,
        "processAfter": 10,
    }


def test_the_last_link_that_the_plan_uses_gets_worse_by_itself() -> None:
    found = default_worsening(plan("L0", "L2"))
    assert found is not None
    assert found[0] == EDGE_CLOUD
    assert found[1].bytes_per_second == pytest.approx(80 * MEGABIT / 10)
    direct, relayed_to_the_edge = default_worsening(plan("L0", "")), default_worsening(plan("L0", "L3"))
    assert direct is not None
    assert direct[0] == (Tier.DEVICE, Tier.CLOUD)
    assert relayed_to_the_edge is not None
    assert relayed_to_the_edge[0] == (Tier.DEVICE, Tier.EDGE)
    assert default_worsening(plan("L3", "")) is None


def test_a_worse_link_is_read_with_or_without_its_round_trip() -> None:
    link, shape = parse_worsening("edge-cloud=3.1Mbit/s", network())
    assert (link, shape.round_trip_seconds) == (EDGE_CLOUD, 0.001)
    assert parse_worsening("device-edge=1Mbit/s:40ms", network())[1].round_trip_seconds == pytest.approx(0.04)


@pytest.mark.parametrize("text", ["edge-moon=1Mbit/s", "edge-cloud", "1Mbit/s", "edge-cloud=fast"])
def test_a_worse_link_that_is_none_is_refused_with_the_form(text: str) -> None:
    with pytest.raises(InvalidInputError, match="--worsen") as raised:
        parse_worsening(text, network())
    assert raised.value.subject


def test_a_photograph_is_resized_cropped_and_normalised() -> None:
    model = open_zoo_model("resnet18")
    inputs, source = inputs_with(model, None)
    assert Path(source) == default_photograph()
    assert inputs["input"].shape == (1, 3, 224, 224)
    assert inputs["input"].dtype == np.float32
    assert -3 < inputs["input"].min() < 0 < inputs["input"].max() < 3


def test_a_grey_photograph_of_any_proportions_will_do(tmp_path: Path) -> None:
    path = tmp_path / "grey.png"
    Image.new("L", (30, 500), 128).save(path)
    inputs, _ = inputs_with(open_zoo_model("resnet18"), path)
    expected = (128 / 255 - 0.485) / 0.229
    assert inputs["input"][0, 0] == pytest.approx(expected, rel=1e-5)


def test_a_file_that_is_no_photograph_is_named(tmp_path: Path) -> None:
    path = tmp_path / "text.jpg"
    path.write_text("no image")
    with pytest.raises(InvalidInputError, match=r"--image: .*text\.jpg: it is no image that can be read"):
        inputs_with(open_zoo_model("resnet18"), path)
    with pytest.raises(InvalidInputError, match=r"gone\.jpg: No such file"):
        inputs_with(open_zoo_model("resnet18"), tmp_path / "gone.jpg")


def test_the_algorithm_can_be_replaced_and_nothing_else_changes() -> None:
    changed = with_algorithm(pipeline(), "Heuristic")
    assert changed.spec.planning.algorithm == "Heuristic"
    assert with_algorithm(changed, "Exact") == pipeline()
    assert with_algorithm(changed, None) is changed
