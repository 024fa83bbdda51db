"""Where the cluster's events come in: they make pipelines due, and nothing is decided from what they say.

The one module that imports kopf. Of kopf only watching is used: no finalizers, no annotations, no peering, no posting;
the credentials are those of the operator's other client.
"""

import asyncio
import logging
import threading
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final

import kopf

from tierflow_operator.keys import PipelineKey
from tierflow_operator.kube import NODES, OWNED, PIPELINES, Resource
from tierflow_operator.kube_client import Credentials
from tierflow_operator.pods import PIPELINE_LABEL

_log: Final = logging.getLogger(__name__)

_NODES_SETTLE_SECONDS: Final = 0.3
_SERVER_SECONDS: Final = 300
_CLIENT_SECONDS: Final = 330
_CONNECT_SECONDS: Final = 10
_REQUEST_SECONDS: Final = 30
_BACKOFFS: Final = (1, 1, 2, 3, 5, 8)
"""In seconds, between tries of a request that the API server answers with an error. While it can't be reached at all,
watching goes on trying; where it refuses for longer than this, watching ends, and with it the process."""
_RETRYING: Final = ("kopf._cogs.clients.watching", "kopf._core.reactor.observation")
_RETRY_NEWS_SECONDS: Final = 60.0
_PAGE: Final = 250
_WORKERS: Final = 64
_IDLE_SECONDS: Final = 0.1
"""An object's task of kopf holds one of `_WORKERS` for this long beyond its last event."""


class Door:
    """Watches pipelines, what they own, and nodes, in a thread of its own.

    Args:
        credentials: How to reach the API server, asked anew whenever they are refused.
        namespaces: Where; empty for all.
        add: Makes a pipeline due.
        nodes_changed: Called when a node has changed in what plans depend on, before pipelines are due for it.
        on_end: Called when watching ends without `stop`, with the reason; the process has to end then.
    """

    def __init__(
        self,
        credentials: Callable[[], Credentials],
        namespaces: Collection[str],
        *,
        add: Callable[[PipelineKey], None],
        on_end: Callable[[BaseException | None], None],
        nodes_changed: Callable[[], None] = lambda: None,
    ) -> None:
        self._credentials = credentials
        self._namespaces = namespaces
        self._add = add
        self._on_end = on_end
        self._tell_nodes_changed = nodes_changed
        self._pipelines: set[PipelineKey] = set()
        self._nodes: dict[str, int] = {}
        self._nodes_due: asyncio.TimerHandle | None = None
        self._open = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closing: asyncio.Event | None = None
        self._thread = threading.Thread(target=self._run, name="door", daemon=True)

    def start(self) -> None:
        """Begins to watch."""
        self._thread.start()

    def is_open(self) -> bool:
        """Whether kopf has started to watch and hasn't ended."""
        return self._open.is_set() and self._thread.is_alive()

    def stop(self, timeout_seconds: float) -> None:
        """Ends watching."""
        self._on_end = lambda _: None
        if self._loop is not None and self._closing is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._closing.set)
            self._thread.join(timeout_seconds)
        if self._thread.is_alive():
            _log.warning("watching did not end within %g s", timeout_seconds)

    def pipeline_event(self, kind: str | None, manifest: Mapping[str, Any]) -> None:
        """A pipeline came, changed or went; `kind` is None for one that was listed."""
        key = PipelineKey(manifest["metadata"]["namespace"], manifest["metadata"]["name"])
        if kind == "DELETED":
            self._pipelines.discard(key)
        else:
            self._pipelines.add(key)
        self._add(key)

    def owned_event(self, manifest: Mapping[str, Any]) -> None:
        """Something that a pipeline owns came, changed or went."""
        metadata = manifest["metadata"]
        if name := (metadata.get("labels") or {}).get(PIPELINE_LABEL):
            self._add(PipelineKey(metadata["namespace"], name))

    def node_event(self, kind: str | None, manifest: Mapping[str, Any]) -> None:
        """A node came, changed or went; all pipelines are due if it was something that a plan depends on."""
        name = manifest["metadata"]["name"]
        before = self._nodes.pop(name, None)
        if kind != "DELETED":
            self._nodes[name] = plan_relevant(manifest)
        if self._nodes.get(name) == before:
            return
        self._tell_nodes_changed()
        if self._nodes_due is None and self._loop is not None:
            self._nodes_due = self._loop.call_later(_NODES_SETTLE_SECONDS, self._nodes_changed)

    def _nodes_changed(self) -> None:
        self._nodes_due = None
        for key in list(self._pipelines):
            self._add(key)

    def _run(self) -> None:
        try:
            asyncio.run(self._watch())
        except (Exception, asyncio.CancelledError) as error:
            self._on_end(error)
        else:
            self._on_end(None)
        finally:
            self._open.clear()

    async def _watch(self) -> None:
        _quieten()
        self._loop = asyncio.get_running_loop()
        self._closing = asyncio.Event()
        await kopf.operator(
            registry=self._registry(),
            settings=_settings(),
            standalone=True,
            clusterwide=not self._namespaces,
            namespaces=self._namespaces,
            stop_flag=self._closing,
            ready_flag=self._open,
        )

    def _registry(self) -> kopf.OperatorRegistry:
        registry = kopf.OperatorRegistry()

        @kopf.on.login(registry=registry)
        async def login(**_: Any) -> kopf.ConnectionInfo:
            return _connection(await asyncio.to_thread(self._credentials))

        @kopf.on.event(**_selector(PIPELINES), registry=registry)
        async def pipeline(event: Any, **_: Any) -> None:
            self.pipeline_event(event["type"], event["object"])

        @kopf.on.event(**_selector(NODES), registry=registry)
        async def node(event: Any, **_: Any) -> None:
            self.node_event(event["type"], event["object"])

        async def owned(event: Any, **_: Any) -> None:
            self.owned_event(event["object"])

        for resource in OWNED:
            kopf.on.event(**_selector(resource), id=resource.plural, registry=registry)(owned)
        return registry


