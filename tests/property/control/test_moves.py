"""From plan to plan in a cluster that does everything in any order, with an operator that can end at any write."""

import json

import msgspec
import pytest

from factories.pipelines import network
from factories.reconciling import Bench, manifest
from factories.simulated_cluster import BAD, names_of
from tierflow.network import MEGABIT, Link
from tierflow.tiers import TIERS, Tier
from tierflow_operator.checks import workers_told
from tierflow_operator.nudges import NUDGE_SECONDS
from tierflow_operator.pods import Manifest, Release

DEADLINE = 120


def generations(bench: Bench) -> dict[str, int]:
    return {
        name: entry["metadata"]["generation"]
        for (kind, name), entry in bench.cluster.objects.items()
        if kind == "Deployment"
    }


def changed(bench: Bench, before: dict[str, int]) -> set[str]:
    after = generations(bench)
    return {name.removeprefix("small-") for name in after if after[name] != before.get(name)}


def settled(seed: int = 0, device: int = 2, edge: int = 2) -> Bench:
    """A pipeline of six layers that serves on three tiers."""
    bench = Bench(manifest(), seed=seed)
    bench.cut(device, edge)
    bench.run()
    assert bench.cluster.condition("Ready")["status"] == "True"
    return bench


def test_a_first_plan_gets_ready_once_its_answer_was_checked() -> None:
    bench = settled()
    assert bench.cluster.condition("Ready")["reason"] == "ServingPlan"
    assert bench.cluster.condition("Lossless")["reason"] == "BitIdentical"
    assert bench.cluster.condition("Reconciling") is None
    assert bench.cluster.condition("Stalled") is None
    assert not list(bench.cluster.pods("check"))
    assert bench.status["decisions"][0]["reason"] == "Initial"


def test_at_rest_nothing_is_written() -> None:
    bench = settled()
    writes = len(bench.cluster.writes)
    for _ in range(5):
        bench.now += 3600
        assert bench.reconcile() is None
    assert len(bench.cluster.writes) == writes


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize(
    ("device", "edge", "tiers"),
    [(2, 3, {"edge", "cloud"}), (3, 1, {"device", "edge"}), (3, 2, {"device", "edge", "cloud"}), (2, 2, set())],
)
def test_a_cut_that_moves_writes_the_workers_at_its_ends_alone(
    device: int, edge: int, tiers: set[str], seed: int
) -> None:
    bench = settled(seed)
    before = generations(bench)
    bench.cut(device, edge)
    bench.run()
    assert changed(bench, before) == tiers
    assert bench.cluster.condition("Ready")["status"] == "True"


@pytest.mark.parametrize("seed", range(12))
def test_any_walk_of_plans_loses_no_request_and_leaves_nothing_over(seed: int) -> None:
    bench = settled(seed)
    for step, (device, edge) in enumerate([(2, 3), (2, 2), (3, 1), (2, 3), (2, 2), (6, 0), (0, 3), (3, 0), (2, 2)]):
        bench.cut(device, edge)
        bench.run()
        assert bench.epoch == step + 2
        assert len(names_of(bench.cluster, "ConfigMap", *TIERS)) == 6  # a descriptor and its approval each
        assert bench.cluster.condition("Lossless")["status"] == "True"


def final(bench: Bench) -> object:
    """What is left in the end, without what is numbered anew each time."""
    kept = {
        key: {name: value for name, value in entry.items() if name not in ("metadata", "status")}
        for key, entry in bench.cluster.objects.items()
        if key[0] != "Pod" and not key[1].endswith("-plan")
    }
    return json.loads(json.dumps(sorted((list(key), value) for key, value in kept.items())))


def test_an_operator_that_ends_before_any_of_its_writes_goes_on_where_it_was() -> None:
    undisturbed = settled()
    undisturbed.cut(2, 3)
    already = len(undisturbed.cluster.writes)
    undisturbed.run()
    writes = len(undisturbed.cluster.writes) - already
    assert writes > 8
    for number in range(writes):
        bench = settled()
        bench.cut(2, 3)
        bench.run(ended_before_write=number)
        assert final(bench) == final(undisturbed), f"ended before write {number}"
        assert bench.epoch == 2


