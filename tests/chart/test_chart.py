"""What the chart renders, and what it refuses to render."""

import json
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tierflow_operator.settings import read_settings

ROOT: Final = Path(__file__).parents[2]
CHART: Final = ROOT / "charts" / "tierflow"
CRD: Final = ROOT / "crds" / "tierflow.dev_inferencepipelines.yaml"
EVERYTHING: Final[Mapping[str, Any]] = {
    "replicas": 2,
    "imagePullSecrets": ["registry"],
    "worker": {
        "image": {"repository": "r.example/w", "tag": "1", "pullPolicy": "Always"},
        "imagePullSecrets": ["a", "b"],
    },
    "watchNamespaces": ["vision", "audio"],
    "prometheus": {"url": "http://prometheus.monitoring:9090"},
    "extraEnv": [{"name": "AWS_REGION", "value": "eu-central-1"}],
    "extraVolumes": [{"name": "authorities", "configMap": {"name": "authorities"}}],
    "extraVolumeMounts": [{"name": "authorities", "mountPath": "/authorities"}],
    "extraArgs": ["--request-timeout-seconds=20"],
    "rbac": {"ownerReferencesPermissionEnforcement": True},
    "podAnnotations": {"a": "b"},
    "podLabels": {"c": "d"},
    "nodeSelector": {"disk": "ssd"},
    "tolerations": [{"key": "k", "operator": "Exists"}],
    "affinity": {"nodeAffinity": {}},
    "topologySpreadConstraints": [
        {"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway"}
    ],
    "priorityClass": {"create": True},
    "monitoring": {
        "labels": {"release": "prometheus"},
        "serviceMonitor": {"enabled": True},
        "podMonitor": {"enabled": True},
        "prometheusRule": {"enabled": True},
        "dashboard": {"enabled": True},
    },
    "networkPolicy": {"enabled": True, "from": [{"namespaceSelector": {}}]},
}

Manifest = dict[str, Any]
Render = Callable[..., list[Manifest]]


def of_kind(manifests: list[Manifest], kind: str) -> list[Manifest]:
    return [manifest for manifest in manifests if manifest["kind"] == kind]


def operator_arguments(manifests: list[Manifest]) -> list[str]:
    (deployment,) = of_kind(manifests, "Deployment")
    return list(deployment["spec"]["template"]["spec"]["containers"][0]["args"])


