"""The operator as a process of its own: the real one, or its shell around a reconciler that does nothing."""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any, Final

import urllib3

from testbed.process import Server, wait_for

STUB: Final = Path(__file__).with_name("stub_reconciler.py")
_REAL: Final = ("-m", "tierflow_operator.main")


class OperatorProcess(Server):
    """A running operator.

    Args:
        kubeconfig: Of its cluster.
        folder: For its log and its cache.
        flags: Of `tierflow-operator`, beyond those that every test wants.
        stub: Whether `stub_reconciler.py` stands for what works on pipelines.
        environment: Further environment variables.
    """

    def __init__(
        self,
        kubeconfig: Path,
        folder: Path,
        *flags: str,
        stub: bool = False,
        environment: dict[str, str] | None = None,
    ) -> None:
        number = len(list(folder.glob("operator-*.log")))
        common = ("--kubeconfig", str(kubeconfig), "--metrics-port", "0", "--cache-dir", str(folder / "cache"))
        super().__init__(
            f"operator-{number}",
            [sys.executable, "-P", *((str(STUB),) if stub else _REAL), *common, *flags],
            folder / f"operator-{number}.log",
            environment={**os.environ, **(environment or {})},
            folder=folder,
        )

    @property
    def lines(self) -> list[dict[str, Any]]:
        """What it has logged; what isn't a line of its own has only an `event`."""
        found = []
        for line in self.log.read_text(errors="replace").splitlines():
            try:
                found.append(dict(json.loads(line)))
            except ValueError:
                found.append({"event": line})
        return found

    def events(self, event: str) -> list[dict[str, Any]]:
        """The lines of an event."""
        return [line for line in self.lines if line["event"] == event]

    def has_said(self, text: str) -> bool:
        """Whether a line has this in its event."""
        return any(text in line["event"] for line in self.lines)

    @property
    def url(self) -> str:
        """Of its HTTP port."""
        self.wait_until("its port", lambda: self.events("started"))
        return f"http://127.0.0.1:{self.events('started')[0]['metrics_port']}"

    def ask(self, path: str) -> tuple[int, str]:
        """The status and text of a page of its HTTP port."""
        answer = urllib3.request("GET", f"{self.url}{path}", timeout=30, retries=False)
        return answer.status, answer.data.decode()

    def wait_until_ready(self) -> None:
        """Waits until it watches the cluster."""
        self.wait_until("ready", lambda: self.ask("/readyz")[0] == 200)

    def terminate(self) -> None:
        """Asks it to end, as the kubelet does."""
        os.kill(self.pid, signal.SIGTERM)

    def wait_for_exit(self, seconds: float = 60.0) -> int:
        """Its exit code, once it has ended by itself."""
        wait_for(f"the end of {self.name}", lambda: self.exit_code is not None, seconds=seconds)
        assert self.exit_code is not None
        return self.exit_code

    def metric(self, name: str) -> dict[str, float]:
        """A metric's samples by their labels, as the text format has them; "" for none."""
        samples = {}
        for line in self.ask("/metrics")[1].splitlines():
            if line.startswith(name) and line[len(name)] in " {":
                labels, _, value = line.removeprefix(name).rpartition(" ")
                samples[labels] = float(value)
        return samples

    def writes(self) -> dict[str, float]:
        """How often it has written each kind, the Lease aside."""
        counted = self.metric("tierflow_operator_api_writes_total")
        return {labels: count for labels, count in counted.items() if 'kind="Lease"' not in labels}
