"""Alerts, dashboard, samples and documents: they are valid, and name only metrics that there are."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry

from factories.graphs import chain
from factories.pipelines import network, pipeline, profile
from testbed.binaries import ensure
from testbed.prometheus_server import PrometheusServer
from tierflow.planning import make_plan
from tierflow.tiers import Tier
from tierflow_operator.queries import LIVE, READ, recent
from tierflow_operator.render import render
from tierflow_operator.telemetry import Telemetry
from tierflow_worker.metrics import Metrics

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts/tierflow"
RULES = CHART / "files/prometheus-rules.yaml"
DASHBOARD = CHART / "files/dashboard.json"
MONITORING = ROOT / "samples/monitoring"
DOCUMENTS = (ROOT / "docs/metrics.md", ROOT / "worker_image/METRICS.md")

_SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}
_METRIC = re.compile(r"\btierflow_[a-z0-9_]*[a-z0-9]\b")
_VARIABLES = {"$__rate_interval": "1m", "$namespace": "vision", "$pipeline": "small"}


def exported(registry: CollectorRegistry) -> set[str]:
    return {
        family.name + suffix
        for family in registry.collect()
        if family.name.startswith("tierflow_")
        for suffix in _SUFFIXES[family.type]
    }


WORKERS = exported(Metrics(pipeline="p", namespace="n", tier=Tier.EDGE).registry)
OPERATORS = exported(Telemetry().registry)


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def dashboard_expressions() -> Iterator[str]:
    dashboard = json.loads(DASHBOARD.read_text())
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            yield target["expr"]
    for annotation in dashboard["annotations"]["list"]:
        yield annotation["expr"]


def promql_of(document: Path) -> list[str]:
    """The expressions of a document's fenced examples."""
    blocks = re.findall(r"```promql\n(.*?)```", document.read_text(), re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line and not line.startswith("#")]


def promtool(*arguments: str | Path, folder: Path = ROOT) -> None:
    done = subprocess.run(
        [ensure("promtool")["promtool"], *map(str, arguments)], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def manifests(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text()))


def test_the_rules_are_valid() -> None:
    promtool("check", "rules", RULES)


def test_alerts_fire_when_they_should_and_only_then() -> None:
    promtool("test", "rules", "alerts.yaml", folder=Path(__file__).parent)


def test_every_alert_is_tested_and_says_what_to_do() -> None:
    tested = (Path(__file__).parent / "alerts.yaml").read_text()
    for rule in rules():
        assert rule["alert"] in tested
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert {"summary", "description"} == set(rule["annotations"])


@pytest.mark.parametrize("path", [RULES, DASHBOARD, *DOCUMENTS], ids=lambda path: path.name)
def test_every_metric_that_is_named_is_exported(path: Path) -> None:
    text = path.read_text()
    modules = {"tierflow_worker", "tierflow_operator", "tierflow_local"}
    named = {name for name in _METRIC.findall(text) if name not in modules}
    # Documents call a histogram by its name.
    families = {name.removesuffix("_bucket") for name in WORKERS | OPERATORS} if path in DOCUMENTS else set()
    assert named
    assert named <= WORKERS | OPERATORS | families


def test_every_metric_that_the_operator_reads_is_exported_by_workers() -> None:
    assert set(READ) <= WORKERS
    assert {"tierflow_build_info"} == set(_METRIC.findall(LIVE))
    assert {"tierflow_build_info"} <= WORKERS


def test_every_metric_has_its_line_in_the_documents() -> None:
    documented = "".join(document.read_text() for document in DOCUMENTS)
    families = {re.sub(r"_(bucket|sum|count)\Z", "", name) for name in WORKERS | OPERATORS if "_created" not in name}
    missing = sorted(name for name in families if f"`{name}`" not in documented)
    assert missing == []


def test_prometheus_understands_every_expression(server: PrometheusServer) -> None:
    expressions = [*dashboard_expressions(), *(rule["expr"] for rule in rules()), LIVE, recent(60)]
    for document in DOCUMENTS:
        expressions += promql_of(document)
    assert len(expressions) > 40
    for expression in expressions:
        for name, value in _VARIABLES.items():
            expression = expression.replace(name, value)  # noqa: PLW2901 - the same, filled in
        assert isinstance(server.query(expression), list), expression


def test_panels_have_distinct_ids_and_a_unit_and_do_not_overlap() -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        covered = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & covered, panel["title"]
        cells |= covered
        if panel["type"] != "row":
            assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
            assert panel["description"].endswith("."), panel["title"]


def test_the_chart_brings_the_files_that_its_templates_read() -> None:
    templates = "".join(path.read_text() for path in (CHART / "templates").glob("*"))
    read = set(re.findall(r'\.Files\.Get "([^"]+)"', templates))
    assert {"files/prometheus-rules.yaml", "files/dashboard.json"} <= read
    for name in read:
        assert (CHART / name).is_file(), name


def test_every_alert_has_its_line_in_the_documents() -> None:
    table = dict(re.findall(r"\| `(Tierflow\w+)` \| (\w+) \|", DOCUMENTS[0].read_text()))
    assert table == {rule["alert"]: rule["labels"]["severity"] for rule in rules()}


def test_the_queries_of_the_documents_are_those_that_are_made() -> None:
    assert {recent(120), LIVE} <= set(promql_of(DOCUMENTS[0]))


def test_the_samples_scrape_pods_by_the_labels_and_ports_that_pods_have(tmp_path: Path) -> None:
    graph = chain(3)
    speeds = dict.fromkeys(Tier, 1.0)
    objects = render(pipeline(), graph, make_plan(graph, profile(graph), network(), speeds))
    (pod, *_) = (entry["spec"]["template"] for entry in objects if entry["kind"] == "Deployment")
    ports = {port["name"] for port in pod["spec"]["containers"][0]["ports"]}

    (pod_monitor,) = manifests(MONITORING / "podmonitor.yaml")
    wanted = pod_monitor["spec"]["selector"]["matchLabels"]
    assert wanted.items() <= pod["metadata"]["labels"].items()
    (endpoint,) = pod_monitor["spec"]["podMetricsEndpoints"]
    assert endpoint["port"] in ports

    (config,) = (entry for entry in manifests(MONITORING / "prometheus.yaml") if entry["kind"] == "ConfigMap")
    settings = yaml.safe_load(config["data"]["prometheus.yml"])
    workers, operator = (job["relabel_configs"] for job in settings["scrape_configs"])
    for job in settings["scrape_configs"]:
        assert job.pop("kubernetes_sd_configs") == [{"role": "pod"}]  # which Debian's promtool doesn't know
    file = tmp_path / "prometheus.json"
    file.write_text(json.dumps(settings))
    promtool("check", "config", file)
    assert workers[0]["regex"] == pod["metadata"]["labels"]["app.kubernetes.io/name"]
    assert workers[1]["regex"] in ports
    deployment = (CHART / "templates/deployment.yaml").read_text()
    assert f"name: {operator[1]['regex']}, containerPort" in deployment
