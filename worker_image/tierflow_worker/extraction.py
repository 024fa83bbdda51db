"""The files of a worker's segments: cut out of the whole model once, then kept in the cache.

Cutting runs in a process of its own (`python -m tierflow_worker.extraction`), because the onnx package and the model's
graph would otherwise stay in the worker's memory for good, and because it goes on beside the worker's own start.
"""

import contextlib
import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import IO, Final, cast

import msgspec

from tierflow import descriptor as descriptors
from tierflow import errors
from tierflow.descriptor import SegmentDescriptor, WorkerDescriptor
from tierflow.errors import IntegrityError, TierflowError
from tierflow.graph import Tensor

_FORMAT: Final = "2"  # count up when the files that are cut from the same model change
_FAILED: Final = 2
_UNFINISHED: Final = ".unfinished-"
_LEFTOVER_SECONDS: Final = 3600.0  # far longer than cutting takes


class _Report(msgspec.Struct):
    """What the cutting process says when it failed."""

    kind: str
    message: str
    subject: str


def computed_tensors(segment: SegmentDescriptor) -> tuple[Tensor, ...]:
    """What a segment has to compute: all that it sends or returns and isn't given; () for a mere relay."""
    accepted = {tensor.name for tensor in segment.accepts.tensors}
    sends = segment.sends.tensors if segment.sends else ()
    wanted = {tensor.name: tensor for tensor in (*sends, *segment.results) if tensor.name not in accepted}
    return tuple(wanted.values())


def segment_file(descriptor: WorkerDescriptor, segment: SegmentDescriptor, cache_dir: Path) -> Path:
    """Where the model of a segment is kept; its name depends on all that its content depends on."""
    accepts = sorted(tensor.name for tensor in segment.accepts.tensors)
    computed = sorted(tensor.name for tensor in computed_tensors(segment))
    key = "\0".join((_FORMAT, descriptor.model.identity, *accepts, "", *computed))
    return cache_dir / "segments" / hashlib.sha256(key.encode()).hexdigest()[:32] / "model.onnx"


def kernels_file(descriptor: WorkerDescriptor, segment: SegmentDescriptor, cache_dir: Path) -> Path:
    """Where the kernels are kept that this machine's runtime makes of a segment with tiled runs."""
    marks = [name for run in segment.runs for name in (run.input.name, run.output.name)]
    key = "\0".join((_FORMAT, version("onnxruntime"), _processor(), *marks))
    folder = segment_file(descriptor, segment, cache_dir).parent
    return folder / f"kernels-{hashlib.sha256(key.encode()).hexdigest()[:16]}" / "kernels.onnx"


def _processor() -> str:
    """What the runtime's choice of kernels depends on, as a text."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("flags", "Features")):
                return line
    return platform.machine()


class Cutting:
    """A process that cuts out the model of one segment, and has the runtime make kernels of it where runs are tiled.

    Args:
        descriptor: Of a worker that has this segment alone.
        cache_dir: Where models and segments are kept.
    """

    def __init__(self, descriptor: WorkerDescriptor, cache_dir: Path) -> None:
        command = [sys.executable, "-m", __name__, str(cache_dir)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # noqa: S603 - ours
        with contextlib.suppress(BrokenPipeError), cast(IO[bytes], self._process.stdin) as told:
            told.write(descriptors.encode(descriptor))  # if it has ended already, `wait` says why

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._process.pid

    def wait(self) -> None:
        """Waits until the segment's file is there.

        Raises:
            TierflowError: what the process failed with.
        """
        with cast(IO[bytes], self._process.stdout) as said:
            output = said.read()
        if self._process.wait() == 0:
            return
        try:
            report = msgspec.json.decode(output, type=_Report)
        except msgspec.DecodeError as error:
            raise TierflowError(
                f"cutting the segment out of the model ended with code {self._process.returncode}"
            ) from error
        kind = getattr(errors, report.kind, TierflowError)
        raise kind(report.message, subject=report.subject)

    def stop(self) -> None:
        """Ends the process if it still runs."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()


