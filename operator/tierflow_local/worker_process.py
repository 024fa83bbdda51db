"""One worker as a process of this machine: started, waited for, drained, killed."""

import contextlib
import http.client
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from tierflow.errors import DeadlineExceededError, TierflowError
from tierflow_local.links import HOST

_POLL_SECONDS: Final = 0.01


@dataclass(frozen=True, slots=True)
class Ports:
    """Where a worker listens on the loopback interface."""

    grpc: int
    rest: int


class WorkerProcess:
    """A worker in a process group of its own, that dies with the thread that made this object.

    Args:
        name: What to call it: its tier, say.
        arguments: Of the worker's program; its ports are left to it.
        environment: Variables beside those of this process.
        log: Where its standard error goes.
    """

    def __init__(self, name: str, arguments: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        self.name: Final = name
        self.log: Final = log
        self.started_at: Final = time.time()
        listen = ["--host", HOST, "--grpc-port", "0", "--rest-port", "0"]
        with log.open("wb") as stream:
            self._process = subprocess.Popen(  # noqa: S603 - our own program
                [sys.executable, "-m", "tierflow_local.launch", str(os.getpid()), *arguments, *listen],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stream,
                env={**os.environ, **environment},
                process_group=0,  # Ctrl-C on the terminal is the parent's to handle
            )
        self._ports: Ports | None = None
        self._asked = False

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def ports(self) -> Ports:
        """Where it listens; known once it is ready."""
        if self._ports is None:
            raise TierflowError(f"the worker of {self.name} is not listening yet", subject=self.name)
        return self._ports

    @property
    def is_alive(self) -> bool:
        """Whether the process runs."""
        return self._process.poll() is None

    def wait_ready(self, path: str, seconds: float) -> None:
        """Waits until the worker answers its readiness probe.

        Args:
            path: Of the probe, on its REST port.
            seconds: How long at most.

        Raises:
            TierflowError: where it ended instead; says what it logged.
            DeadlineExceededError: where it isn't ready in time.
        """
        deadline = time.monotonic() + seconds
        while not self._is_ready(path):
            if not self.is_alive:
                raise TierflowError(
                    f"the worker of {self.name} ended with code {self._process.returncode}: {self._last_words()}",
                    subject=self.name,
                )
            if time.monotonic() > deadline:
                raise DeadlineExceededError(
                    f"the worker of {self.name} was not ready after {seconds:.0f} s (progressDeadlineSeconds); its "
                    f"last words: {self._last_words()}",
                    subject=self.name,
                )
            time.sleep(_POLL_SECONDS)

    def terminate(self) -> None:
        """Asks it to finish its requests and end; once only, since a second signal would end it at once."""
        if not self._asked and self.is_alive:
            self._process.terminate()
        self._asked = True

    def kill(self) -> None:
        """Ends it, and what it started, at once."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def wait(self, seconds: float) -> bool:
        """Waits for its end; False where it still runs."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def _is_ready(self, path: str) -> bool:
        if self._ports is None:
            listening = next((line for line in self._lines() if line.get("event") == "listening"), None)
            if listening is None:
                return False
            self._ports = Ports(listening["grpc_port"], listening["rest_port"])
        try:
            return http_get(self._ports.rest, path)[0] == http.client.OK
        except OSError:
            return False

    def _lines(self) -> list[dict[str, Any]]:
        """The complete lines of its log that are JSON."""
        lines = []
        for line in self.log.read_bytes().split(b"\n")[:-1]:
            with contextlib.suppress(msgspec.DecodeError):
                lines.append(msgspec.json.decode(line, type=dict[str, Any]))
        return lines

    def _last_words(self) -> str:
        errors = [str(line["error"]) for line in self._lines() if "error" in line]
        text = self.log.read_text(errors="replace").strip()
        return errors[-1] if errors else text.rpartition("\n")[2] or "none"


def http_get(port: int, path: str, seconds: float = 5.0) -> tuple[int, bytes]:
    """Status and body of a GET on the loopback interface.

    Raises:
        OSError: where nobody answers.
    """
    connection = http.client.HTTPConnection(HOST, port, timeout=seconds)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()
    except http.client.HTTPException as error:
        raise ConnectionError(f"port {port} of {HOST} speaks no HTTP: {error}") from error
    finally:
        connection.close()
