"""A pipeline's whole life by an operator that has the rights of the chart and no others."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest
import yaml

from testbed.binaries import ensure
from testbed.control_plane import ControlPlane
from testbed.kubelet import MISMATCH, Behaviour
from testbed.nodes import Nodes
from testbed.operator_process import OperatorProcess
from testbed.process import wait_for
from testbed.rest import Manifest
from testbed.served_pipeline import ServedPipeline

Operate = Callable[..., OperatorProcess]

CHART: Final = Path(__file__).parents[2] / "charts" / "tierflow"
RIGHTS: Final = ("ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding")


def rights(namespace: str, *watched: str) -> list[Manifest]:
    """What the chart renders for the operator's rights, in names of this test alone."""
    values = [f"watchNamespaces={{{','.join(watched)}}}"] if watched else []
    command = [ensure("helm")["helm"], "template", namespace, CHART, "--namespace", namespace]
    rendered = subprocess.run(
        [*command, "--set", "leaderElection.enabled=true", *(part for value in values for part in ("--set", value))],
        capture_output=True,
        text=True,
        check=True,
    )
    return [manifest for manifest in yaml.safe_load_all(rendered.stdout) if manifest and manifest["kind"] in RIGHTS]


@pytest.fixture
def grant(control_plane: ControlPlane, namespace: str) -> Iterator[Callable[[list[Manifest]], Path]]:
    """Applies rights, and takes back those of the whole cluster; the kubeconfig of the account that has them."""
    granted: list[Manifest] = []

    def give(manifests: list[Manifest]) -> Path:
        granted.extend(manifests)
        control_plane.kubectl("apply", "-n", namespace, "-f", "-", given=yaml.safe_dump_all(manifests))
        (account,) = [entry["metadata"]["name"] for entry in manifests if entry["kind"] == "ServiceAccount"]
        return control_plane.kubeconfig_for(namespace, account)

    yield give
    for manifest in granted:
        if manifest["kind"].startswith("Cluster"):
            control_plane.kubectl("delete", manifest["kind"], manifest["metadata"]["name"], check=False)


@pytest.mark.parametrize("everywhere", [True, False], ids=["all namespaces", "one namespace"])
def test_the_rights_of_the_chart_suffice_for_a_pipelines_whole_life(
    grant: Callable[[list[Manifest]], Path],
    control_plane: ControlPlane,
    served: ServedPipeline,
    kubelet: Behaviour,
    nodes: Nodes,
    tmp_path: Path,
    everywhere: bool,
) -> None:
    nodes.add_all(edge=2)
    own = served.namespace
    manifests = rights(own) if everywhere else rights(own, own)
    kubeconfig = grant(manifests)
    (lease,) = {
        name for entry in manifests for rule in entry.get("rules", []) for name in rule.get("resourceNames", [])
    }
    flags = ("--lease-namespace", own, "--lease-name", lease, *(() if everywhere else ("--namespace", own)))
    operator = OperatorProcess(kubeconfig, tmp_path, *flags)
    try:
        operator.wait_until_ready()
        served.create()
        served.wait_settled(epoch=1)
        served.cut("maxpool", "layer3.0/relu")
        served.wait_settled(epoch=2)
        kubelet.verdict = lambda _: dict(MISMATCH)
        served.cut("layer1.0/relu", "layer3.0/relu")
        served.wait_given_up()
        events = control_plane.api.items(f"/apis/events.k8s.io/v1/namespaces/{own}/events")
        assert any(entry["regarding"]["kind"] == "InferencePipeline" for entry in events)
        served.delete()
        wait_for("nothing of it to be left", served.is_gone, seconds=200)
        # What other tests left in namespaces that are going away is refused, rights or no rights.
        own_lines = [line for line in operator.lines if line.get("namespace", own) == own]
        assert not [line for line in own_lines if "forbidden" in line["event"]]
    finally:
        operator.kill()
        print(operator.last_words(100))


@pytest.mark.parametrize(
    ("verb", "resource"),
    [
        ("get", "secrets"),
        ("list", "secrets"),
        ("update", "inferencepipelines"),
        ("patch", "inferencepipelines"),
        ("delete", "inferencepipelines"),
        ("patch", "nodes"),
        ("create", "pods/exec"),
        ("create", "serviceaccounts/token"),
        ("create", "rolebindings.rbac.authorization.k8s.io"),
        ("delete", "namespaces"),
    ],
)
def test_an_operator_may_not_do_what_it_has_no_business_with(
    grant: Callable[[list[Manifest]], Path], control_plane: ControlPlane, namespace: str, verb: str, resource: str
) -> None:
    kubeconfig = grant(rights(namespace))
    resource, _, subresource = resource.partition("/")
    flags = (f"--subresource={subresource}", f"--kubeconfig={kubeconfig}", "-n", namespace)
    said = control_plane.kubectl("auth", "can-i", verb, resource, *flags, check=False)
    assert "yes" not in said.splitlines()
    assert "no" in said.splitlines()
