"""Kubernetes Events about pipelines: what `kubectl describe` tells, without saying the same thing again and again."""

import logging
import threading
import uuid
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Literal
from urllib.parse import quote

from tierflow_operator.keys import PipelineKey
from tierflow_operator.kube_client import MERGE, KubeClient
from tierflow_operator.kube_errors import KubeError, NotFoundError
from tierflow_operator.pods import Manifest

_log: Final = logging.getLogger(__name__)

CONTROLLER: Final = "tierflow.dev/operator"
_KIND: Final = "Event"
_NOTE_BYTES: Final = 1024
_INSTANCE_LENGTH: Final = 128
_NAME_LENGTH: Final = 200
_REMEMBERED: Final = 16
"""Different events per pipeline that may become series."""
_PIPELINES: Final = 1000
"""Remembered at a time, of those spoken of last: what is forgotten may be said once more."""

EventKind = Literal["Normal", "Warning"]


@dataclass(slots=True)
class _Sent:
    name: str
    count: int = 1


@dataclass(slots=True)
class _Told:
    """What was said of one pipeline."""

    uid: str
    latest: tuple[str, str] = ("", "")
    sent: OrderedDict[tuple[str, str], _Sent] = field(default_factory=OrderedDict)


class Events:
    """Emits events about pipelines. Safe to call from any thread; never raises what the API server says.

    What is the latest already is not sent again. What was said before something else becomes a series, which is one
    Event with a count, as Kubernetes' own components do it.

    Args:
        client: Sends the requests.
        instance: Which replica speaks, like the pod's name.
        now: The present, as Kubernetes writes it.
    """

    def __init__(self, client: KubeClient, instance: str, now: Callable[[], str] | None = None) -> None:
        self._client = client
        self._instance = instance[:_INSTANCE_LENGTH]
        self._now = now or _micro_time
        self._told: OrderedDict[PipelineKey, _Told] = OrderedDict()
        self._lock = threading.Lock()

    def emit(self, pipeline: Manifest, *, kind: EventKind, reason: str, message: str, action: str) -> None:
        """Says something about a pipeline.

        Args:
            pipeline: As read from the cluster.
            kind: `Warning` where somebody should look.
            reason: Why, in one CamelCase word, like `PlanMoved`.
            message: The same for people; shortened to what an Event holds.
            action: What the operator did, in one CamelCase word, like `Plan`.
        """
        metadata = pipeline["metadata"]
        key = PipelineKey(metadata["namespace"], metadata["name"])
        note = _shortened(message)
        content = (reason, note)
        told = self._told_of(key, metadata.get("uid", ""))
        if told.latest == content:
            return
        try:
            if (sent := told.sent.get(content)) is None or not self._counted_on(key, sent):
                event = self._event(pipeline, kind, reason, note, action)
                self._client.request("create", _path(key), kind=_KIND, subject=f"event about {key}", body=event)
                told.sent[content] = _Sent(event["metadata"]["name"])
        except KubeError as error:
            _log.warning("event %s could not be sent: %s", reason, error.message)
            return
        told.latest = content
        told.sent.move_to_end(content)
        while len(told.sent) > _REMEMBERED:
            told.sent.popitem(last=False)

    def _told_of(self, key: PipelineKey, uid: str) -> _Told:
        with self._lock:
            told = self._told.get(key)
            if told is None or told.uid != uid:  # another pipeline that has the name of one that is gone
                told = self._told[key] = _Told(uid)
            self._told.move_to_end(key)
            while len(self._told) > _PIPELINES:
                self._told.popitem(last=False)
            return told

    def _counted_on(self, key: PipelineKey, sent: _Sent) -> bool:
        """Says once more what an Event says; False where that Event is gone, as Events are after an hour."""
        series = {"count": sent.count + 1, "lastObservedTime": self._now()}
        try:
            self._client.request(
                "patch",
                _path(key, sent.name),
                kind=_KIND,
                subject=f"event about {key}",
                body={"series": series},
                content_type=MERGE,
            )
        except NotFoundError:
            return False
        sent.count += 1
        return True

    def _event(self, pipeline: Manifest, kind: EventKind, reason: str, note: str, action: str) -> dict[str, Any]:
        metadata = pipeline["metadata"]
        return {
            "apiVersion": "events.k8s.io/v1",
            "kind": _KIND,
            "metadata": {
                "name": f"{metadata['name'][:_NAME_LENGTH].rstrip('-.')}.{uuid.uuid4().hex[:16]}",
                "namespace": metadata["namespace"],
            },
            "eventTime": self._now(),
            "reportingController": CONTROLLER,
            "reportingInstance": self._instance,
            "type": kind,
            "reason": reason,
            "action": action,
            "note": note,
            "regarding": {
                "apiVersion": pipeline["apiVersion"],
                "kind": pipeline["kind"],
                "namespace": metadata["namespace"],
                "name": metadata["name"],
                "uid": metadata.get("uid", ""),
                "resourceVersion": metadata.get("resourceVersion", ""),
            },
        }


def _path(key: PipelineKey, name: str = "") -> str:
    path = f"/apis/events.k8s.io/v1/namespaces/{quote(key.namespace, safe='')}/events"
    return f"{path}/{quote(name, safe='')}" if name else path


def _shortened(message: str) -> str:
    encoded = message.encode()
    if len(encoded) <= _NOTE_BYTES:
        return message
    return encoded[: _NOTE_BYTES - 3].decode(errors="ignore") + "…"


def _micro_time() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
