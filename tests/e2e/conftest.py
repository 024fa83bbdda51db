"""One kind cluster for all end-to-end tests; a test that fails shows what the cluster has to say."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from kindbed.cluster import BESIDE_THE_CONTROL_PLANE, ROOT, Cluster, CommandError
from kindbed.monitoring import URL, install
from kindbed.pipelines import Pipeline
from kindbed.shaping import slow_down
from kindbed.traffic import Task, open_node_port, task_of

_SPEEDS = {"device": 0.15, "edge": 0.4, "tiles": 0.4}
"""Of this machine's, for workers of a component."""
_STORY = pytest.StashKey[Cluster]()
_HERE = Path(__file__).parent
_ORDER = ("first_steps", "life", "models", "adaptation", "faults", "rights", "upgrade")
"""Of the modules: those that others build on come first, and uninstalling comes last."""


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    # Only who asks for them by name gets these tests, and with them a cluster.
    expression = config.option.markexpr
    return None if "e2e" in expression and "not e2e" not in expression else True


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> int:
        own = item.path.is_relative_to(_HERE)
        return _ORDER.index(item.path.stem.removeprefix("test_")) if own else -1

    items.sort(key=place)


@pytest.fixture(scope="session")
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """A cluster with Tierflow in it: `TIERFLOW_E2E_CLUSTER`'s if that is set, which stays; else a new one."""
    kept = os.environ.get("TIERFLOW_E2E_CLUSTER", "")
    cluster = Cluster(kept or "tierflow-e2e", ROOT / "build" / "e2e")
    if not kept:
        cluster.down()  # what a run that was cut short left, dead or alive
    try:
        cluster.up()
    except (CommandError, subprocess.TimeoutExpired) as error:
        story = cluster.story()
        if not kept:
            cluster.down()
        # Every test would wait for the same cluster, and say the same.
        pytest.exit(f"no cluster: {error}\n{story}", returncode=1)
    request.session.stash[_STORY] = cluster
    cluster.kubectl("delete", "ipl", "--all", "--all-namespaces")  # of an earlier run that kept the cluster
    yield cluster
    if not kept:
        cluster.down()


@pytest.fixture(scope="session")
def task() -> Task:
    """A request to ResNet-18, and the whole model's answer."""
    return task_of()


@pytest.fixture(scope="session")
def sample(cluster: Cluster) -> Pipeline:
    """samples/resnet18.yaml, as it is, in force."""
    pipeline = Pipeline(cluster)
    pipeline.apply()
    pipeline.wait_ready()
    return pipeline


@pytest.fixture
def resnet18(sample: Pipeline) -> Pipeline:
    """The sample with its own spec again, whatever the test before did to it."""
    sample.apply()
    sample.wait_settled(180)
    return sample


@pytest.fixture(scope="session")
def slow_tiers(cluster: Cluster) -> None:
    """Devices and edge nodes that are slower than the cloud."""
    slow_down(cluster, _SPEEDS)


@pytest.fixture(scope="session")
def monitored(cluster: Cluster, sample: Pipeline, slow_tiers: None) -> Pipeline:
    """The sample with its own spec, and with a Prometheus that measures its workers on tiers of different speed."""
    install(cluster, os.environ.get("BASE_IMAGE", "python:3.11-slim-bookworm"), dict(BESIDE_THE_CONTROL_PLANE))
    cluster.configure(prometheus={"url": URL})
    sample.delete()  # so that all its workers are made anew, and slow
    sample.apply()
    sample.wait_ready()
    cluster.wait_for("measurements", lambda: sample.condition("MetricsAvailable").get("status") == "True", 120)
    return sample


@pytest.fixture(scope="session")
def address(cluster: Cluster, sample: Pipeline) -> str:
    """Where this machine reaches the sample by gRPC."""
    return open_node_port(cluster, sample.name)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    cluster = item.session.stash.get(_STORY, None)
    if report.failed and cluster is not None:
        report.sections.append(("cluster", cluster.story()))
    return report
