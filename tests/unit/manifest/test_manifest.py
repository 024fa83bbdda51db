"""The InferencePipeline manifest: what it means, and what is said about each thing that can be wrong with it."""

from pathlib import Path

import pytest

from tierflow.errors import InvalidManifestError
from tierflow.manifest import InferencePipeline, PlanningMode, TilingMode
from tierflow.manifest_values import (
    assumed_network,
    assumed_speeds,
    constraints_of,
    model_reference,
)
from tierflow.partition.problem import Algorithm, Pin
from tierflow.tiers import Tier
from tierflow_operator.manifest_file import parse, read

SMALLEST = """
apiVersion: tierflow.dev/v1alpha1
kind: InferencePipeline
metadata:
  name: small
spec:
  model: {uri: zoo://resnet18}
  tiers: [{name: device}, {name: edge}, {name: cloud}]
"""

EVERYTHING = """
apiVersion: v1
kind: Namespace
metadata: {name: vision}
---
apiVersion: tierflow.dev/v1alpha1
kind: InferencePipeline
metadata:
  name: resnet18
  namespace: vision
  creationTimestamp: 2026-11-23T09:00:00Z
  annotations:
    tierflow.dev/network: wifi
    tierflow.dev/speeds: "device=phone,edge=0.5,cloud=1"
spec:
  model:
    uri: zoo://resnet18
    sha256: ""
    inputs:
    - name: input
      shape: [1, 3, 224, 224]
  tiers:
  - name: device
    nodeSelector: {tierflow.dev/tier: device}
    tolerations: []
    replicas: 1
    resources: {requests: {cpu: 500m, memory: 256Mi}}
    memoryBudget: 512Mi
  - name: edge
    nodeSelector: {example.com/site: roof}
    tiling: {mode: Auto, maxWorkers: 4}
  - name: cloud
    nodeSelector: {tierflow.dev/tier: cloud}
  planning:
    mode: Auto
    algorithm: Heuristic
    objective: Latency
    minImprovementPercent: 10
    minIntervalSeconds: 30
    stabilizationSeconds: 30
    pins:
    - name: privacy
      layersUpTo: layer1/relu
      tier: device
    backboneBytesPerRequest: 500k
    manual: {}
  metrics:
    prometheus: {url: "http://prometheus.monitoring:9090"}
    maxStalenessSeconds: 60
    onUnavailable: HoldPlan
  rollout:
    progressDeadlineSeconds: 120
    drainSeconds: 30
  worker:
    image: ""
status:
  observedGeneration: 3
"""


def small(**changes: str) -> str:
    """The smallest manifest with texts of it replaced."""
    text = SMALLEST
    for old, new in changes.items():
        text = text.replace(old, new)
    return text


def test_the_smallest_manifest_gets_the_defaults() -> None:
    pipeline = parse(SMALLEST)
    assert (pipeline.name, pipeline.namespace) == ("small", "default")
    assert pipeline.spec.planning.mode is PlanningMode.AUTO
    assert pipeline.spec.planning.algorithm is Algorithm.EXACT
    assert pipeline.spec.tier(Tier.CLOUD).selector == {"tierflow.dev/tier": "cloud"}
    assert (assumed_network(pipeline), assumed_speeds(pipeline)) == (None, None)


def test_every_field_of_the_documented_shape_is_read() -> None:
    pipeline = parse(EVERYTHING)
    network = assumed_network(pipeline)
    assert network is not None
    assert network.name == "wifi"
    assert assumed_speeds(pipeline) == {Tier.DEVICE: 0.15, Tier.EDGE: 0.5, Tier.CLOUD: 1.0}
    constraints = constraints_of(pipeline.spec)
    assert constraints.pins == (Pin("privacy", "layer1/relu", Tier.DEVICE),)
    assert constraints.memory == {Tier.DEVICE: 512 * 2**20}
    assert constraints.backbone_bytes == 500_000
    reference = model_reference(pipeline.spec.model, "zoo:resnet18:1")
    assert reference.input_shapes == {"input": (1, 3, 224, 224)}
    assert pipeline.spec.tier(Tier.EDGE).selector == {"example.com/site": "roof"}
    assert pipeline.spec.planning.algorithm is Algorithm.HEURISTIC


def test_the_order_of_the_tiers_does_not_matter_and_null_means_not_given() -> None:
    text = small(**{"{name: device}, {name: edge}": "{name: edge, tiling: null}, {name: device, memoryBudget: null}"})
    assert parse(text).spec.tier(Tier.DEVICE).memory_budget is None


def test_a_quoted_off_turns_tiling_off() -> None:
    tiling = parse(small(**{"{name: edge}": '{name: edge, tiling: {mode: "Off"}}'})).spec.tier(Tier.EDGE).tiling
    assert tiling is not None
    assert tiling.mode is TilingMode.OFF


