"""The program `tierflow-operator`: assembles the parts, runs them until a signal, and ends them in order."""

import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Final, Protocol

from prometheus_client import disable_created_metrics

from tierflow.errors import InvalidInputError, TierflowError
from tierflow_operator import logs
from tierflow_operator.door import Door
from tierflow_operator.events import Events
from tierflow_operator.keys import PipelineKey
from tierflow_operator.kube import Kube
from tierflow_operator.kube_client import KubeClient, read_configuration
from tierflow_operator.kube_errors import NotFoundError
from tierflow_operator.leader import Leader, LeaseName
from tierflow_operator.probes import Probes
from tierflow_operator.settings import Settings, read_settings
from tierflow_operator.telemetry import Telemetry
from tierflow_operator.work_queue import Resync, WorkQueue

_log: Final = logging.getLogger("tierflow_operator.main")

_FAILED: Final = 1
_BAD_INPUT: Final = 2
_CRD_FILE: Final = "crds/tierflow.dev_inferencepipelines.yaml"
_STALE_SECONDS: Final = 600.0
"""A pipeline that is due or worked on for this long means that the process hangs; reading a model takes minutes."""
_FINISH_SECONDS: Final = 20.0
_CLOSE_SECONDS: Final = 5.0
_LEASE_PATIENCE: Final = 1 / 3
"""Part of the Lease's time that a request about it may take."""


class Reconciler(Protocol):
    """Brings a pipeline from what is to what is wanted."""

    def reconcile(self, key: PipelineKey) -> float | None:
        """Takes the next step; returns after how many seconds to come again, None for at the next resync."""

    def look(self, key: PipelineKey) -> float | None:
        """Whether nothing has to be done, where no event says that anything happened since that time was returned.

        Returns:
            Seconds after which to look again; None where the pipeline has to be reconciled.
        """


BuildReconciler = Callable[[Kube, Settings, Telemetry, Events], Reconciler]


def main(
    arguments: Sequence[str] | None = None,
    *,
    build: BuildReconciler | None = None,
    program: str = "tierflow-operator",
) -> int:
    """Runs an operator until a signal; returns its exit code.

    Args:
        arguments: Without the program's name; those of this process by default.
        build: Makes what works on pipelines; None for `tierflow_operator.reconcile`.
        program: What the help calls it.
    """
    settings = read_settings(sys.argv[1:] if arguments is None else arguments, os.environ, program=program)
    logs.configure(settings.log_level, settings.log_format)
    disable_created_metrics()  # type: ignore[no-untyped-call]
    try:
        operator = Operator(settings, build or _reconciler)
    except TierflowError as error:
        _log.error("%s", error.message)
        return _BAD_INPUT
    return operator.run()


