"""A real Prometheus on loopback that scrapes what a test exports, and the small servers that export it."""

import http.client
import json
import os
import signal
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

from prometheus_client import CollectorRegistry, generate_latest

from testbed.binaries import ensure
from testbed.process import Server, free_ports, wait_for

SCRAPE_SECONDS: Final = 1
_QUERY_SECONDS: Final = 10.0


class Exporter:
    """Serves metrics on loopback; what a worker's `/metrics` is to Prometheus.

    Attributes:
        content: What is served: a registry, a text that is made anew at each scrape, or None for an error.
    """

    def __init__(self) -> None:
        self.content: CollectorRegistry | Callable[[], str] | None = None
        exporter = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = exporter.text().encode()
                self.send_response(503 if exporter.content is None else 200)
                self.send_header("Content-Type", "text/plain; version=0.0.4")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        """`host:port`."""
        return f"127.0.0.1:{self._server.server_address[1]}"

    def text(self) -> str:
        """What a scrape gets now."""
        if isinstance(self.content, CollectorRegistry):
            return generate_latest(self.content).decode()
        return "" if self.content is None else self.content()

    def close(self) -> None:
        """Stops serving; Prometheus finds nobody there any more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class PrometheusServer:
    """A Prometheus on a free port.

    Args:
        folder: For its data, its configuration and its log.
        targets: What it scrapes, as `host:port`.
        labels: What each target's series get beside `instance` and `job`.
        scrape_seconds: How often it scrapes.
    """

    def __init__(
        self,
        folder: Path,
        targets: Sequence[str],
        labels: Mapping[str, str],
        *,
        scrape_seconds: int = SCRAPE_SECONDS,
    ) -> None:
        (port,) = free_ports(1)
        self.url = f"http://127.0.0.1:{port}"
        config = folder / "prometheus.json"  # JSON is YAML
        scraped = {"job_name": "workers", "static_configs": [{"targets": list(targets), "labels": dict(labels)}]}
        interval = f"{scrape_seconds}s"
        config.write_text(
            json.dumps(
                {
                    "global": {"scrape_interval": interval, "scrape_timeout": interval},
                    "scrape_configs": [scraped] if targets else [],
                }
            )
        )
        self._server = Server(
            "prometheus",
            [
                ensure("prometheus")["prometheus"],
                f"--config.file={config}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
                "--log.level=warn",
            ],
            folder / "prometheus.log",
        )
        self._server.wait_until("it is ready", self._is_ready)

    def query(self, query: str) -> list[dict[str, Any]]:
        """The result of an instant query."""
        url = f"{self.url}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
        with urllib.request.urlopen(url, timeout=_QUERY_SECONDS) as answer:
            result: list[dict[str, Any]] = json.load(answer)["data"]["result"]
        return result

    def has_samples(self, series: str, count: int, *, since: float) -> bool:
        """Whether each series of a selector, of which there is one at least, has so many samples since a time."""
        window = max(1, int(time.time() - since))
        found = self.query(f"count_over_time({series}[{window}s])")
        return bool(found) and all(int(entry["value"][1]) >= count for entry in found)

    def pause(self) -> None:
        """Stops it in its tracks: it accepts connections and answers none."""
        os.kill(self._server.pid, signal.SIGSTOP)
        threads = Path(f"/proc/{self._server.pid}/task")
        wait_for(
            "Prometheus to stand still",
            lambda: all(
                (thread / "stat").read_text().rpartition(")")[2].split()[0] == "T" for thread in threads.iterdir()
            ),
        )

    def resume(self) -> None:
        """Lets it go on."""
        os.kill(self._server.pid, signal.SIGCONT)

    def stop(self) -> None:
        """Ends it."""
        self._server.stop()

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=1) as answer:
                return bool(answer.status == http.client.OK)
        except OSError:
            return False