def extract(descriptor: WorkerDescriptor, segment: SegmentDescriptor, cache_dir: Path) -> Path:
    """Cuts the model of a segment out of the whole one, in this process; returns its file.

    The file is complete or not there, whoever else does the same at the same time.

    Raises:
        IntegrityError: where the model is not the one that the descriptor means.
        TierflowError: where the model can't be opened, or not be cut there.
    """
    from tierflow.model import open_model
    from tierflow.model.extract import extract_segment

    reference = descriptor.model
    model = open_model(
        reference.uri, sha256=reference.sha256, input_shapes=reference.input_shapes or None, cache_dir=cache_dir
    )
    if model.identity != reference.identity:
        raise IntegrityError(
            f"{reference.uri} is {model.identity}, but the plan was made for {reference.identity}; plan again",
            subject=reference.uri,
        )
    target = segment_file(descriptor, segment, cache_dir)
    target.parent.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(target.parent.parent)
    unfinished = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=target.parent.parent))
    try:
        extract_segment(
            model,
            [tensor.name for tensor in segment.accepts.tensors],
            [tensor.name for tensor in computed_tensors(segment)],
            unfinished / target.name,
        )
        with contextlib.suppress(OSError):  # another worker was faster, and its file is the same
            unfinished.rename(target.parent)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return target


def make_kernels(descriptor: WorkerDescriptor, segment: SegmentDescriptor, cache_dir: Path) -> Path:
    """Writes the kernels of a segment with tiled runs, in this process; returns their file.

    As with `extract`, the file and its weights are complete or not there.

    Raises:
        InvalidModelError: where the runtime refuses the segment.
    """
    from tierflow_worker.tiling.kernels import optimise
    from tierflow_worker.tiling.staged import marks_of

    target = kernels_file(descriptor, segment, cache_dir)
    unfinished = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=target.parent.parent))
    try:
        optimise(segment_file(descriptor, segment, cache_dir), marks_of(segment), unfinished / target.name)
        with contextlib.suppress(OSError):  # another worker was faster, and its files are the same
            unfinished.rename(target.parent)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return target


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Has no other process of this machine make the same files meanwhile; it finds them afterwards.

    An edge worker and its tile workers begin at the same time, and in local mode they share a cache.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{_UNFINISHED}{folder.name}.lock").open("w") as lock:
        with contextlib.suppress(OSError):  # where a file system has no locks, both make them
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _remove_leftovers(folder: Path) -> None:
    """Removes what processes left behind that were killed while they cut, and locks that nobody needs any more."""
    for leftover in folder.glob(f"{_UNFINISHED}*"):
        with contextlib.suppress(OSError):
            if time.time() - leftover.stat().st_mtime > _LEFTOVER_SECONDS:
                if leftover.is_dir():
                    shutil.rmtree(leftover)
                else:
                    leftover.unlink()


def main() -> int:
    """Cuts the segment of the descriptor on standard input; prints a report where that fails."""
    cache_dir = Path(sys.argv[1])
    try:
        descriptor = descriptors.decode(sys.stdin.buffer.read())
        (segment,) = descriptor.segments
        with _alone(segment_file(descriptor, segment, cache_dir).parent):
            if not segment_file(descriptor, segment, cache_dir).exists():
                extract(descriptor, segment, cache_dir)
            if segment.runs and not kernels_file(descriptor, segment, cache_dir).exists():
                make_kernels(descriptor, segment, cache_dir)
    except (TierflowError, OSError) as error:
        kind = type(error).__name__ if isinstance(error, TierflowError) else TierflowError.__name__
        report = _Report(kind, str(error), getattr(error, "subject", ""))
        sys.stdout.buffer.write(msgspec.json.encode(report))
        sys.stdout.flush()
        return _FAILED
    return 0


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # taking the whole graph apart takes a while, and nothing is left to do