def test_the_sample_is_a_manifest_that_says_what_to_emulate() -> None:
    pipeline = read(Path("samples/resnet18.yaml"))
    assert assumed_network(pipeline) is not None
    assert assumed_speeds(pipeline) is not None


def manual(mode: str, cut: str) -> str:
    return small(**{"spec:": f"spec:\n  planning: {{mode: {mode}, manual: {cut}}}"})


def test_a_manual_cut_is_taken_in_mode_manual() -> None:
    pipeline: InferencePipeline = parse(manual("Manual", '{deviceLastLayer: "", edgeLastLayer: relu}'))
    assert pipeline.spec.planning.manual.edge_last_layer == "relu"


def planning(text: str) -> dict[str, str]:
    return {"spec:": f"spec:\n  planning: {{{text}}}"}


WRONG = {
    "unknown field": (
        planning("minIntervallSeconds: 3"),
        "spec.planning.minIntervallSeconds: is no field, did you mean minIntervalSeconds",
    ),
    "unknown field in a list": (
        {"{name: edge}": "{name: edge, nodeselector: {}}"},
        "spec.tiers[1].nodeselector: is no field, did you mean nodeSelector",
    ),
    "unknown field in an optional one": (
        {"{name: edge}": "{name: edge, tiling: {maxworkers: 3}}"},
        "spec.tiers[1].tiling.maxworkers: is no field, did you mean maxWorkers",
    ),
    "field far from any": ({"spec:": "spec:\n  xyz: 1"}, "spec.xyz: is no field; there are "),
    "wrong unit": (
        {"{name: edge}": "{name: edge, memoryBudget: 512MB}"},
        "spec.tiers[1].memoryBudget: '512MB' has the unknown unit 'MB'; use one of k, M, G, T, Ki",
    ),
    "wrong unit of the backbone": (
        planning("backboneBytesPerRequest: 3Mbit"),
        "spec.planning.backboneBytesPerRequest: '3Mbit' has the unknown unit 'Mbit'",
    ),
    "wrong unit of a resource": (
        {"{name: edge}": "{name: edge, resources: {limits: {memory: 1gig}}}"},
        "spec.tiers[1].resources.limits.memory: '1gig' has the unknown unit 'gig'",
    ),
    "wrong amount of cpu": (
        {"{name: edge}": "{name: edge, resources: {requests: {cpu: half}}}"},
        "spec.tiers[1].resources.requests.cpu: 'half' is no amount of CPU; write it like 500m",
    ),
    "tier twice": (
        {"{name: edge}": "{name: device}"},
        "spec.tiers[1].name: the tier device is spec.tiers[0] already; give each once",
    ),
    "tier missing": ({", {name: cloud}": ""}, "spec.tiers: no tier is named cloud; add `- name: cloud`"),
    "tier unknown": (
        {"{name: edge}": "{name: edgy}"},
        "spec.tiers[1].name: 'edgy' is not allowed here; expected one of device, edge, cloud, did you mean edge?",
    ),
    "pin on an unknown tier": (
        planning("pins: [{name: a, layersUpTo: relu, tier: fog}]"),
        "spec.planning.pins[0].tier: 'fog' is not allowed here; expected one of device, edge, cloud",
    ),
    "pin twice": (
        planning("pins: [{name: a, layersUpTo: r, tier: edge}, {name: a, layersUpTo: s, tier: edge}]"),
        "spec.planning.pins[1].name: a pin named 'a' is there already",
    ),
    "pin with a wrong name": (
        planning("pins: [{name: Privacy, layersUpTo: r, tier: edge}]"),
        "spec.planning.pins[0].name: 'Privacy' is no RFC 1123 label; use lower-case",
    ),
    "bad mode": (
        planning("mode: auto"),
        "spec.planning.mode: 'auto' is not allowed here; expected one of Auto, Manual, Paused, did you mean Auto?",
    ),
    "bad algorithm": (
        planning("algorithm: Fast"),
        "spec.planning.algorithm: 'Fast' is not allowed here; expected one of Exact, Heuristic",
    ),
    "bad toleration": (
        {"{name: edge}": "{name: edge, tolerations: [{operator: Is}]}"},
        "spec.tiers[1].tolerations[0].operator: 'Is' is not allowed here; expected one of 'Equal', 'Exists'",
    ),
    "unquoted off": (
        {"{name: edge}": "{name: edge, tiling: {mode: Off}}"},
        "spec.tiers[1].tiling.mode: False is not allowed here; expected one of Auto, Off; YAML reads an unquoted",
    ),
    "number for a text": (
        {"{name: edge}": "{name: edge, nodeSelector: {rack: 4}}"},
        "spec.tiers[1].nodeSelector[...]: {'rack': 4} is not allowed here; expected `str`, got `int`",
    ),
    "text for a number": (
        planning('minIntervalSeconds: "30"'),
        "spec.planning.minIntervalSeconds: '30' is not allowed here; expected a whole number of at least 0",
    ),
    "number out of range": (
        planning("minImprovementPercent: 101"),
        "spec.planning.minImprovementPercent: 101 is not allowed here; expected a whole number of at least 0 and at",
    ),
    "tiling off the edge": (
        {"{name: cloud}": "{name: cloud, tiling: {}}"},
        "spec.tiers[2].tiling: only the edge tiles, not the cloud; remove the field",
    ),
    "wrong apiVersion": (
        {"tierflow.dev/v1alpha1": "tierflow.dev/v1"},
        "apiVersion: 'tierflow.dev/v1' is not known here; write `apiVersion: tierflow.dev/v1alpha1`",
    ),
    "wrong kind": (
        {"kind: InferencePipeline": "kind: InferenceService"},
        "kind: 'InferenceService' is not known here; write `kind: InferencePipeline`",
    ),
    "missing kind": ({"kind: InferencePipeline\n": ""}, "kind: is required, but not given; write `kind:"),
    "missing uri": ({"{uri: zoo://resnet18}": "{}"}, "spec.model.uri: is required, but not given"),
    "wrong sha256": (
        {"uri: zoo://resnet18": "uri: zoo://resnet18, sha256: abc"},
        "spec.model.sha256: 'abc' is no SHA-256; give 64 lower-case hexadecimal digits",
    ),
    "free dimension": (
        {"uri: zoo://resnet18": "uri: zoo://resnet18, inputs: [{name: x, shape: [0, 3]}]"},
        "spec.model.inputs[0].shape[0]: 0 is not allowed here; expected a whole number of at least 1",
    ),
    "input twice": (
        {"uri: zoo://resnet18": "uri: zoo://resnet18, inputs: [{name: x, shape: [1]}, {name: x, shape: [2]}]"},
        "spec.model.inputs[1].name: the input 'x' is given twice",
    ),
    "name with an underscore": (
        {"name: small": "name: my_net"},
        "metadata.name: 'my_net' can't name a Service; use lower-case letters, digits and '-'",
    ),
    "name too long": ({"name: small": "name: " + "a" * 57}, "at most 56 of them"),
    "wrong namespace": (
        {"name: small": "name: small\n  namespace: Vision"},
        "metadata.namespace: 'Vision' is no RFC 1123 label",
    ),
    "field twice": (
        {"name: small": "name: small\n  name: other"},
        "line 6: the field name is given twice, first on line 5; remove one",
    ),
    "no YAML": ({"spec:": "spec: ["}, "no YAML on line"),
    "a list": ({SMALLEST: "[1, 2]"}, "manifest: an InferencePipeline is a mapping, not [1, 2]"),
    "nothing": ({SMALLEST: "# nothing\n"}, "no objects of kind InferencePipeline are in it; give exactly one"),
    "two": ({SMALLEST: SMALLEST + "---" + SMALLEST}, "2 objects of kind InferencePipeline are in it; give exactly"),
    "annotated network": (
        {"name: small": "name: small\n  annotations: {tierflow.dev/network: wlan}"},
        "metadata.annotations[tierflow.dev/network]: no network is named 'wlan'; there are cat1",
    ),
    "annotated speeds": (
        {"name: small": 'name: small\n  annotations: {tierflow.dev/speeds: "device=fone,edge=1,cloud=1"}'},
        "metadata.annotations[tierflow.dev/speeds]: 'fone' is no speed of device, did you mean phone?",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_field_is_named_with_its_value_and_the_way_out(case: str) -> None:
    changes, message = WRONG[case]
    with pytest.raises(InvalidManifestError) as raised:
        parse(small(**changes))
    assert message in raised.value.message
    assert raised.value.subject


def test_a_manual_cut_without_mode_manual_is_refused() -> None:
    with pytest.raises(InvalidManifestError, match=r"spec\.planning\.manual: has no effect in mode Auto"):
        parse(manual("Auto", "{deviceLastLayer: relu}"))


def test_mode_manual_without_a_cut_is_refused() -> None:
    with pytest.raises(InvalidManifestError, match=r"spec\.planning\.manual: mode Manual needs the cut"):
        parse(manual("Manual", "{}"))


def test_the_file_with_the_error_is_named(tmp_path: Path) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(small(**{"name: small": "name: Small"}))
    with pytest.raises(InvalidManifestError, match=r"wrong\.yaml: metadata\.name"):
        read(path)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidManifestError, match=r"nowhere\.yaml: can't be read: No such file"):
        read(tmp_path / "nowhere.yaml")
