"""What a new user does first: apply the sample, wait, ask."""

import pytest

from kindbed.cluster import Cluster
from kindbed.pipelines import SAMPLE, Pipeline
from kindbed.traffic import HostClient, Task, ask_from_a_pod
from tierflow_worker.verification import TOLERANCE

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]


def test_the_sample_gets_ready_after_apply_and_wait(cluster: Cluster) -> None:
    cluster.kubectl("apply", "-f", str(SAMPLE))
    said = cluster.kubectl("wait", "ipl/resnet18", "--for=condition=Ready", "--timeout=180s", seconds=190)
    assert "condition met" in said
    pipeline = Pipeline(cluster)
    assert pipeline.condition("Lossless")["status"] == "True"
    assert pipeline.condition("PlanFeasible")["status"] == "True"


def test_device_edge_and_cloud_run_on_nodes_of_their_tier(cluster: Cluster, resnet18: Pipeline) -> None:
    for tier in ("device", "edge", "cloud"):
        nodes = resnet18.nodes_of(tier)
        assert nodes
        assert nodes <= set(cluster.nodes(tier))
    assert all(layers > 0 for layers in resnet18.layers().values())


def test_a_standard_client_outside_gets_the_whole_models_answer(address: str, resnet18: Pipeline, task: Task) -> None:
    client = HostClient(address, resnet18.name, task)
    outcome = client.ask()
    client.close()
    assert outcome.error == ""
    assert outcome.difference <= TOLERANCE


def test_a_pod_inside_gets_the_whole_models_answer(cluster: Cluster, resnet18: Pipeline, task: Task) -> None:
    image = resnet18.pods("device")[0]["spec"]["containers"][0]["image"]
    answer = ask_from_a_pod(cluster, resnet18.name, "zoo://resnet18", image)
    assert task.difference(answer) <= TOLERANCE


def test_a_list_of_pipelines_shows_how_they_stand(cluster: Cluster, resnet18: Pipeline) -> None:
    header, row = cluster.kubectl("get", "ipl", resnet18.name).splitlines()
    shown = dict(zip(header.split(), row.split(), strict=False))
    layers = resnet18.layers()
    assert shown["READY"] == "True"
    assert [int(shown[tier.upper()]) for tier in ("device", "edge", "cloud")] == [
        layers[tier] for tier in ("device", "edge", "cloud")
    ]
