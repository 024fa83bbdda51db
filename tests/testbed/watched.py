"""A collection of the API server kept in mind: listed, then watched, as long as the test runs."""

import threading
import time
from collections.abc import Callable
from typing import Any, Final

import urllib3

from testbed.rest import ApiServer, Manifest, RefusedError

_RETRY_SECONDS: Final = 0.2

Place = tuple[str, str]
"""Namespace and name."""


def place_of(manifest: Manifest) -> Place:
    """Where an object is."""
    metadata: dict[str, Any] = manifest["metadata"]
    return metadata.get("namespace", ""), metadata["name"]


class Watched:
    """The live objects of one collection, by namespace and name, and every event since the beginning.

    Args:
        api: The server.
        path: Of the collection, like `/api/v1/pods`.
        changed: Called after each event and each list, from the thread that watches.
    """

    def __init__(self, api: ApiServer, path: str, *, changed: Callable[[], None] = lambda: None) -> None:
        self.objects: dict[Place, Manifest] = {}
        self.events: list[tuple[str, Manifest]] = []
        self._api = api
        self._path = path
        self._changed = changed
        self._listed = threading.Event()
        self._stopped = threading.Event()
        threading.Thread(target=self._run, name=f"watch {path}", daemon=True).start()

    def wait_listed(self, seconds: float = 30.0) -> None:
        """Waits until the collection was read once."""
        if not self._listed.wait(seconds):
            raise TimeoutError(f"{self._path} was not listed within {seconds:.0f} s")

    def stop(self) -> None:
        """Ends the watch; its thread ends with the next event or at the latest when the server ends the stream."""
        self._stopped.set()

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                self._follow()
            except (RefusedError, urllib3.exceptions.HTTPError, OSError):
                time.sleep(_RETRY_SECONDS)  # the server restarts, or forgot the version: list again

    def _follow(self) -> None:
        listed = self._api.get(self._path)
        self.objects = {place_of(item): item for item in listed["items"]}
        version = listed["metadata"]["resourceVersion"]
        self._listed.set()
        self._changed()
        while not self._stopped.is_set():
            for kind, manifest in self._api.watch(self._path, resource_version=version):
                version = manifest["metadata"]["resourceVersion"]
                objects = dict(self.objects)  # replaced, not changed: readers iterate over it from other threads
                objects.pop(place_of(manifest), None)
                if kind != "DELETED":
                    objects[place_of(manifest)] = manifest
                self.objects = objects
                self.events.append((kind, manifest))
                self._changed()
                if self._stopped.is_set():
                    return
