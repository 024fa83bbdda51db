"""Local mode's lossless gate with real workers: who answers otherwise than the whole model never takes over."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from factories.local_runs import Running, running, wanted
from tierflow.errors import MismatchError
from tierflow.plan import Plan
from tierflow.tiers import TIERS, Tier
from tierflow_local.gate import Example
from tierflow_local.load import ask
from tierflow_operator.decide import Hold, Move, MoveReason, Present
from tierflow_operator.situation import digest_of
from tierflow_worker.check import Verdict
from tierflow_worker.verification import sample_inputs, whole_outputs

pytestmark = pytest.mark.slow


@pytest.fixture
def local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    (tmp_path / "runtime").mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "runtime"))
    with running(wanted(tmp_path)) as made:
        yield made


def move_to(local: Running, plan: Plan) -> Move:
    spec = digest_of(local.wanted.pipeline.spec)
    return Move(MoveReason.SPEC_CHANGED, "", Present(plan=plan, decided_at=0.0, spec=spec))


def pids(local: Running) -> dict[Tier, int]:
    return {tier: worker.pid for tier, worker in local.session.cluster.workers.items()}


def expecting_otherwise(local: Running) -> Example:
    """As if the whole model said something else than the chain."""
    inputs = sample_inputs(local.model)
    answer = whole_outputs(local.model, inputs)
    return Example(inputs, {name: np.full_like(array, 7.0) for name, array in answer.items()})


def test_workers_that_answer_as_the_whole_model_take_over(local: Running) -> None:
    for cut in (("conv1", "conv3"), ("conv1", "conv4"), ("conv2", ""), ("dense", "")):
        plan = local.plan(*cut)
        local.session.local.move(move_to(local, plan))
        assert local.session.local.present is not None
        assert local.session.local.present.plan == plan
        with local.client() as client:
            answers = ask(client, 3)
        assert not answers.lost
        assert not answers.wrong


def test_workers_that_answer_otherwise_leave_the_plan_before_in_force(
    local: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = local.plan("conv1", "conv3"), local.plan("conv2", "conv4")
    local.session.local.move(move_to(local, first))
    before = pids(local)
    differs = Verdict(holds=False, message="output scores differs")
    monkeypatch.setattr("tierflow_local.gate.compare", lambda *_: differs)
    with pytest.raises(MismatchError, match="output scores differs"):
        local.session.local.move(move_to(local, second))
    assert pids(local) == before
    present = local.session.local.present
    assert present is not None
    assert present.plan == first
    assert len(present.rejected) == 1
    with local.client() as client:
        assert not ask(client, 3).lost


def test_a_first_plan_whose_workers_answer_otherwise_serves_nobody(tmp_path: Path, local: Running) -> None:
    (tmp_path / "other").mkdir()
    with running(replace(wanted(tmp_path / "other"), example=expecting_otherwise(local))) as other:
        with pytest.raises(MismatchError, match="output scores of device, edge, cloud differs from the whole model's"):
            other.session.local.move(move_to(other, other.plan("conv1", "conv3")))
        assert other.session.cluster.workers == {}
        assert other.session.local.present is None


def test_speeds_and_links_are_what_the_workers_measure(local: Running) -> None:
    local.session.local.move(move_to(local, local.plan("conv1", "conv3")))
    with local.client() as client:
        for _ in range(4):
            ask(client, 5)
            seen = local.session.local.observe()
    # The made-up profile says 20 ms per layer; in truth they take much less.
    for tier in TIERS:
        assert seen.speeds[tier].source.value == "Measured"
        assert seen.speeds[tier].speed > 1
    assert isinstance(local.session.local.decide(), Hold | Move)


def test_workers_that_leave_make_no_tier_unreachable(local: Running) -> None:
    for cut in (("conv1", "conv3"), ("conv1", "conv4")) * 3:
        local.session.local.move(move_to(local, local.plan(*cut)))
        seen = local.session.local.observe()
        assert seen.unreachable == frozenset()
        assert seen.down == frozenset()