@pytest.mark.parametrize("after", range(0, 40, 3))
def test_a_plan_that_supersedes_an_unfinished_one_loses_no_request_either(after: int) -> None:
    bench = settled(seed=after)
    bench.cut(2, 3)
    for _ in range(after):
        bench.reconcile()
        bench.cluster.check_chains()
        bench.cluster.tick()
        bench.cluster.check_chains()
    bench.cut(3, 1)
    bench.run()
    assert bench.cluster.condition("Ready")["status"] == "True"
    assert bench.cluster.condition("Reconciling") is None
    assert len(names_of(bench.cluster, "ConfigMap", *TIERS)) == 6


def test_answers_that_differ_stop_a_move_and_leave_the_plan_before_in_force() -> None:
    bench = settled()
    before = {tier: bench.cluster.served(tier) for tier in TIERS}
    bench.cluster.verdict = BAD
    bench.cut(2, 3)
    bench.run()
    assert {tier: bench.cluster.served(tier) for tier in TIERS} == before
    assert bench.cluster.condition("Ready")["message"].startswith("epoch 1 ")
    assert (
        bench.status["decisions"][0]["decision"] == "Rollback" or bench.status["decisions"][1]["decision"] == "Rollback"
    )
    assert ("Warning", "AnswersDiffer") in {event[:2] for event in bench.told.events}
    assert sum(event[1] == "AnswersDiffer" for event in bench.told.events) == 1


def test_a_first_plan_whose_answers_differ_never_gets_ready() -> None:
    bench = Bench()
    bench.cut(2, 2)
    bench.cluster.verdict = BAD
    bench.run()
    assert bench.cluster.condition("Ready")["status"] == "False"
    assert bench.cluster.condition("Lossless")["status"] == "False"
    assert bench.cluster.condition("Stalled")["reason"] == "AnswersDiffer"
    assert not any(bench.cluster.served(tier) for tier in TIERS)


@pytest.mark.parametrize("broken", [Tier.EDGE, Tier.CLOUD])
def test_workers_that_never_run_are_given_up_after_the_deadline(broken: Tier) -> None:
    bench = settled()
    before = {tier: bench.cluster.served(tier) for tier in TIERS}
    bench.cluster.broken = {broken}
    bench.cut(2, 3)
    bench.run()
    assert bench.cluster.condition("Reconciling")["message"] == f"waits for the {broken}'s new worker"
    assert bench.cluster.condition("Ready")["status"] == "True"
    bench.now += DEADLINE + 1
    bench.run()
    assert {tier: bench.cluster.served(tier) for tier in TIERS} == before
    rolled_back = [entry for entry in bench.status["decisions"] if entry["decision"] == "Rollback"]
    assert len(rolled_back) == 1
    assert f"waits for the {broken}'s new worker" in rolled_back[0]["message"]


@pytest.mark.parametrize("after", range(0, 24, 4))
def test_a_lost_tier_is_planned_around_at_once_even_in_the_middle_of_a_move(after: int) -> None:
    bench = Bench(seed=after)
    bench.run()
    assert bench.layers["cloud"] > 0
    bench.figures.links = network(300, 200)
    for _ in range(after):
        bench.reconcile()
        bench.cluster.tick()
    bench.cluster.nodes_ready[Tier.CLOUD] = 0
    bench.cluster.stop(Tier.CLOUD)
    bench.run()
    assert bench.cluster.condition("Ready")["status"] == "True"
    assert bench.layers["cloud"] == 0
    bench.cluster.nodes_ready[Tier.CLOUD] = 1
    bench.cluster.broken.clear()
    bench.now += 60
    bench.run()
    assert bench.layers["cloud"] > 0


