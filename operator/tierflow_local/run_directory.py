"""The directory of one run: its descriptors and logs, a lock that shows that it lives, and the rests of dead runs."""

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import msgspec

from tierflow.model.opening import default_cache

_LOCK: Final = "lock"
_STATE: Final = "run.json"


class RunState(msgspec.Struct, frozen=True, kw_only=True):
    """What a run says of itself to others on this machine."""

    pid: int
    pipeline: str
    ports: tuple[int, ...] = ()


def runs_directory(environment: Mapping[str, str]) -> Path:
    """Where all runs of this user are: under `XDG_RUNTIME_DIR`, or else the cache."""
    runtime = environment.get("XDG_RUNTIME_DIR", "")
    if runtime and os.access(runtime, os.W_OK):
        return Path(runtime, "tierflow", "run")
    return default_cache() / "run"


class RunDirectory:
    """A new directory, removed when it is closed; a context manager.

    Its lock is held by this process. Directories whose lock nobody holds were left by a process that was killed, and
    are removed on the way.

    Args:
        pipeline: The pipeline's name.
        base: `runs_directory(...)`.
    """

    def __init__(self, pipeline: str, base: Path) -> None:
        base.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._pipeline = pipeline
        with _locked(base / _LOCK):  # so that nobody takes a new directory for a dead one
            _remove_dead(base)
            self.path: Final = Path(tempfile.mkdtemp(prefix=f"{pipeline}-", dir=base))
            self._lock = os.open(self.path / _LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX)
        self.tell()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def tell(self, *ports: int) -> None:
        """Says which ports this run has."""
        state = RunState(pid=os.getpid(), pipeline=self._pipeline, ports=ports)
        (self.path / _STATE).write_bytes(msgspec.json.encode(state))

    def close(self) -> None:
        """Removes the directory."""
        shutil.rmtree(self.path, ignore_errors=True)
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def live_runs(base: Path) -> tuple[RunState, ...]:
    """The runs of this user that live now."""
    found = []
    for path in sorted(base.glob(f"*/{_STATE}")):
        with contextlib.suppress(OSError, msgspec.DecodeError):
            if not _is_dead(path.parent):
                found.append(msgspec.json.decode(path.read_bytes(), type=RunState))
    return tuple(found)


def _remove_dead(base: Path) -> None:
    for path in base.iterdir():
        if path.is_dir() and _is_dead(path):
            shutil.rmtree(path, ignore_errors=True)


def _is_dead(path: Path) -> bool:
    """Whether nobody holds the lock of a run's directory."""
    try:
        lock = os.open(path / _LOCK, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return True
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(lock)
    return True


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