def conform(tools: Mapping[str, Path], schemas: Path, text: str) -> str:
    """What kubeconform objects to; "" for nothing."""
    location = f"{schemas}/{{{{.Group}}}}_{{{{.ResourceAPIVersion}}}}_{{{{.ResourceKind}}}}.json"
    done = subprocess.run(
        [tools["kubeconform"], "-strict", "-schema-location", location, "-output", "text"],
        input=text, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.stdout + done.stderr if done.returncode else ""


def test_the_chart_carries_the_custom_resource_definition_as_it_is() -> None:
    assert (CHART / "files" / CRD.name).read_bytes() == CRD.read_bytes(), f"copy {CRD} to {CHART / 'files'}"


def test_the_chart_has_the_projects_version() -> None:
    version = next(line for line in (ROOT / "pyproject.toml").read_text().splitlines() if line.startswith("version"))
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert version == f'version = "{chart["version"]}"' == f'version = "{chart["appVersion"]}"'


def test_the_rendered_definition_is_the_custom_resource_definition_and_is_kept(render: Render) -> None:
    (rendered,) = of_kind(render(), "CustomResourceDefinition")
    assert rendered["spec"] == yaml.safe_load(CRD.read_text())["spec"]
    assert rendered["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"


def test_without_crds_no_definition_is_rendered(render: Render) -> None:
    assert of_kind(render(crds={"install": False}), "CustomResourceDefinition") == []


@pytest.mark.parametrize("values", [{}, EVERYTHING], ids=["by default", "with everything"])
def test_helm_has_nothing_to_complain_about(
    helm: Callable[..., str], tmp_path: Path, values: Mapping[str, Any]
) -> None:
    (tmp_path / "values.yaml").write_text(yaml.safe_dump(dict(values)))
    assert "0 chart(s) failed" in helm("lint", "--strict", str(CHART), "--values", str(tmp_path / "values.yaml"))


@pytest.mark.parametrize("values", [{}, EVERYTHING], ids=["by default", "with everything"])
def test_what_is_rendered_conforms_to_the_api_servers_schemas(
    tools: Mapping[str, Path], schemas: Path, render: Render, values: Mapping[str, Any]
) -> None:
    assert conform(tools, schemas, yaml.safe_dump_all(render(**values))) == ""


def test_the_samples_conform_to_the_custom_resource_definition(tools: Mapping[str, Path], schemas: Path) -> None:
    assert conform(tools, schemas, (ROOT / "samples" / "resnet18.yaml").read_text()) == ""


def test_a_misspelt_field_does_not_conform(tools: Mapping[str, Path], schemas: Path, render: Render) -> None:
    (deployment,) = of_kind(render(), "Deployment")
    deployment["spec"]["template"]["spec"]["nodeSelecter"] = {}
    assert "nodeSelecter" in conform(tools, schemas, yaml.safe_dump(deployment))
    sample = yaml.safe_load((ROOT / "samples" / "resnet18.yaml").read_text())
    sample["spec"]["planing"] = {}
    assert "planing" in conform(tools, schemas, yaml.safe_dump(sample))


@pytest.mark.parametrize("values", [{}, EVERYTHING, {"leaderElection": {"enabled": False}}])
def test_the_operator_understands_the_arguments_it_is_given(render: Render, values: Mapping[str, Any]) -> None:
    settings = read_settings(operator_arguments(render(**values)), {})
    assert settings.lease_namespace == "tierflow-system" or not settings.leader_elect
    if values is EVERYTHING:
        assert settings.namespaces == ("vision", "audio")
        assert settings.worker_image == "r.example/w:1"
        assert settings.image_pull_secrets == ("a", "b")
        assert settings.image_pull_policy == "Always"
        assert settings.prometheus_url == "http://prometheus.monitoring:9090"


def test_the_operators_pod_is_restricted(render: Render) -> None:
    (deployment,) = of_kind(render(), "Deployment")
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert not any("hostPath" in volume for volume in pod["volumes"])


def test_rights_end_at_the_namespaces_that_are_watched(render: Render) -> None:
    manifests = render(watchNamespaces=["vision"])
    (cluster_role,) = of_kind(manifests, "ClusterRole")
    assert [rule["resources"] for rule in cluster_role["rules"]] == [["nodes"]]
    (everywhere,) = of_kind(render(), "ClusterRole")
    roles = [role for role in of_kind(manifests, "Role") if role["metadata"]["namespace"] == "vision"]
    assert roles[0]["rules"] == everywhere["rules"][1:]


def test_no_right_is_a_wildcard_and_no_secret_can_be_read(render: Render) -> None:
    manifests = render(**EVERYTHING)
    rules = [rule for role in of_kind(manifests, "ClusterRole") + of_kind(manifests, "Role") for rule in role["rules"]]
    named = {
        name for rule in rules for names in (rule["apiGroups"], rule["resources"], rule["verbs"]) for name in names
    }
    assert not {"*", "secrets", "escalate", "bind", "impersonate"} & named


def test_one_replica_at_a_time_works_where_no_lease_elects_one(render: Render) -> None:
    (deployment,) = of_kind(render(leaderElection={"enabled": False}), "Deployment")
    assert deployment["spec"]["strategy"] == {"type": "Recreate"}


def test_the_rules_and_the_dashboard_are_those_of_the_files(render: Render) -> None:
    manifests = render(**EVERYTHING)
    (rule,) = of_kind(manifests, "PrometheusRule")
    assert rule["spec"] == yaml.safe_load((CHART / "files" / "prometheus-rules.yaml").read_text())
    (dashboard,) = of_kind(manifests, "ConfigMap")
    assert json.loads(dashboard["data"]["tierflow.json"]) == json.loads(
        (CHART / "files" / "dashboard.json").read_text()
    )


@pytest.mark.parametrize(
    ("values", "culprit"),
    [
        ({"replica": 2}, "replica"),
        ({"replicas": -1}, "/replicas"),
        ({"image": {"repository": ""}}, "/image/repository"),
        ({"image": {"repository": "x", "pullPolicy": "Sometimes"}}, "/image/pullPolicy"),
        ({"prometheus": {"url": "prometheus:9090"}}, "/prometheus/url"),
        ({"watchNamespaces": ["Vision"]}, "/watchNamespaces/0"),
        ({"logging": {"level": "loud"}}, "/logging/level"),
        ({"leaderElection": {"leaseSeconds": 0}}, "/leaderElection/leaseSeconds"),
        ({"monitoring": {"podMonitor": {"interval": "5"}}}, "/monitoring/podMonitor/interval"),
        ({"resources": []}, "resources"),
    ],
)
def test_a_value_that_cannot_work_is_refused_by_its_name(render: Render, values: dict[str, Any], culprit: str) -> None:
    with pytest.raises(ValueError, match="(?s)values don't meet") as refused:
        render(**values)
    assert culprit in str(refused.value)