def test_another_image_replaces_one_tier_at_a_time_from_the_cloud_down() -> None:
    bench = settled()
    bench.release = Release(image="tierflow-worker:0.2.0", approves=True)
    order = []
    for _ in range(200):
        bench.reconcile()
        new = [
            tier
            for tier in TIERS
            if any(pod["spec"]["containers"][0]["image"].endswith("0.2.0") for pod in bench.cluster.pods(tier))
        ]
        rolling = [tier for tier in TIERS if len(list(bench.cluster.pods(tier))) > 1]
        assert len(rolling) <= 1
        order += [tier for tier in new if tier not in order]
        if not bench.cluster.tick():
            break
    assert order == [Tier.CLOUD, Tier.EDGE, Tier.DEVICE]
    assert bench.epoch == 1


def test_the_check_of_a_plan_that_leaves_a_tier_which_nobody_reaches_runs_elsewhere() -> None:
    bench = settled()
    bench.cluster.cut_off = {"cloud"}
    bench.figures.down = frozenset({(Tier.EDGE, Tier.CLOUD)})
    bench.cut(3, 3)
    bench.run()
    assert bench.epoch == 2
    assert bench.cluster.condition("Ready")["status"] == "True"


def test_a_pod_that_is_approved_is_told_so_a_few_times_until_it_is_ready() -> None:
    bench = settled()
    bench.cluster.writes.clear()
    bench.cut(3, 1)

    def told() -> int:
        return sum(write.startswith("annotate Pod small-edge-") for write in bench.cluster.writes)

    for _ in range(400):
        bench.reconcile()
        if told():
            break
        bench.cluster.tick()
    assert bench.reconcile() == NUDGE_SECONDS
    assert told() == 1
    for _ in range(10):
        bench.now += NUDGE_SECONDS
        bench.reconcile()
    assert told() == 5
    bench.run()
    assert bench.epoch == 2


@pytest.mark.parametrize(
    ("device_cloud", "runs_on"),
    [(0.5, "edge"), (300, "cloud")],
    ids=["slow from the device to the cloud", "fast"],
)
def test_a_check_is_made_where_what_it_asks_for_gets_soonest(device_cloud: float, runs_on: str) -> None:
    bench = settled()
    direct = Link(bytes_per_second=device_cloud * MEGABIT, round_trip_seconds=0.001)
    bench.figures.links = msgspec.structs.replace(network(300, 300), device_cloud=direct)
    bench.cluster.broken = {"device"}
    bench.cut(3, 1)
    bench.run()
    assert the_check(bench)["spec"]["nodeSelector"] == {"tierflow.dev/tier": runs_on}
    bench.cluster.broken = set()
    bench.run()
    assert bench.epoch == 2


def waiting_for_a_check_on_the_cloud(device: int, edge: int) -> tuple[Bench, Manifest]:
    """A pipeline on its way to another cut, and the pod of its check, which nobody reaches."""
    bench = settled()
    bench.cluster.cut_off = {"cloud"}
    bench.cut(device, edge)
    bench.run()
    (check,) = bench.cluster.pods("check")
    assert check["spec"]["nodeSelector"] == {"tierflow.dev/tier": "cloud"}
    return bench, check


def test_a_check_that_waits_for_a_tier_is_made_elsewhere_once_that_is_known_to_be_lost() -> None:
    bench, _ = waiting_for_a_check_on_the_cloud(3, 3)
    bench.cluster.nodes_ready[Tier.CLOUD] = 0
    bench.run()
    assert bench.epoch == 2
    assert not list(bench.cluster.pods("check"))
    assert bench.cluster.condition("Ready")["status"] == "True"


