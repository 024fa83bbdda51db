"""A newer definition over an older one leaves live objects valid, readable and writable; how the definition reads."""

import copy
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from testbed.control_plane import ControlPlane
from testbed.pipelines import collection, pipeline, tiers
from testbed.process import wait_for
from testbed.rest import ApiServer, Manifest, RefusedError

CRD_FILE = Path(__file__).parents[2] / "crds" / "tierflow.dev_inferencepipelines.yaml"
CRD = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/inferencepipelines.tierflow.dev"
PIPELINES = collection("default")


def older() -> Manifest:
    """A definition of an earlier day: fewer fields, fewer rules, other bounds."""
    crd: Manifest = yaml.safe_load(CRD_FILE.read_text())
    (version,) = crd["spec"]["versions"]
    version["additionalPrinterColumns"] = []
    top = version["schema"]["openAPIV3Schema"]
    spec = top["properties"]["spec"]["properties"]
    for name in ("metrics", "rollout", "worker"):
        del spec[name]
    tier = spec["tiers"]["items"]
    for name in ("memoryBudget", "tiling", "resources"):
        del tier["properties"][name]
    del spec["planning"]["properties"]["stabilizationSeconds"]
    del top["properties"]["status"]["properties"]["decisions"]
    spec["planning"]["properties"]["minIntervalSeconds"]["maximum"] = 1_000_000
    for rules in _rules(top):
        rules.clear()
    return crd


def _rules(schema: Any) -> Iterator[list[Any]]:
    if isinstance(schema, dict):
        for name, value in schema.items():
            if name == "x-kubernetes-validations":
                yield value
            else:
                yield from _rules(value)


@pytest.fixture
def own_plane(control_plane: ControlPlane, tmp_path: Path) -> Iterator[ControlPlane]:
    """A control plane whose definition a test may change, without disturbing others."""
    del control_plane  # only so that missing binaries are told once, and well
    with ControlPlane(tmp_path) as plane:
        yield plane
        print(plane.logs())


def test_live_objects_outlive_an_upgrade_of_the_definition(own_plane: ControlPlane) -> None:
    api = own_plane.api
    own_plane.define(yaml.safe_dump(older()))
    api.create(PIPELINES, pipeline("plain"))
    status = {"status": {"plan": {"epoch": 4, "segments": [{"tier": "device", "layers": 9}]}, "observedGeneration": 1}}
    api.patch(f"{PIPELINES}/plain/status", status)
    # What the newer definition would refuse, stored while nothing refused it.
    api.create(PIPELINES, pipeline("slow", planning={"minIntervalSeconds": 90_000, "mode": "Manual"}))
    before = {item["metadata"]["name"]: item for item in api.items(PIPELINES)}

    own_plane.define(CRD_FILE.read_text())

    # The API server takes up a definition in its own time.
    wait_for("the newer default", lambda: "rollout" in api.get(f"{PIPELINES}/plain")["spec"])
    plain, slow = api.get(f"{PIPELINES}/plain"), api.get(f"{PIPELINES}/slow")
    assert plain["spec"]["rollout"] == {"progressDeadlineSeconds": 120, "drainSeconds": 30}
    assert plain["spec"]["planning"] == before["plain"]["spec"]["planning"] | {"stabilizationSeconds": 30}
    assert plain["status"] == before["plain"]["status"]
    assert plain["metadata"]["resourceVersion"] == before["plain"]["metadata"]["resourceVersion"]

    # Fields that nobody touches are not judged anew: the others can be changed, labels too, and the status is written.
    changed = api.patch(f"{PIPELINES}/slow", {"metadata": {"labels": {"a": "b"}}, "spec": {"worker": {"image": "new"}}})
    assert changed["spec"]["planning"]["minIntervalSeconds"] == 90_000
    assert api.patch(f"{PIPELINES}/slow/status", {"status": {"decisions": [{"reason": "Initial"}]}})["status"]
    assert slow["metadata"]["generation"] == 1
    with pytest.raises(RefusedError, match="less than or equal to 86400"):
        api.patch(f"{PIPELINES}/slow", {"spec": {"planning": {"minIntervalSeconds": 90_001}}})


