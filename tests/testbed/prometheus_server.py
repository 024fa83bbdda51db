"""A real Prometheus on loopback that scrapes what a test exports, and the small servers that export it."""

import http.client
import json
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Sequence
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

    Args:
        content: What is served: a registry, or text that is read anew at each scrape.
    """

    def __init__(self, content: CollectorRegistry | Callable[[], str]) -> None:
        self.content = content
        exporter = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = exporter.text().encode()
                self.send_response(200)
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
        return self.content()

    def close(self) -> None:
        """Stops serving; Prometheus finds nobody there any more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class PrometheusServer:
    """A Prometheus whose targets may change at any time.

    Args:
        folder: For its data, its targets and its log.
    """

    def __init__(self, folder: Path) -> None:
        (port,) = free_ports(1)
        self.url = f"http://127.0.0.1:{port}"
        self._targets = folder / "targets.json"
        self.scrape([])
        config = folder / "prometheus.yml"
        config.write_text(
            f"global: {{scrape_interval: {SCRAPE_SECONDS}s, scrape_timeout: {SCRAPE_SECONDS}s}}\n"
            "scrape_configs:\n"
            "- job_name: workers\n"
            f"  file_sd_configs: [{{files: ['{self._targets}'], refresh_interval: 1s}}]\n"
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

    def scrape(self, targets: Sequence[tuple[str, dict[str, str]]]) -> None:
        """Scrapes these from now on, and no others: each by its address and the labels that it gets."""
        entries = [{"targets": [address], "labels": labels} for address, labels in targets]
        whole = self._targets.with_suffix(".new")
        whole.write_text(json.dumps(entries))
        whole.rename(self._targets)

    def query(self, query: str) -> list[dict[str, Any]]:
        """The result of an instant query."""
        url = f"{self.url}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
        with urllib.request.urlopen(url, timeout=_QUERY_SECONDS) as answer:
            result: list[dict[str, Any]] = json.load(answer)["data"]["result"]
        return result

    def wait_for_samples(self, series: str, count: int = 3, *, since: float | None = None) -> None:
        """Waits until each series of a selector, of which there is one at least, has so many samples since a time."""
        begin = time.time() if since is None else since

        def are_there() -> bool:
            window = max(1, int(time.time() - begin))
            found = self.query(f"count_over_time({series}[{window}s])")
            return bool(found) and all(int(entry["value"][1]) >= count for entry in found)

        wait_for(f"{count} samples of {series}", are_there)

    def stop(self) -> None:
        """Ends it."""
        self._server.stop()

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=1) as answer:
                return bool(answer.status == http.client.OK)
        except OSError:
            return False
