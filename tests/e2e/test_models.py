"""Models that aren't made but read, from a real server in the cluster."""

import hashlib
from pathlib import Path

import pytest

from kindbed.cluster import Cluster
from kindbed.model_server import operator_values, serve
from kindbed.pipelines import Pipeline
from kindbed.requests_made import lease_renewals, writes
from kindbed.traffic import Task, ask_from_a_pod
from tierflow.model import open_model
from tierflow.model.extract import whole_model
from tierflow_worker.verification import TOLERANCE

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

_NAMESPACE = "models"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ResNet-18 as a file."""
    path = tmp_path_factory.mktemp("model") / "resnet18.onnx"
    whole_model(open_model("zoo://resnet18"), path)
    return path


@pytest.fixture(scope="module")
def addresses(cluster: Cluster, model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Where the file is, by scheme; operator and workers are able to read it there."""
    cluster.load(cluster.worker_image, cluster.control_plane)
    folder = tmp_path_factory.mktemp("served")
    served = serve(cluster, model, cluster.worker_image, folder)
    cluster.configure(**operator_values(folder))
    return served


@pytest.mark.parametrize("scheme", ["https", "http", "s3"])
def test_a_model_is_read_from_its_server(
    cluster: Cluster, addresses: dict[str, str], model: Path, task: Task, scheme: str
) -> None:
    pipeline = Pipeline(cluster, f"from-{scheme}", _NAMESPACE)
    pipeline.apply(model={"uri": addresses[scheme], "sha256": hashlib.sha256(model.read_bytes()).hexdigest()})
    pipeline.wait_ready()
    answer = ask_from_a_pod(cluster, pipeline.name, "zoo://resnet18", cluster.worker_image, _NAMESPACE)
    assert task.difference(answer) <= TOLERANCE
    pipeline.delete()


@pytest.mark.parametrize(
    ("change", "told"),
    [({"sha256": "0" * 64}, "SHA-256"), ({"uri": "https://models.models.svc:8443/bucket/other.onnx"}, "other.onnx")],
    ids=["another file", "no file"],
)
def test_a_model_that_cannot_be_used_is_told_by_a_condition(
    cluster: Cluster, addresses: dict[str, str], change: dict[str, str], told: str
) -> None:
    pipeline = Pipeline(cluster, f"unreadable-{len(change.get('sha256', ''))}", _NAMESPACE)
    pipeline.apply(model={"uri": addresses["https"], **change})
    cluster.wait_for("a reason", lambda: told in pipeline.condition("Ready").get("message", ""), 90)
    assert pipeline.condition("Ready")["status"] == "False"
    before = len(cluster.audit())
    cluster.wait_for("a quarter of a minute", lambda: lease_renewals(cluster.audit()[before:]) > 5, 60)
    # It is tried again now and then, and told again where something changed; no more than that.
    assert len(writes(cluster.audit()[before:])) <= 2
    pipeline.delete()