def test_a_check_whose_pod_is_being_deleted_is_made_again() -> None:
    bench, check = waiting_for_a_check_on_the_cloud(3, 1)
    check["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    bench.cluster.cut_off = set()
    bench.run()
    assert bench.epoch == 2
    assert bench.cluster.condition("Ready")["status"] == "True"


def the_check(bench: Bench) -> Manifest:
    (check,) = bench.cluster.pods("check")
    return check


def test_a_check_starts_beside_the_workers_and_is_told_of_them_once_they_run() -> None:
    bench = settled()
    bench.cluster.broken = {"edge"}
    bench.cut(3, 1)
    bench.run()
    assert not workers_told(the_check(bench))
    assert bench.cluster.condition("Reconciling")["message"].startswith("waits for the edge's new worker")
    assert f"annotate Pod {the_check(bench)['metadata']['name']}" not in bench.cluster.writes
    bench.cluster.broken = set()
    bench.run()
    assert bench.epoch == 2
    assert [write for write in bench.cluster.writes if write.startswith("annotate Pod small-check-")]


def test_a_check_that_does_not_end_is_told_of_its_workers_again_a_few_times() -> None:
    bench, check = waiting_for_a_check_on_the_cloud(3, 1)
    workers = workers_told(check)

    def told() -> int:
        return bench.cluster.writes.count(f"annotate Pod {check['metadata']['name']}")

    before = told()
    assert before >= 1
    bench.reconcile()
    assert told() == before  # not at once
    for _ in range(20):
        bench.now += 0.5
        bench.reconcile()
    assert told() == 5
    assert workers_told(the_check(bench)) == workers
    bench.cluster.cut_off = set()
    bench.run()
    assert bench.epoch == 2


def test_a_check_that_fails_before_its_workers_run_is_made_again_only_when_they_do() -> None:
    bench = settled()
    bench.cluster.broken = {"edge"}
    bench.cut(3, 1)
    bench.run()
    first = the_check(bench)
    ended = {"exitCode": 2, "message": json.dumps(BAD | {"message": "no model"})}
    first["status"] = {"phase": "Failed", "containerStatuses": [{"state": {"terminated": ended}}]}
    bench.run()
    assert the_check(bench) is first
    assert "the check could not be made yet: no model" in bench.cluster.condition("Reconciling")["message"]
    bench.cluster.broken = set()
    bench.run()
    assert bench.epoch == 2


def test_a_check_whose_workers_are_gone_is_made_again() -> None:
    bench, check = waiting_for_a_check_on_the_cloud(3, 1)
    told = workers_told(check)
    address = dict(told)[Tier.EDGE]
    (edge,) = [pod for pod in bench.cluster.pods("edge") if address.startswith(f"{pod['status']['podIP']}:")]
    del bench.cluster.objects["Pod", edge["metadata"]["name"]]
    bench.run()
    assert the_check(bench)["metadata"]["name"] != check["metadata"]["name"]
    assert workers_told(the_check(bench)) not in (frozenset(), told)
    bench.cluster.cut_off = set()
    bench.run()
    assert bench.epoch == 2


def test_an_image_that_does_not_run_stops_at_the_first_tier() -> None:
    bench = settled()
    bench.cluster.broken_images = {"broken:1"}
    bench.release = Release(image="broken:1", approves=True)
    bench.run()
    assert {tier: len(bench.cluster.served(tier)) for tier in TIERS} == dict.fromkeys(TIERS, 1)
    images = {tier: {pod["spec"]["containers"][0]["image"] for pod in bench.cluster.pods(tier)} for tier in TIERS}
    assert "broken:1" not in images[Tier.EDGE] | images[Tier.DEVICE]
    bench.release = Release(approves=True)
    bench.run()
    assert bench.cluster.condition("Reconciling") is None


def test_what_others_change_is_taken_back_and_what_others_add_is_left() -> None:
    bench = settled()
    edge = bench.cluster.objects["Deployment", "small-edge"]
    edge["spec"]["template"]["spec"]["nodeSelector"] = {"elsewhere": "yes"}
    edge["metadata"]["annotations"]["their/own"] = "kept"
    bench.run()
    template = bench.cluster.objects["Deployment", "small-edge"]["spec"]["template"]
    assert template["spec"]["nodeSelector"] == {"tierflow.dev/tier": "edge"}


def test_a_record_that_was_thrown_away_is_made_anew_without_disturbing_what_serves() -> None:
    bench = settled()
    before = generations(bench)
    del bench.cluster.objects["ConfigMap", "small-plan"]
    bench.run()
    assert changed(bench, before) == set()
    assert bench.cluster.condition("Ready")["status"] == "True"
