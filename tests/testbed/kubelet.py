"""Plays the kubelet: pods that the real scheduler has bound run, get ready, end and vanish, as a test wants them to."""

import itertools
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import urllib3

from testbed.rest import ApiServer, Manifest, RefusedError
from testbed.watched import Watched

COMPONENT_LABEL: Final = "app.kubernetes.io/component"
CHECK: Final = "check"
WORKERS_ANNOTATION: Final = "tierflow.dev/workers"
APPROVAL_SUFFIX: Final = "-approved"
GOOD_VERDICT: Final = {
    "holds": True,
    "bitIdentical": True,
    "largestRelativeDifference": 0.0,
    "message": "the bits of the whole model's answer",
}
MISMATCH: Final = {
    "holds": False,
    "bitIdentical": False,
    "largestRelativeDifference": 0.5,
    "message": "the cloud's answer differs by 0.5",
}
"""What `tierflow-check` says where the answers are the same, and where they differ; it exits with 1 then."""
_LOOK_SECONDS: Final = 1.0


def is_anything(_: Manifest) -> bool:
    """Every pod."""
    return True


@dataclass(slots=True)
class Behaviour:
    """What becomes of a namespace's pods. A test changes its fields while it runs.

    Args:
        runs: Which pods start at all; the others stay as if their image couldn't be pulled.
        gets_ready: Which of the running pods get ready, once they are approved.
        verdict: The termination message of a check pod, as an object; None while it is still checking.
        exit_code: That a check pod ends with, from its verdict.
    """

    runs: Callable[[Manifest], bool] = is_anything
    gets_ready: Callable[[Manifest], bool] = is_anything
    verdict: Callable[[Manifest], dict[str, object] | None] = lambda _: dict(GOOD_VERDICT)
    exit_code: Callable[[dict[str, object]], int] = lambda verdict: 0 if verdict.get("holds") else 1


class Kubelet:
    """One for all nodes and for the whole session.

    A worker is ready once the ConfigMap of its optional approval volume exists, or if it has no such volume. A pod that
    is being deleted vanishes at once. Pods of namespaces without a `Behaviour` don't run.
    """

    def __init__(self, api: ApiServer) -> None:
        self._api = api
        self._wake = threading.Event()
        self._stopped = threading.Event()
        self._behaviours: dict[str, Behaviour] = {}
        self._addresses = (f"10.244.{high}.{low}" for high, low in itertools.product(range(256), range(1, 255)))
        self._pods = Watched(api, "/api/v1/pods", changed=self._wake.set)
        self._config_maps = Watched(api, "/api/v1/configmaps", changed=self._wake.set)
        threading.Thread(target=self._run, name="kubelet", daemon=True).start()

    def behave(self, namespace: str) -> Behaviour:
        """Runs the pods of `namespace` from now on, as the returned value says."""
        return self._behaviours.setdefault(namespace, Behaviour())

    def look(self) -> None:
        """Looks at all pods again; a test that changed a `Behaviour` needn't wait for the next look."""
        self._wake.set()

    def stop(self) -> None:
        """Ends the stand-in."""
        self._stopped.set()
        self._pods.stop()
        self._config_maps.stop()
        self._wake.set()

    def _run(self) -> None:
        while not self._stopped.is_set():
            self._wake.wait(_LOOK_SECONDS)
            self._wake.clear()
            for pod in self._pods.objects.values():
                try:
                    self._look_at(pod)
                except (RefusedError, urllib3.exceptions.HTTPError, OSError):
                    continue  # it changed or vanished meanwhile, or the server restarts: the next look sees

    def _look_at(self, pod: Manifest) -> None:
        metadata = pod["metadata"]
        path = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}"
        if "nodeName" not in pod["spec"]:
            return
        if "deletionTimestamp" in metadata:
            body = {"gracePeriodSeconds": 0, "preconditions": {"uid": metadata["uid"]}}
            self._api.request("DELETE", path, body)
            return
        behaviour = self._behaviours.get(metadata["namespace"])
        if behaviour is None or not behaviour.runs(pod) or pod["status"].get("phase") in ("Succeeded", "Failed"):
            return
        status = self._status(pod, behaviour)
        if status is not None:
            self._api.patch(f"{path}/status", {"metadata": {"uid": metadata["uid"]}, "status": status})

    def _status(self, pod: Manifest, behaviour: Behaviour) -> Manifest | None:
        """The status that the pod should have now, None where it has it."""
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        address = pod["status"].get("podIP") or next(self._addresses)
        started = pod["status"].get("startTime", now)
        common = {"podIP": address, "podIPs": [{"ip": address}], "startTime": started}
        if pod["metadata"].get("labels", {}).get(COMPONENT_LABEL) == CHECK:
            told = WORKERS_ANNOTATION in pod["metadata"].get("annotations", {})
            verdict = behaviour.verdict(pod) if told else None  # till then there is nobody to ask
            if verdict is not None:
                code = behaviour.exit_code(verdict)
                ended = {"exitCode": code, "message": json.dumps(verdict), "startedAt": started, "finishedAt": now}
                phase = "Failed" if code else "Succeeded"
                return common | {"phase": phase, **_containers(pod, {"terminated": ended}, ready=False, now=now)}
            ready = True
        else:
            ready = self._is_approved(pod) and behaviour.gets_ready(pod)
        if pod["status"].get("phase") == "Running" and is_ready(pod) == ready:
            return None
        return common | {
            "phase": "Running",
            **_containers(pod, {"running": {"startedAt": started}}, ready=ready, now=now),
        }

    def _is_approved(self, pod: Manifest) -> bool:
        return all(
            (pod["metadata"]["namespace"], source["name"]) in self._config_maps.objects
            for volume in pod["spec"].get("volumes", [])
            if (source := volume.get("configMap"))
            and source.get("optional")
            and source["name"].endswith(APPROVAL_SUFFIX)
        )


def is_ready(pod: Manifest) -> bool:
    """Whether a pod is ready."""
    conditions = pod["status"].get("conditions", [])
    return any(entry["type"] == "Ready" and entry["status"] == "True" for entry in conditions)


def _containers(pod: Manifest, state: Manifest, *, ready: bool, now: str) -> Manifest:
    """The statuses of a pod's containers, all in one state, and the conditions that go with it."""
    before = {entry["type"]: entry for entry in pod["status"].get("conditions", [])}
    wanted = {"PodScheduled": True, "Initialized": True, "ContainersReady": ready, "Ready": ready}
    conditions = []
    for kind, holds in wanted.items():
        text = "True" if holds else "False"
        since = before.get(kind, {})
        changed = since.get("lastTransitionTime", now) if since.get("status") == text else now
        conditions.append({"type": kind, "status": text, "lastTransitionTime": changed})
    statuses = [
        {
            "name": container["name"],
            "image": container["image"],
            "imageID": f"test://{container['image']}",
            "containerID": f"test://{pod['metadata']['uid']}/{container['name']}",
            "ready": ready,
            "started": "running" in state,
            "restartCount": 0,
            "state": state,
        }
        for container in pod["spec"]["containers"]
    ]
    return {"conditions": conditions, "containerStatuses": statuses}
