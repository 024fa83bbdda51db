"""The operator's HTTP port: /metrics for Prometheus, /healthz and /readyz for the kubelet."""

import logging
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any, Final

from prometheus_client import CONTENT_TYPE_LATEST

from tierflow.errors import InvalidInputError
from tierflow_operator.telemetry import Telemetry

_log: Final = logging.getLogger(__name__)
_CLIENT_SECONDS: Final = 10
_TEXT: Final = "text/plain; charset=utf-8"

Check = Callable[[], str]
"""What is wrong; "" where nothing is."""


class Probes:
    """Serves metrics and health on all addresses of this machine or pod.

    Args:
        port: Where; 0 takes a free one.
        telemetry: What /metrics tells.
        checks: By path, what a probe asks: 200 where nothing is wrong, else 503 with what is.

    Raises:
        InvalidInputError: the port is taken or forbidden.
    """

    def __init__(self, port: int, telemetry: Telemetry, checks: Mapping[str, Check]) -> None:
        try:
            self._server = _Server(port)
        except OSError as error:
            raise InvalidInputError(
                f"--metrics-port: {port} can't be listened on: {error.strerror}; 0 takes a free one",
                subject="--metrics-port",
            ) from error
        self._server.answers = {
            "/metrics": lambda: (200, CONTENT_TYPE_LATEST, telemetry.exposition()),
            **{path: _asked(check) for path, check in checks.items()},
        }
        self._thread = threading.Thread(target=self._server.serve_forever, name="probes", daemon=True)

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._server.server_address[1])

    def start(self) -> None:
        """Begins to answer."""
        self._thread.start()

    def stop(self) -> None:
        """Closes the port."""
        if self._thread.ident is not None:
            self._server.shutdown()
        self._server.server_close()


_Answer = Callable[[], tuple[int, str, bytes]]


def _asked(check: Check) -> _Answer:
    def answer() -> tuple[int, str, bytes]:
        wrong = check()
        return (503, _TEXT, f"{wrong}\n".encode()) if wrong else (200, _TEXT, b"ok\n")

    return answer


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    answers: Mapping[str, _Answer]

    def __init__(self, port: int) -> None:
        self.address_family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
        super().__init__(("", port), _Handler)

    def server_bind(self) -> None:
        """Listens by IPv4 as well where it listens by IPv6."""
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        TCPServer.server_bind(self)  # HTTPServer's would look up this machine's name, which may take long
        self.server_name, self.server_port = "", int(self.server_address[1])

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away in the middle is nobody's fault."""
        _log.debug("%s: %s", client_address[0], sys.exc_info()[1])


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = _CLIENT_SECONDS

    def do_GET(self) -> None:
        """Answers a path that is known."""
        answer = self.server.answers.get(self.path.partition("?")[0])
        status, kind, content = answer() if answer else (404, _TEXT, b"try /metrics, /healthz or /readyz\n")
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002 - http.server's name
        """Probes are no news."""