class Operator:
    """An operator's parts. Construction reaches the cluster, and fails where that can't work.

    Raises:
        TierflowError: the kubeconfig, the cluster, its custom resource or the metrics' port is not as needed.
    """

    def __init__(self, settings: Settings, build: BuildReconciler) -> None:
        self._settings = settings
        self._ends: SimpleQueue[tuple[int, str]] = SimpleQueue()
        self._telemetry = telemetry = Telemetry()
        self._client = self._connect(settings.request_timeout_seconds, may_write=self._leads)
        self._kube = Kube(self._client)
        self._check_custom_resource()
        self._reconciler = build(self._kube, settings, telemetry, Events(self._client, settings.identity))
        self._queue = WorkQueue(self._visit, look=self._look, workers=settings.workers)
        self._resync = Resync(self._queue.add, self._keys, settings.resync_seconds)
        telemetry.watch_queue(self._queue.length, self._queue.oldest_age)
        self._door = Door(
            self._client.credentials,
            settings.namespaces,
            add=self._queue.add,
            on_end=self._watching_ended,
            nodes_changed=self._kube.nodes_changed,
        )
        self._leader = self._elected() if settings.leader_elect else None
        self._probes = Probes(
            settings.metrics_port, telemetry, {"/healthz": self._what_is_stale, "/readyz": self._what_is_missing}
        )

    def run(self) -> int:
        """Works until a signal, or until it can't; returns the exit code."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda received, _: self._ends.put((0, signal.Signals(received).name)))
        self._probes.start()
        _log.info(
            "started",
            extra={
                "server": self._client.server,
                "namespaces": self._settings.namespaces or "all",
                "metrics_port": self._probes.port,
                "version": self._telemetry.release,
            },
        )
        self._door.start()
        if self._leader is None:
            self._lead()
        else:
            self._leader.start()
        code, why = self._ends.get()
        _log.log(logging.ERROR if code else logging.INFO, "ending: %s", why)
        self._end(code)
        return code

    def _end(self, code: int) -> None:
        self._resync.stop()
        # After a failure the fence keeps what is under way from writing; there is nothing to wait for.
        finished = self._queue.stop(_CLOSE_SECONDS if code else _FINISH_SECONDS)
        if not finished:
            _log.warning("a reconcile is still under way; it goes on where it was in the next process")
        self._door.stop(_CLOSE_SECONDS)
        if self._leader is not None and finished:
            self._leader.stop()
        self._probes.stop()
        _log.info("ended")

    def _lead(self) -> None:
        self._telemetry.lead(True)
        self._queue.start()
        self._resync.start()

    def _leads(self) -> bool:
        return self._leader is None or self._leader.leads()

    def _lease_lost(self) -> None:
        self._ends.put((_FAILED, "another replica may lead now"))

    def _watching_ended(self, error: BaseException | None) -> None:
        reason = f"{type(error).__name__}: {error}" if error is not None else "no reason given"
        self._ends.put((_FAILED, f"the cluster can't be watched any more: {reason}"))

    def _visit(self, key: PipelineKey) -> float | None:
        began = time.monotonic()
        with logs.about(key):
            try:
                return self._reconciler.reconcile(key)
            except Exception as error:
                self._telemetry.failed(error)
                raise
            finally:
                self._telemetry.reconciled(time.monotonic() - began)

    def _look(self, key: PipelineKey) -> float | None:
        with logs.about(key):
            again_after = self._reconciler.look(key)
        return self._visit(key) if again_after is None else again_after

    def _keys(self) -> list[PipelineKey]:
        return [
            key for namespace in self._settings.namespaces or (None,) for key in self._kube.pipeline_keys(namespace)
        ]

    def _what_is_stale(self) -> str:
        if not self._queue.is_healthy(_STALE_SECONDS):
            return f"a pipeline has been due or worked on for {self._queue.oldest_age():.0f} s"
        return "" if self._leader is None or self._leader.is_alive() else "nothing renews the lease"

    def _what_is_missing(self) -> str:
        return "" if self._door.is_open() else "the cluster isn't watched yet"

    def _connect(self, timeout_seconds: float, *, may_write: Callable[[], bool] = lambda: True) -> KubeClient:
        settings = self._settings
        return KubeClient(
            read_configuration(settings.kubeconfig, settings.context, os.environ),
            self._telemetry,
            timeout_seconds=timeout_seconds,
            connections=settings.workers + 4,
            may_write=may_write,
        )

    def _check_custom_resource(self) -> None:
        try:
            self._kube.pipeline_keys(next(iter(self._settings.namespaces), None))
        except NotFoundError as error:
            raise InvalidInputError(
                f"the cluster {self._client.server} knows no InferencePipelines: apply the custom resource definition "
                f"first, with `kubectl apply --server-side -f {_CRD_FILE}`",
                subject=_CRD_FILE,
            ) from error

    def _elected(self) -> Leader:
        settings = self._settings
        patience = min(settings.request_timeout_seconds, settings.lease_seconds * _LEASE_PATIENCE)
        return Leader(
            self._connect(patience),
            LeaseName(settings.lease_namespace, settings.lease_name, settings.identity, settings.lease_seconds),
            self._telemetry,
            on_lead=self._lead,
            on_lost=self._lease_lost,
        )


def _reconciler(kube: Kube, settings: Settings, telemetry: Telemetry, events: Events) -> Reconciler:
    from tierflow_operator.reconcile import build_reconciler

    reconciler: Reconciler = build_reconciler(kube, settings, telemetry, events)
    return reconciler


if __name__ == "__main__":
    sys.exit(main())
