"""InferencePipelines for tests, and those that nobody takes: neither the API server nor local mode."""

import copy
from collections.abc import Mapping
from typing import Any, Final

from testbed.rest import Manifest

PATH: Final = "/apis/tierflow.dev/v1alpha1"

_TIERS: Final = ("device", "edge", "cloud")
_LONG: Final = "x" * 5_000


def pipeline(name: str = "small", *, annotations: Mapping[str, str] | None = None, **spec: Any) -> Manifest:
    """The smallest InferencePipeline, with `spec` merged into its own."""
    smallest = {"model": {"uri": "zoo://resnet18"}, "tiers": [{"name": tier} for tier in _TIERS]}
    metadata = {"name": name, **({"annotations": dict(annotations)} if annotations else {})}
    return {
        "apiVersion": "tierflow.dev/v1alpha1",
        "kind": "InferencePipeline",
        "metadata": metadata,
        "spec": merged(smallest, spec),
    }


def merged(base: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `change` in it: mappings are merged, all else is replaced."""
    result = copy.deepcopy(dict(base))
    for key, value in change.items():
        old = result.get(key)
        result[key] = merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return result


def tiers(**changes: Any) -> list[Manifest]:
    """The three tiers, the fields of each given by its name."""
    return [{"name": tier, **changes.get(tier, {})} for tier in _TIERS]


def collection(namespace: str) -> str:
    """The path of a namespace's pipelines."""
    return f"{PATH}/namespaces/{namespace}/inferencepipelines"


def _device(**fields: Any) -> Manifest:
    return {"tiers": tiers(device=fields)}


def _taint(**fields: Any) -> Manifest:
    return _device(tolerations=[fields])


def _planning(**fields: Any) -> Manifest:
    return {"planning": fields}


def _pin(**fields: Any) -> Manifest:
    return _planning(pins=[{"name": "privacy", "layersUpTo": "conv1", "tier": "device", **fields}])


_NO_BYTES: Final = "is no amount of bytes; write a whole number, or one with k, M, G, T, Ki, Mi, Gi or Ti, like 512Mi"
_NO_MEMORY: Final = "has a memory that is no amount of bytes"
_NO_AMOUNT: Final = "has an amount that is no quantity; write it like `cpu: 500m` or `memory: 256Mi`"
_ONCE: Final = "give each of the tiers device, edge and cloud exactly once"
_NO_TAINT_VALUE: Final = "is no value of a taint"

REFUSED: Final[dict[str, tuple[Manifest, str, str]]] = {
    # What is changed in the spec, the field that the API server names, and what it says.
    "model missing": ({"model": None}, "spec.model", "Required value"),
    "uri missing": ({"model": {"uri": None}}, "spec.model.uri", "Required value"),
    "uri empty": ({"model": {"uri": ""}}, "spec.model.uri", "should be at least 1 chars long"),
    "uri too long": ({"model": {"uri": f"zoo://{_LONG}"}}, "spec.model.uri", "may not be more than 2048"),
    "sha256 of something": (
        {"model": {"uri": "s3://a/b", "sha256": "ABC"}},
        "spec.model.sha256",
        "is no SHA-256; give 64",
    ),
    "sha256 of the zoo": (
        {"model": {"sha256": "0" * 64}},
        "spec.model.sha256",
        "is made, not read, and has no SHA-256",
    ),
    "input twice": (
        {"model": {"inputs": [{"name": "x", "shape": [1]}, {"name": "x", "shape": [2]}]}},
        "spec.model.inputs[1]",
        'Duplicate value: {"name":"x"}',
    ),
    "input without a shape": ({"model": {"inputs": [{"name": "x"}]}}, "spec.model.inputs[0].shape", "Required value"),
    "input without a name": (
        {"model": {"inputs": [{"name": "", "shape": [1]}]}},
        "spec.model.inputs[0].name",
        "should be at least 1 chars long",
    ),
    "input of no size": (
        {"model": {"inputs": [{"name": "x", "shape": [1, 0]}]}},
        "spec.model.inputs[0].shape[1]",
        "should be greater than or equal to 1",
    ),
    "input of too many dimensions": (
        {"model": {"inputs": [{"name": "x", "shape": [1] * 17}]}},
        "spec.model.inputs[0].shape",
        "must have at most 16 items",
    ),
    "tiers missing": ({"tiers": None}, "spec.tiers", "Required value"),
    "a tier missing": ({"tiers": tiers()[:2]}, "spec.tiers", _ONCE),
    "a tier twice": ({"tiers": [*tiers()[:2], {"name": "edge"}]}, "spec.tiers", _ONCE),
    "a fourth tier": ({"tiers": [*tiers(), {"name": "edge"}]}, "spec.tiers", "must have at most 3 items"),
    "an unknown tier": (
        {"tiers": [*tiers()[:2], {"name": "fog"}]},
        "spec.tiers[2].name",
        'Unsupported value: "fog": supported values: "device", "edge", "cloud"',
    ),
    "tiling on the device": (_device(tiling={"mode": "Auto"}), "spec.tiers[0].tiling", "only the edge tiles"),
    "tiling of an unknown mode": (
        {"tiers": tiers(edge={"tiling": {"mode": "Sometimes"}})},
        "spec.tiers[1].tiling.mode",
        'Unsupported value: "Sometimes": supported values: "Auto", "Off"',
    ),
    "tiling by nobody": (
        {"tiers": tiers(edge={"tiling": {"maxWorkers": 0}})},
        "spec.tiers[1].tiling.maxWorkers",
        "should be greater than or equal to 1",
    ),
    "tiling by too many": (
        {"tiers": tiers(edge={"tiling": {"maxWorkers": 65}})},
        "spec.tiers[1].tiling.maxWorkers",
        "should be less than or equal to 64",
    ),
    "label value": (
        _device(nodeSelector={"site": "the roof"}),
        "spec.tiers[0].nodeSelector[site]",
        "is no value of a label; use letters",
    ),
    "label value too long": (
        _device(nodeSelector={"site": "x" * 64}),
        "spec.tiers[0].nodeSelector.site",
        "may not be more than 63",
    ),
    "too many labels": (
        _device(nodeSelector={f"label{number}": "x" for number in range(17)}),
        "spec.tiers[0].nodeSelector",
        "must have at most 16 items",
    ),
    "toleration of a value with Exists": (
        _taint(key="a", operator="Exists", value="b"),
        "spec.tiers[0].tolerations[0].value",
        "has no place beside operator Exists",
    ),
    "toleration without a key": (
        _taint(effect="NoSchedule"),
        "spec.tiers[0].tolerations[0].key",
        "is needed with operator Equal; give the taint's key",
    ),
    "toleration for a time": (
        _taint(key="a", effect="NoSchedule", tolerationSeconds=5),
        "spec.tiers[0].tolerations[0].tolerationSeconds",
        "needs `effect: NoExecute`, the only effect that takes time",
    ),
    "toleration by another operator": (
        _taint(key="a", operator="In"),
        "spec.tiers[0].tolerations[0].operator",
        'Unsupported value: "In": supported values: "Exists", "Equal"',
    ),
    "toleration of another effect": (
        _taint(key="a", effect="Sometimes"),
        "spec.tiers[0].tolerations[0].effect",
        'Unsupported value: "Sometimes"',
    ),
    "toleration of no value": (_taint(key="a", value="!"), "spec.tiers[0].tolerations[0].value", _NO_TAINT_VALUE),
    "replicas none": (_device(replicas=0), "spec.tiers[0].replicas", "should be greater than or equal to 1"),
    "replicas too many": (_device(replicas=1001), "spec.tiers[0].replicas", "should be less than or equal to 1000"),
    "replicas as text": (_device(replicas="2"), "spec.tiers[0].replicas", "must be of type integer"),
    "request of no memory": (
        _device(resources={"requests": {"memory": "lots"}}),
        "spec.tiers[0].resources.requests",
        _NO_MEMORY,
    ),
    "limit of no memory": (
        _device(resources={"limits": {"memory": "5m"}}),
        "spec.tiers[0].resources.limits",
        _NO_MEMORY,
    ),
    "request of no cpu": (
        _device(resources={"requests": {"cpu": "half"}}),
        "spec.tiers[0].resources.requests",
        _NO_AMOUNT,
    ),
    "limit below nothing": (_device(resources={"limits": {"cpu": -1}}), "spec.tiers[0].resources.limits", _NO_AMOUNT),
    "request above the limit": (
        _device(resources={"requests": {"cpu": "1.5"}, "limits": {"cpu": "1200m"}}),
        "spec.tiers[0].resources.requests",
        "asks for more than the limit of the same name",
    ),
    "memory budget": (_device(memoryBudget="512 MB"), "spec.tiers[0].memoryBudget", _NO_BYTES),
    "memory budget below nothing": (_device(memoryBudget=-1), "spec.tiers[0].memoryBudget", _NO_BYTES),
    "backbone budget": (
        _planning(backboneBytesPerRequest="500kB"),
        "spec.planning.backboneBytesPerRequest",
        _NO_BYTES,
    ),
    "mode": (_planning(mode="Automatic"), "spec.planning.mode", 'supported values: "Auto", "Manual", "Paused"'),
    "algorithm": (_planning(algorithm="Greedy"), "spec.planning.algorithm", 'supported values: "Exact", "Heuristic"'),
    "objective": (_planning(objective="Energy"), "spec.planning.objective", 'supported values: "Latency"'),
    "improvement below nothing": (
        _planning(minImprovementPercent=-1),
        "spec.planning.minImprovementPercent",
        "should be greater than or equal to 0",
    ),
    "improvement of more than all": (
        _planning(minImprovementPercent=101),
        "spec.planning.minImprovementPercent",
        "should be less than or equal to 100",
    ),
    "interval of more than a day": (
        _planning(minIntervalSeconds=86_401),
        "spec.planning.minIntervalSeconds",
        "should be less than or equal to 86400",
    ),
    "window below nothing": (
        _planning(stabilizationSeconds=-1),
        "spec.planning.stabilizationSeconds",
        "should be greater than or equal to 0",
    ),
    "manual cut in another mode": (
        _planning(manual={"deviceLastLayer": "conv1"}),
        "spec.planning.manual",
        "has no effect unless mode is Manual; set `mode: Manual` or remove the field",
    ),
    "mode Manual without a cut": (
        _planning(mode="Manual", manual={}),
        "spec.planning.manual",
        "mode Manual needs the cut; give deviceLastLayer and edgeLastLayer",
    ),
    "pin on an unknown tier": (
        _pin(tier="fog"),
        "spec.planning.pins[0].tier",
        'Unsupported value: "fog": supported values: "device", "edge", "cloud"',
    ),
    "pin twice": (
        _planning(pins=2 * [{"name": "privacy", "layersUpTo": "conv1", "tier": "device"}]),
        "spec.planning.pins[1]",
        'Duplicate value: {"name":"privacy"}',
    ),
    "pin's name": (_pin(name="Privacy"), "spec.planning.pins[0].name", "use lower-case letters, digits and '-'"),
    "pin's long name": (_pin(name="x" * 64), "spec.planning.pins[0].name", "may not be more than 63"),
    "pin without a layer": (_pin(layersUpTo=""), "spec.planning.pins[0].layersUpTo", "should be at least 1 chars long"),
    "pin on a layer with a long name": (
        _pin(layersUpTo=_LONG),
        "spec.planning.pins[0].layersUpTo",
        "may not be more than 1024",
    ),
    "too many pins": (
        _planning(pins=[{"name": f"pin{number}", "layersUpTo": "x", "tier": "edge"} for number in range(33)]),
        "spec.planning.pins",
        "must have at most 32 items",
    ),
    "prometheus without http": (
        {"metrics": {"prometheus": {"url": "prometheus:9090"}}},
        "spec.metrics.prometheus.url",
        "is no http address; write it like http://prometheus.monitoring:9090",
    ),
    "staleness of nothing": (
        {"metrics": {"maxStalenessSeconds": 0}},
        "spec.metrics.maxStalenessSeconds",
        "should be greater than or equal to 1",
    ),
    "unavailable": (
        {"metrics": {"onUnavailable": "Panic"}},
        "spec.metrics.onUnavailable",
        'supported values: "HoldPlan", "UseDefaults"',
    ),
    "deadline of nothing": (
        {"rollout": {"progressDeadlineSeconds": 0}},
        "spec.rollout.progressDeadlineSeconds",
        "should be greater than or equal to 1",
    ),
    "drain of more than an hour": (
        {"rollout": {"drainSeconds": 3_601}},
        "spec.rollout.drainSeconds",
        "should be less than or equal to 3600",
    ),
    "image": ({"worker": {"image": "tierflow worker"}}, "spec.worker.image", "is no image; write it like"),
}
"""What both refuse."""

REFUSED_NAMES: Final = {
    "long": ("a" * 57, "is too long; give at most 56 characters"),
    "beginning with a digit": ("9lives", "can't name a Service"),
    "with a dot": ("a.b", "can't name a Service"),
    "ending with a dash": ("a-", "a lowercase RFC 1123 subdomain"),
    "of capitals": ("ResNet", "a lowercase RFC 1123 subdomain"),
    "of unicode": ("größe", "a lowercase RFC 1123 subdomain"),
}
"""Names that both refuse, and what the API server says."""
