"""The Kubernetes REST interface as tests use it: plain paths and objects, and an error with what the user would see."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import urllib3

Manifest = dict[str, Any]

PIPELINES: Final = "/apis/tierflow.dev/v1alpha1"
_MERGE_PATCH: Final = "application/merge-patch+json"
_APPLY_PATCH: Final = "application/apply-patch+yaml"
_ERROR: Final = 400
_GONE_OR_ABSENT: Final = (404,)


class RefusedError(Exception):
    """The API server refused a request; `message` is what a user sees."""

    def __init__(self, code: int, status: Mapping[str, Any]) -> None:
        super().__init__(f"{code}: {status.get('message', '')}")
        self.code = code
        self.message = str(status.get("message", ""))
        self.reason = str(status.get("reason", ""))


class ApiServer:
    """A connection to an API server as one user; threads may share it.

    Args:
        url: Of the server, like `https://127.0.0.1:6443`.
        certificate_authority: The file that its certificate is checked with.
        token: The user's bearer token.
    """

    def __init__(self, url: str, certificate_authority: Path, token: str) -> None:
        self.url = url
        self._pool = urllib3.PoolManager(
            ca_certs=str(certificate_authority),
            headers={"Authorization": f"Bearer {token}", "Accept": "application/json"},
            maxsize=8,
            retries=False,
            timeout=urllib3.Timeout(connect=5, read=30),
        )

    def request(
        self, method: str, path: str, body: object = None, *, content_type: str = "application/json", **query: str
    ) -> Manifest:
        """The answer's object.

        Raises:
            RefusedError: where the server refuses.
        """
        headers = {**self._pool.headers, "Content-Type": content_type}
        encoded = None if body is None else json.dumps(body).encode()
        answer = self._pool.request(method, self._address(path, query), body=encoded, headers=headers)
        if answer.status >= _ERROR:
            raise RefusedError(answer.status, _status(answer.data))
        return dict(json.loads(answer.data)) if answer.data[:1] == b"{" else {"text": answer.data.decode()}

    def get(self, path: str, **query: str) -> Manifest:
        """The object at `path`."""
        return self.request("GET", path, **query)

    def find(self, path: str) -> Manifest | None:
        """The object at `path`, None where there is none."""
        try:
            return self.get(path)
        except RefusedError as error:
            if error.code in _GONE_OR_ABSENT:
                return None
            raise

    def items(self, path: str, **query: str) -> list[Manifest]:
        """The objects of the collection at `path`."""
        return list(self.get(path, **query)["items"])

    def create(self, path: str, manifest: Manifest, **query: str) -> Manifest:
        """Creates an object in the collection at `path`."""
        return self.request("POST", path, manifest, **query)

    def replace(self, path: str, manifest: Manifest) -> Manifest:
        """Puts an object in the place of the one at `path`."""
        return self.request("PUT", path, manifest)

    def patch(self, path: str, change: Manifest) -> Manifest:
        """Merges `change` into the object at `path`; None removes a field."""
        return self.request("PATCH", path, change, content_type=_MERGE_PATCH)

    def patch_json(self, path: str, *operations: Manifest) -> Manifest:
        """Applies JSON patch operations to the object at `path`."""
        return self.request("PATCH", path, list(operations), content_type="application/json-patch+json")

    def apply(self, path: str, manifest: Manifest, *, manager: str) -> Manifest:
        """Server-side apply as `manager`, with force."""
        return self.request("PATCH", path, manifest, content_type=_APPLY_PATCH, fieldManager=manager, force="true")

    def delete(self, path: str, *, propagation: str = "Background") -> None:
        """Deletes the object at `path`, if there is one."""
        try:
            self.request("DELETE", path, {"propagationPolicy": propagation})
        except RefusedError as error:
            if error.code not in _GONE_OR_ABSENT:
                raise

    def watch(self, path: str, *, resource_version: str, seconds: int = 300) -> Iterator[tuple[str, Manifest]]:
        """Events (type, object) after `resource_version`, until the server ends the watch.

        Raises:
            RefusedError: where the version is too old, as code 410.
        """
        query = {"watch": "true", "resourceVersion": resource_version, "timeoutSeconds": str(seconds)}
        answer = self._pool.request(
            "GET", self._address(path, query), preload_content=False, timeout=urllib3.Timeout(connect=5, read=seconds)
        )
        try:
            if answer.status >= _ERROR:
                raise RefusedError(answer.status, _status(answer.read()))
            rest = b""
            for piece in answer.stream(65536):
                *lines, rest = (rest + piece).split(b"\n")
                for line in lines:
                    event = json.loads(line)
                    if event["type"] == "ERROR":
                        raise RefusedError(int(event["object"].get("code", 500)), event["object"])
                    yield event["type"], event["object"]
        finally:
            answer.close()

    def _address(self, path: str, query: Mapping[str, str]) -> str:
        from urllib.parse import urlencode

        return f"{self.url}{path}" + (f"?{urlencode(query)}" if query else "")


def _status(data: bytes) -> Mapping[str, Any]:
    try:
        return dict(json.loads(data))
    except ValueError:
        return {"message": data.decode(errors="replace")}
