"""A real Prometheus in the cluster, from Debian's package: samples/monitoring/prometheus.yaml, adapted to the tests."""

import json
import shutil
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import yaml

from kindbed.cluster import ROOT, Cluster, run
from testbed.binaries import ensure

URL: Final = "http://prometheus.monitoring:9090"
SCRAPE_SECONDS: Final = 2
_IMAGE: Final = "tierflow-e2e/prometheus:1"
_WORKERS: Final = "tierflow-workers"
_DOCKERFILE: Final = """
ARG BASE_IMAGE
FROM ${BASE_IMAGE}
COPY prometheus /bin/prometheus
ENTRYPOINT ["/bin/prometheus"]
"""


def install(cluster: Cluster, base_image: str, beside: dict[str, Any]) -> None:
    """Runs a Prometheus that scrapes the workers of the namespace `default`.

    Args:
        cluster: Where.
        base_image: What its image is made of.
        beside: Node selector and tolerations of its pod.
    """
    _build(base_image)
    cluster.load(_IMAGE, cluster.control_plane)
    manifests = list(yaml.safe_load_all((ROOT / "samples" / "monitoring" / "prometheus.yaml").read_text()))
    for manifest in manifests:
        if manifest["kind"] == "Deployment":
            pod = manifest["spec"]["template"]["spec"]
            pod["containers"][0]["image"] = _IMAGE
            pod.update(beside)
        if manifest["kind"] == "ConfigMap":
            manifest["data"]["prometheus.yml"] = yaml.safe_dump(_configuration())
    for manifest in manifests:
        cluster.apply(manifest, namespace=manifest["metadata"].get("namespace", "default"))
    cluster.apply(_all_workers())
    cluster.kubectl("rollout", "status", "deploy/prometheus", "-n", "monitoring", "--timeout=120s")


def query(cluster: Cluster, expression: str) -> list[dict[str, Any]]:
    """What Prometheus answers to an instant query."""
    path = "/api/v1/namespaces/monitoring/services/prometheus:9090/proxy/api/v1/query"
    answer = json.loads(cluster.kubectl("get", "--raw", f"{path}?query={quote(expression, safe='')}"))
    return list(answer["data"]["result"])


def bandwidth_fell_at(cluster: Cluster, lower: str, upper: str, below: float, since: datetime) -> datetime:
    """When Prometheus first had a bandwidth below so many Mbit/s for the link between two tiers.

    Args:
        cluster: Where it runs.
        lower: The tier that sends.
        upper: The tier that it sends to.
        below: In Mbit/s.
        since: Samples before that don't count.
    """
    series = f'tierflow_link_bandwidth_bytes_per_second{{from_tier="{lower}",to_tier="{upper}"}}[10m]'
    times = [
        datetime.fromtimestamp(time, UTC)
        for found in query(cluster, series)
        for time, value in found["values"]
        if float(value) * 8e-6 < below
    ]
    return min(time for time in times if time >= since)


def _build(base_image: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(ensure("prometheus")["prometheus"], folder)
        Path(folder, "Dockerfile").write_text(_DOCKERFILE)
        run(
            "docker", "build", "--quiet", "--build-arg", f"BASE_IMAGE={base_image}", "--tag", _IMAGE, folder,
            environment={"DOCKER_BUILDKIT": "0"},
        )  # fmt: skip


def _configuration() -> dict[str, Any]:
    """Debian builds Prometheus without Kubernetes' discovery; a headless Service's name says as much."""
    names = [f"{_WORKERS}.default.svc.cluster.local"]
    seconds = f"{SCRAPE_SECONDS}s"
    job = {
        "job_name": "tierflow-workers",
        "dns_sd_configs": [{"names": names, "type": "A", "port": 8000, "refresh_interval": seconds}],
        "relabel_configs": [{"target_label": "namespace", "replacement": "default"}],
    }
    return {"global": {"scrape_interval": seconds, "scrape_timeout": seconds}, "scrape_configs": [job]}


def _all_workers() -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": _WORKERS},
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": {"app.kubernetes.io/name": "tierflow-worker"},
            "ports": [{"port": 8000}],
        },
    }
