"""Stands between an operator and the API server: counts writes, and does harm before one reaches the server."""

import http.client
import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import parse_qs, urlsplit

import urllib3

from testbed.control_plane import ControlPlane

_WRITES: Final = ("POST", "PUT", "PATCH", "DELETE")
_HOP_BY_HOP: Final = ("connection", "transfer-encoding", "content-length", "host", "keep-alive")
_WATCH_SECONDS: Final = 600


class Write(NamedTuple):
    """A write, before it reaches the server."""

    method: str
    path: str

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


class Refusal(NamedTuple):
    """What the proxy answers in the server's place; code 0 closes the connection without a word."""

    code: int
    reason: str = ""
    message: str = ""


LOST_ANSWER: Final = Refusal(-1)
"""The write reaches the server and is done, but its answer doesn't come back."""

Judge = Callable[[Write], Refusal | None]


def let_pass(_: Write) -> Refusal | None:
    """Judges that nothing is in the way."""
    return None


class ApiProxy:
    """Forwards everything to the API server, watches too.

    Args:
        control_plane: Whose API server.
        judge: Is asked before each write, one at a time; may be replaced at any moment.
    """

    def __init__(self, control_plane: ControlPlane, judge: Judge = let_pass) -> None:
        self.judge = judge
        self.writes: list[Write] = []
        self.upstream = control_plane.url
        self._judging = threading.Lock()
        self.pool = urllib3.PoolManager(
            ca_certs=str(control_plane.certificate_authority), maxsize=32, retries=False, timeout=urllib3.Timeout(60)
        )
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"proxy": self}))
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, name="api proxy", daemon=True).start()
        self.kubeconfig = self._kubeconfig(control_plane)

    def stop(self) -> None:
        """Ends the proxy."""
        self._server.shutdown()
        self._server.server_close()

    def weigh(self, write: Write) -> Refusal | None:
        """Counts a write and has it judged."""
        with self._judging:
            refusal = self.judge(write)
            if refusal in (None, LOST_ANSWER):
                self.writes.append(write)
            return refusal

    def _kubeconfig(self, control_plane: ControlPlane) -> Path:
        config = json.loads(control_plane.kubeconfig.read_text())
        port = self._server.server_address[1]
        config["clusters"][0]["cluster"] = {"server": f"http://127.0.0.1:{port}"}
        target = control_plane.folder / f"proxy-{port}.kubeconfig"
        target.write_text(json.dumps(config))
        return target


class _Handler(BaseHTTPRequestHandler):
    proxy: ApiProxy
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - the base class calls it so
        del format, arguments

    def _forward(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length) if length else None
        where = urlsplit(self.path)
        refusal = None
        if self.command in _WRITES:
            refusal = self.proxy.weigh(Write(self.command, where.path))
            if refusal is not None and refusal != LOST_ANSWER:
                self._refuse(refusal)
                return
        headers = {name: value for name, value in self.headers.items() if name.lower() not in _HOP_BY_HOP}
        watches = parse_qs(where.query).get("watch", [""])[0] in ("true", "1")
        try:
            answer = self.proxy.pool.request(
                self.command,
                f"{self.proxy.upstream}{self.path}",
                body=body,
                headers=headers,
                preload_content=False,
                decode_content=False,
                timeout=urllib3.Timeout(connect=5, read=_WATCH_SECONDS if watches else 60),
            )
            if refusal == LOST_ANSWER:
                answer.read()
                self.close_connection = True
                return
            self._answer(answer)
        except (urllib3.exceptions.HTTPError, OSError, http.client.HTTPException):
            self.close_connection = True  # as the server's own connection broke

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _forward  # noqa: N815 - the base class looks for these

    def _answer(self, answer: urllib3.BaseHTTPResponse) -> None:
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            if name.lower() not in _HOP_BY_HOP:
                self.send_header(name, value)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            for piece in answer.stream(65536, decode_content=False):
                self.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
                self.wfile.flush()
            self.wfile.write(b"0\r\n\r\n")
        finally:
            answer.release_conn()

    def _refuse(self, refusal: Refusal) -> None:
        if refusal.code == 0:
            self.close_connection = True
            return
        status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": refusal.code}
        document = json.dumps(status | {"reason": refusal.reason, "message": refusal.message}).encode()
        self.send_response(refusal.code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(document)))
        self.end_headers()
        self.wfile.write(document)
