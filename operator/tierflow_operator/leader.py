"""Leader election by a Lease: of several replicas one reconciles, the others stand by.

Times between replicas are never compared: a follower measures by its own clock for how long a Lease hasn't changed.
"""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import quote

from tierflow_operator.kube_client import KubeClient
from tierflow_operator.kube_errors import ConflictError, KubeError, NotFoundError
from tierflow_operator.telemetry import Telemetry

_log: Final = logging.getLogger(__name__)

_KIND: Final = "Lease"
_RENEW: Final = 1 / 5
_RETRY: Final = 1 / 7.5
_TRUST: Final = 2 / 3
"""Parts of the Lease's time: between renewals, between tries, and from a renewal until its holder stops by itself,
well before anybody else may take the Lease."""


@dataclass(frozen=True, slots=True)
class LeaseName:
    """Which Lease the replicas share, who asks, and for how long a holder is believed, in seconds."""

    namespace: str
    name: str
    identity: str
    seconds: int

    @property
    def path(self) -> str:
        """Of all Leases of the namespace."""
        return f"/apis/coordination.k8s.io/v1/namespaces/{quote(self.namespace, safe='')}/leases"


class Leader:
    """Takes the Lease, keeps it, and gives it back.

    Args:
        client: Of its own, so that nothing else makes renewals wait; short of patience beside the Lease's time.
        lease: Which one.
        telemetry: Says whether this replica leads.
        on_lead: Called once, when the Lease is taken.
        on_lost: Called once, when it is lost; the process has to end.
        clock: Seconds of any monotonic origin.
    """

    def __init__(
        self,
        client: KubeClient,
        lease: LeaseName,
        telemetry: Telemetry,
        *,
        on_lead: Callable[[], None],
        on_lost: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._lease = lease
        self._telemetry = telemetry
        self._on_lead = on_lead
        self._on_lost = on_lost
        self._clock = clock
        self._trusted_until = float("-inf")
        self._held: dict[str, Any] = {}
        """The Lease as this replica wrote it last."""
        self._seen: dict[str, Any] | None = None
        self._seen_at = float("-inf")
        self._complaint = ""
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="leader", daemon=True)

    def leads(self) -> bool:
        """Whether this replica may write now."""
        return self._clock() < self._trusted_until

    def is_alive(self) -> bool:
        """Whether it tries for the Lease, or renews it."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Begins to try for the Lease."""
        self._thread.start()

    def stop(self, timeout_seconds: float = 10.0) -> None:
        """Gives the Lease back, so that another replica needn't wait; to be called after the last write."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join(timeout_seconds)
        if not self.leads():
            return
        self._trusted_until = float("-inf")
        self._telemetry.lead(False)
        try:
            self._write("update", self._held, {"holderIdentity": "", "leaseDurationSeconds": 1, "renewTime": _now()})
            _log.info("gave the lease %s back", self._lease.name)
        except KubeError as error:
            _log.warning("the lease could not be given back, it runs out by itself: %s", error.message)

    def _run(self) -> None:
        while not self._stopping.is_set() and not self._tried(self._take):
            self._stopping.wait(self._lease.seconds * _RETRY)
        if self._stopping.is_set():
            return
        _log.info("leading", extra={"lease": self._lease.name, "identity": self._lease.identity})
        self._telemetry.lead(True)
        self._on_lead()
        renewed = True
        while not self._stopping.wait(self._lease.seconds * (_RENEW if renewed else _RETRY)):
            renewed = self._tried(self._renew)
            if not self.leads():
                _log.error("lost the lease %s", self._lease.name)
                self._telemetry.lead(False)
                self._on_lost()
                return

    def _tried(self, attempt: Callable[[], bool]) -> bool:
        """Whether an attempt at the Lease worked; what stands in its way is said once."""
        began = self._clock()
        try:
            done = attempt()
        except KubeError as error:
            if error.message != self._complaint:
                _log.warning("lease: %s", error.message)
            self._complaint = error.message
            return False
        self._complaint = ""
        if done:
            self._trusted_until = began + self._lease.seconds * _TRUST
        return done

    def _take(self) -> bool:
        found = self._read()
        if found is None:
            metadata = {"name": self._lease.name, "namespace": self._lease.namespace}
            created = {"apiVersion": "coordination.k8s.io/v1", "kind": _KIND, "metadata": metadata}
            return self._claimed("create", created, transitions=0)
        spec = found.get("spec") or {}
        if self._seen is None or self._seen != spec:
            self._seen, self._seen_at = spec, self._clock()
        holder = spec.get("holderIdentity") or ""
        believed = float(spec.get("leaseDurationSeconds") or self._lease.seconds)
        if holder and self._clock() < self._seen_at + believed:
            return False
        return self._claimed("update", found, transitions=int(spec.get("leaseTransitions") or 0) + 1)

    def _claimed(self, verb: str, lease: dict[str, Any], *, transitions: int) -> bool:
        claim = {"holderIdentity": self._lease.identity, "leaseDurationSeconds": self._lease.seconds}
        times = {"acquireTime": _now(), "renewTime": _now(), "leaseTransitions": transitions}
        try:
            self._write(verb, lease, {**claim, **times})
        except ConflictError:
            return False  # another replica was quicker
        return True

    def _renew(self) -> bool:
        try:
            self._write("update", self._held, {"renewTime": _now()})
        except (ConflictError, NotFoundError):
            found = self._read()
            if found is None or (found.get("spec") or {}).get("holderIdentity") != self._lease.identity:
                self._trusted_until = float("-inf")
                return False
            self._write("update", found, {"renewTime": _now()})  # somebody wrote beside the claim, like a label
        return True

    def _read(self) -> dict[str, Any] | None:
        try:
            found = self._request("get", f"{self._lease.path}/{quote(self._lease.name, safe='')}", None)
        except NotFoundError:
            return None
        return found

    def _write(self, verb: str, lease: dict[str, Any], spec: dict[str, Any]) -> None:
        name = "" if verb == "create" else f"/{quote(self._lease.name, safe='')}"
        body = {**lease, "spec": {**(lease.get("spec") or {}), **spec}}
        self._held = self._request(verb, self._lease.path + name, body)

    def _request(self, verb: str, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        subject = f"Lease {self._lease.namespace}/{self._lease.name}"
        answer: dict[str, Any] = self._client.request(verb, path, kind=_KIND, subject=subject, body=body)
        return answer


def _now() -> str:
    """The present as Kubernetes writes it in a Lease."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
