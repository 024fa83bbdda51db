"""Pipelines that local mode can run in seconds, and what tests ask of them."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from factories.models import model_of, node, saved, value, weight
from tierflow.manifest_reading import from_object
from tierflow.model import open_model
from tierflow.model.model import Model
from tierflow.network import MEGABIT, Link, Network, network_of
from tierflow.plan import Plan
from tierflow.profile import Profile
from tierflow.segment import cut
from tierflow.tiers import TIERS, Tier
from tierflow_local.client import PipelineClient
from tierflow_local.cluster import Entry
from tierflow_local.session import Session, Wanted, session
from tierflow_operator.manual import plan_for
from tierflow_worker.verification import sample_inputs, whole_outputs

LAYERS = ("conv1", "conv2", "conv3", "conv4", "pool", "flatten", "dense")
SPEEDS = {Tier.DEVICE: 0.5, Tier.EDGE: 0.8, Tier.CLOUD: 1.0}


def narrowing() -> onnx.ModelProto:
    """Four convolutions whose feature maps shrink from 64 kB to 4 kB, over an image of 12 kB."""
    nodes = [node("Conv", "image w1", "t1", name="conv1", pads=[1, 1, 1, 1], kernel_shape=[3, 3])]
    nodes += [
        node("Conv", f"t{n - 1} w{n}", f"t{n}", name=f"conv{n}", pads=[1, 1, 1, 1], strides=[2, 2], kernel_shape=[3, 3])
        for n in (2, 3, 4)
    ]
    nodes += [
        node("GlobalAveragePool", "t4", "pooled", name="pool"),
        node("Flatten", "pooled", "flat", name="flatten"),
        node("Gemm", "flat w5", "scores", name="dense", transB=1),
    ]
    weights = [weight("w1", 16, 3, 3, 3), *(weight(f"w{n}", 16, 16, 3, 3, seed=n) for n in (2, 3, 4))]
    return model_of(
        nodes, [value("image", [1, 3, 32, 32])], [value("scores", [1, 10])], [*weights, weight("w5", 10, 16)]
    )


def links(device_edge: float = 400, edge_cloud: float = 200) -> Network:
    """A network with the given Mbit/s and a millisecond of round trip."""
    return network_of(
        Link(bytes_per_second=device_edge * MEGABIT, round_trip_seconds=0.001),
        Link(bytes_per_second=edge_cloud * MEGABIT, round_trip_seconds=0.001),
    )


def wanted(folder: Path, *, planning: Mapping[str, object] | None = None, entry: Entry | None = None) -> Wanted:
    """A run of the narrowing model, whose layers are said to take 20 ms each and in truth take none."""
    path = saved(narrowing(), folder)
    model = open_model(str(path))
    pipeline = from_object(
        {
            "apiVersion": "tierflow.dev/v1alpha1",
            "kind": "InferencePipeline",
            "metadata": {"name": "narrowing"},
            "spec": {
                "model": {"uri": str(path)},
                "tiers": [{"name": tier.value} for tier in TIERS],
                "planning": dict(planning or {}),
                "rollout": {"drainSeconds": 5, "progressDeadlineSeconds": 60},
            },
        }
    )
    layers = dict.fromkeys(LAYERS, 0.020)
    profile = Profile(model=model.identity, source="measured", machine="test", layers=layers)
    return Wanted(
        pipeline=pipeline,
        model=model,
        profile=profile,
        network=links(),
        speeds=SPEEDS,
        entry=entry or Entry(0, 0),
        cache_dir=folder / "cache",
    )


@dataclass(frozen=True)
class Running:
    """A session with what the whole model answers to one request."""

    wanted: Wanted
    session: Session
    inputs: Mapping[str, Any]
    expected: Mapping[str, Any]

    @property
    def model(self) -> Model:
        return self.wanted.model

    def plan(self, last_device_layer: str, last_edge_layer: str) -> Plan:
        """A plan by hand."""
        tiers = cut(self.model.graph, last_device_layer, last_edge_layer)
        return plan_for(self.model.graph, self.wanted.profile, links(), SPEEDS, tiers)

    def client(self) -> PipelineClient:
        """A client of the entry."""
        return PipelineClient(
            self.session.cluster.entry.grpc,
            self.wanted.pipeline.name,
            self.model.graph,
            self.inputs,
            self.expected,
            timeout=30,
        )


@contextmanager
def running(what: Wanted) -> Iterator[Running]:
    """A session; nothing is deployed yet."""
    inputs = sample_inputs(what.model)
    expected = whole_outputs(what.model, inputs)
    with session(what) as made:
        yield Running(what, made, inputs, expected)
