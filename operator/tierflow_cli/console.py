"""What is printed: results to standard output, progress and errors to standard error.

Names of layers and tensors come from files of others: they are printed without markup and without control characters.
"""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from tierflow_cli.wording import plain

_WIDTH_IN_PIPES: Final = 140
"""Tables that are no longer than a line are easier to search than those that fit a screen that isn't there."""

Tell = Callable[[str, float | None], None]
"""Is told what is being done, and how much of it is: from 0 to 1, or None where that isn't known."""


def out() -> Console:
    """Standard output, for people."""
    width = None if sys.stdout.isatty() else _WIDTH_IN_PIPES
    return Console(file=sys.stdout, width=width, markup=False, highlight=False, emoji=False)


def print_json(document: dict[str, Any]) -> None:
    """Prints a document for machines."""
    sys.stdout.write(json.dumps(document, indent=2, allow_nan=False) + "\n")


def print_error(message: str) -> None:
    """Prints what went wrong."""
    sys.stderr.write(f"tierflow: {plain(message)}\n")


def table_of(*columns: str, right: tuple[str, ...] = ()) -> Table:
    """A plain table with these columns, those in `right` aligned to the right."""
    table = Table(box=None, pad_edge=False, header_style="bold", show_edge=False)
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    return table


@contextmanager
def progress(what: str) -> Iterator[Tell]:
    """Shows on a terminal what is being done; shows nothing elsewhere."""
    if not sys.stderr.isatty():
        yield lambda _what, _done: None
        return
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)

        def tell(now: str, done: float | None) -> None:
            bar.update(task, description=plain(now), total=None if done is None else 1.0, completed=done or 0.0)

        yield tell
