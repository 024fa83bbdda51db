"""A kind cluster with Tierflow in it, made by `make kind-up`, and what tests ask it, mostly through kubectl."""

import json
import os
import subprocess
import time
import tomllib
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import yaml
from kubernetes.client import CustomObjectsApi
from kubernetes.config import new_client_from_config

from testbed.binaries import ensure
from tierflow.manifest import API_VERSION

ROOT: Final = Path(__file__).parents[2]
NAMESPACE: Final = "tierflow-system"
OPERATOR: Final = f"system:serviceaccount:{NAMESPACE}:tierflow"
AUDIT_LOG: Final = "/var/log/kubernetes/audit.log"
"""On the control plane's node: every request of the operator, one JSON object per line."""
_POLL_SECONDS: Final = 0.25
_AUDIT_POLICY: Final[Mapping[str, Any]] = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "omitManagedFields": True,
    "rules": [{"level": "Metadata", "users": [OPERATOR]}, {"level": "None"}],
}
_NODE_AUDIT_FOLDER: Final = "/etc/kubernetes/audit"
# The operator and the monitoring of the tests live where no test stops a node.
BESIDE_THE_CONTROL_PLANE: Final[Mapping[str, Any]] = {
    "nodeSelector": {"node-role.kubernetes.io/control-plane": ""},
    "tolerations": [{"key": "node-role.kubernetes.io/control-plane", "operator": "Exists", "effect": "NoSchedule"}],
}

Manifest = dict[str, Any]


class CommandError(RuntimeError):
    """A command failed; the message holds it and what it said."""


