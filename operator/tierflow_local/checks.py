"""What has to hold in a scenario: no request lost, no answer wrong, and no worker touched that need not be."""

from collections.abc import Iterator, Sequence

from tierflow.tiers import TIERS
from tierflow_local.load import Answers
from tierflow_local.scenario import Replanning, Results
from tierflow_local.shared_edge import SharedEdge, is_identical
from tierflow_operator.decide import Move
from tierflow_operator.observation import link_name
from tierflow_worker.verification import TOLERANCE


def failures(results: Results) -> tuple[str, ...]:
    """What does not hold, a sentence each; () where all does."""
    found: list[str] = []
    for measurement in results.measurements:
        found += _of_answers(measurement.answers, f"under {measurement.name}")
    found += _of_shared_edge(results.shared_edge)
    if results.replanning is not None:
        found += _of_answers(results.replanning.answers, "while a link got worse")
        found += _of_replanning(results.replanning)
    return tuple(found)


def _of_answers(answers: Answers, when: str) -> Iterator[str]:
    if answers.lost:
        yield f"{len(answers.lost)} of {answers.sent} requests were lost {when}: {answers.lost[0].error}"
    if answers.wrong:
        worst = max(answer.difference for answer in answers.wrong)
        yield (
            f"{len(answers.wrong)} of {answers.sent} answers {when} differ from the whole model's by up to {worst:.1e} "
            f"of the largest output, {TOLERANCE:g} is allowed"
        )


def _of_shared_edge(measured: Sequence[SharedEdge]) -> Iterator[str]:
    for shared in measured:
        yield from _of_answers(shared.answers, f"with {shared.workers} edge workers")
        if shared.found != shared.workers:
            yield f"the edge's worker found {shared.found} of {shared.workers} edge workers, itself among them"
    if not is_identical(measured):
        yield "the answers depend on how many edge workers computed them"


def _of_replanning(replanning: Replanning) -> Iterator[str]:
    for tier in TIERS:
        if tier in replanning.changed and tier not in replanning.affected & replanning.wanted:
            yield f"the worker of {tier} was changed though the plan left it alone"
        if tier in replanning.wanted and tier not in replanning.changed:
            yield f"the worker of {tier} was not changed though the plan wanted it"
    if not isinstance(replanning.decision, Move) and not replanning.noticed:
        yield f"no worker noticed that the {link_name(replanning.link)} link changed"
