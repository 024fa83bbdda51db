"""`tierflow why`, against a server that answers as the API server does."""

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from tierflow_cli.why_cluster import Seen, namespace_of
from tierflow_cli.why_report import report_of

PIPELINES = "/apis/tierflow.dev/v1alpha1/namespaces/{}/inferencepipelines/{}"
PIPELINE: dict[str, Any] = {
    "apiVersion": "tierflow.dev/v1alpha1",
    "kind": "InferencePipeline",
    "metadata": {"name": "resnet18", "namespace": "vision", "generation": 3},
    "spec": {"planning": {"minImprovementPercent": 10, "minIntervalSeconds": 30, "stabilizationSeconds": 30}},
    "status": {
        "observedGeneration": 3,
        "conditions": [
            {"type": "Ready", "status": "True", "reason": "ServingPlan", "message": "epoch 4 on 3 tiers"},
            {"type": "MetricsAvailable", "status": "False", "reason": "StaleData", "message": "measured 90 s ago"},
        ],
        "plan": {
            "epoch": 4,
            "algorithm": "Exact",
            "reason": "BandwidthChanged",
            "message": "edge-cloud link 18.9 -> 3.1 Mbit/s; predicted 212 ms -> 141 ms",
            "predictedLatencyMilliseconds": 141,
            "optimalityGapPercent": 2,
            "backboneBytesPerRequest": 100352,
            "segments": [
                {"tier": "device", "layers": 9, "lastLayer": "layer1.0/relu", "boundaryBytes": 802816},
                {"tier": "edge", "layers": 31, "lastLayer": "layer4.0/relu", "boundaryBytes": 100352},
                {"tier": "cloud", "layers": 9, "lastLayer": "fc", "boundaryBytes": 0},
            ],
            "tiling": {"workers": 4, "runs": [{"firstLayer": "conv1", "lastLayer": "relu2", "grid": "2x2"}]},
        },
        "lastPlanTime": "2026-11-23T09:00:00Z",
        "observed": {
            "links": [
                {"from": "edge", "to": "cloud", "kilobitsPerSecond": 3100, "roundTripMicroseconds": 20000,
                 "source": "Measured"},
            ],
            "speeds": [{"tier": "edge", "percent": 50, "source": "NodeLabels"}],
            "nodes": [{"tier": "edge", "ready": 4}],
        },
        "decisions": [
            {"time": "2026-11-23T09:05:00Z", "decision": "Hold", "reason": "MetricsUnavailable",
             "message": "measured 90 s ago", "epoch": 4, "count": 7},
            {"time": "2026-11-23T09:00:00Z", "decision": "Move", "reason": "BandwidthChanged",
             "message": "edge-cloud link 18.9 -> 3.1 Mbit/s; predicted 212 ms -> 141 ms", "epoch": 4, "count": 1},
            {"time": "2026-11-23T08:00:00Z", "decision": "Rollback", "reason": "Rollback",
             "message": "measured 300 ms per request", "epoch": 3, "count": 1},
        ],
    },
}  # fmt: skip
EVENTS: list[dict[str, Any]] = [
    {"type": "Normal", "reason": "BandwidthChanged", "message": "epoch 4: edge-cloud link 18.9 -> 3.1 Mbit/s",
     "eventTime": "2026-11-23T09:00:00.120000Z"},
    {"type": "Warning", "reason": "StaleData", "message": "measured 90 s ago", "eventTime": "2026-11-23T09:01:00.0Z",
     "series": {"count": 7, "lastObservedTime": "2026-11-23T09:05:00.5Z"}},
    {"type": "Normal", "reason": "Old", "message": "as written long ago", "lastTimestamp": "2026-11-23T07:00:00Z",
     "count": 3},
]  # fmt: skip


