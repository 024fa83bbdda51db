"""An operator that does nothing but say which pipelines it is asked to look at, so that its shell can be tested alone.

Run as a program, with the flags of `tierflow-operator`. A pipeline's annotation says what happens to it: `fail` raises,
`hold` keeps the reconcile going until the file in STUB_GO_ON is there and then writes a ConfigMap `<pipeline>-held`,
`event` emits an event.
"""

import logging
import os
import sys
import time
from pathlib import Path

from tierflow.errors import UnreachableError
from tierflow_operator.events import Events
from tierflow_operator.keys import PipelineKey
from tierflow_operator.kube import Kube
from tierflow_operator.main import main
from tierflow_operator.settings import Settings
from tierflow_operator.telemetry import Telemetry

_log = logging.getLogger("tierflow.stub")


class Stub:
    def __init__(self, kube: Kube, _: Settings, telemetry: Telemetry, events: Events) -> None:
        self._kube = kube
        self._telemetry = telemetry
        self._events = events

    def reconcile(self, key: PipelineKey) -> float | None:
        pipeline = self._kube.pipeline(key)
        if pipeline is None:
            _log.info("gone")
            return None
        what = pipeline["metadata"].get("annotations", {}).get("stub")
        if what == "fail":
            raise UnreachableError("the stub was told to fail", subject="stub")
        if what == "hold":
            self._hold(key)
        if what == "event":
            self._events.emit(pipeline, kind="Normal", reason="Stubbed", message="as told", action="Reconcile")
        _log.info("seen", extra={"nodes": len(self._kube.nodes(0)), "owned": len(self._kube.owned(key))})
        return None

    def look(self, key: PipelineKey) -> float | None:
        return None

    def _hold(self, key: PipelineKey) -> None:
        _log.info("holding")
        go_on = Path(os.environ["STUB_GO_ON"])
        while not go_on.exists():
            time.sleep(0.02)
        metadata = {"name": f"{key.name}-held", "namespace": key.namespace}
        self._kube.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata})


if __name__ == "__main__":
    sys.exit(main(build=Stub))
