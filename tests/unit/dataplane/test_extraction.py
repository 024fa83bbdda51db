"""Segments are cut by processes of their own, which don't do the same work twice."""

import fcntl
import os
import time
from pathlib import Path

import pytest
from msgspec.structs import replace

from benchmarks.tiled_workers import edge_descriptor
from factories.models import saved
from factories.tiled import eventually, everything_at_the_edge, residual, tiled_segment
from tierflow.descriptor import WorkerDescriptor
from tierflow.errors import IntegrityError, TierflowError
from tierflow.model import open_model
from tierflow_worker.extraction import Cutting, extract, kernels_file, make_kernels, segment_file

AN_HOUR = 3600


@pytest.fixture
def descriptor(tmp_path: Path) -> WorkerDescriptor:
    uri = str(saved(residual(), tmp_path))
    model = open_model(uri)
    return edge_descriptor(model, uri, [tiled_segment(model, everything_at_the_edge(model.graph))])


def files_of(descriptor: WorkerDescriptor, cache: Path) -> list[Path]:
    (segment,) = descriptor.segments
    return [segment_file(descriptor, segment, cache), kernels_file(descriptor, segment, cache)]


def test_a_segment_is_cut_with_its_kernels(descriptor: WorkerDescriptor, tmp_path: Path) -> None:
    Cutting(descriptor, tmp_path / "cache").wait()
    assert all(file.exists() for file in files_of(descriptor, tmp_path / "cache"))


def test_who_comes_second_waits_and_finds_what_the_first_one_made(descriptor: WorkerDescriptor, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    folder = files_of(descriptor, cache)[0].parent
    folder.parent.mkdir(parents=True)
    with (folder.parent / f".unfinished-{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        second = Cutting(descriptor, cache)
        eventually(lambda: waits_for_a_lock(second.pid), "the second waits")
        (segment,) = descriptor.segments
        extract(descriptor, segment, cache)
        make_kernels(descriptor, segment, cache)
        made = [file.stat().st_ino for file in files_of(descriptor, cache)]
    second.wait()
    assert [file.stat().st_ino for file in files_of(descriptor, cache)] == made


def waits_for_a_lock(pid: int) -> bool:
    """Whether a process is blocked, as the system tells it."""
    lines = Path("/proc/locks").read_text().splitlines()
    return any(line.split()[1] == "->" and line.split()[5] == str(pid) for line in lines)


def test_what_killed_processes_left_goes_with_the_next_one(descriptor: WorkerDescriptor, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    folder = files_of(descriptor, cache)[0].parent.parent
    old = [folder / ".unfinished-a", folder / ".unfinished-b.lock"]
    new = [folder / ".unfinished-c", folder / ".unfinished-d.lock"]
    for directory, file in (old, new):
        (directory / "inside").mkdir(parents=True)
        file.touch()
    for leftover in old:
        os.utime(leftover, times=(time.time() - 2 * AN_HOUR,) * 2)
    Cutting(descriptor, cache).wait()
    assert not any(leftover.exists() for leftover in old)
    assert all(leftover.exists() for leftover in new)


def test_what_it_fails_with_is_raised_here(descriptor: WorkerDescriptor, tmp_path: Path) -> None:
    other = replace(descriptor, model=replace(descriptor.model, identity="sha256:other"))
    with pytest.raises(IntegrityError, match="but the plan was made for sha256:other"):
        Cutting(other, tmp_path / "cache").wait()


def test_one_that_is_ended_says_so(descriptor: WorkerDescriptor, tmp_path: Path) -> None:
    cutting = Cutting(descriptor, tmp_path / "cache")
    cutting.stop()
    with pytest.raises(TierflowError, match="ended with code -9"):
        cutting.wait()