def plan_relevant(node: Mapping[str, Any]) -> int:
    """A number that is another one when something of a node that plans depend on is otherwise."""
    spec, status = node.get("spec") or {}, node.get("status") or {}
    taints = [(taint["key"], taint.get("value"), taint["effect"]) for taint in spec.get("taints") or ()]
    ready = [entry["status"] for entry in status.get("conditions") or () if entry["type"] == "Ready"]
    labels = sorted((node["metadata"].get("labels") or {}).items())
    return hash((*labels, bool(spec.get("unschedulable")), *sorted(map(str, taints)), *ready))


def _quieten() -> None:
    # kopf says at each start that signals aren't its business here, and each try of each stream while a server is away.
    logging.getLogger("kopf._core.reactor.running").setLevel(logging.ERROR)
    retries = NowAndThen("Request attempt", _RETRY_NEWS_SECONDS)
    for name in _RETRYING:
        logging.getLogger(name).addFilter(retries)


class NowAndThen(logging.Filter):
    """Lets messages with a certain text pass only so often.

    Args:
        text: Which messages.
        seconds: From one that passes to the next.
    """

    def __init__(self, text: str, seconds: float) -> None:
        super().__init__()
        self._text = text
        self._seconds = seconds
        self._next = float("-inf")

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a message passes."""
        if self._text not in record.getMessage():
            return True
        if record.created < self._next:
            return False
        self._next = record.created + self._seconds
        return True


def _settings() -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    # Without scanning, neither CRDs nor namespaces have to be listed and watched.
    settings.scanning.disabled = True
    settings.posting.enabled = False
    settings.posting.loggers = False
    settings.process.ultimate_exiting_timeout = None
    settings.watching.server_timeout = _SERVER_SECONDS
    settings.watching.client_timeout = _CLIENT_SECONDS
    settings.watching.connect_timeout = _CONNECT_SECONDS
    settings.watching.chunk_size = _PAGE
    for resource in OWNED:
        group, version, plural = _selector(resource).values()
        settings.watching.label_selectors[(group, version, plural)] = PIPELINE_LABEL
    settings.networking.request_timeout = _REQUEST_SECONDS
    settings.networking.connect_timeout = _CONNECT_SECONDS
    settings.networking.error_backoffs = _BACKOFFS
    settings.queueing.worker_limit = _WORKERS
    settings.queueing.idle_timeout = _IDLE_SECONDS
    return settings


def _selector(resource: Resource) -> dict[str, Any]:
    group, _, version = resource.api_version.rpartition("/")
    return {"group": group, "version": version, "plural": resource.plural}


def _connection(credentials: Credentials) -> kopf.ConnectionInfo:
    scheme, _, token = credentials.authorization.partition(" ")
    return kopf.ConnectionInfo(
        server=credentials.server,
        ca_path=credentials.ca_path or None,
        insecure=credentials.insecure,
        scheme=scheme or None,
        token=token or None,
        certificate_path=credentials.certificate_path or None,
        private_key_path=credentials.key_path or None,
        proxy_url=credentials.proxy or None,
    )
