"""One request to the API server: connecting, a bound on its time, and its failures as errors of the operator.

The one module that imports the package `kubernetes`; what is asked for is up to `kube`, `leader` and `events`.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import urllib3
import yaml
from kubernetes.client import ApiClient, Configuration
from kubernetes.client.exceptions import ApiException
from kubernetes.config import ConfigException, load_incluster_config, load_kube_config

from tierflow.errors import InvalidInputError
from tierflow_operator.kube_errors import (
    ConflictError,
    ExpiredError,
    FencedError,
    KubeError,
    NotFoundError,
    RefusedError,
    UnavailableError,
)
from tierflow_operator.telemetry import READ_VERBS, Telemetry

APPLY: Final = "application/apply-patch+yaml"
MERGE: Final = "application/merge-patch+json"
JSON: Final = "application/json"

_METHODS: Final = {
    "get": "GET", "list": "GET", "create": "POST", "update": "PUT", "apply": "PATCH", "patch": "PATCH",
    "delete": "DELETE",
}  # fmt: skip
_ILL_TYPED: Final = ("failed to create typed patch object", "failed to convert new object")
"""What the API server says, with HTTP status 500, of an applied object whose fields or values it doesn't know."""
_CONNECT_SECONDS: Final = 10.0
_CHUNK_BYTES: Final = 1 << 18
_IN_CLUSTER: Final = "KUBERNETES_SERVICE_HOST"


@dataclass(frozen=True, slots=True)
class Credentials:
    """How to reach and convince an API server; paths are of PEM files, "" where there is none."""

    server: str
    ca_path: str
    insecure: bool
    certificate_path: str
    key_path: str
    authorization: str
    proxy: str
    tls_server_name: str


class KubeClient:
    """Sends requests to one API server; safe to call from any thread.

    Args:
        configuration: From `read_configuration`.
        telemetry: Where requests are counted.
        timeout_seconds: Bound on a whole request, from connecting to the answer's last byte.
        connections: How many are kept open.
        may_write: Asked before each write; where it says no, the write is held back.
    """

    def __init__(
        self,
        configuration: Configuration,
        telemetry: Telemetry,
        *,
        timeout_seconds: float = 30.0,
        connections: int = 8,
        may_write: Callable[[], bool] = lambda: True,
    ) -> None:
        configuration.connection_pool_maxsize = connections
        # Trying again is the queue's business, which waits in between; here it would only multiply the time.
        configuration.retries = urllib3.Retry(total=0, redirect=False, raise_on_status=False)
        self._api = ApiClient(configuration)
        self._api.user_agent = f"tierflow-operator/{telemetry.release}"
        self._telemetry = telemetry
        self._timeout = timeout_seconds
        self._may_write = may_write

    @property
    def server(self) -> str:
        """The API server's address."""
        return str(self._api.configuration.host)

    def credentials(self) -> Credentials:
        """What another client needs in order to talk to the same server, tokens as fresh as they are now."""
        configuration = self._api.configuration
        token = configuration.auth_settings().get("BearerToken", {})
        return Credentials(
            server=self.server,
            ca_path=configuration.ssl_ca_cert or "",
            insecure=not configuration.verify_ssl,
            certificate_path=configuration.cert_file or "",
            key_path=configuration.key_file or "",
            authorization=token.get("value") or "",
            proxy=configuration.proxy or "",
            tls_server_name=configuration.tls_server_name or "",
        )

    def request(
        self,
        verb: str,
        path: str,
        *,
        kind: str,
        subject: str,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        content_type: str = JSON,
        accept: str = JSON,
        shape: Any = Any,
    ) -> Any:
        """Sends one request and returns the answer's JSON.

        Args:
            verb: As Kubernetes calls it: get, list, create, update, apply, patch or delete.
            path: The resource's path, parts already quoted.
            kind: The object's kind, for metrics.
            subject: The object, for messages.
            query: Parameters.
            body: What to send, as JSON.
            content_type: How `body` is to be understood.
            accept: What the answer may be.
            shape: A type that names what to take of the answer; all of it by default.

        Raises:
            KubeError: the kind that says what to do; see `kube_errors`.
        """
        try:
            self._check_fence(verb, subject)
            answer = _decoded(self._sent(verb, path, subject, query, body, content_type, accept), subject, shape)
        except KubeError as error:
            self._telemetry.api_request(verb, kind, error.outcome)
            raise
        self._telemetry.api_request(verb, kind, "ok")
        return answer

    def _check_fence(self, verb: str, subject: str) -> None:
        if verb not in READ_VERBS and not self._may_write():
            raise FencedError(f"{subject}: not written, because this operator doesn't lead any more", subject)

    def _sent(
        self,
        verb: str,
        path: str,
        subject: str,
        query: Mapping[str, str] | None,
        body: Mapping[str, Any] | None,
        content_type: str,
        accept: str,
    ) -> bytes:
        deadline = time.monotonic() + self._timeout
        headers = {"Accept": accept, **({"Content-Type": content_type} if body is not None else {})}
        try:
            method, url, headers, *_ = self._api.param_serialize(
                _METHODS[verb],
                path,
                query_params=list((query or {}).items()),
                header_params=headers,
                auth_settings=["BearerToken"],
            )
            response = self._api.rest_client.pool_manager.request(
                method,
                url,
                headers=headers,
                body=None if body is None else msgspec.json.encode(body),
                timeout=urllib3.Timeout(connect=min(_CONNECT_SECONDS, self._timeout), read=self._timeout),
                preload_content=False,
            )
            content = _read(response, deadline)
        except (urllib3.exceptions.HTTPError, OSError, ApiException, ConfigException) as error:
            raise UnavailableError(
                f"{subject}: the API server {self.server} can't be reached: {_cause(error)}", subject
            ) from error
        if response.status >= 300:
            raise _error(response.status, content, subject)
        return content


