"""What a chain does when a worker above is dead, slow, replaced, overloaded, or has another plan."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import grpc
import grpc.aio
import pytest

from benchmarks.workers import PIPELINE
from factories.limited import run
from factories.planes import GatedSegment, Node, ask, relay, serving
from tierflow.descriptor import Boundary, Downstream, ModelReference, SegmentDescriptor, WorkerDescriptor
from tierflow.errors import InvalidRequestError
from tierflow.graph import Tensor
from tierflow.protocol.messages import BOUNDARY_PARAMETER, InferRequest, InferTensor
from tierflow.tiers import Tier

Answer = TypeVar("Answer")

X, MIDDLE, Y = relay("x"), relay("middle"), relay("y")
REQUEST = InferRequest(PIPELINE, (InferTensor("x", "float32", (4,), bytes(range(16))),), "r1")


def boundary(tensor: Tensor) -> Boundary:
    return Boundary(id=f"to-{tensor.name}", tensors=(tensor,))


def descriptor(tier: Tier, *segments: SegmentDescriptor) -> WorkerDescriptor:
    return WorkerDescriptor(
        pipeline=PIPELINE,
        namespace="default",
        tier=tier,
        model=ModelReference(uri="file:///unused", identity="none"),
        inputs=(X,),
        outputs=(Y,),
        segments=segments,
    )


def lower(address: str) -> WorkerDescriptor:
    """The device: makes `middle` of `x` and sends it to the cloud."""
    return descriptor(
        Tier.DEVICE,
        SegmentDescriptor(
            id="low",
            layers=1,
            accepts=boundary(X),
            sends=boundary(MIDDLE),
            downstream=Downstream(tier=Tier.CLOUD, address=address),
        ),
    )


UPPER = descriptor(Tier.CLOUD, SegmentDescriptor(id="high", layers=1, accepts=boundary(MIDDLE), results=(Y,)))
OTHER_PLAN = descriptor(Tier.CLOUD, SegmentDescriptor(id="other", layers=1, accepts=boundary(X), results=(Y,)))


@contextlib.asynccontextmanager
async def gated(of: WorkerDescriptor, **options: Any) -> AsyncIterator[tuple[Node, GatedSegment]]:
    """A worker with one segment that the test controls."""
    segment = GatedSegment(of.segments[0])
    try:
        async with serving(of, lambda _: segment, **options) as node:
            yield node, segment
    finally:
        segment.gate.set()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


async def refused(awaitable: Awaitable[Any]) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await awaitable
    return caught.value


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


def test_a_dead_tier_is_named_with_its_address() -> None:
    async def check() -> None:
        address = f"127.0.0.1:{free_port()}"
        async with gated(lower(address), patience_seconds=0.2) as (node, _):
            error = await refused(ask(node.address, REQUEST))
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert f"cloud at {address} can't be reached" in error.details()

    run(check)


def test_a_dead_tier_is_told_before_the_clients_deadline() -> None:
    async def check() -> None:
        address = f"127.0.0.1:{free_port()}"
        async with gated(lower(address), patience_seconds=60) as (node, _):
            error = await refused(ask(node.address, REQUEST, timeout=1))
        assert error.code() is grpc.StatusCode.UNAVAILABLE

    run(check)


def test_a_slow_tier_is_named_and_its_work_is_given_up() -> None:
    async def check() -> None:
        async with gated(UPPER) as (above, slow), gated(lower(above.address)) as (node, _):
            slow.gate.clear()
            error = await refused(ask(node.address, REQUEST, timeout=0.6))
            assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            await eventually(slow.ended_early.is_set)
            await eventually(lambda: "cloud at" in node.log.getvalue() or "deadline" in node.log.getvalue())
            await eventually(lambda: above.plane.in_flight == 0)

    run(check)


def test_a_request_that_waits_past_its_deadline_is_never_computed() -> None:
    async def check() -> None:
        async with gated(UPPER) as (above, slow):
            request = InferRequest(
                PIPELINE,
                (InferTensor("middle", "float32", (4,), bytes(16)),),
                parameters={BOUNDARY_PARAMETER: "to-middle"},
            )
            slow.gate.clear()
            first = asyncio.ensure_future(ask(above.address, request))
            await eventually(lambda: slow.runs == 1)
            error = await refused(ask(above.address, request, timeout=0.2))
            assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            slow.gate.set()
            await first
            await eventually(lambda: above.plane.in_flight == 0)
            assert slow.runs == 1

    run(check)


def test_a_client_that_leaves_cancels_its_request_on_every_tier() -> None:
    async def check() -> None:
        async with gated(UPPER) as (above, slow), gated(lower(above.address)) as (node, _):
            slow.gate.clear()
            asking = asyncio.ensure_future(ask(node.address, REQUEST))
            await eventually(lambda: slow.runs == 1)
            asking.cancel()
            await eventually(slow.ended_early.is_set)
            await eventually(lambda: node.plane.in_flight == 0 and above.plane.in_flight == 0)

    run(check)


def test_a_full_queue_above_is_told_to_the_client_with_a_time_to_try_again() -> None:
    async def check() -> None:
        async with gated(UPPER, queue=1) as (above, slow), gated(lower(above.address)) as (node, _):
            slow.gate.clear()
            accepted = [asyncio.ensure_future(ask(node.address, REQUEST))]
            await eventually(lambda: slow.runs == 1)
            accepted.append(asyncio.ensure_future(ask(node.address, REQUEST)))
            await eventually(lambda: above.plane.in_flight == 2)
            error = await refused(ask(node.address, REQUEST))
            assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert "cloud at" in error.details()
            assert "--queue" in error.details()
            assert int(dict(error.trailing_metadata())["retry-after-ms"]) > 0
            slow.gate.set()
            for answered in accepted:
                assert (await answered).tensors[0].name == "y"

    run(check)


def test_a_tier_with_another_plan_says_which_boundaries_it_accepts() -> None:
    async def check() -> None:
        async with gated(OTHER_PLAN) as (above, _), gated(lower(above.address)) as (node, _):
            error = await refused(ask(node.address, REQUEST))
        assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert "boundary to-middle is not accepted here" in error.details()
        assert "accepted: to-x" in error.details()

    run(check)


def test_no_request_is_lost_while_the_worker_above_is_replaced() -> None:
    async def check() -> None:
        port = free_port()
        async with gated(lower(f"127.0.0.1:{port}")) as (node, _):
            async with gated(UPPER, port=port):
                assert (await ask(node.address, REQUEST)).tensors[0].name == "y"
            asking = [asyncio.ensure_future(ask(node.address, REQUEST)) for _ in range(5)]
            await eventually(lambda: node.plane.in_flight == 5)
            async with gated(UPPER, port=port):
                for answered in asking:
                    assert bytes((await answered).tensors[0].data) == bytes(range(16))

    run(check)


def test_a_request_under_way_on_a_worker_that_is_killed_is_computed_by_its_successor() -> None:
    async def check() -> None:
        port = free_port()
        async with gated(lower(f"127.0.0.1:{port}")) as (node, _):
            async with gated(UPPER, port=port) as (_, slow):
                slow.gate.clear()
                asking = asyncio.ensure_future(ask(node.address, REQUEST))
                await eventually(lambda: slow.runs == 1)
            async with gated(UPPER, port=port):
                assert (await asking).tensors[0].name == "y"

    run(check)


def test_an_answer_that_lacks_an_output_is_not_passed_on() -> None:
    async def check() -> None:
        nothing = descriptor(Tier.CLOUD, SegmentDescriptor(id="high", layers=1, accepts=boundary(MIDDLE)))
        async with gated(nothing) as (above, _), gated(lower(above.address)) as (node, _):
            error = await refused(ask(node.address, REQUEST))
        assert error.code() is grpc.StatusCode.DATA_LOSS
        assert "tensor 'y' is missing" in error.details()

    run(check)


def test_previous_and_current_boundaries_are_both_accepted() -> None:
    async def check() -> None:
        both = descriptor(Tier.CLOUD, *OTHER_PLAN.segments, *UPPER.segments)
        segments = {place: GatedSegment(segment) for place, segment in enumerate(both.segments)}
        async with serving(both, lambda place: segments[place]) as above, gated(lower(above.address)) as (node, _):
            assert (await ask(node.address, REQUEST)).tensors[0].name == "y"
            direct = InferRequest(PIPELINE, REQUEST.tensors, parameters={BOUNDARY_PARAMETER: "to-x"})
            assert (await ask(above.address, direct)).tensors[0].name == "y"
        assert [segments[0].runs, segments[1].runs] == [1, 1]

    run(check)


def test_a_standby_accepts_nothing_and_says_so() -> None:
    async def check() -> None:
        async with serving(descriptor(Tier.EDGE), lambda _: None) as standby:
            assert standby.plane.ready()
            request = InferRequest(PIPELINE, REQUEST.tensors, parameters={BOUNDARY_PARAMETER: "to-x"})
            error = await refused(ask(standby.address, request))
        assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert "accepted: none, being a standby" in error.details()

    run(check)


async def connected(node: Node) -> None:
    """Has one request go through, so that the tiers are connected: only then is the next one announced."""
    assert (await ask(node.address, REQUEST)).tensors[0].name == "y"


async def announced(
    asking: Coroutine[Any, Any, Answer], node: Node, segment: GatedSegment, above: Node
) -> "asyncio.Task[Answer]":
    """Asks a tier that computes until its gate opens; the tier above knows of it when this returns."""
    await connected(node)
    segment.gate.clear()
    asked = asyncio.create_task(asking)
    await eventually(lambda: above.plane.in_flight == 1)
    return asked


def test_the_next_tier_knows_of_a_request_while_this_one_computes() -> None:
    async def check() -> None:
        async with gated(UPPER) as (above, upper), gated(lower(above.address)) as (node, segment):
            asking = await announced(ask(node.address, REQUEST), node, segment, above)
            assert upper.runs == 1
            segment.gate.set()
            assert bytes((await asking).tensors[0].data) == bytes(range(16))
            await eventually(lambda: above.plane.in_flight == 0)
            await eventually(lambda: above.log.getvalue().count("request answered") == 2)

    run(check)


def test_a_request_that_is_given_up_while_it_is_announced_never_came() -> None:
    async def check() -> None:
        async with gated(UPPER) as (above, upper), gated(lower(above.address)) as (node, segment):
            asking = await announced(ask(node.address, REQUEST), node, segment, above)
            asking.cancel()
            await eventually(lambda: above.plane.in_flight == 0)
            segment.gate.set()
            await connected(node)
            await eventually(lambda: above.log.getvalue().count("request answered") == 2)
            assert upper.runs == 2
            assert "cancelled" not in above.log.getvalue()

    run(check)


def test_a_tier_that_fails_takes_its_announcement_back() -> None:
    async def check() -> None:
        async with gated(UPPER) as (above, upper), gated(lower(above.address)) as (node, segment):
            asking = await announced(refused(ask(node.address, REQUEST)), node, segment, above)
            segment.error = InvalidRequestError("layer conv can't compute with these inputs", subject="conv")
            segment.gate.set()
            assert (await asking).code() is grpc.StatusCode.INVALID_ARGUMENT
            await eventually(lambda: above.plane.in_flight == 0)
            assert upper.runs == 1

    run(check)


def test_a_tier_that_is_lost_after_the_announcement_is_asked_again_when_it_is_back() -> None:
    async def check() -> None:
        port = free_port()
        async with gated(lower(f"127.0.0.1:{port}"), patience_seconds=30) as (node, segment):
            async with gated(UPPER, port=port) as (above, _):
                asking = await announced(ask(node.address, REQUEST), node, segment, above)
            segment.gate.set()
            async with gated(UPPER, port=port) as (_, upper):
                assert bytes((await asking).tensors[0].data) == bytes(range(16))
                assert upper.runs == 1

    run(check)


def test_a_tier_with_another_plan_refuses_what_is_announced_by_name() -> None:
    async def check() -> None:
        async with gated(OTHER_PLAN) as (above, other), gated(lower(above.address)) as (node, segment):
            await refused(ask(node.address, REQUEST))
            segment.gate.clear()
            asking = asyncio.ensure_future(refused(ask(node.address, REQUEST)))
            await eventually(lambda: "outcome" in above.log.getvalue().partition("\n")[2])
            segment.gate.set()
            error = await asking
            assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
            assert "boundary to-middle is not accepted here" in error.details()
            assert other.runs == 0

    run(check)
