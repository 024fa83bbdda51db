"""Tile workers that answer wrongly, late, for another plan, or refuse: no request fails, and no answer is wrong."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from benchmarks.workers import WorkerProcess
from factories.models import saved
from factories.tampering import (
    Tamper,
    TamperingServer,
    cropped,
    failing,
    garbage,
    honest,
    in_front_of,
    of_another_epoch,
    with_a_full_queue,
)
from factories.tiled import (
    Example,
    Load,
    cast_of,
    counted,
    everything_at_the_edge,
    residual,
    tiled_segment,
    untiled_examples,
)

MANY = 12


@dataclass
class Stage:
    """An edge worker behind its device, with an honest tile worker and one whose answers are tampered with."""

    examples: list[Example]
    between: TamperingServer
    edge: WorkerProcess
    device: WorkerProcess

    def load(self) -> Load:
        """Clients of the device."""
        return Load(self.device.address, self.examples)

    def tampered_tiles(self) -> float:
        """How many tiles came from the worker whose answers are tampered with."""
        return counted(self.edge, "tierflow_tile_seconds_count", worker=self.between.address)


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("wrong")
    with cast_of(str(saved(residual(), folder)), folder) as cast:
        segment = tiled_segment(cast.model, everything_at_the_edge(cast.model.graph))
        examples = untiled_examples(cast, segment)
        first, second = cast.tile_workers([segment], 2)
        with in_front_of(second.address) as between:
            edge = cast.edge_worker([segment], f"{first.address},{between.address}")
            yield Stage(examples, between, edge, cast.device_of(edge))


@pytest.fixture(autouse=True)
def _the_worker_is_asked_again_when_it_is_right(stage: Stage) -> Iterator[None]:
    yield
    stage.between.tamper = honest
    stage.between.late.set()
    with stage.load() as load:
        before = stage.tampered_tiles()
        load.wait_until(lambda: stage.tampered_tiles() > before, answers=3)


def answers_with(stage: Stage, tamper: Tamper) -> None:
    """Checks that requests are answered without the tiles of a worker that answers so."""
    failed = counted(stage.edge, "tierflow_tiles_failed_total")
    with stage.load() as load:
        stage.between.tamper = tamper
        load.wait_until(lambda: counted(stage.edge, "tierflow_tiles_failed_total") > failed)
        load.wait_for(MANY)  # what was under way before is done
        accepted = stage.tampered_tiles()
        load.wait_for(MANY)
        assert stage.tampered_tiles() == accepted


def test_a_tile_of_a_wrong_shape_is_computed_by_another_worker(stage: Stage) -> None:
    answers_with(stage, cropped)


def test_a_tile_that_is_no_message_is_computed_by_another_worker(stage: Stage) -> None:
    answers_with(stage, garbage)


def test_a_tile_that_a_worker_fails_at_is_computed_by_another_worker(stage: Stage) -> None:
    answers_with(stage, failing)


def test_a_tile_that_a_full_queue_refuses_is_computed_by_another_worker(stage: Stage) -> None:
    answers_with(stage, with_a_full_queue)


def test_a_worker_of_another_epoch_is_not_asked_for_each_request(stage: Stage) -> None:
    with stage.load() as load:
        stage.between.tamper = of_another_epoch
        failed = counted(stage.edge, "tierflow_tiles_failed_total")
        load.wait_until(lambda: counted(stage.edge, "tierflow_tiles_failed_total") > failed)
        asked, answered = stage.between.asked, load.answered
        load.wait_for(3 * MANY)
        assert stage.between.asked - asked < (load.answered - answered) / 2


def test_a_tile_that_is_late_is_computed_by_another_worker(stage: Stage) -> None:
    hedged = counted(stage.edge, "tierflow_tiles_hedged_total")
    with stage.load() as load:
        stage.between.late.clear()
        load.wait_until(lambda: counted(stage.edge, "tierflow_tiles_hedged_total") > hedged)
        load.wait_for(MANY)
