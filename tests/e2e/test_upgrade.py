"""The chart upgraded, uninstalled and installed again under pipelines that serve."""

import pytest

from kindbed.cluster import NAMESPACE, Cluster, run
from kindbed.pipelines import Pipeline
from kindbed.traffic import Load, Task

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]


def test_another_worker_image_goes_in_one_tier_at_a_time_while_requests_run(
    cluster: Cluster, resnet18: Pipeline, address: str, task: Task
) -> None:
    newer = "tierflow-worker:of-the-next-release"
    run("docker", "tag", cluster.worker_image, newer)
    cluster.load(newer, *(node for tier in ("device", "edge", "cloud") for node in cluster.nodes(tier)))

    def images() -> set[str]:
        deployments = cluster.objects("deployments", resnet18.label)
        pods = [entry["spec"]["template"]["spec"] for entry in deployments]
        return {pod["containers"][0]["image"] for pod in pods}

    with Load(address, resnet18.name, task) as load:
        cluster.configure(worker={"image": {"repository": "tierflow-worker", "tag": "of-the-next-release"}})
        cluster.wait_for("the new image everywhere", lambda: images() == {newer}, 120)
        resnet18.wait_settled(180)
        cluster.wait_for("one pod per tier", lambda: len(resnet18.pods("device")) == 1, 60)
    assert load.failed == []
    assert load.wrong == []


def test_without_the_operator_pipelines_stay_and_serve_and_a_new_release_takes_them_over(
    cluster: Cluster, resnet18: Pipeline, address: str, task: Task
) -> None:
    before = resnet18.still_footprints()
    with Load(address, resnet18.name, task) as load:
        cluster.helm("uninstall", "tierflow", "--namespace", NAMESPACE, "--wait")
        assert cluster.get("crd", "inferencepipelines.tierflow.dev")["metadata"]["name"]
        known = len(load.outcomes)
        cluster.wait_for("answers without an operator", lambda: len(load.outcomes) > known + 5, 60)
        cluster.upgrade()
        resnet18.wait_settled()
    assert load.failed == []
    assert resnet18.footprints() == before
