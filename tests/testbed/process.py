"""A server that a test runs: started with a log, ended with the test's process whatever becomes of that."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

_POLL_SECONDS: Final = 0.05
_LAST_LINES: Final = 40
# Has the kernel kill the server when the test's process is gone, then becomes it.
_LAUNCH: Final = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)
if os.getppid() != int(sys.argv[1]):
    os._exit(1)
os.execv(sys.argv[2], sys.argv[2:])
"""


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody listens on now, and that the system will not give to others soon."""
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(listener.getsockname()[1]) for listener in listeners]
    for listener in listeners:
        listener.close()
    return ports


def wait_for(what: str, condition: Callable[[], object], *, seconds: float = 60.0) -> None:
    """Waits until `condition()` is true.

    Raises:
        TimeoutError: naming `what`, where it isn't within the seconds.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds:.0f} s for {what}")
        time.sleep(_POLL_SECONDS)


class Server:
    """A running process of the test.

    Args:
        name: How messages call it.
        command: The program's path and its arguments.
        log: The file that its output is appended to.
        environment: Replaces the test's own environment, where given.
        folder: Its working directory.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        log: Path,
        *,
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
    ) -> None:
        self.name = name
        self.log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-S", "-c", _LAUNCH, str(os.getpid()), *map(str, command)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd=folder,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """The code that it ended with, negative for a signal; None while it runs."""
        return self._process.poll()

    def wait_until(self, what: str, condition: Callable[[], object], *, seconds: float = 60.0) -> None:
        """Waits until `condition()` is true, while the process runs.

        Raises:
            RuntimeError: where it ended instead; shows its last words.
            TimeoutError: where it takes longer; shows its last words.
        """

        def is_met() -> bool:
            ended = self.exit_code is not None
            if condition():
                return True
            if ended:
                raise RuntimeError(f"{self.name} ended with {self.exit_code} before {what}:\n{self.last_words()}")
            return False

        try:
            wait_for(f"{self.name}: {what}", is_met, seconds=seconds)
        except TimeoutError as error:
            raise TimeoutError(f"{error}\n{self.last_words()}") from None

    def stop(self, *, seconds: float = 20.0) -> int:
        """Asks it to end, then ends it; its exit code."""
        self._process.terminate()
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return self.kill()

    def kill(self) -> int:
        """Ends it at once, as a crash would; its exit code."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        return self._process.wait()

    def last_words(self, lines: int = _LAST_LINES) -> str:
        """The end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
