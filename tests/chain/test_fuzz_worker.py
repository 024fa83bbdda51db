"""Thousands of broken requests: the worker refuses them, answers the next good one, and doesn't grow."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.fuzzing import fuzz, resident_bytes
from benchmarks.workers import PIPELINE, wait_settled
from factories.clients import ask_both
from factories.models import convolutions
from factories.planes import tensor_of
from factories.served import Served, served
from tierflow.protocol.messages import InferRequest
from tierflow.segment import cut
from tierflow.tiers import Tier

IMAGE = tensor_of("image", np.random.default_rng(0).standard_normal((1, 3, 8, 8), dtype=np.float32))
GOOD = InferRequest(PIPELINE, (IMAGE,), "good")
VALID = [GOOD, replace(GOOD, id="", outputs=("scores",)), replace(GOOD, parameters={"timeout": 10_000_000, "x": "y"})]
WARM_UP = 2_000
COUNT = 10_000
EXPECTED = {
    "OK", "INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED",
    "200", "400", "404", "405", "409", "415", "429", "504", "DISCONNECTED",
}  # fmt: skip


@pytest.fixture
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(convolutions(), tmp_path_factory.mktemp("fuzz"), lambda graph: cut(graph, "relu1", "add")) as running:
        yield running


@pytest.mark.slow
def test_after_ten_thousand_broken_requests_a_worker_answers_and_has_not_grown(chain: Served) -> None:
    processes = {tier: worker.process.pid for tier, worker in chain.workers.items()}
    wait_settled(chain.workers.values())
    asyncio.run(fuzz(chain.grpc, chain.rest, VALID, count=WARM_UP, seed=1))
    before = {tier: resident_bytes(process) for tier, process in processes.items()}
    seen = asyncio.run(fuzz(chain.grpc, chain.rest, VALID, count=COUNT, seed=2))
    growth = {tier: resident_bytes(process) / before[tier] - 1 for tier, process in processes.items()}
    print(dict(seen), {str(tier): f"{part:.1%}" for tier, part in growth.items()})
    assert sum(seen.values()) == COUNT
    assert set(seen) <= EXPECTED, "a worker failed, or its words for a refusal are new"
    assert seen["INVALID_ARGUMENT"] > COUNT / 10
    assert seen["400"] > COUNT / 10
    assert {answer.status for answer in ask_both(chain.grpc, chain.rest, GOOD).values()} == {"OK"}
    assert max(growth.values()) <= 0.05, growth
    for tier in (Tier.DEVICE, Tier.EDGE, Tier.CLOUD):
        events = {line["event"] for line in chain.workers[tier].lines if line.get("level") == "error"}
        assert not events, f"{tier} logged {events}"