def run(
    *command: str,
    given: str | None = None,
    environment: Mapping[str, str] | None = None,
    seconds: float = 120,
    codes: tuple[int, ...] = (0,),
) -> str:
    """Standard output of a command.

    Raises:
        CommandError: where it ends with a code that isn't one of `codes`.
    """
    done = subprocess.run(
        command, input=given, env=os.environ | dict(environment or {}), cwd=ROOT, timeout=seconds,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode not in codes:
        said = f"{done.stdout[-4000:]}\n{done.stderr[-4000:]}".strip()
        raise CommandError(f"`{' '.join(command)}` ended with {done.returncode}:\n{said}")
    return done.stdout


class Cluster:
    """A kind cluster.

    Args:
        name: Of the cluster.
        folder: Where its kubeconfig and its configuration go.
    """

    def __init__(self, name: str, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.name = name
        self._folder = folder
        self.kubeconfig = folder / "kubeconfig"
        self.values = folder / "values.yaml"
        self._environment = {"KUBECONFIG": str(self.kubeconfig), "KUBECACHEDIR": str(folder / "kubectl-cache")}
        self._tools = {name: str(path) for name, path in ensure("kind", "helm", "kubectl").items()}
        version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
        self.worker_image = f"tierflow-worker:{version}"
        self.timings: dict[str, float] = {}
        """Seconds that steps took."""

    # ------------------------------------------------------------------ life

    def up(self) -> None:
        """Makes the cluster where there is none of the name, and brings Tierflow in it up to date."""
        self.values.write_text(yaml.safe_dump(dict(BESIDE_THE_CONTROL_PLANE)))
        if self.exists():
            run(self._tools["kind"], "export", "kubeconfig", "--name", self.name, environment=self._environment)
        workers = len(yaml.safe_load((ROOT / "kind-config.yaml").read_text())["nodes"]) - 1
        names = ",".join(f"{self.name}-worker{number if number > 1 else ''}" for number in range(1, workers + 1))
        self.make(
            "kind-up", f"CLUSTER={self.name}", f"KIND_CONFIG={self._configuration()}", f"WORKER_NODES={names}",
            f"OPERATOR_NODES={self.control_plane}", f"HELM_ARGS=--values {self.values}",
        )  # fmt: skip

    def down(self) -> None:
        """Deletes the cluster; nothing happens where there is none."""
        run(self._tools["kind"], "delete", "cluster", "--name", self.name, environment=self._environment)

    def configure(self, **values: Any) -> None:
        """Adds values to the chart's, and waits until the operator runs with them."""
        known = yaml.safe_load(self.values.read_text())
        self.values.write_text(yaml.safe_dump(known | values))
        self.upgrade()

    def upgrade(self, *arguments: str) -> None:
        """Upgrades the release to the chart of this folder and the present values, and waits for the operator."""
        chart, values = str(ROOT / "charts" / "tierflow"), str(self.values)
        self.helm(
            "upgrade", "tierflow", chart, "--install", "--namespace", NAMESPACE, "--create-namespace",
            "--values", values, "--wait", "--timeout", "180s", *arguments,
        )  # fmt: skip

    def exists(self) -> bool:
        """Whether there is a cluster of this name."""
        return self.name in run(self._tools["kind"], "get", "clusters").split()

    def make(self, *arguments: str) -> str:
        """Runs one of the project's own commands."""
        began = time.monotonic()
        said = run("make", "--no-print-directory", *arguments, environment=self._environment, seconds=1800)
        self.timings[f"make {arguments[0]}"] = round(time.monotonic() - began, 1)
        return said

    def _configuration(self) -> Path:
        """The project's own, with an audit log of what the operator asks of the API server."""
        audit = self._folder / "audit"
        audit.mkdir(exist_ok=True)
        (audit / "policy.yaml").write_text(json.dumps(_AUDIT_POLICY))
        configuration = yaml.safe_load((ROOT / "kind-config.yaml").read_text())
        control_plane = configuration["nodes"][0]
        control_plane["extraMounts"] = [{"hostPath": str(audit), "containerPath": _NODE_AUDIT_FOLDER, "readOnly": True}]
        arguments = {"audit-policy-file": f"{_NODE_AUDIT_FOLDER}/policy.yaml", "audit-log-path": AUDIT_LOG}
        volumes = [
            {"name": "audit-policy", "hostPath": _NODE_AUDIT_FOLDER, "mountPath": _NODE_AUDIT_FOLDER, "readOnly": True},
            {"name": "audit-log", "hostPath": str(Path(AUDIT_LOG).parent), "mountPath": str(Path(AUDIT_LOG).parent),
             "pathType": "DirectoryOrCreate"},
        ]  # fmt: skip
        patch = {
            "apiVersion": "kubeadm.k8s.io/v1beta4",
            "kind": "ClusterConfiguration",
            "apiServer": {
                "extraArgs": [{"name": name, "value": value} for name, value in arguments.items()],
                "extraVolumes": volumes,
            },
        }
        control_plane["kubeadmConfigPatches"] = [yaml.safe_dump(patch)]
        path = self._folder / "kind-config.yaml"
        path.write_text(yaml.safe_dump(configuration))
        return path

    # ------------------------------------------------------------------ asking

    def kubectl(
        self, *arguments: str, given: str | None = None, seconds: float = 200, codes: tuple[int, ...] = (0,)
    ) -> str:
        """Standard output of kubectl."""
        return run(
            self._tools["kubectl"], *arguments, given=given, environment=self._environment, seconds=seconds, codes=codes
        )

    def helm(self, *arguments: str) -> str:
        """Standard output of helm."""
        return run(self._tools["helm"], *arguments, environment=self._environment, seconds=300)

    def get(self, kind: str, name: str, namespace: str = "default") -> Manifest:
        """One object.

        Raises:
            CommandError: where there is none.
        """
        return dict(json.loads(self.kubectl("get", kind, name, "-n", namespace, "-o", "json")))

    def pipeline(self, name: str, namespace: str = "default") -> Manifest:
        """An InferencePipeline.

        Tests wait for these most of the time, and measure while they do. A kubectl for each look takes a tenth of two
        cores, of which the cluster then has that much less; a connection that stays open takes next to nothing.

        Raises:
            kubernetes.client.ApiException: where there is none.
        """
        group, _, version = API_VERSION.partition("/")
        return dict(
            self._connection.get_namespaced_custom_object(group, version, namespace, "inferencepipelines", name)
        )

    @cached_property
    def _connection(self) -> CustomObjectsApi:
        return CustomObjectsApi(new_client_from_config(config_file=str(self.kubeconfig)))

    def objects(self, kind: str, selector: str = "", namespace: str = "default") -> list[Manifest]:
        """The objects of a kind, of a namespace or of the cluster."""
        chosen = ["-l", selector] if selector else []
        return list(json.loads(self.kubectl("get", kind, "-n", namespace, *chosen, "-o", "json"))["items"])

    def apply(self, *manifests: Manifest, namespace: str = "default") -> None:
        """Applies objects."""
        self.kubectl("apply", "-n", namespace, "-f", "-", given=yaml.safe_dump_all(manifests))

    def wait_for(self, what: str, condition: Callable[[], Any], seconds: float) -> Any:
        """The first true answer of `condition`.

        Raises:
            TimeoutError: naming what was waited for, and the last answer.
        """
        deadline = time.monotonic() + seconds
        while not (answer := condition()):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{what}: not within {seconds:g} s; last answer: {answer!r}")
            time.sleep(_POLL_SECONDS)
        return answer

    # ------------------------------------------------------------------ nodes

    def nodes(self, tier: str) -> list[str]:
        """The names of a tier's nodes, which are those of their containers as well."""
        return sorted(node["metadata"]["name"] for node in self.objects("nodes", f"tierflow.dev/tier={tier}"))

    @property
    def control_plane(self) -> str:
        """The name of the control plane's node."""
        return f"{self.name}-control-plane"

    def address(self, node: str) -> str:
        """A node's address, as this machine reaches it."""
        template = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
        return run("docker", "inspect", "-f", template, node).strip()

    def on_node(self, node: str, *command: str) -> str:
        """Runs a command on a node."""
        return run("docker", "exec", node, *command)

    def load(self, image: str, *nodes: str) -> None:
        """Gives an image of this machine to nodes; to all where none is named."""
        chosen = ["--nodes", ",".join(nodes)] if nodes else []
        run(self._tools["kind"], "load", "docker-image", image, "--name", self.name, *chosen, seconds=600)

    def audit(self) -> list[Manifest]:
        """What the operator asked of the API server so far, in order."""
        lines = self.on_node(self.control_plane, "cat", AUDIT_LOG).splitlines()
        return [json.loads(line) for line in lines]

    # ------------------------------------------------------------------ when a test fails

    def story(self, namespace: str = "default") -> str:
        """What there is to look at: pipelines, pods, events, the operator's log."""
        questions = [
            ["get", "ipl", "-A", "-o", "wide"],
            ["describe", "ipl", "-n", namespace],
            ["get", "nodes,pods,deployments", "-A", "-o", "wide"],
            ["get", "events", "-n", namespace, "--sort-by=.metadata.creationTimestamp"],
            ["logs", "-n", NAMESPACE, "deploy/tierflow", "--tail=200"],
            ["logs", "-n", namespace, "-l", "app.kubernetes.io/name=tierflow-worker", "--tail=30", "--prefix"],
        ]
        told = []
        for question in questions:
            try:
                answer = self.kubectl(*question, seconds=30)
            except (CommandError, subprocess.TimeoutExpired) as error:
                answer = str(error)
            told.append(f"--- kubectl {' '.join(question)}\n{answer}")
        return "\n".join(told)
