"""Reads Prometheus, bounded in time and size, for all pipelines at once; the only module that talks to it.

An address may be a user's (`spec.metrics.prometheus.url`), so its server is trusted with nothing: no redirect is
followed, no proxy or password of the environment is used, and what it answers is never shown.
"""

import threading
import time
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import requests
from prometheus_api_client import PrometheusConnect
from prometheus_api_client.exceptions import PrometheusApiClientException
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError, ReadTimeoutError
from urllib3.util.retry import Retry

from tierflow.errors import UnreachableError
from tierflow_operator.keys import PipelineKey
from tierflow_operator.queries import LIVE, recent
from tierflow_operator.readings import Readings, readings_of
from tierflow_operator.samples import Series, WorkerLabels, by_pipeline, series_of

MOST_BYTES: Final = 64 * 2**20
"""Of one answer: some hundred times what a thousand workers fill."""

_CHUNK_BYTES: Final = 2**16
_SHARED_PER_SECOND: Final = 10.0
_SHARED_AT_MOST: Final = 5.0
_READERS: Final = 32


@dataclass(frozen=True, slots=True)
class PrometheusSettings:
    """The operator's setting of where and how measurements are read.

    Attributes:
        url: The default of `spec.metrics.prometheus.url`; "" for none.
        window_seconds: How far back samples are read: three scrape intervals at least.
        timeout_seconds: Of one query: to connect, and until the whole answer is there.
        shared_seconds: For how long one reading serves all pipelines at least; where reading takes its time it is
            ten times as long as that took, up to five seconds, so that no fleet keeps the operator busy with reading;
            0 shares nothing.
        token_file: A bearer token, sent to `url` alone and read anew each time; None for none.
        ca_file: The authority that signed the certificate of `url`; None for the system's.
    """

    url: str = ""
    window_seconds: int = 120
    timeout_seconds: float = 5.0
    shared_seconds: float = 1.0
    token_file: Path | None = None
    ca_file: Path | None = None


@dataclass(frozen=True, slots=True)
class _Answer:
    """What one pair of queries brought and until when it serves: the series by pipeline, or why there are none."""

    at: float
    until: float
    series: Mapping[PipelineKey, list[Series]]
    live: Set[WorkerLabels] = frozenset()
    failure: UnreachableError | None = None


class PrometheusReader:
    """Reads one Prometheus. Safe to use from several threads, which share one reading.

    Args:
        settings: Where and how.
        clock: Seconds of the Unix epoch.
    """

    def __init__(self, settings: PrometheusSettings, *, clock: Callable[[], float] = time.time) -> None:
        self._settings = settings
        self._clock = clock
        self._lock = threading.Lock()
        self._answer: _Answer | None = None
        self._connection: PrometheusConnect | None = None

    def read(self, key: PipelineKey, *, max_staleness_seconds: float) -> Readings:
        """What is known of a pipeline.

        Args:
            key: The pipeline.
            max_staleness_seconds: Of it, what is older is left out.

        Raises:
            UnreachableError: where Prometheus doesn't answer in time, or not as Prometheus does.
        """
        with self._lock:
            answer = self._answer
            if answer is None or not answer.at <= self._clock() < answer.until:
                answer = self._answer = self._ask()
        if answer.failure is not None:
            raise UnreachableError(answer.failure.message, subject=answer.failure.subject)
        return readings_of(
            answer.series.get(key, ()), answer.live, read_at=answer.at, max_staleness=max_staleness_seconds
        )

    def close(self) -> None:
        """Closes the connection."""
        if self._connection is not None:
            self._connection.close()

    def _ask(self) -> _Answer:
        began = self._clock()
        found: dict[PipelineKey, list[Series]] = {}
        live: Set[WorkerLabels] = frozenset()
        failure = None
        asked_at = began
        try:
            samples = self._query(recent(self._settings.window_seconds))
            alive = series_of(self._query(LIVE))  # second, so that whoever has samples and lives is among these
            asked_at = self._clock()
            # By the samples' own clock, so that one that is wrong here makes nothing look old.
            shift = asked_at - alive[0].points[0][0] if alive else 0.0
            found, live = by_pipeline(series_of(samples, shift=shift)), frozenset(entry.worker for entry in alive)
        except UnreachableError as error:
            failure = error
        except (KeyError, TypeError, ValueError, AttributeError, IndexError):
            failure = self._unreachable("does not answer as Prometheus does")
        now = self._clock()
        shared = self._settings.shared_seconds
        if shared:
            shared = min(max(shared, _SHARED_PER_SECOND * (now - began)), _SHARED_AT_MOST)
        return _Answer(asked_at, now + shared, found, live, failure)

    def _query(self, query: str) -> Any:
        """The result of a query, whatever it is.

        Raises:
            UnreachableError: where there is none.
        """
        try:
            return self._connected().custom_query(query)
        except PrometheusApiClientException as error:
            status = str(error).removeprefix("HTTP Status Code ").partition(" ")[0]
            raise self._unreachable(f"answers with HTTP status {status}") from error
        except requests.Timeout as error:
            raise self._unreachable(f"does not answer within {self._settings.timeout_seconds:g} s") from error
        except requests.RequestException as error:
            raise self._unreachable(_why(error)) from error

    def _connected(self) -> PrometheusConnect:
        url = self._settings.url.rstrip("/")
        if self._connection is None:
            parts = urlsplit(url)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise self._unreachable("is no address; write it like http://prometheus.monitoring:9090")
            session = requests.Session()
            session.trust_env = False
            session.max_redirects = 0
            session.verify = True if self._settings.ca_file is None else str(self._settings.ca_file)
            self._connection = PrometheusConnect(url=url, session=session, timeout=self._settings.timeout_seconds)
            session.mount(url, _BoundedAdapter(self._settings.timeout_seconds))
        token = self._settings.token_file
        if token is not None:
            try:
                self._connection.headers = {"Authorization": f"Bearer {token.read_text().strip()}"}
            except OSError as error:
                raise self._unreachable(f"wants a token, but {token} can't be read ({error.strerror})") from error
        return self._connection

    def _unreachable(self, what: str) -> UnreachableError:
        parts = urlsplit(self._settings.url)
        shown = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()  # without a password
        message = f"Prometheus at {shown[:200]} {what}; check spec.metrics.prometheus.url or the operator's own setting"
        return UnreachableError(message, subject="spec.metrics.prometheus.url")


