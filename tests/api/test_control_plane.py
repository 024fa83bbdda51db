"""The test bed itself: what the tests of this folder stand on is a real cluster, as far as they rely on it."""

from testbed.control_plane import ControlPlane
from testbed.kubelet import Behaviour
from testbed.nodes import Nodes
from testbed.process import wait_for
from testbed.rest import ApiServer, Manifest


def deployment(name: str) -> Manifest:
    """A Deployment of one pod that mounts an optional approval."""
    labels = {"app": name}
    source = {"name": "first-approved", "optional": True}
    container = {"name": "main", "image": "nowhere/nothing:1"}
    return {
        "metadata": {"name": name},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [container], "volumes": [{"name": "approval", "configMap": source}]},
            },
        },
    }


def test_a_deployment_rolls_out_once_its_pods_are_approved(
    api: ApiServer, namespace: str, nodes: Nodes, kubelet: Behaviour
) -> None:
    nodes.add("edge")
    deployments = f"/apis/apps/v1/namespaces/{namespace}/deployments"
    pods = f"/api/v1/namespaces/{namespace}/pods"
    wait_for(
        "the namespace's ServiceAccount",
        lambda: api.find(f"/api/v1/namespaces/{namespace}/serviceaccounts/default"),
    )
    api.create(deployments, deployment("web"))
    wait_for("a running pod", lambda: any(pod["status"].get("podIP") for pod in api.items(pods)))
    assert not api.get(f"{deployments}/web")["status"].get("readyReplicas")
    api.create(f"/api/v1/namespaces/{namespace}/configmaps", {"metadata": {"name": "first-approved"}})
    wait_for("a ready replica", lambda: api.get(f"{deployments}/web")["status"].get("readyReplicas") == 1)
    api.delete(f"{deployments}/web")
    wait_for("no pod", lambda: not api.items(pods))


def test_a_service_account_may_do_only_what_its_roles_say(control_plane: ControlPlane, namespace: str) -> None:
    api = control_plane.api
    account = f"/api/v1/namespaces/{namespace}/serviceaccounts/default"
    wait_for("the namespace's ServiceAccount", lambda: api.find(account))
    kubeconfig = control_plane.kubeconfig_for(namespace, "default")
    answer = control_plane.kubectl(f"--kubeconfig={kubeconfig}", "get", "nodes", check=False)
    assert f'User "system:serviceaccount:{namespace}:default" cannot list resource "nodes"' in answer


def test_the_api_server_comes_back_with_what_it_had(control_plane: ControlPlane, namespace: str) -> None:
    control_plane.restart_api_server(kill=True)
    assert control_plane.api.get(f"/api/v1/namespaces/{namespace}")["status"]["phase"] == "Active"
