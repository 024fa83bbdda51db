"""What the operator remembers of a pipeline: the plan that it moves to or has, and how far that has come.

It is kept in the ConfigMap `<pipeline>-plan`, so that an operator that is ended between any two writes goes on where it
was. Values and their JSON; what follows from them is decided in `tierflow_operator.moves` and `decide`.
"""

from typing import Any, Final, Literal

import msgspec

from tierflow.errors import InvalidInputError
from tierflow.manifest import InferencePipeline
from tierflow_operator.pods import Manifest
from tierflow_operator.present import Present, identity
from tierflow_operator.render import metadata_of

VERSION: Final = 1
RECORD_FILE: Final = "record.json"
RECORD_COMPONENT: Final = "plan"

_DECISIONS: Final = 10


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What the check of a plan's workers said.

    Attributes:
        checked: What was checked, as `tierflow_operator.checks.subject_of` names it.
        holds: Whether the workers' answer is the whole model's, within the tolerance.
        bit_identical: Whether it is the same bits.
        largest_relative_difference: As text, since a record holds no figures that rounding could change.
        message: For people.
    """

    checked: str
    holds: bool
    bit_identical: bool
    largest_relative_difference: str
    message: str


class Noted(msgspec.Struct, frozen=True, kw_only=True):
    """A decision, for people.

    Attributes:
        time: Of the latest of its kind, in seconds of the Unix epoch.
        decision: `Move`, `Hold` or `Rollback`.
        reason: In one word.
        message: With figures.
        epoch: Of the plan that it was about.
        count: How often it came in a row.
    """

    time: float
    decision: Literal["Move", "Hold", "Rollback"]
    reason: str
    message: str
    epoch: int
    count: int = 1


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """How a pipeline stands.

    Attributes:
        target: The plan that is in force, or becomes it.
        settled: Whether it is in force.
        before: What was in force before `target`; None for a pipeline's first plan, and once that is settled.
        progressed_at: When the move began or last came a step further, in seconds of the Unix epoch.
        in_force: By component, the ConfigMap of the descriptor that was approved last: what its ready workers serve.
        switching: Whether a worker of an unfinished move was approved: some send or accept what others don't know yet.
        verdict: What the check of `target` said; None before it.
        lossless: What the check of the plan in force said.
        observed: What `target` was decided from, as the status shows it.
        attempt: Number of the check, counted up where one could not be made.
        decisions: The latest first.
    """

    target: Present
    settled: bool = False
    before: Present | None = None
    progressed_at: float = 0.0
    in_force: dict[str, str] = {}
    switching: bool = False
    verdict: Verdict | None = None
    lossless: Verdict | None = None
    observed: dict[str, Any] = {}
    attempt: int = 0
    decisions: tuple[Noted, ...] = ()
    version: Literal[1] = VERSION

    @property
    def present(self) -> Present | None:
        """The plan in force; None before the first one is."""
        return self.target if self.settled else self.before

    @property
    def goes_back(self) -> bool:
        """Whether the target is what was in force before: a move that failed is being undone."""
        return self.before is not None and identity(self.before.plan) == identity(self.target.plan)

    def moving_to(self, target: Present, now: float) -> "Record":
        """The same on its way to another plan; the one in force is kept to go back to."""
        return msgspec.structs.replace(
            self,
            target=target,
            settled=False,
            before=self.present,
            progressed_at=now,
            verdict=None,
            attempt=0,
        )

    def noting(self, noted: Noted) -> "Record":
        """The same with one more decision; one like the latest counts up."""
        latest = self.decisions[0] if self.decisions else None
        if latest and (latest.decision, latest.reason, latest.epoch) == (noted.decision, noted.reason, noted.epoch):
            counted = msgspec.structs.replace(noted, count=latest.count + 1)
            return msgspec.structs.replace(self, decisions=(counted, *self.decisions[1:]))
        return msgspec.structs.replace(self, decisions=(noted, *self.decisions)[:_DECISIONS])


def name_of_record(pipeline: str) -> str:
    """The name of the ConfigMap that has a pipeline's record."""
    return f"{pipeline}-{RECORD_COMPONENT}"


def record_manifest(pipeline: InferencePipeline, record: Record) -> Manifest:
    """The record as the ConfigMap that keeps it."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata_of(pipeline, name_of_record(pipeline.name), RECORD_COMPONENT),
        "data": {RECORD_FILE: msgspec.json.encode(record, order="deterministic").decode()},
    }


def read_record(config_map: Manifest | None) -> Record | None:
    """The record in a ConfigMap; None where there is none yet.

    Raises:
        InvalidInputError: where it can't be read: somebody changed it, or it is of another version.
    """
    document = ((config_map or {}).get("data") or {}).get(RECORD_FILE)
    if document is None:
        return None
    try:
        return msgspec.json.decode(document, type=Record)
    except msgspec.DecodeError as error:
        raise InvalidInputError(
            f"the plan record can't be read: {error}; delete its ConfigMap to have the pipeline planned anew",
            subject=RECORD_FILE,
        ) from error
