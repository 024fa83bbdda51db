"""Models that can't be read: told once, and tried again without a stir."""

from typing import Any

import pytest

from factories.reconciling import KEY, Bench, OneModel, manifest
from tierflow.errors import IntegrityError, TierflowError, UnreachableError
from tierflow.manifest import InferencePipeline
from tierflow_operator.reconcile import PipelineReconciler

READ = {"uri": "https://models.example/small.onnx"}


class Unreadable(OneModel):
    """In the place of `Graphs`: a model that was never read, and now can't be."""

    def __init__(self, error: TierflowError) -> None:
        super().__init__()
        self.error: TierflowError | None = error
        self.tries = 0

    def known(self, pipeline: InferencePipeline, owned: object) -> Any:
        return None

    def read(self, pipeline: InferencePipeline) -> Any:
        self.tries += 1
        if self.error is not None:
            raise self.error
        return super().known(pipeline, ()), None


def visit(operator: PipelineReconciler) -> None:
    try:
        operator.reconcile(KEY)
    except UnreachableError:
        return


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (UnreachableError("models.example can't be reached", subject="uri"), "ModelUnreachable"),
        (IntegrityError("it is another file", subject="sha256"), "ModelUnreadable"),
    ],
)
def test_a_try_that_fails_again_writes_nothing(error: TierflowError, reason: str) -> None:
    bench = Bench(manifest(model=READ))
    models = Unreadable(error)
    operator = bench.operator(models)
    visit(operator)
    assert bench.cluster.condition("Ready")["reason"] == reason
    bench.cluster.writes.clear()
    for _ in range(3):
        visit(operator)
    assert models.tries == 4
    assert bench.cluster.writes == []
    assert bench.cluster.condition("Ready")["message"] == error.message


def test_reading_is_told_of_a_spec_that_was_not_tried_yet() -> None:
    bench = Bench(manifest(model=READ))
    models = Unreadable(UnreachableError("models.example can't be reached", subject="uri"))
    visit(bench.operator(models))
    bench.cluster.manifest["metadata"]["generation"] += 1
    bench.cluster.writes.clear()
    visit(bench.operator(models))
    assert bench.cluster.writes == ["status", "status"]


def test_a_model_that_can_be_read_again_is_planned() -> None:
    bench = Bench(manifest(model=READ))
    models = Unreadable(UnreachableError("models.example can't be reached", subject="uri"))
    operator = bench.operator(models)
    visit(operator)
    models.error = None
    visit(operator)
    assert bench.status["plan"]["epoch"] == 1