class PrometheusReaders:
    """The readers of all addresses in use. Safe to use from several threads.

    Args:
        settings: The operator's; for a pipeline's own address all of them but token and authority count.
        clock: Seconds of the Unix epoch.
    """

    def __init__(self, settings: PrometheusSettings, *, clock: Callable[[], float] = time.time) -> None:
        self._settings = settings
        self._clock = clock
        self._lock = threading.Lock()
        self._readers: dict[str, PrometheusReader] = {}

    def read(self, key: PipelineKey, url: str, *, max_staleness_seconds: float) -> Readings | UnreachableError | None:
        """What is known of a pipeline, or why nothing is; None where no Prometheus is configured.

        Args:
            key: The pipeline.
            url: Its own `spec.metrics.prometheus.url`; "" for the operator's.
            max_staleness_seconds: Of it.
        """
        chosen = url or self._settings.url
        if not chosen:
            return None
        try:
            return self._reader(chosen).read(key, max_staleness_seconds=max_staleness_seconds)
        except UnreachableError as error:
            return error

    def __len__(self) -> int:
        """How many addresses are kept."""
        return len(self._readers)

    def close(self) -> None:
        """Closes all connections."""
        with self._lock:
            for reader in self._readers.values():
                reader.close()
            self._readers.clear()

    def _reader(self, url: str) -> PrometheusReader:
        with self._lock:
            reader = self._readers.pop(url, None)
            if reader is None:
                own = url == self._settings.url
                settings = self._settings if own else replace(self._settings, url=url, token_file=None, ca_file=None)
                reader = PrometheusReader(settings, clock=self._clock)
            self._readers[url] = reader  # the latest used last
            while len(self._readers) > _READERS:
                self._readers.pop(next(iter(self._readers))).close()
            return reader


class _TooMuchError(requests.RequestException):
    """An answer has more than `MOST_BYTES`."""


class _BoundedAdapter(HTTPAdapter):
    """Reads the whole answer here, in bounded time and size: a timeout of requests only bounds each wait for a byte."""

    def __init__(self, seconds: float) -> None:
        # One more try, where the connection was refused, or a proxy says that its server is away.
        retry = Retry(
            total=1,
            read=False,
            redirect=0,
            backoff_factor=0.2,
            status_forcelist=(502, 503, 504),
            respect_retry_after_header=False,
        )
        super().__init__(max_retries=retry)
        self._seconds = seconds

    def send(self, request: requests.PreparedRequest, *args: Any, **options: Any) -> requests.Response:
        """Sends a request; the answer's content is there when it returns."""
        until = time.monotonic() + self._seconds
        response = super().send(request, *args, **{**options, "stream": True})
        content = bytearray()
        try:
            while chunk := response.raw.read1(_CHUNK_BYTES, decode_content=True):
                content += chunk
                if len(content) > MOST_BYTES:
                    raise _TooMuchError(request=request)
                if time.monotonic() > until:
                    raise requests.Timeout(request=request)
        except ReadTimeoutError as error:
            raise requests.Timeout(error, request=request) from error
        except HTTPError as error:
            raise requests.ConnectionError(error, request=request) from error
        finally:
            response.close()
        response._content, response._content_consumed = bytes(content), True
        return response


def _why(error: requests.RequestException) -> str:
    for kind, what in _WHYS.items():
        if isinstance(error, kind):
            return what
    return f"can't be reached ({type(error).__name__})"


_WHYS: Final[Mapping[type[Exception], str]] = {
    requests.exceptions.SSLError: "has no certificate that is trusted here",
    _TooMuchError: f"answers with more than {MOST_BYTES >> 20} MiB",
    requests.exceptions.JSONDecodeError: "does not answer as Prometheus does",
    requests.exceptions.TooManyRedirects: "redirects; give the address that it leads to",
}
