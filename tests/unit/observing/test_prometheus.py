"""What a reader does with servers that are slow, away, strange or hostile."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from factories.series import KEY, NOW
from testbed.process import free_ports
from tierflow.errors import UnreachableError
from tierflow_operator.prometheus import MOST_BYTES, PrometheusReader, PrometheusReaders, PrometheusSettings
from tierflow_operator.readings import Readings

Answer = Callable[[BaseHTTPRequestHandler], None]
EMPTY = {"status": "success", "data": {"resultType": "vector", "result": []}}


def says(body: object, status: int = 200, **headers: str) -> Answer:
    """Answers with a body: bytes as they are, all else as JSON."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name.replace("_", "-"), value)
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        request.wfile.write(content)

    return answer


class FakeServer:
    """A server on loopback that answers as `answer` says, and remembers what was asked."""

    def __init__(self) -> None:
        self.answer: Answer = says(EMPTY)
        self.asked: list[tuple[str, str]] = []
        self.stopping = threading.Event()
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                fake.asked.append((self.path, self.headers.get("Authorization", "")))
                fake.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        class Quiet(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: object) -> None:
                """A reader that hangs up is what some tests are about."""

        self._server = Quiet(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def close(self) -> None:
        self.stopping.set()
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server() -> Iterator[FakeServer]:
    fake = FakeServer()
    yield fake
    fake.close()


def reader(url: str, *, timeout: float = 5.0, clock: Callable[[], float] = time.time) -> PrometheusReader:
    return PrometheusReader(PrometheusSettings(url=url, timeout_seconds=timeout), clock=clock)


def failure(url: str, *, timeout: float = 5.0) -> str:
    """What the reader says of an address that can't be read."""
    asking = reader(url, timeout=timeout)
    with pytest.raises(UnreachableError) as raised:
        asking.read(KEY, max_staleness_seconds=60)
    asking.close()
    assert raised.value.subject == "spec.metrics.prometheus.url"
    assert "spec.metrics.prometheus.url" in raised.value.message
    return raised.value.message


def test_an_empty_prometheus_knows_nothing_and_is_no_error(server: FakeServer) -> None:
    found = reader(server.url).read(KEY, max_staleness_seconds=60)
    assert (found.links, found.workers) == ({}, 0)
    assert [path.partition("?")[0] for path, _ in server.asked] == ["/api/v1/query"] * 2


def test_a_port_that_nobody_listens_on_is_said_to_be_unreachable() -> None:
    (port,) = free_ports(1)
    assert "can't be reached" in failure(f"http://127.0.0.1:{port}")


def test_a_server_that_accepts_and_never_answers_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        assert "does not answer within 0.2 s" in failure(url, timeout=0.2)


def test_a_server_that_sends_byte_by_byte_for_ever_is_given_up(server: FakeServer) -> None:
    def drip(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Length", "1000000")
        request.end_headers()
        while not server.stopping.wait(0.02):
            request.wfile.write(b" ")

    server.answer = drip
    assert "does not answer within 0.3 s" in failure(server.url, timeout=0.3)


def test_an_answer_that_would_fill_the_memory_is_given_up(server: FakeServer) -> None:
    def flood(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.end_headers()
        block = b" " * 2**20
        while not server.stopping.is_set():
            request.wfile.write(block)

    server.answer = flood
    assert f"more than {MOST_BYTES >> 20} MiB" in failure(server.url, timeout=60.0)


@pytest.mark.parametrize(
    "body",
    [b"<html>hello</html>", b"", b"\xff\xfe", [], {"status": "success"}, {"data": {"result": 3}}, {"data": "text"}],
)
def test_a_server_that_is_no_prometheus_is_recognised(server: FakeServer, body: object) -> None:
    server.answer = says(body)
    assert "does not answer as Prometheus does" in failure(server.url)


def test_what_a_server_says_is_never_shown(server: FakeServer) -> None:
    server.answer = says(b"secret of another service", status=403)
    message = failure(server.url)
    assert "HTTP status 403" in message
    assert "secret" not in message


def test_a_redirect_is_not_followed(server: FakeServer) -> None:
    server.answer = says(b"", status=302, Location=f"{server.url}/elsewhere")
    assert "redirects" in failure(server.url)
    assert all(path.startswith("/api/v1/query") for path, _ in server.asked)


def test_a_proxy_whose_server_is_away_is_asked_once_more_and_no_pause_of_its_choice_is_made(server: FakeServer) -> None:
    server.answer = says(b"", status=503, Retry_After="3600")
    assert "spec.metrics.prometheus.url" in failure(server.url)
    assert len(server.asked) == 2


@pytest.mark.parametrize("url", ["prometheus:9090", "file:///etc/passwd", "http://", "ftp://prometheus"])
def test_what_is_no_address_is_said_so(url: str) -> None:
    assert "is no address" in failure(url)


def test_a_password_in_an_address_is_used_and_not_shown(server: FakeServer) -> None:
    server.answer = says(b"", status=500)
    message = failure(server.url.replace("http://", "http://reader:hunter2@"))
    assert "hunter2" not in message
    assert server.asked[0][1].startswith("Basic ")


def test_one_reading_serves_all_who_ask_shortly_after_and_a_failure_too(server: FakeServer) -> None:
    now = [NOW]
    asking = reader(server.url, clock=lambda: now[0])
    for _ in range(5):
        asking.read(KEY, max_staleness_seconds=60)
    assert len(server.asked) == 2
    now[0] += 2
    server.answer = says(b"", status=400)
    for _ in range(5):
        with pytest.raises(UnreachableError):
            asking.read(KEY, max_staleness_seconds=60)
    assert len(server.asked) == 3
    now[0] += 2
    server.answer = says(EMPTY)
    assert asking.read(KEY, max_staleness_seconds=60).workers == 0


def test_a_reading_that_took_its_time_is_shared_for_longer_but_not_for_ever(server: FakeServer) -> None:
    now = [NOW]

    def slowly(request: BaseHTTPRequestHandler) -> None:
        now[0] += 0.1
        says(EMPTY)(request)

    server.answer = slowly
    asking = reader(server.url, clock=lambda: now[0])
    asking.read(KEY, max_staleness_seconds=60)
    now[0] += 1.9
    asking.read(KEY, max_staleness_seconds=60)
    assert len(server.asked) == 2
    now[0] += 0.2
    asking.read(KEY, max_staleness_seconds=60)
    assert len(server.asked) == 4


def test_many_threads_at_once_make_one_reading(server: FakeServer) -> None:
    asking = reader(server.url)
    together = threading.Barrier(8)

    def ask() -> None:
        together.wait()
        asking.read(KEY, max_staleness_seconds=60)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(server.asked) == 2


def test_a_clock_that_differs_from_prometheus_makes_nothing_look_old(server: FakeServer) -> None:
    worker = {"pipeline_namespace": KEY.namespace, "pipeline": KEY.name, "tier": "cloud"}
    queue = {"metric": {"__name__": "tierflow_queue_length", **worker}, "values": [[NOW - 500, "3"]]}
    alive = {"metric": worker, "value": [NOW - 500, "1"]}

    def answer(request: BaseHTTPRequestHandler) -> None:
        result = [alive] if "build_info" in request.path else [queue]
        says({"status": "success", "data": {"result": result}})(request)

    server.answer = answer
    found = reader(server.url, clock=lambda: NOW).read(KEY, max_staleness_seconds=60)
    assert list(found.queue_length.values()) == [3]


def test_the_operators_token_goes_to_the_operators_address_alone(server: FakeServer, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("s3cret\n")
    readers = PrometheusReaders(PrometheusSettings(url=server.url, token_file=token, shared_seconds=0))
    assert isinstance(readers.read(KEY, "", max_staleness_seconds=60), Readings)
    assert {header for _, header in server.asked} == {"Bearer s3cret"}
    server.asked.clear()
    assert isinstance(readers.read(KEY, f"{server.url}/", max_staleness_seconds=60), Readings)
    assert {header for _, header in server.asked} == {""}
    readers.close()


def test_a_token_that_cannot_be_read_is_named(server: FakeServer, tmp_path: Path) -> None:
    readers = PrometheusReaders(PrometheusSettings(url=server.url, token_file=tmp_path / "gone"))
    error = readers.read(KEY, "", max_staleness_seconds=60)
    assert isinstance(error, UnreachableError)
    assert "gone can't be read" in error.message
    assert server.asked == []


def test_without_any_address_nothing_is_read() -> None:
    assert PrometheusReaders(PrometheusSettings()).read(KEY, "", max_staleness_seconds=60) is None


def test_readers_of_addresses_that_nobody_uses_any_more_are_given_up(server: FakeServer) -> None:
    readers = PrometheusReaders(PrometheusSettings())
    for number in range(100):
        readers.read(KEY, f"{server.url}/{number}", max_staleness_seconds=60)
    assert len(readers) <= 32
    readers.close()
    assert len(readers) == 0
