"""What `tierflow verify` says, to machines and to people.

The JSON is stable: within a version keys are added, never removed, renamed or given another meaning.
"""

from collections.abc import Sequence
from typing import Any, Final

from tierflow.model.model import Model
from tierflow_cli.console import out, table_of
from tierflow_cli.wording import plain, plural
from tierflow_worker.verification import TOLERANCE, CutCheck

VERSION: Final = 1


def report_of(model: Model, checks: Sequence[CutCheck]) -> dict[str, Any]:
    """The checks as the document of `tierflow verify --json`."""
    return {
        "version": VERSION,
        "model": model.identity,
        "holds": all(check.holds for check in checks),
        "tolerance": TOLERANCE,
        "cuts": [
            {
                "device": check.device or None,
                "edge": check.edge or None,
                "bitIdentical": check.bit_identical,
                "largestRelativeDifference": check.largest_relative_difference,
                "holds": check.holds,
            }
            for check in checks
        ],
    }


def print_checks(model: Model, checks: Sequence[CutCheck]) -> None:
    """Prints the checks for people."""
    console = out()
    table = table_of("Last device layer", "Last edge layer", "Answer")
    for check in checks:
        if check.bit_identical:
            answer = "bit-identical"
        else:
            verdict = "" if check.holds else ": does NOT hold"
            answer = f"differs by {check.largest_relative_difference:.2g} of the largest output{verdict}"
        table.add_row(plain(check.device) or "-", plain(check.edge) or "-", answer)
    console.print(table)
    console.print()
    identical = sum(check.bit_identical for check in checks)
    within = sum(check.holds for check in checks)
    console.print(
        f"{plain(model.graph.name)}: {plural(len(checks), 'cut')} checked, {identical} bit-identical, "
        f"{within} within {TOLERANCE:g} of the largest output"
    )
    console.print("Lossless." if within == len(checks) else "NOT lossless.", style="bold")