def test_a_manifest_of_the_older_definition_can_be_applied_to_the_newer_one(own_plane: ControlPlane) -> None:
    own_plane.define(yaml.safe_dump(older()))
    manifest = yaml.safe_dump(pipeline("plain", planning={"mode": "Paused"}))
    own_plane.kubectl("apply", "-n", "default", "-f", "-", given=manifest)
    own_plane.define(CRD_FILE.read_text())
    wait_for("the newer default", lambda: "rollout" in own_plane.api.get(f"{PIPELINES}/plain")["spec"])
    said = own_plane.kubectl("apply", "-n", "default", "-f", "-", given=manifest)
    assert said.strip() == "inferencepipeline.tierflow.dev/plain unchanged"


def test_the_same_definition_again_changes_nothing(control_plane: ControlPlane) -> None:
    before = control_plane.api.get(CRD)
    control_plane.kubectl("apply", "--server-side", "-f", str(CRD_FILE))
    assert control_plane.api.get(CRD)["metadata"]["resourceVersion"] == before["metadata"]["resourceVersion"]


def test_the_definition_is_structural_and_its_names_are_taken(control_plane: ControlPlane) -> None:
    conditions = {entry["type"]: entry for entry in control_plane.api.get(CRD)["status"]["conditions"]}
    assert conditions["Established"]["status"] == "True"
    assert conditions["NamesAccepted"]["status"] == "True"
    assert "NonStructuralSchema" not in conditions


def fields(schema: Manifest, path: str) -> Iterator[str]:
    """The paths of all fields below a schema, as kubectl takes them."""
    for name, field in schema.get("properties", {}).items():
        yield f"{path}.{name}"
        inner = field.get("items", field)
        yield from fields(inner, f"{path}.{name}")


