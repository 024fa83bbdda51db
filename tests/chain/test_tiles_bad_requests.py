"""Requests for tiles that are wrong: refused by name, and the tile worker goes on."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import numpy as np
import pytest

from benchmarks.workers import PIPELINE, WorkerProcess
from factories.clients import Answer, send_grpc
from factories.models import saved
from factories.planes import array_of, tensor_of
from factories.tiled import (
    FOUR,
    Cast,
    ask_to_hold,
    cast_of,
    eventually,
    everything_at_the_edge,
    residual,
    tiled_segment,
)
from tierflow.descriptor import RunDescriptor, SegmentDescriptor
from tierflow.protocol.codec import encode_request
from tierflow.protocol.messages import (
    BOUNDARY_PARAMETER,
    HOLD_PARAMETER,
    RUN_PARAMETER,
    TILE_PARAMETER,
    InferRequest,
    Parameter,
)
from tierflow.tiling.layout import layout
from tierflow.tiling.region import Region
from tierflow.tiling.rules import Extents
from tierflow_worker.tiling.holdings import RunsWanted
from tierflow_worker.tiling.requests import write_tile


@dataclass
class Stage:
    """A tile worker, and a request for a tile that it can answer."""

    cast: Cast
    worker: WorkerProcess
    segment: SegmentDescriptor
    run: RunDescriptor
    good: InferRequest

    @property
    def identity(self) -> str:
        return self.cast.model.identity

    def ask(self, request: InferRequest) -> Answer:
        return send_grpc(self.worker.address, encode_request(request))

    def with_parameters(self, **changed: Parameter) -> InferRequest:
        return replace(self.good, parameters={**self.good.parameters, **changed})

    def with_array(self, array: Any) -> InferRequest:
        return replace(self.good, tensors=(tensor_of(self.run.input.name, array),))


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("bad-tiles")
    with cast_of(str(saved(residual(), folder)), folder) as cast:
        segment = tiled_segment(cast.model, everything_at_the_edge(cast.model.graph))
        (worker,) = cast.tile_workers([segment], 1)
        (run,) = segment.runs
        good = InferRequest(
            PIPELINE,
            (tensor_of(run.input.name, np.ones(run.input.shape, np.float32)),),
            parameters={RUN_PARAMETER: run.id, TILE_PARAMETER: write_tile(whole(run))},
        )
        yield Stage(cast, worker, segment, run, good)
        assert worker.stop() == 0


def whole(run: RunDescriptor) -> Region:
    return Extents(*run.output.shape[-2:]).region


@pytest.fixture(autouse=True)
def _the_worker_goes_on(stage: Stage) -> Iterator[None]:
    yield
    assert stage.ask(stage.good).status == "OK"


def refused(stage: Stage, request: InferRequest, status: str, *words: str) -> None:
    answer = stage.ask(request)
    assert answer.status == status, answer
    for word in words:
        assert word in answer.text


def test_a_good_one_is_answered_with_the_tile(stage: Stage) -> None:
    answer = stage.ask(stage.good)
    assert answer.tensors is not None
    made = array_of(answer.tensors[stage.run.output.name])
    assert made.shape == stage.run.output.shape
    assert np.abs(made).max() > 0


def test_what_it_is_asked_to_hold_must_be_a_segment_with_runs(stage: Stage) -> None:
    unknown = InferRequest(PIPELINE, (), parameters={HOLD_PARAMETER: '{"model": "other"}'})
    refused(stage, unknown, "INVALID_ARGUMENT", HOLD_PARAMETER, "missing required field `segment`")
    bare = RunsWanted(stage.identity, msgspec.structs.replace(stage.segment, runs=()))
    request = InferRequest(PIPELINE, (), parameters={HOLD_PARAMETER: msgspec.json.encode(bare).decode()})
    refused(stage, request, "INVALID_ARGUMENT", stage.segment.id, "has no runs")


def test_a_segment_of_another_model_and_one_that_cannot_be_cut_are_not_held(stage: Stage) -> None:
    other = msgspec.json.encode(RunsWanted("sha256:other", stage.segment)).decode()
    answer = ask_to_hold(stage.worker, other)
    assert (answer.runs, "sha256:other" in answer.refused) == ((stage.run.id,), True)
    nowhere = msgspec.structs.replace(
        stage.run, id="nowhere", output=msgspec.structs.replace(stage.run.output, name="no")
    )
    broken = msgspec.structs.replace(stage.segment, id="broken", runs=(nowhere,))
    wanted = msgspec.json.encode(RunsWanted(stage.identity, broken)).decode()
    eventually(lambda: "segment broken can't be loaded" in ask_to_hold(stage.worker, wanted).refused, "refused")
    assert ask_to_hold(stage.worker, wanted).runs == (stage.run.id,)


def test_a_worker_of_a_tier_holds_no_runs_and_computes_no_tiles_for_others(stage: Stage) -> None:
    edge = stage.cast.edge_worker([stage.segment], "")
    wanted = msgspec.json.encode(RunsWanted(stage.identity, stage.segment)).decode()
    hold = InferRequest(PIPELINE, (), parameters={HOLD_PARAMETER: wanted})
    for request in (hold, stage.good):
        answer = send_grpc(edge.address, encode_request(request))
        assert (answer.status, "being no tile worker" in answer.text) == ("FAILED_PRECONDITION", True)


def test_a_run_that_is_not_held_is_a_failed_precondition(stage: Stage) -> None:
    request = stage.with_parameters(**{RUN_PARAMETER: "0123456789abcdef"})
    refused(stage, request, "FAILED_PRECONDITION", "0123456789abcdef", "another plan", f"held: {stage.run.id}")


@pytest.mark.parametrize("tile", ["", "1:2", "1:2,3", "a:b,c:d", "0:1,0:1,0:1", "1:2:3,4:5", "0:1;0:1", "9" * 5000])
def test_a_tile_that_is_malformed_is_refused_with_the_form(stage: Stage, tile: str) -> None:
    request = stage.with_parameters(**{TILE_PARAMETER: tile})
    refused(stage, request, "INVALID_ARGUMENT", TILE_PARAMETER, "write the tile as r0:r1,c0:c1")


def test_a_tile_that_is_missing_is_refused_with_the_form(stage: Stage) -> None:
    request = replace(stage.good, parameters={RUN_PARAMETER: stage.run.id})
    refused(stage, request, "INVALID_ARGUMENT", TILE_PARAMETER)


@pytest.mark.parametrize("tile", ["0:1000,0:4", "0:4,0:1000", "-1:4,0:4", "4:4,0:4", "4:2,0:4", "3:-1,2:4"])
def test_a_tile_outside_of_the_output_is_refused_with_the_outputs_size(stage: Stage, tile: str) -> None:
    rows, columns = stage.run.output.shape[-2:]
    request = stage.with_parameters(**{TILE_PARAMETER: tile})
    refused(stage, request, "INVALID_ARGUMENT", "not inside of the run's output", f"{rows} x {columns}")


def test_a_part_of_another_size_than_the_tile_needs_is_refused_with_both_sizes(stage: Stage) -> None:
    tile = layout(Extents(*stage.run.output.shape[-2:]), FOUR)[0]
    rows, columns = stage.run.input.shape[-2:]
    request = stage.with_parameters(**{TILE_PARAMETER: write_tile(tile)})
    refused(stage, request, "INVALID_ARGUMENT", "the tile needs", f"not {rows} x {columns}")


def test_another_tensor_is_refused_by_name(stage: Stage) -> None:
    request = replace(stage.good, tensors=(replace(stage.good.tensors[0], name="other"),))
    refused(stage, request, "INVALID_ARGUMENT", f"takes {stage.run.input.name}, not other")


def test_no_tensor_and_a_tensor_too_many_are_refused(stage: Stage) -> None:
    refused(stage, replace(stage.good, tensors=()), "INVALID_ARGUMENT", "not none")
    both = (*stage.good.tensors, replace(stage.good.tensors[0], name="other"))
    refused(stage, replace(stage.good, tensors=both), "INVALID_ARGUMENT", "other")


def test_another_type_is_refused_with_the_one_that_is_wanted(stage: Stage) -> None:
    request = stage.with_array(np.ones(stage.run.input.shape, np.float64))
    refused(stage, request, "INVALID_ARGUMENT", "must be float32", "not float64")


@pytest.mark.parametrize("shape", [(1, 4, 48, 48), (2, 3, 48, 48), (3, 48, 48), (48,), (), (1, 3, 0, 48)])
def test_another_shape_is_refused_with_the_one_that_is_wanted(stage: Stage, shape: tuple[int, ...]) -> None:
    request = stage.with_array(np.ones(shape, np.float32))
    refused(stage, request, "INVALID_ARGUMENT", "must be float32 [1, 3] x rows x columns", f"not float32 {list(shape)}")


def test_negative_extents_are_refused(stage: Stage) -> None:
    tensor = replace(stage.good.tensors[0], shape=(1, 3, -48, -48))
    refused(stage, replace(stage.good, tensors=(tensor,)), "INVALID_ARGUMENT", "must be float32 [1, 3]")


def test_another_number_of_bytes_is_refused_with_both_numbers(stage: Stage) -> None:
    tensor = stage.good.tensors[0]
    short = replace(tensor, data=bytes(tensor.data)[:-4])
    size = stage.run.input.size
    refused(stage, replace(stage.good, tensors=(short,)), "INVALID_ARGUMENT", f"{size} bytes, not {size - 4}")


def test_another_pipeline_is_refused_by_name(stage: Stage) -> None:
    refused(stage, replace(stage.good, model="other"), "NOT_FOUND", "no model 'other'", PIPELINE)


def test_a_request_for_the_segment_is_refused_since_this_worker_computes_tiles_alone(stage: Stage) -> None:
    tensors = (tensor_of("image", np.ones((1, 3, 48, 48), np.float32)),)
    for parameters in ({}, {BOUNDARY_PARAMETER: stage.segment.accepts.id}):
        request = InferRequest(PIPELINE, tensors, parameters=parameters)
        refused(stage, request, "FAILED_PRECONDITION", "computes tiles", "device tier")
