"""Moves from plan to plan on a real API server: their order, what stops or supersedes them, and a killed operator."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from testbed.api_proxy import ApiProxy, Refusal, Write
from testbed.control_plane import ControlPlane
from testbed.kubelet import MISMATCH, Behaviour
from testbed.nodes import Nodes
from testbed.operator_process import OperatorProcess
from testbed.pipelines import tiers
from testbed.process import wait_for
from testbed.rest import Manifest
from testbed.served_pipeline import ServedPipeline
from testbed.watched import Watched

Operate = Callable[..., OperatorProcess]
Cut = tuple[str, str]

EARLY: Cut = ("maxpool", "layer2.0/relu")
LATE: Cut = ("maxpool", "layer3.0/relu")
LOWER: Cut = ("layer1.0/relu", "layer3.1/relu")
UNTILED = {"tiers": tiers(edge={"tiling": {"mode": "Off"}})}


@pytest.fixture(autouse=True)
def the_nodes(nodes: Nodes) -> Nodes:
    """One node of each tier."""
    nodes.add_all()
    return nodes


def manual(cut: Cut) -> Manifest:
    """The planning that asks for a cut."""
    return {"mode": "Manual", "manual": {"deviceLastLayer": cut[0], "edgeLastLayer": cut[1]}}


def descriptor_of(pod: Manifest) -> str:
    """The ConfigMap with the descriptor that a worker serves; "" for another pod."""
    mounted = {entry["name"]: entry["configMap"]["name"] for entry in pod["spec"]["volumes"] if "configMap" in entry}
    return str(mounted.get("descriptor", ""))


def newer_than(served: ServedPipeline) -> Callable[[Manifest], bool]:
    """Tells pods that are not of the workers that there are now."""
    present = {pod["metadata"]["uid"] for pod in served.owned("Pod").values()}
    return lambda pod: pod["metadata"]["uid"] not in present


def test_new_workers_take_over_from_the_cloud_down_and_only_after_the_check(
    operate: Operate, served: ServedPipeline
) -> None:
    operate()
    served.create(planning=manual(EARLY), **UNTILED)
    served.wait_settled(epoch=1)
    old = {pod["metadata"]["name"] for pod in served.owned("Pod").values()}
    pods = Watched(served.api, f"/api/v1/namespaces/{served.namespace}/pods")
    approvals = Watched(served.api, f"/api/v1/namespaces/{served.namespace}/configmaps")
    for watched in (pods, approvals):
        watched.wait_listed()
    served.cut(*LOWER)
    served.wait_settled(epoch=2)

    def first(component: str, condition: Callable[[Manifest], bool]) -> int:
        """The version at which a new pod of the component first met the condition."""
        return min(
            int(pod["metadata"]["resourceVersion"])
            for _, pod in pods.events
            if pod["metadata"]["labels"]["app.kubernetes.io/component"] == component
            and pod["metadata"]["name"] not in old
            and condition(pod)
        )

    def is_ready(pod: Manifest) -> bool:
        conditions = pod["status"].get("conditions", [])
        return any(entry["type"] == "Ready" and entry["status"] == "True" for entry in conditions)

    def runs(pod: Manifest) -> bool:
        return bool(pod["status"].get("podIP"))

    def approved(tier: str) -> int:
        return min(
            int(item["metadata"]["resourceVersion"])
            for kind, item in approvals.events
            if kind == "ADDED"
            and item["metadata"]["name"].startswith(f"small-{tier}-")
            and item["metadata"]["name"].endswith("-approved")
        )

    checked = first("check", lambda pod: pod["status"].get("phase") == "Succeeded")
    assert max(first(tier, runs) for tier in ("device", "edge", "cloud")) < checked
    order = [
        checked,
        *(step for tier in ("cloud", "edge", "device") for step in (approved(tier), first(tier, is_ready))),
    ]
    assert order == sorted(order)


def test_a_mismatch_of_the_answers_stops_a_move_and_leaves_the_plan_in_force(
    operate: Operate, served: ServedPipeline, kubelet: Behaviour
) -> None:
    operate()
    served.create(planning=manual(EARLY), **UNTILED)
    served.wait_settled(epoch=1)
    serving = set(served.owned("Pod"))
    segments = served.status["plan"]["segments"]
    ready = Watched(served.api, f"/api/v1/namespaces/{served.namespace}/configmaps")
    ready.wait_listed()
    kubelet.verdict = lambda _: dict(MISMATCH)
    served.cut(*LATE)
    decision = served.wait_given_up()
    wait_for("the old workers alone", lambda: set(served.owned("Pod")) == serving, seconds=120)
    assert decision["reason"] == "AnswersDiffer"
    assert "the cloud's answer differs by 0.5" in decision["message"]
    assert served.status["plan"]["segments"] == segments
    assert served.condition("Ready")["status"] == "True"
    new = [item for kind, item in ready.events if kind == "ADDED" and item["metadata"]["name"].endswith("-approved")]
    assert new == []


def test_a_first_plan_whose_answers_differ_never_gets_ready_and_says_why(
    operate: Operate, served: ServedPipeline, kubelet: Behaviour
) -> None:
    operate()
    kubelet.verdict = lambda _: dict(MISMATCH)
    served.create(**UNTILED)
    stalled = served.wait_condition("Stalled")
    assert stalled["reason"] == "AnswersDiffer"
    assert "the cloud's answer differs by 0.5" in stalled["message"]
    assert served.condition("Ready")["status"] == "False"
    assert served.condition("Lossless")["status"] == "False"
    assert not any(name.endswith("-approved") and "device" in name for name in served.owned("ConfigMap"))


def test_a_check_that_says_nothing_is_made_again(operate: Operate, served: ServedPipeline, kubelet: Behaviour) -> None:
    operate()
    tries = itertools.count()

    def verdict(_: Manifest) -> dict[str, object]:
        return {} if next(tries) < 2 else {"holds": True, "bitIdentical": True, "largestRelativeDifference": 0.0}

    kubelet.verdict = verdict
    kubelet.exit_code = lambda said: 0 if said else 137
    served.create(**UNTILED)
    served.wait_settled(epoch=1)
    assert next(tries) >= 2


def test_a_move_whose_workers_never_start_is_given_up_after_the_deadline(
    operate: Operate, served: ServedPipeline, kubelet: Behaviour
) -> None:
    operate()
    served.create(planning=manual(EARLY), rollout={"progressDeadlineSeconds": 3}, **UNTILED)
    served.wait_settled(epoch=1)
    serving = set(served.owned("Pod"))
    is_new = newer_than(served)
    kubelet.runs = lambda pod: not is_new(pod)
    served.cut(*LATE)
    decision = served.wait_given_up()
    wait_for("the old workers alone", lambda: set(served.owned("Pod")) == serving, seconds=120)
    assert decision["reason"] == "ProgressDeadlineExceeded"
    assert "after 3 s" in decision["message"]
    assert "epoch 2 was given up, epoch 1 stays" in decision["message"]
    assert served.condition("Ready")["status"] == "True"


def test_a_move_that_stops_between_two_tiers_is_given_up_and_undone(
    operate: Operate, served: ServedPipeline, kubelet: Behaviour
) -> None:
    operate()
    served.create(planning=manual(EARLY), rollout={"progressDeadlineSeconds": 5}, **UNTILED)
    served.wait_settled(epoch=1)
    segments = served.status["plan"]["segments"]
    is_new = newer_than(served)
    # The cloud switches, the edge's new worker runs and answers the check, but never gets ready.
    broken: list[str] = []

    def gets_ready(pod: Manifest) -> bool:
        is_edge = pod["metadata"]["labels"]["app.kubernetes.io/component"] == "edge"
        if is_edge and is_new(pod) and not broken:
            broken.append(descriptor_of(pod))
        return not is_edge or descriptor_of(pod) not in broken

    kubelet.gets_ready = gets_ready
    served.cut(*LATE)
    assert served.wait_given_up()["reason"] == "ProgressDeadlineExceeded"

    def is_undone() -> bool:
        return served.status["plan"]["segments"] == segments and not served.condition("Reconciling")

    wait_for("the plan before it to be in force again", is_undone, seconds=120)
    assert served.condition("Ready")["status"] == "True"
    assert broken
    assert all(descriptor_of(pod) not in broken for pod in served.owned("Pod").values())


@pytest.mark.parametrize("stage", ["Expanding", "Checking", "Switching"])
def test_a_change_in_the_middle_of_a_move_is_followed(
    operate: Operate, served: ServedPipeline, kubelet: Behaviour, stage: str
) -> None:
    operate()
    served.create(planning=manual(EARLY), **UNTILED)
    served.wait_settled(epoch=1)
    is_new = newer_than(served)
    if stage == "Expanding":
        kubelet.runs = lambda pod: not is_new(pod)
    elif stage == "Checking":
        kubelet.verdict = lambda _: None
    else:
        kubelet.gets_ready = lambda pod: (
            not is_new(pod) or pod["metadata"]["labels"]["app.kubernetes.io/component"] == "cloud"
        )
    served.cut(*LATE)
    served.wait_condition("Reconciling", reason=stage)
    if stage == "Switching":
        wait_for("the cloud to have switched", lambda: served.deployment("cloud")["status"].get("updatedReplicas"))
    served.cut(*LOWER)
    wait_for("the change to be seen", lambda: served.status["observedGeneration"] == 3)
    fresh = Behaviour()
    kubelet.runs, kubelet.gets_ready, kubelet.verdict = fresh.runs, fresh.gets_ready, fresh.verdict

    def is_followed() -> bool:
        last = {segment["tier"]: segment.get("lastLayer") for segment in served.status["plan"]["segments"]}
        return (last["device"], last["edge"]) == LOWER

    wait_for("the last cut to be in force", is_followed, seconds=120)
    served.wait_settled()


@pytest.fixture
def proxy(control_plane: ControlPlane) -> Iterator[ApiProxy]:
    """Between the operator and the API server."""
    standing = ApiProxy(control_plane)
    yield standing
    standing.stop()


class Killer:
    """Kills an operator right before a write, and has another one go on.

    Events don't count: they are news, and nothing depends on them.

    Args:
        proxy: What the operators write through.
        start: Starts an operator.
    """

    def __init__(self, proxy: ApiProxy, start: Callable[[], OperatorProcess]) -> None:
        self._start = start
        self._operator = start()
        self._at: int | None = None
        self._done = 0
        self.kills: list[Write] = []
        proxy.judge = self._judge

    def kill_before(self, number: int) -> None:
        """Kills the operator before the write that comes `number` writes from now, the next one being 0."""
        self._at = self._done + number

    def revive(self) -> bool:
        """Starts another operator where the last one was killed; whether it did."""
        if self._operator.exit_code is None:
            return False
        self._operator = self._start()
        return True

    def _judge(self, write: Write) -> Refusal | None:
        if self._operator.exit_code is not None:
            return Refusal(0)  # sent by one that is dead: it never reached the server
        if "/events" in write.path:
            return None
        if self._at is not None and self._done >= self._at:
            self._at = None
            self._operator.kill()
            self.kills.append(write)
            return Refusal(0)
        self._done += 1
        return None


@pytest.fixture
def killer(proxy: ApiProxy, namespace: str, tmp_path: Path) -> Iterator[Killer]:
    """Kills operators of the test's namespace."""
    started: list[OperatorProcess] = []

    def start() -> OperatorProcess:
        flags = ("--namespace", namespace, "--no-leader-elect")
        started.append(OperatorProcess(proxy.kubeconfig, tmp_path, *flags))
        return started[-1]

    yield Killer(proxy, start)
    for operator in started:
        operator.kill()
    print(*(f"--- {operator.name}\n{operator.last_words(40)}" for operator in started[-3:]), sep="\n")