def test_kubectl_explains_every_field(control_plane: ControlPlane) -> None:
    top = yaml.safe_load(CRD_FILE.read_text())["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
    for part in ("spec", "status"):
        explained = control_plane.kubectl("explain", f"ipl.{part}", "--recursive")
        for path in fields(top[part], ""):
            name = path.rpartition(".")[2]
            assert re.search(rf"^\s+{re.escape(name)}\t<", explained, re.MULTILINE), path
    # With a description each, of which the recursive form shows none.
    for path in (
        "ipl.spec.planning.pins.layersUpTo",
        "ipl.spec.tiers.memoryBudget",
        "ipl.status.plan.segments.segment",
    ):
        assert re.search(r"DESCRIPTION:\n\s+\w+ .*", control_plane.kubectl("explain", path))
    assert "Default: 10." in control_plane.kubectl("explain", "ipl.spec.planning.minImprovementPercent")


def test_every_field_of_the_definition_has_a_description(control_plane: ControlPlane) -> None:
    (version,) = control_plane.api.get(CRD)["spec"]["versions"]
    top = version["schema"]["openAPIV3Schema"]["properties"]
    silent = [path for part in ("spec", "status") for path in _silent(top[part], part)]
    assert silent == []


def _silent(schema: Manifest, path: str) -> Iterator[str]:
    if not schema.get("description", "").endswith("."):
        yield path
    for name, field in schema.get("properties", {}).items():
        yield from _silent(field, f"{path}.{name}")
    for inner in ("items", "additionalProperties"):
        if inner in schema:
            yield from _silent(schema[inner], f"{path}[]")


STATUS: Manifest = {
    "observedGeneration": 3,
    "conditions": [
        {
            "type": "Ready",
            "status": "True",
            "reason": "ServingPlan",
            "message": "epoch 4 on 3 tiers",
            "observedGeneration": 3,
            "lastTransitionTime": "2026-11-23T09:00:00Z",
        }
    ],
    "endpoint": {"grpc": "resnet18.vision.svc:8001", "rest": "http://resnet18.vision.svc:8000"},
    "plan": {
        "epoch": 4,
        "algorithm": "Exact",
        "reason": "BandwidthChanged",
        "message": "edge-cloud link 18.9 -> 3.1 Mbit/s; predicted 212 ms -> 141 ms",
        "predictedLatencyMilliseconds": 141,
        "optimalityGapPercent": 0,
        "backboneBytesPerRequest": 100352,
        "segments": [
            {
                "tier": "device",
                "layers": 9,
                "lastLayer": "layer1.0/relu",
                "boundaryBytes": 802816,
                "segment": "3f9c1a7b",
            },
            {
                "tier": "edge",
                "layers": 31,
                "lastLayer": "layer4.0/relu",
                "boundaryBytes": 100352,
                "segment": "81be02d4",
            },
            {"tier": "cloud", "layers": 7, "segment": "c0ffee12"},
        ],
        "tiling": {"workers": 4, "runs": [{"firstLayer": "conv1", "lastLayer": "layer2.1/relu", "grid": "2x2"}]},
    },
    "observed": {
        "links": [
            {
                "from": "device",
                "to": "edge",
                "kilobitsPerSecond": 84_000,
                "roundTripMicroseconds": 3_000,
                "source": "Assumed",
            }
        ],
        "speeds": [{"tier": "device", "percent": 15, "source": "NodeLabels"}],
        "nodes": [{"tier": "edge", "ready": 4}],
        "metricsAgeSeconds": 5,
    },
    "lastPlanTime": "2026-11-23T09:00:00Z",
    "decisions": [
        {
            "time": "2026-11-23T09:00:00Z",
            "decision": "Move",
            "reason": "BandwidthChanged",
            "message": "141 ms",
            "epoch": 4,
            "count": 1,
        }
    ],
}


def test_the_whole_status_is_kept_and_its_columns_are_shown(control_plane: ControlPlane, namespace: str) -> None:
    api = control_plane.api
    api.create(collection(namespace), pipeline("resnet18"))
    assert control_plane.kubectl("get", "ipl", "-n", namespace).splitlines()[0].split() == [
        *("NAME", "READY", "EPOCH", "LATENCY", "DEVICE", "EDGE", "CLOUD", "TILES", "REASON", "AGE")
    ]
    body = {"status": copy.deepcopy(STATUS)}
    kept = api.request(
        "PATCH",
        f"{collection(namespace)}/resnet18/status",
        body,
        content_type="application/merge-patch+json",
        fieldValidation="Strict",
    )
    assert kept["status"] == STATUS
    for name in ("ipl", "inferencepipeline", "inferencepipelines", "all"):
        row = control_plane.kubectl("get", name, "-n", namespace).splitlines()[1].split()
        assert row[1:9] == ["True", "4", "141", "9", "31", "7", "4", "ServingPlan"]
    assert "BandwidthChanged" in control_plane.kubectl("get", "ipl", "-n", namespace, "-o", "wide")


def test_writing_the_spec_leaves_the_status_alone_and_the_other_way_round(api: ApiServer, namespace: str) -> None:
    created = api.create(collection(namespace), pipeline() | {"status": {"observedGeneration": 9}})
    assert "status" not in created
    path = f"{collection(namespace)}/small"
    api.patch(f"{path}/status", {"spec": {"planning": {"mode": "Paused"}}, "status": {"observedGeneration": 1}})
    after = api.patch(path, {"spec": {"tiers": tiers(device={"replicas": 2})}, "status": {"observedGeneration": 7}})
    assert after["spec"]["planning"]["mode"] == "Auto"
    assert after["status"] == {"observedGeneration": 1}
    assert after["metadata"]["generation"] == 2
