"""Worker processes for tests: started on free ports, ended with the test, their log shown where it fails."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.workers import Start, WorkerProcess, start_worker
from tierflow.descriptor import WorkerDescriptor


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts workers that end with the test; their logs are printed, which pytest shows for a test that failed."""
    workers: list[WorkerProcess] = []

    def begin(descriptor: WorkerDescriptor | bytes, **options: Any) -> WorkerProcess:
        worker = start_worker(descriptor, tmp_path, **options)
        workers.append(worker)
        return worker

    yield begin
    for worker in workers:
        worker.kill()
        print(" ".join(worker.command), worker.text(), sep="\n")
