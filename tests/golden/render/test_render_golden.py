"""The rendered objects as YAML, so that a reviewer sees what a change means to a cluster.

`TIERFLOW_UPDATE_GOLDEN=1` writes them anew.
"""

import os
from pathlib import Path

import pytest
import yaml

from factories.graphs import chain
from factories.pipelines import network, profile
from factories.tiled_pipelines import convolutions, tiled_plan
from tierflow.plan import Plan
from tierflow.segment import cut
from tierflow.tiers import Tier
from tierflow_operator.manifest_file import parse
from tierflow_operator.manual import plan_for
from tierflow_operator.pods import Manifest
from tierflow_operator.render import live_descriptors, render

HERE = Path(__file__).parent
GRAPH = chain(4, sizes=[12, 8, 6, 4, 2])
PIPELINE = parse("""
apiVersion: tierflow.dev/v1alpha1
kind: InferencePipeline
metadata: {name: roof, namespace: vision, uid: 5c1b}
spec:
  model: {uri: zoo://resnet18}
  tiers:
  - name: device
    replicas: 2
    resources: {requests: {cpu: 500m, memory: 256Mi}, limits: {cpu: 1}}
    tolerations: [{key: tierflow.dev/device, operator: Exists, effect: NoSchedule}]
  - {name: edge, nodeSelector: {example.com/site: roof}}
  - {name: cloud}
  rollout: {drainSeconds: 10}
  worker: {image: example.com/tierflow-worker:1.2.3}
""")


def plan(last_device: str, last_edge: str) -> Plan:
    speeds = {Tier.DEVICE: 0.1, Tier.EDGE: 0.5, Tier.CLOUD: 1.0}
    return plan_for(GRAPH, profile(GRAPH), network(), speeds, cut(GRAPH, last_device, last_edge))


def objects(name: str) -> tuple[Manifest, ...]:
    if name == "four-edge-workers":
        return render(PIPELINE, convolutions(), tiled_plan(4, "conv1", "conv4"), edge_workers=4)
    first = render(PIPELINE, GRAPH, plan("L0", "L2"))
    if name == "three-tiers":
        return first
    return render(PIPELINE, GRAPH, plan("L1", "L2"), live_descriptors(first))


@pytest.mark.parametrize("name", ["three-tiers", "three-tiers-cut-later-on-the-device", "four-edge-workers"])
def test_the_rendered_objects_are_those_that_were_reviewed(name: str) -> None:
    text = yaml.safe_dump_all(objects(name), sort_keys=False, width=1000)
    path = HERE / f"{name}.yaml"
    if os.environ.get("TIERFLOW_UPDATE_GOLDEN"):
        path.write_text(text)
    assert text == path.read_text()
