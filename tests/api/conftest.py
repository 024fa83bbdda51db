"""A real control plane for the tests of this folder: its servers start once, each test has a namespace of its own.

The binaries are found or built before the first test runs (`tests/testbed/binaries.py`). Where that is impossible, the
tests fail and say what is missing, unless TIERFLOW_SKIP_API_TESTS=1 says that they are not wanted.
"""

import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from testbed.binaries import CONTROL_PLANE, MissingBinaryError, ensure
from testbed.control_plane import ControlPlane
from testbed.kubelet import Behaviour, Kubelet
from testbed.nodes import Nodes
from testbed.operator_process import OperatorProcess
from testbed.rest import ApiServer
from testbed.served_pipeline import ServedPipeline

CRD_FILE: Final = Path(__file__).parents[2] / "crds" / "tierflow.dev_inferencepipelines.yaml"
_HERE: Final = Path(__file__).parent
_SKIP: Final = "TIERFLOW_SKIP_API_TESTS"
_NEEDS_HELM: Final = "test_pipelines_rights.py"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(_HERE):
            item.add_marker(pytest.mark.slow)
            if os.environ.get(_SKIP) == "1":
                item.add_marker(pytest.mark.skip(reason=f"{_SKIP}=1"))


def pytest_collection_finish(session: pytest.Session) -> None:
    # Here and not in a fixture: a first build takes longer than a test may.
    files = {item.path.name for item in session.items if item.path.is_relative_to(_HERE)}
    if files and os.environ.get(_SKIP) != "1" and not session.config.option.collectonly:
        try:
            ensure(*CONTROL_PLANE, *(("helm",) if _NEEDS_HELM in files else ()))
        except MissingBinaryError as error:
            session.config.stash[_MISSING] = str(error)


_MISSING: Final = pytest.StashKey[str]()


@pytest.fixture(scope="session")
def control_plane(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A control plane that knows InferencePipelines."""
    if _MISSING in request.config.stash:
        pytest.fail(f"{request.config.stash[_MISSING]}; or set {_SKIP}=1 to do without these tests", pytrace=False)
    with ControlPlane(tmp_path_factory.mktemp("control-plane")) as started:
        started.define(CRD_FILE.read_text())
        started.start_controllers()
        yield started
        print(started.logs())


@pytest.fixture
def api(control_plane: ControlPlane) -> ApiServer:
    """The control plane's API as cluster administrator."""
    return control_plane.api


@pytest.fixture
def namespace(control_plane: ControlPlane) -> Iterator[str]:
    """The name of a fresh namespace, which is deleted afterwards without waiting for its end."""
    name = f"test-{uuid.uuid4().hex[:8]}"
    control_plane.api.create("/api/v1/namespaces", {"metadata": {"name": name}})
    yield name
    control_plane.api.delete(f"/api/v1/namespaces/{name}")


@pytest.fixture
def nodes(control_plane: ControlPlane) -> Iterator[Nodes]:
    """Makes nodes, which are removed afterwards."""
    made = Nodes(control_plane.api, f"node-{uuid.uuid4().hex[:6]}")
    yield made
    made.remove_all()


@pytest.fixture(scope="session")
def every_kubelet(control_plane: ControlPlane) -> Iterator[Kubelet]:
    """The kubelet of all nodes."""
    kubelet = Kubelet(control_plane.api)
    yield kubelet
    kubelet.stop()


@pytest.fixture
def kubelet(every_kubelet: Kubelet, namespace: str) -> Behaviour:
    """Runs the pods of the test's namespace; the test changes how."""
    return every_kubelet.behave(namespace)


Operate = Callable[..., OperatorProcess]


@pytest.fixture
def operate(control_plane: ControlPlane, namespace: str, tmp_path: Path) -> Iterator[Operate]:
    """Starts an operator that serves the test's namespace alone; its log is shown where the test fails."""
    started: list[OperatorProcess] = []

    def begin(*flags: str, kubeconfig: Path = control_plane.kubeconfig) -> OperatorProcess:
        operator = OperatorProcess(kubeconfig, tmp_path, "--namespace", namespace, "--no-leader-elect", *flags)
        started.append(operator)
        operator.wait_until_ready()
        return operator

    yield begin
    for operator in started:
        operator.kill()
        print(f"--- {operator.name}", operator.last_words(100), sep="\n")


@pytest.fixture
def served(api: ApiServer, namespace: str, kubelet: Behaviour) -> ServedPipeline:
    """The pipeline `small` of the test's namespace, whose pods run."""
    del kubelet  # plays its part behind the scenes
    return ServedPipeline(api, namespace)
