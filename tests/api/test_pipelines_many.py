"""Many pipelines at once, pipelines with odd names and values, and several operators."""

from collections.abc import Callable
from pathlib import Path

import pytest

from testbed.control_plane import ControlPlane
from testbed.kubelet import Behaviour
from testbed.nodes import Nodes
from testbed.operator_process import OperatorProcess
from testbed.process import wait_for
from testbed.rest import ApiServer
from testbed.served_pipeline import ServedPipeline

Operate = Callable[..., OperatorProcess]

PIPELINES = 50
ROUNDS = "tierflow_operator_reconcile_seconds_count"


@pytest.fixture(autouse=True)
def the_nodes(nodes: Nodes) -> Nodes:
    """One node of each tier."""
    nodes.add_all()
    return nodes


@pytest.mark.timeout(1200)
def test_fifty_pipelines_at_once_are_served_and_rest(
    operate: Operate, api: ApiServer, namespace: str, kubelet: Behaviour
) -> None:
    del kubelet
    operator = operate("--resync-seconds", "86400")
    everyone = [ServedPipeline(api, namespace, f"camera-{number}") for number in range(PIPELINES)]
    for one in everyone:
        one.create(model={"uri": "zoo://alexnet"})
    for one in everyone:
        one.wait_settled(epoch=1, seconds=600)
    # What the last events make due is through once nothing was visited for a while that would have been: a new visit.
    operator.stop()
    rested = operate("--resync-seconds", "5")
    wait_for("a visit to each", lambda: sum(rested.metric(ROUNDS).values()) >= 2 * PIPELINES, seconds=300)
    assert sum(rested.writes().values()) == 0
    for one in everyone[::2]:
        one.delete()
    for one in everyone[::2]:
        wait_for(f"the end of {one.name}", one.is_gone, seconds=300)
    assert all(one.is_settled() for one in everyone[1::2])


ODD_NAMES = ["a", "a" * 56, "x-device", "tierflow", "b-check-0123456789", "b-plan", "kube-root-ca"]


def test_pipelines_of_odd_names_are_served_and_leave_nothing(
    operate: Operate, api: ApiServer, namespace: str, kubelet: Behaviour
) -> None:
    del kubelet
    operate()
    everyone = [ServedPipeline(api, namespace, name).create() for name in ODD_NAMES]
    for one in everyone:
        one.wait_settled(epoch=1)
        for kind in ("Service", "Deployment", "Pod", "ConfigMap"):
            for owned in one.owned(kind).values():
                assert all(len(value) <= 63 for value in owned["metadata"]["labels"].values())
        one.delete()
    for one in everyone:
        wait_for(f"nothing of {one.name} to be left", one.is_gone, seconds=200)


ODD_LAYERS = [
    "größe/relu",
    'a"b',
    "a'b; rm -rf /",
    "`$(reboot)`",
    "{{ .Values }}",
    "line\nbreak",
    "null\\u0000",
    "\u202eright to left",
    "x" * 1024,
]


def test_a_pin_on_a_layer_of_an_odd_name_is_refused_in_a_condition_that_names_it(
    operate: Operate, api: ApiServer, namespace: str, kubelet: Behaviour
) -> None:
    del kubelet
    operator = operate()
    everyone = [ServedPipeline(api, namespace, f"odd-{number}") for number in range(len(ODD_LAYERS))]
    for number, (layer, one) in enumerate(zip(ODD_LAYERS, everyone, strict=True)):
        one.create(planning={"pins": [{"name": f"pin-{number}", "layersUpTo": layer, "tier": "device"}]})
    for number, one in enumerate(everyone):
        assert f"pin-{number}" in one.wait_condition("PlanFeasible", status="False")["message"]
    for one in everyone:
        one.edit(planning={"pins": []})
    for one in everyone:
        one.wait_settled(epoch=1)
    assert operator.exit_code is None


def test_odd_annotations_end_in_a_condition_that_names_them(operate: Operate, served: ServedPipeline) -> None:
    operate()
    served.create(annotations={"tierflow.dev/network": '"}]; drop table links', "tierflow.dev/edge-workers": "-1"})
    stalled = served.wait_condition("Stalled")
    assert "metadata.annotations[tierflow.dev/network]" in stalled["message"]
    annotations = {"tierflow.dev/network": "wifi", "tierflow.dev/edge-workers": None}
    served.api.patch(served.path, {"metadata": {"annotations": annotations}})
    served.wait_settled(epoch=1)


def test_of_two_operators_one_works_and_the_other_finishes_its_move_when_it_dies(
    control_plane: ControlPlane, served: ServedPipeline, kubelet: Behaviour, tmp_path: Path
) -> None:
    flags = ("--namespace", served.namespace, "--lease-namespace", served.namespace, "--lease-seconds", "3")
    both = [OperatorProcess(control_plane.kubeconfig, tmp_path, *flags) for _ in range(2)]
    try:
        for operator in both:
            operator.wait_until_ready()
        kubelet.verdict = lambda _: None
        served.create()
        served.wait_condition("Reconciling", reason="Checking")
        leader, other = sorted(both, key=lambda operator: sum(operator.writes().values()), reverse=True)
        assert sum(other.writes().values()) == 0
        leader.kill()
        kubelet.verdict = Behaviour().verdict
        served.wait_settled(epoch=1)
        assert [entry["epoch"] for entry in served.status["decisions"]] == [1]
        assert other.exit_code is None
    finally:
        for operator in both:
            operator.kill()
            print(f"--- {operator.name}", operator.last_words(), sep="\n")