@pytest.mark.timeout(1200)
def test_an_operator_that_is_killed_before_every_single_write_still_gets_there(
    killer: Killer, served: ServedPipeline
) -> None:
    killer.kill_before(0)
    served.create(planning=manual(EARLY), **UNTILED)
    for _ in range(200):
        wait_for("the end of the operator or of the move", lambda: killer.revive() or served.is_settled(), seconds=120)
        if served.is_settled():
            break
        killer.kill_before(1)  # each operator does one write
    served.wait_settled(epoch=1)
    assert len(killer.kills) > 15


@pytest.mark.timeout(1800)
def test_an_operator_that_is_killed_before_any_write_of_a_move_leaves_the_same_in_the_end(
    killer: Killer, served: ServedPipeline
) -> None:
    served.create(planning=manual(EARLY), **UNTILED)
    served.wait_settled(epoch=1)
    expected: dict[Cut, Manifest] = {}
    cuts = itertools.cycle([LATE, EARLY])
    for cut in (next(cuts), next(cuts)):
        served.cut(*cut)
        served.wait_settled()
        expected[cut] = served.final_state()
    for number in itertools.count():
        cut, kills = next(cuts), len(killer.kills)
        killer.kill_before(number)
        generation = served.cut(*cut)

        def has_arrived(generation: int = generation) -> bool:
            killer.revive()
            return served.status.get("observedGeneration") == generation and served.is_settled()

        wait_for(f"the move with the operator killed before its write {number}", has_arrived, seconds=180)
        served.wait_settled()
        assert served.final_state() == expected[cut], f"killed before write {number}: {killer.kills[kills:]}"
        if len(killer.kills) == kills:
            break  # the move had no more writes than these
    assert number > 10
