"""Policies of the API server that add to workers' pods what only a cluster knows, as cloud providers do."""

from collections.abc import Mapping
from typing import Any, Final

from kindbed.cluster import Cluster, Manifest

_GROUP: Final = "admissionregistration.k8s.io/v1"


def add_to_workers(
    cluster: Cluster,
    name: str,
    namespace: str,
    environment: Mapping[str, str],
    component: str = "",
    mount: tuple[str, str] | None = None,
) -> None:
    """Adds to every container of pipelines' pods that is created from now on.

    Args:
        cluster: Where.
        name: Of the policy.
        namespace: Whose pods.
        environment: Variables.
        component: Only pods of this component; "" for all of pipelines.
        mount: A ConfigMap's name and where it is mounted.
    """
    selector: dict[str, Any] = {"matchExpressions": [{"key": "tierflow.dev/pipeline", "operator": "Exists"}]}
    if component:
        selector["matchLabels"] = {"app.kubernetes.io/component": component}
    rule = {"apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"], "operations": ["CREATE"]}
    policy: Manifest = {
        "apiVersion": _GROUP,
        "kind": "MutatingAdmissionPolicy",
        "metadata": {"name": name},
        "spec": {
            "matchConstraints": {
                "resourceRules": [rule],
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
                "objectSelector": selector,
            },
            "failurePolicy": "Fail",
            "reinvocationPolicy": "Never",
            "mutations": [
                {
                    "patchType": "ApplyConfiguration",
                    "applyConfiguration": {"expression": _expression(environment, mount)},
                }
            ],
        },
    }
    binding: Manifest = {
        "apiVersion": _GROUP,
        "kind": "MutatingAdmissionPolicyBinding",
        "metadata": {"name": name},
        "spec": {"policyName": name},
    }
    cluster.apply(policy, binding)


def _expression(environment: Mapping[str, str], mount: tuple[str, str] | None) -> str:
    container = "Object.spec.containers"
    pairs = ", ".join(f'{container}.env{{name: "{name}", value: "{value}"}}' for name, value in environment.items())
    fields, volumes = f"name: c.name, env: [{pairs}]", ""
    if mount is not None:
        name, path = mount
        fields += f', volumeMounts: [{container}.volumeMounts{{name: "{name}", mountPath: "{path}"}}]'
        source = f'Object.spec.volumes.configMap{{name: "{name}"}}'
        volumes = f', volumes: [Object.spec.volumes{{name: "{name}", configMap: {source}}}]'
    return f"Object{{spec: Object.spec{{containers: object.spec.containers.map(c, {container}{{{fields}}}){volumes}}}}}"