@dataclass
class Cluster:
    """What the server answers, by path, and what it was asked."""

    answers: dict[str, tuple[int, Any]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def has(self, pipeline: dict[str, Any], events: list[dict[str, Any]]) -> None:
        metadata = pipeline["metadata"]
        self.answers[PIPELINES.format(metadata["namespace"], metadata["name"])] = (200, pipeline)
        self.answers[f"/api/v1/namespaces/{metadata['namespace']}/events"] = (200, {"items": events})


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A server on loopback, named by $KUBECONFIG, whose context names the namespace `vision`."""
    known = Cluster()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known.asked.append(self.path)
            code, answer = known.answers.get(
                urlsplit(self.path).path, (404, {"message": 'inferencepipelines "none" not found'})
            )
            content = json.dumps(answer).encode()
            self.send_response(code)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 # the base class' name
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "contexts": [
            {"name": "here", "context": {"cluster": "here", "user": "me", "namespace": "vision"}},
            {"name": "bare", "context": {"cluster": "here", "user": "me"}},
        ],
        "clusters": [{"name": "here", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
        "users": [{"name": "me", "user": {}}],
    }
    (tmp_path / "kubeconfig").write_text(json.dumps(config))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    yield known
    server.shutdown()
    thread.join()
    server.server_close()


Run = Callable[..., Any]


def test_people_see_the_plan_why_it_is_and_what_was_held(run: Run, cluster: Cluster) -> None:
    cluster.has(PIPELINE, EVENTS)
    result = run("why", "resnet18")
    assert (result.code, result.err) == (0, "")
    text = result.out
    for words in (
        "resnet18 in vision: ready, epoch 4 on 3 tiers",
        "Epoch 4   BandwidthChanged: edge-cloud link 18.9 -> 3.1 Mbit/s; predicted 212 ms -> 141 ms",
        "Predicted 141 ms per request (Exact, 2 % above the optimum), 100 kB into the cloud",
        "Tiles     2x2 from conv1 to relu2",
        "layer4.0/relu",
        "link edge-cloud",
        "3.1 Mbit/s",
        "NodeLabels",
        "4 ready",
        "StaleData",
        "stabilizationSeconds 30",
    ):
        assert words in text, words
    assert text.index("Hold") < text.index("2026-11-23 09:00:00") < text.index("Rollback")


def test_events_come_latest_first_whatever_api_wrote_them(run: Run, cluster: Cluster) -> None:
    cluster.has(PIPELINE, EVENTS)
    events = run("why", "resnet18", "--json").json["events"]
    assert [(event["reason"], event["count"]) for event in events] == [
        ("StaleData", 7), ("BandwidthChanged", 1), ("Old", 3),
    ]  # fmt: skip
    selector = parse_qs(urlsplit(cluster.asked[-1]).query)["fieldSelector"]
    assert selector == ["involvedObject.kind=InferencePipeline,involvedObject.name=resnet18"]


def test_the_json_has_the_keys_that_scripts_rely_on(run: Run, cluster: Cluster) -> None:
    cluster.has(PIPELINE, EVENTS)
    report = run("why", "resnet18", "--json").json
    assert (report["version"], report["pipeline"], report["namespace"]) == (1, "resnet18", "vision")
    assert report["plan"] == PIPELINE["status"]["plan"]
    assert report["decisions"] == PIPELINE["status"]["decisions"]
    assert report["conditions"] == PIPELINE["status"]["conditions"]
    assert report["observed"] == PIPELINE["status"]["observed"]
    assert report["eventsUnread"] is None


@pytest.mark.parametrize(
    ("flags", "namespace"),
    [((), "vision"), (("-n", "other"), "other"), (("--context", "bare"), "default")],
)
def test_the_namespace_is_the_one_that_kubectl_would_take(
    run: Run, cluster: Cluster, flags: tuple[str, ...], namespace: str
) -> None:
    cluster.has({**PIPELINE, "metadata": {"name": "resnet18", "namespace": namespace}}, [])
    assert run("why", "resnet18", *flags, "--json").json["namespace"] == namespace


def test_a_pipeline_that_nobody_looked_at_says_so(run: Run, cluster: Cluster) -> None:
    cluster.has({"metadata": {"name": "new", "namespace": "vision", "generation": 1}}, [])
    text = run("why", "new").out
    assert "new in vision: no operator has looked at it yet" in text
    assert "No events" in text


def test_an_edit_that_was_not_looked_at_yet_is_told(run: Run, cluster: Cluster) -> None:
    cluster.has({**PIPELINE, "metadata": {**PIPELINE["metadata"], "generation": 4}}, [])
    assert "The latest edit of its spec was not looked at yet." in run("why", "resnet18").out


def test_a_pipeline_that_is_not_there_is_refused_with_where_to_look(
    refused: Callable[..., str], cluster: Cluster
) -> None:
    message = refused("why", "none")
    assert message.startswith("InferencePipeline vision/none: ")
    assert "`kubectl get ipl --all-namespaces` lists those that there are" in message
    assert len(cluster.asked) == 1


def test_events_that_may_not_be_read_leave_the_rest(run: Run, cluster: Cluster) -> None:
    cluster.has(PIPELINE, EVENTS)
    cluster.answers["/api/v1/namespaces/vision/events"] = (403, {"message": "events is forbidden"})
    text = run("why", "resnet18").out
    assert "Epoch 4" in text
    assert "Events could not be read: " in text
    assert "events is forbidden" in text


def test_a_pipeline_that_may_not_be_read_is_refused(refused: Callable[..., str], cluster: Cluster) -> None:
    cluster.answers[PIPELINES.format("vision", "resnet18")] = (403, {"message": "inferencepipelines is forbidden"})
    assert "inferencepipelines is forbidden" in refused("why", "resnet18")


def test_a_cluster_that_does_not_answer_is_named(refused: Callable[..., str], tmp_path: Path, cluster: Cluster) -> None:
    config = (tmp_path / "kubeconfig").read_text()
    (tmp_path / "kubeconfig").write_text(config.replace("http://127.0.0.1:", "http://127.0.0.1:1#"))
    assert "can't be reached" in refused("why", "resnet18")
    assert cluster.asked == []


def test_no_kubeconfig_is_refused_with_the_flag_to_give(refused: Callable[..., str], tmp_path: Path) -> None:
    message = refused("why", "resnet18", "--kubeconfig", tmp_path / "none")
    assert message.startswith("--kubeconfig: ")
    assert "name a file with --kubeconfig" in message


def test_without_the_client_the_extra_is_named(refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.delitem(sys.modules, "tierflow_operator.kube_client", raising=False)
    monkeypatch.setitem(sys.modules, "kubernetes", None)
    monkeypatch.setitem(sys.modules, "kubernetes.client", None)
    assert "install `pip install 'tierflow[operator]'`" in refused("why", "resnet18")


def test_names_of_others_move_no_cursor(run: Run, cluster: Cluster) -> None:
    odd = json.loads(json.dumps(PIPELINE))
    odd["status"]["plan"]["segments"][0]["lastLayer"] = "\x1b[2Jevil[bold]"
    odd["status"]["decisions"][0]["message"] = "\x1b]0;title\x07"
    cluster.has(odd, EVENTS)
    text = run("why", "resnet18").out
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "evil[bold]" in text


def test_whatever_is_missing_from_a_status_is_left_out(run: Run, cluster: Cluster) -> None:
    for status in ({}, {"plan": {}}, {"conditions": [{}], "decisions": [{}], "plan": {"segments": [{}]}}):
        pipeline = {"metadata": {"name": "odd", "namespace": "vision"}, "status": status}
        cluster.has(pipeline, [{}])
        assert run("why", "odd").code == 0
        assert report_of(Seen(pipeline, ({},)))["version"] == 1


def test_several_kubeconfigs_are_read_as_kubectl_reads_them(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_text("current-context: two\ncontexts: [{name: one, context: {namespace: a}}]")
    second.write_text("current-context: one\ncontexts: [{name: two, context: {namespace: b}}]")
    environment = {"KUBECONFIG": f"{first}:{second}:{tmp_path / 'none'}"}
    assert namespace_of(None, "", environment) == "b"
    assert namespace_of(None, "one", environment) == "a"
    assert namespace_of(tmp_path / "none", "", {}) == "default"
