"""Segments are loaded once, found by their boundary, and unloaded when idle."""

import asyncio
from typing import Any

import pytest

from factories.clocks import Clock
from tierflow.descriptor import Boundary, SegmentDescriptor
from tierflow.errors import InvalidModelError, UnknownBoundaryError
from tierflow.graph import Tensor
from tierflow_worker.segments import SegmentStore


def segment(name: str) -> SegmentDescriptor:
    tensor = Tensor(name=name, dtype="float32", shape=(1,))
    return SegmentDescriptor(id=name, layers=0, accepts=Boundary(id=f"to-{name}", tensors=(tensor,)))


class Loads:
    """Counts what is loaded; fails as often as it is told to."""

    def __init__(self, failures: int = 0) -> None:
        self.places: list[int] = []
        self.failures = failures

    def __call__(self, place: int) -> Any:
        self.places.append(place)
        if self.failures:
            self.failures -= 1
            raise InvalidModelError("broken")
        return f"segment {place}"


def store_of(loads: Loads, clock: Clock | None = None) -> SegmentStore:
    return SegmentStore((segment("new"), segment("old")), loads, idle_seconds=30, clock=clock or Clock(100.0))


def test_a_boundary_finds_its_segment_and_an_unknown_one_is_told_which_there_are() -> None:
    store = store_of(Loads())
    assert [store.find("to-new"), store.find("to-old")] == [0, 1]
    with pytest.raises(UnknownBoundaryError, match="to-other is not accepted here.*accepted: to-new, to-old"):
        store.find("to-other")
    store.close()


def test_a_segment_is_loaded_once_for_all_that_ask() -> None:
    loads = Loads()
    store = store_of(loads)

    async def ask() -> list[Any]:
        return await asyncio.gather(*(store.get(1) for _ in range(5)))

    assert asyncio.run(ask()) == ["segment 1"] * 5
    assert loads.places == [1]
    store.close()


def test_only_an_idle_previous_segment_is_unloaded_and_it_comes_back() -> None:
    loads, clock = Loads(), Clock(100.0)
    store = store_of(loads, clock)

    async def use() -> None:
        await store.get(0)
        await store.get(1)
        clock.now += 29
        assert store.unload_idle() == ()
        await store.get(1)
        clock.now += 29
        assert store.unload_idle() == ()
        clock.now += 1
        assert store.unload_idle() == (1,)
        await store.get(1)

    asyncio.run(use())
    assert loads.places == [0, 1, 1]
    store.close()


def test_a_load_that_failed_is_tried_again_by_the_next_request() -> None:
    loads = Loads(failures=1)
    store = store_of(loads)

    async def use() -> Any:
        with pytest.raises(InvalidModelError):
            await store.get(0)
        return await store.get(0)

    assert asyncio.run(use()) == "segment 0"
    store.close()