def read_configuration(kubeconfig: Path | None, context: str, environment: Mapping[str, str]) -> Configuration:
    """Where the cluster is and who asks.

    Args:
        kubeconfig: The file that the user names; without one, the pod's own account inside a cluster, else $KUBECONFIG,
            else ~/.kube/config.
        context: Of that file; "" for its current one.
        environment: The process' environment.

    Raises:
        InvalidInputError: there is none, or it can't be used.
    """
    configuration = Configuration()
    in_cluster = kubeconfig is None and not context and bool(environment.get(_IN_CLUSTER))
    file = str(kubeconfig or environment.get("KUBECONFIG") or Path.home() / ".kube" / "config")
    try:
        if in_cluster:
            load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
        else:
            load_kube_config(  # type: ignore[no-untyped-call]
                config_file=file, context=context or None, client_configuration=configuration, persist_config=False
            )
    except (ConfigException, OSError, yaml.YAMLError, ValueError, KeyError, TypeError, AttributeError) as error:
        place = "the pod's service account" if in_cluster else file
        reason = " ".join(str(error).split()).rstrip(".")
        raise InvalidInputError(
            f"--kubeconfig: {place} can't be used: {reason}; name a file with --kubeconfig, and one of its contexts "
            "with --context",
            subject="--kubeconfig",
        ) from error
    return configuration


def _read(response: Any, deadline: float) -> bytes:
    """The answer's bytes; a server that trickles them doesn't hold the caller beyond `deadline`."""
    chunks = []
    while chunk := response.read1(_CHUNK_BYTES):
        chunks.append(chunk)
        if time.monotonic() > deadline:
            response.close()
            raise TimeoutError("the answer took too long")
    response.release_conn()
    return b"".join(chunks)


def _decoded(content: bytes, subject: str, shape: Any) -> Any:
    try:
        return msgspec.json.decode(content, type=shape)
    except msgspec.DecodeError as error:
        raise UnavailableError(
            f"{subject}: what answers isn't an API server: its answer is not JSON", subject
        ) from error


def _error(status: int, content: bytes, subject: str) -> KubeError:
    """The error that the API server's answer with an HTTP status from 300 on stands for."""
    message = ""
    try:
        document = msgspec.json.decode(content)
        message = str(document.get("message") or "") if isinstance(document, dict) else ""
    except msgspec.DecodeError:
        pass
    message = message or content[:200].decode(errors="replace").strip() or f"HTTP status {status}"
    if status == 404:
        return NotFoundError(f"{subject}: {message}", subject)
    if status == 409:
        return ConflictError(f"{subject}: {message}", subject)
    if status == 410:
        return ExpiredError(f"{subject}: {message}", subject)
    ill_typed = status == 500 and any(text in message for text in _ILL_TYPED)
    if status in (401, 408, 429) or status < 400 or (status >= 500 and not ill_typed):
        # 401: tokens are renewed under way; the next request reads the new one.
        return UnavailableError(f"{subject}: {message}", subject)
    return RefusedError(f"{subject}: {message}", subject)


def _cause(error: Exception) -> str:
    """What lies at the bottom of an error of the transport, in one line."""
    if isinstance(error, urllib3.exceptions.MaxRetryError) and error.reason is not None:
        error = error.reason
    # urllib3 puts the connection's representation before the message.
    text = " ".join(str(error).split())
    return text.rpartition("object at 0x")[2].partition(": ")[2] or text or type(error).__name__
