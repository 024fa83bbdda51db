"""What the API server refuses at admission, with the message that a user sees, and what it takes."""

from typing import Any

import pytest

from testbed.pipelines import REFUSED, REFUSED_NAMES, collection, merged, pipeline, tiers
from testbed.rest import ApiServer, Manifest, RefusedError


def refusal(api: ApiServer, namespace: str, manifest: Manifest) -> str:
    """What the API server says to a manifest that it refuses."""
    with pytest.raises(RefusedError) as raised:
        api.create(collection(namespace), manifest, dryRun="All")
    assert raised.value.code == 422
    return raised.value.message


@pytest.mark.parametrize("case", REFUSED)
def test_a_wrong_field_is_refused_by_name_with_the_way_out(api: ApiServer, namespace: str, case: str) -> None:
    change, field, message = REFUSED[case]
    said = refusal(api, namespace, pipeline(**change))
    assert f"{field}: " in said
    assert message in said


@pytest.mark.parametrize("case", REFUSED_NAMES)
def test_a_name_that_cannot_name_services_is_refused(api: ApiServer, namespace: str, case: str) -> None:
    name, message = REFUSED_NAMES[case]
    said = refusal(api, namespace, pipeline(name))
    assert "metadata.name: " in said
    assert message in said


@pytest.mark.parametrize(
    "uri", ["model.onnx", "/models/a.onnx", "file:///models/a.onnx", "ftp://host/a.onnx", "s3://a b"]
)
def test_a_model_that_the_cluster_cannot_read_is_refused(api: ApiServer, namespace: str, uri: str) -> None:
    said = refusal(api, namespace, pipeline(model={"uri": uri}))
    assert f'spec.model.uri: Invalid value: "{uri}": give zoo://NAME, or the address of an ONNX file' in said


def test_an_unknown_field_is_refused_by_kubectl_and_a_strict_client(api: ApiServer, namespace: str) -> None:
    with pytest.raises(RefusedError) as raised:
        api.create(collection(namespace), pipeline(planning={"pin": []}), fieldValidation="Strict", dryRun="All")
    assert 'unknown field "spec.planning.pin"' in raised.value.message


ACCEPTED: dict[str, dict[str, Any]] = {
    "the longest pin": {"planning": {"pins": [{"name": "p" * 63, "layersUpTo": "x" * 1024, "tier": "cloud"}]}},
    "quotes and unicode in a layer's name": {
        "planning": {"pins": [{"name": "odd", "layersUpTo": 'größe/"relu"\'`$(x)\n', "tier": "edge"}]}
    },
    "whole numbers as bytes": {"planning": {"backboneBytesPerRequest": 0}, "tiers": tiers(edge={"memoryBudget": 5})},
    "fractions of units": {"tiers": tiers(edge={"memoryBudget": "1.5Gi"})},
    "resources of other kinds": {
        "tiers": tiers(cloud={"resources": {"requests": {"nvidia.com/gpu": 1}, "limits": {"nvidia.com/gpu": 1}}})
    },
    "equal request and limit in other units": {
        "tiers": tiers(cloud={"resources": {"requests": {"cpu": "1500m"}, "limits": {"cpu": "1.5"}}})
    },
    "a taint of every key": {"tiers": tiers(edge={"tolerations": [{"operator": "Exists"}]})},
    "a taint for a time": {
        "tiers": tiers(
            edge={"tolerations": [{"key": "a", "value": "b", "effect": "NoExecute", "tolerationSeconds": 5}]}
        )
    },
    "a manual cut": {"planning": {"mode": "Manual", "manual": {"deviceLastLayer": "", "edgeLastLayer": "conv1"}}},
    "an empty manual cut in another mode": {"planning": {"mode": "Paused", "manual": {}}},
    "tiers in any order": {
        "tiers": [{"name": "cloud"}, {"name": "device"}, {"name": "edge", "tiling": {"mode": "Off"}}]
    },
    "no prometheus and no image of one's own": {"metrics": {"prometheus": {"url": ""}}, "worker": {"image": ""}},
    "a sum of a file": {"model": {"uri": "https://models.example/a.onnx", "sha256": "0123456789abcdef" * 4}},
}


@pytest.mark.parametrize("case", ACCEPTED)
def test_what_is_allowed_is_taken(api: ApiServer, namespace: str, case: str) -> None:
    taken = api.create(collection(namespace), pipeline(**ACCEPTED[case]), fieldValidation="Strict", dryRun="All")
    for field, value in ACCEPTED[case].items():
        if isinstance(value, dict):
            assert merged(taken["spec"][field], value) == taken["spec"][field]


def test_a_name_of_56_letters_is_taken(api: ApiServer, namespace: str) -> None:
    assert api.create(collection(namespace), pipeline("a" * 56))["metadata"]["name"] == "a" * 56


@pytest.mark.parametrize(
    "change",
    [
        {"uri": "zoo://vgg16"},
        {"inputs": [{"name": "input", "shape": [1, 3, 64, 64]}]},
        {"uri": "https://models.example/resnet18.onnx", "sha256": "0" * 64},
    ],
)
def test_the_model_of_a_pipeline_stays_what_it_is(api: ApiServer, namespace: str, change: Manifest) -> None:
    api.create(collection(namespace), pipeline())
    with pytest.raises(RefusedError) as raised:
        api.patch(f"{collection(namespace)}/small", {"spec": {"model": change}})
    assert "spec.model: Invalid value: the model of a pipeline can't be changed" in raised.value.message
    assert "create another InferencePipeline for the other model, or delete this one first" in raised.value.message


def test_everything_but_the_model_can_be_changed(api: ApiServer, namespace: str) -> None:
    api.create(collection(namespace), pipeline())
    change = {
        "tiers": tiers(device={"replicas": 3}, edge={"tiling": {"maxWorkers": 2}}),
        "planning": {"mode": "Paused", "minIntervalSeconds": 5},
        "worker": {"image": "registry.example/worker:2"},
    }
    changed = api.patch(f"{collection(namespace)}/small", {"spec": change})
    assert changed["metadata"]["generation"] == 2
    assert changed["spec"]["tiers"][1] == {"name": "edge", "tiling": {"mode": "Auto", "maxWorkers": 2}}
