"""A pipeline that has the name of one that was deleted: it begins once nothing of that is left."""

from typing import Any

import pytest

from factories.reconciling import Bench, manifest
from tierflow.manifest_reading import from_object
from tierflow_operator.keys import PipelineKey
from tierflow_operator.pods import Manifest
from tierflow_operator.predecessors import adopted, left_behind, waiting_for

OLD, NEW = "7d3f", "7d40"


def settled(bench: Bench) -> None:
    """Lets the operator and the cluster work until nothing is left to do."""
    bench.run()
    assert bench.cluster.condition("Reconciling") is None


def succeeded(bench: Bench) -> None:
    """Another pipeline has the name, whose status says nothing yet."""
    bench.cluster.manifest["metadata"]["uid"] = NEW
    bench.cluster.manifest.pop("status")


def owners(bench: Bench) -> set[str]:
    """Whom all but pods belong to."""
    owned = [entry["metadata"] for (kind, _), entry in bench.cluster.objects.items() if kind != "Pod"]
    return {owner["uid"] for metadata in owned for owner in metadata["ownerReferences"]}


def orphan_all(bench: Bench) -> None:
    """As the garbage collector does with what a pipeline owned that was deleted with `--cascade=orphan`."""
    for (kind, _), entry in bench.cluster.objects.items():
        if kind != "Pod":
            del entry["metadata"]["ownerReferences"]


@pytest.fixture
def bench() -> Bench:
    """A pipeline that serves its second plan, and was replaced by another of its name."""
    bench = Bench()
    settled(bench)
    bench.cut(2, 2)
    settled(bench)
    assert bench.status["plan"]["epoch"] == 2
    succeeded(bench)
    return bench


def test_nothing_but_the_status_is_written_while_something_is_left(bench: Bench) -> None:
    bench.cluster.writes.clear()
    again_after = bench.reconcile()
    assert bench.cluster.writes == ["status"]
    assert again_after is not None
    assert "plan" not in bench.status
    for kind in ("Ready", "Reconciling"):
        assert bench.cluster.condition(kind)["reason"] == "PredecessorLeaving"
    assert bench.cluster.condition("Stalled") is None


def test_waiting_for_the_same_costs_no_more_writes(bench: Bench) -> None:
    bench.reconcile()
    bench.cluster.writes.clear()
    bench.reconcile()
    assert bench.cluster.writes == []


@pytest.mark.parametrize("last", [("ConfigMap", "small-plan"), ("Deployment", "small-edge"), ("Service", "small")])
def test_it_waits_for_the_last_of_them_and_begins_anew(bench: Bench, last: tuple[str, str]) -> None:
    kept = bench.cluster.objects[last]
    bench.cluster.objects.clear()
    bench.cluster.objects[last] = kept
    bench.reconcile()
    assert f"left are {' '.join(last)}" in bench.cluster.condition("Ready")["message"]
    bench.cluster.objects.clear()
    settled(bench)
    assert bench.status["plan"]["epoch"] == 1
    assert owners(bench) == {NEW}


def test_what_belongs_to_nobody_goes_on_serving(bench: Bench) -> None:
    orphan_all(bench)
    pods = {name for kind, name in bench.cluster.objects if kind == "Pod"}
    settled(bench)
    assert bench.status["plan"]["epoch"] == 2
    assert owners(bench) == {NEW}
    assert {name for kind, name in bench.cluster.objects if kind == "Pod"} == pods


def test_what_is_to_stay_of_a_pipeline_that_goes_while_it_is_read_is_not_taken_back(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = bench.cluster.pipeline

    def read_before_it_goes(key: PipelineKey) -> Manifest:
        found = read(key)
        bench.cluster.manifest["metadata"]["deletionTimestamp"] = "2026-11-27T02:56:23Z"
        return found

    monkeypatch.setattr(bench.cluster, "pipeline", read_before_it_goes)
    orphan_all(bench)
    bench.cluster.writes.clear()
    assert bench.reconcile() is None
    assert bench.cluster.writes == []


def test_the_record_and_the_model_that_belong_to_nobody_become_its_own_unchanged() -> None:
    new = from_object(manifest())
    metadata = {"name": "small-model-1", "labels": {"app.kubernetes.io/component": "model"}, "resourceVersion": "7"}
    model = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "immutable": True, "data": {"a": "b"}}
    (found,) = adopted(new, [model, model | {"metadata": metadata | {"labels": {}}}, owned_by(owner("Job", OLD))])
    assert (found["immutable"], found["data"], found["metadata"]["name"]) == (True, {"a": "b"}, "small-model-1")
    assert found["metadata"]["ownerReferences"][0]["uid"] == OLD
    assert "resourceVersion" not in found["metadata"]
    assert adopted(new, [found]) == ()


def owned_by(*owners: dict[str, str]) -> dict[str, Any]:
    return {"kind": "Pod", "metadata": {"name": "small-edge-1", "ownerReferences": list(owners)}}


def owner(kind: str, uid: str, version: str = "tierflow.dev/v1alpha1") -> dict[str, str]:
    return {"apiVersion": version, "kind": kind, "name": "small", "uid": uid}


@pytest.mark.parametrize(
    ("owners", "is_left"),
    [
        ([], False),
        ([owner("InferencePipeline", NEW)], False),
        ([owner("InferencePipeline", OLD)], True),
        ([owner("InferencePipeline", OLD, "tierflow.dev/v1")], True),
        ([owner("InferencePipeline", OLD), owner("InferencePipeline", NEW)], False),
        ([owner("ReplicaSet", OLD, "apps/v1")], False),
        ([owner("InferencePipeline", OLD, "serving.example/v1")], False),
    ],
)
def test_an_object_is_left_behind_if_another_pipeline_alone_owns_it(
    owners: list[dict[str, str]], is_left: bool
) -> None:
    new = manifest()
    new["metadata"]["uid"] = NEW
    assert bool(left_behind(from_object(new), [owned_by(*owners)])) is is_left


def test_only_the_first_of_many_are_named() -> None:
    said = waiting_for({"kind": "ConfigMap", "metadata": {"name": f"small-{number}"}} for number in range(5)).message
    assert said.endswith("left are ConfigMap small-0, ConfigMap small-1, ConfigMap small-2 and 2 more")
