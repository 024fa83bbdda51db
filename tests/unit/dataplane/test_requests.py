"""What the data plane refuses, by name, and what it says about itself."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from benchmarks.workers import PIPELINE
from factories.planes import GatedSegment, Node, serving
from tierflow.descriptor import Boundary, ModelReference, SegmentDescriptor, WorkerDescriptor
from tierflow.errors import (
    DeadlineExceededError,
    InvalidRequestError,
    OverloadedError,
    TierflowError,
    UnknownModelError,
)
from tierflow.graph import Tensor
from tierflow.protocol.elements import pack_strings
from tierflow.protocol.messages import BOUNDARY_PARAMETER, SECONDS_PARAMETER, InferRequest, InferTensor
from tierflow.tiers import Tier

X = Tensor(name="x", dtype="float32", shape=(2, 2))
WORDS = Tensor(name="words", dtype="string", shape=(2,))
Y = Tensor(name="y", dtype="float32", shape=(2, 2))
DESCRIPTOR = WorkerDescriptor(
    pipeline=PIPELINE,
    namespace="default",
    tier=Tier.DEVICE,
    model=ModelReference(uri="file:///unused", identity="none"),
    inputs=(X, WORDS),
    outputs=(Y,),
    segments=(SegmentDescriptor(id="s", layers=1, accepts=Boundary(id="b", tensors=(X, WORDS)), results=(Y,)),),
)
GOOD_X = InferTensor("x", "float32", (2, 2), bytes(16))
GOOD_WORDS = InferTensor("words", "string", (2,), pack_strings([b"one", b"two"]))
GOOD = InferRequest(PIPELINE, (GOOD_X, GOOD_WORDS), "r1")


def with_plane(
    test: Callable[[Node, GatedSegment], Awaitable[None]], descriptor: WorkerDescriptor = DESCRIPTOR, **options: Any
) -> None:
    async def limited() -> None:
        segment = GatedSegment(descriptor.segments[0])
        try:
            async with asyncio.timeout(30), serving(descriptor, lambda _: segment, **options) as node:
                await test(node, segment)
        finally:
            segment.gate.set()

    asyncio.run(limited())


WRONG = [
    (replace(GOOD, model="other"), UnknownModelError, "no model 'other' is served here; this worker serves pipe"),
    (replace(GOOD, version="7"), UnknownModelError, "pipe has no version '7'"),
    (replace(GOOD, tensors=(GOOD_X,)), InvalidRequestError, "tensor 'words' is missing; the model pipe takes x, words"),
    (replace(GOOD, tensors=(GOOD_X, GOOD_X, GOOD_WORDS)), InvalidRequestError, "tensor 'x' is given twice"),
    (
        replace(GOOD, tensors=(replace(GOOD_X, name="xx"), GOOD_WORDS)),
        InvalidRequestError,
        "takes no tensor 'xx', did you mean x?",
    ),
    (
        replace(GOOD, tensors=(replace(GOOD_X, dtype="int64"), GOOD_WORDS)),
        InvalidRequestError,
        "tensor 'x' must be FP32 (float32), not INT64",
    ),
    (
        replace(GOOD, tensors=(replace(GOOD_X, shape=(4,)), GOOD_WORDS)),
        InvalidRequestError,
        "tensor 'x' must have the shape [2, 2], not [4]",
    ),
    (
        replace(GOOD, tensors=(replace(GOOD_X, data=bytes(15)), GOOD_WORDS)),
        InvalidRequestError,
        "tensor 'x' of FP32 [2, 2] must have 16 bytes, not 15",
    ),
    (
        replace(GOOD, tensors=(GOOD_X, replace(GOOD_WORDS, data=pack_strings([b"one"])))),
        InvalidRequestError,
        "tensor 'words' must have 2 strings, not 1",
    ),
    (
        replace(GOOD, tensors=(GOOD_X, replace(GOOD_WORDS, data=b"\xff\xff\xff\xffab"))),
        InvalidRequestError,
        "tensor 'words': a string says it has 4294967295 bytes where 2 are left",
    ),
    (replace(GOOD, outputs=("z",)), InvalidRequestError, "the model has no output 'z'; it has y"),
    (replace(GOOD, outputs=("y", "y")), InvalidRequestError, "the output 'y' is asked for twice"),
]


@pytest.mark.parametrize(("request_", "kind", "message"), WRONG)
def test_a_wrong_request_is_refused_by_name(request_: InferRequest, kind: type[TierflowError], message: str) -> None:
    async def check(node: Node, segment: GatedSegment) -> None:
        with pytest.raises(kind) as caught:
            await node.plane.infer(request_)
        assert message in str(caught.value)
        assert segment.runs == 0
        assert (await node.plane.infer(GOOD)).tensors[0].name == "y"

    with_plane(check)


def test_between_workers_the_answer_says_how_long_it_took_and_to_clients_it_does_not() -> None:
    async def check(node: Node, _: GatedSegment) -> None:
        between = await node.plane.infer(replace(GOOD, parameters={BOUNDARY_PARAMETER: "b"}))
        spent = between.parameters[SECONDS_PARAMETER]
        assert isinstance(spent, float)
        assert spent > 0
        assert (await node.plane.infer(GOOD)).parameters == {}

    with_plane(check)


def test_a_client_that_asks_the_cloud_is_sent_to_the_device() -> None:
    async def check(node: Node, _: GatedSegment) -> None:
        with pytest.raises(InvalidRequestError, match="this is the cloud tier of pipe; send requests to its device"):
            await node.plane.infer(GOOD)

    cloud = WorkerDescriptor(
        pipeline=PIPELINE,
        namespace="default",
        tier=Tier.CLOUD,
        model=DESCRIPTOR.model,
        inputs=DESCRIPTOR.inputs,
        outputs=DESCRIPTOR.outputs,
        segments=DESCRIPTOR.segments,
    )
    with_plane(check, cloud)


def test_a_request_whose_time_is_over_when_it_comes_is_not_computed() -> None:
    async def check(node: Node, segment: GatedSegment) -> None:
        with pytest.raises(DeadlineExceededError):
            await node.plane.infer(GOOD, timeout=-1)
        assert segment.runs == 0

    with_plane(check)


def test_a_computation_that_takes_too_long_is_ended() -> None:
    async def check(node: Node, segment: GatedSegment) -> None:
        segment.gate.clear()
        with pytest.raises(DeadlineExceededError, match=r"within the deadline of 0\.050 s"):
            await node.plane.infer(GOOD, timeout=0.05)
        assert segment.ended_early.is_set()

    with_plane(check)


def test_more_requests_than_may_be_under_way_are_refused() -> None:
    async def check(node: Node, segment: GatedSegment) -> None:
        segment.gate.clear()
        accepted = [asyncio.ensure_future(node.plane.infer(GOOD)) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(OverloadedError, match="--in-flight"):
            await node.plane.infer(GOOD)
        segment.gate.set()
        await asyncio.gather(*accepted)

    with_plane(check, in_flight_limit=2)


def test_a_draining_worker_is_not_ready_and_still_answers_what_reaches_it() -> None:
    async def check(node: Node, segment: GatedSegment) -> None:
        assert node.plane.ready()
        segment.gate.clear()
        under_way = asyncio.ensure_future(node.plane.infer(GOOD))
        await asyncio.to_thread(segment.began.acquire)
        node.plane.drain()
        assert node.plane.live()
        assert not node.plane.ready()
        segment.gate.set()
        for answer in (await under_way, await node.plane.infer(GOOD)):
            assert answer.tensors[0].name == "y"

    with_plane(check)


def test_metadata_names_inputs_outputs_and_the_version() -> None:
    async def check(node: Node, _: GatedSegment) -> None:
        model = node.plane.model_metadata(PIPELINE)
        assert [(tensor.name, tensor.dtype, tensor.shape) for tensor in model.inputs] == [
            ("x", "float32", (2, 2)),
            ("words", "string", (2,)),
        ]
        assert model.versions == ("1",)
        with pytest.raises(UnknownModelError):
            node.plane.model_metadata("other")

    with_plane(check)
