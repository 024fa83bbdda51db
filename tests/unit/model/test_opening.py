"""Opening models by uri: local files, downloads, the cache, checksums, and what is refused."""

import hashlib
import http.server
import multiprocessing
import os
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import onnx
import pytest

from factories.models import convolutions, model_of, node, saved, value, weight
from tierflow.errors import (
    IntegrityError,
    InvalidInputError,
    InvalidModelError,
    UnreachableError,
    UnsupportedError,
)
from tierflow.model import download, open_model
from tierflow.model.file import FileModel


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


class Server:
    """An HTTP server of a folder that can be told to misbehave.

    Attributes:
        gets: Paths that were asked for by GET, with the Range header.
        ranges: Whether parts of files are served.
        break_after: Bytes after which a connection is cut, once.
        etag: Whether a file's version is told.
        status: Another answer for everything.
        when_broken: Is called when a connection is cut.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.gets: list[tuple[str, str | None]] = []
        self.ranges = True
        self.break_after: int | None = None
        self.etag = True
        self.status = 200
        self.when_broken = lambda: None
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                outer.answer(self, head=True)

            def do_GET(self) -> None:
                outer.answer(self, head=False)

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def uri(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/{name}"

    def answer(self, request: http.server.BaseHTTPRequestHandler, *, head: bool) -> None:
        path = self.folder / request.path.partition("?")[0].lstrip("/")
        asked = request.headers.get("Range")
        if not head:
            self.gets.append((request.path, asked))
        if self.status != 200 or not path.is_file():
            request.send_error(self.status if self.status != 200 else 404)
            return
        content = path.read_bytes()
        version = hashlib.md5(content).hexdigest()
        if asked and self.ranges:
            first, last = asked.removeprefix("bytes=").split("-")
            part = content[int(first) : int(last) + 1]
            request.send_response(206)
            request.send_header("Content-Range", f"bytes {first}-{int(first) + len(part) - 1}/{len(content)}")
        else:
            part = content
            request.send_response(200)
        request.send_header("Content-Length", str(len(part)))
        if self.etag:
            request.send_header("ETag", f'"{version}"')
        request.end_headers()
        if head:
            return
        if self.break_after is not None and len(part) > self.break_after:
            part, self.break_after = part[: self.break_after], None
            self.when_broken()
            request.close_connection = True
        request.wfile.write(part)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    folder = tmp_path / "served"
    folder.mkdir()
    one = Server(folder)
    yield one
    one.server.shutdown()
    one.server.server_close()


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.mark.parametrize("form", ["{}", "file://{}", "file://localhost{}"])
def test_a_local_file_is_opened_where_it_is(tmp_path: Path, form: str) -> None:
    path = saved(convolutions(), tmp_path, "my model.onnx")
    model = open_model(form.format(path).replace(" ", "%20" if "://" in form else " "))
    assert isinstance(model, FileModel)
    assert model.path == path
    assert model.graph.outputs == ("scores",)


def test_a_files_uri_with_a_host_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="three slashes: file:///models/x.onnx"):
        open_model("file://models/x.onnx")
    with pytest.raises(InvalidInputError, match="no model is given"):
        open_model("")


def test_the_identity_is_the_sum_of_the_file(tmp_path: Path, cache: Path) -> None:
    path = saved(convolutions(), tmp_path)
    assert open_model(str(path), cache_dir=cache).identity == f"sha256:{sha256(path)}"


def test_a_sum_is_remembered_until_the_file_changes(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(convolutions(), tmp_path)
    first = open_model(str(path), cache_dir=cache).identity
    with monkeypatch.context() as patch:
        patch.setattr(hashlib, "file_digest", lambda *_: pytest.fail("computed again"))
        assert open_model(str(path), cache_dir=cache).identity == first
    changed = convolutions()
    changed.graph.node[0].name = "other"
    saved(changed, tmp_path)
    assert open_model(str(path), cache_dir=cache).identity == f"sha256:{sha256(path)}" != first


def test_a_cache_that_cannot_be_written_stops_no_one(tmp_path: Path) -> None:
    path = saved(convolutions(), tmp_path)
    assert open_model(str(path), cache_dir=Path("/proc/nowhere")).identity == f"sha256:{sha256(path)}"


@pytest.mark.parametrize("prefix", ["", "sha256:"])
def test_the_wanted_sum_is_accepted(tmp_path: Path, cache: Path, prefix: str) -> None:
    path = saved(convolutions(), tmp_path)
    assert open_model(str(path), sha256=prefix + sha256(path).upper(), cache_dir=cache).graph.layers


def test_a_wrong_sum_is_refused_with_both(tmp_path: Path, cache: Path) -> None:
    path = saved(convolutions(), tmp_path)
    with pytest.raises(IntegrityError, match=f"{path} has the SHA-256 {sha256(path)}, but {'0' * 64} was asked for"):
        open_model(str(path), sha256="0" * 64, cache_dir=cache)


@pytest.mark.parametrize("scheme", ["pvc", "htps", "zo"])
def test_an_unknown_scheme_is_named_with_the_known_ones(cache: Path, scheme: str) -> None:
    with pytest.raises(UnsupportedError, match=f"scheme {scheme}:// is unknown") as caught:
        open_model(f"{scheme}://models/x.onnx", cache_dir=cache)
    assert "zoo://, file://, https://, http://, s3://" in str(caught.value)
    assert caught.value.subject == scheme


def test_a_zoo_model_has_no_sum() -> None:
    with pytest.raises(UnsupportedError, match="zoo://resnet18 is made, not read"):
        open_model("zoo://resnet18", sha256="0" * 64)


def test_a_zoo_model_opens_by_name() -> None:
    assert open_model("zoo://resnet18").graph.inputs == ("input",)
    assert open_model("zoo://resnet18", input_shapes={"input": [2, 3, 224, 224]}).graph.tensors["input"].shape[0] == 2


def test_a_missing_package_is_named_with_what_to_install(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
    with pytest.raises(UnsupportedError, match=r"s3:// needs a package .*pip install 'tierflow\[s3\]'"):
        open_model("s3://bucket/x.onnx", cache_dir=cache)


def test_a_download_happens_once(server: Server, cache: Path) -> None:
    path = saved(convolutions(), server.folder)
    told: list[tuple[int, int | None]] = []
    first = open_model(server.uri("model.onnx"), cache_dir=cache, progress=lambda *done: told.append(done))
    second = open_model(server.uri("model.onnx"), cache_dir=cache)
    size = path.stat().st_size
    assert told[-1] == (size, size)
    assert first.identity == second.identity == f"sha256:{sha256(path)}"
    assert len(server.gets) == 1


def test_a_new_version_is_downloaded_anew(server: Server, cache: Path) -> None:
    saved(convolutions(), server.folder)
    before = open_model(server.uri("model.onnx"), cache_dir=cache)
    saved(model_of([node("Relu", "x", "y")], [value("x", [1])], [value("y", [1])]), server.folder)
    after = open_model(server.uri("model.onnx"), cache_dir=cache)
    assert [layer.kind for layer in after.graph.layers] == ["Relu"]
    assert len(before.graph.layers) == 7, "who opened it before still has its file"


def test_without_a_version_a_download_is_made_each_time(server: Server, cache: Path) -> None:
    server.etag = False
    saved(convolutions(), server.folder)
    for _ in range(2):
        assert open_model(server.uri("model.onnx"), cache_dir=cache).graph.layers
    assert len(server.gets) == 2


def test_a_cache_without_room_is_named(server: Server) -> None:
    saved(convolutions(), server.folder)
    with pytest.raises(InvalidInputError, match="the cache /proc/nowhere can't be written: .*XDG_CACHE_HOME"):
        open_model(server.uri("model.onnx"), cache_dir=Path("/proc/nowhere"))


def test_with_a_known_sum_the_cache_needs_no_network(server: Server, cache: Path) -> None:
    path = saved(convolutions(), server.folder)
    open_model(server.uri("model.onnx"), sha256=sha256(path), cache_dir=cache)
    server.status = 503
    assert open_model(server.uri("model.onnx"), sha256=sha256(path), cache_dir=cache).graph.layers


def test_a_download_with_a_wrong_sum_is_refused_and_not_kept(server: Server, cache: Path) -> None:
    path = saved(convolutions(), server.folder)
    for _ in range(2):
        with pytest.raises(IntegrityError, match=f"{sha256(path)}, but {'1' * 64} was asked for"):
            open_model(server.uri("model.onnx"), sha256="1" * 64, cache_dir=cache)
    assert not list(cache.glob("models/*/*"))


def test_external_data_is_downloaded_with_the_model(server: Server, cache: Path) -> None:
    onnx.save_model(
        convolutions(), server.folder / "model.onnx", save_as_external_data=True, location="all.bin", size_threshold=0
    )
    model = open_model(server.uri("model.onnx?signature=abc"), cache_dir=cache)
    assert bytes(model.read_weight("w2")) == convolutions().graph.initializer[2].raw_data
    assert [path for path, _ in server.gets] == ["/model.onnx?signature=abc", "/all.bin?signature=abc"]


def test_missing_external_data_is_named_and_nothing_is_kept(server: Server, cache: Path) -> None:
    onnx.save_model(
        convolutions(), server.folder / "model.onnx", save_as_external_data=True, location="all.bin", size_threshold=0
    )
    (server.folder / "all.bin").unlink()
    with pytest.raises(InvalidModelError, match=r"there is no file at http://.*/all\.bin"):
        open_model(server.uri("model.onnx"), cache_dir=cache)
    assert not list(cache.glob("models/*/*"))


def large() -> onnx.ModelProto:
    """A model of 8 MB, more than any buffer on the way holds."""
    return model_of(
        [node("Add", "x w", "y", name="sum")], [value("x", [2_000_000])], [value("y", None)], [weight("w", 2_000_000)]
    )


def test_a_broken_connection_is_resumed_where_it_broke(server: Server, cache: Path) -> None:
    path = saved(large(), server.folder)
    server.break_after = 6_000_000
    model = open_model(server.uri("model.onnx"), cache_dir=cache)
    assert model.identity == f"sha256:{sha256(path)}"
    assert next(asked for _, asked in server.gets) is None
    resumed = [int(asked.removeprefix("bytes=").split("-")[0]) for _, asked in server.gets if asked]
    assert resumed
    assert all(first > 0 for first in resumed)


def test_a_file_that_changes_while_it_is_downloaded_is_downloaded_anew(server: Server, cache: Path) -> None:
    saved(large(), server.folder)
    changed = large()
    changed.graph.node[0].name = "other"
    server.break_after = 6_000_000
    server.when_broken = lambda: saved(changed, server.folder)
    model = open_model(server.uri("model.onnx"), cache_dir=cache)
    assert model.identity == f"sha256:{sha256(server.folder / 'model.onnx')}"


def test_a_broken_connection_to_a_server_without_ranges_starts_again(server: Server, cache: Path) -> None:
    path = saved(large(), server.folder)
    server.break_after, server.ranges = 6_000_000, False
    model = open_model(server.uri("model.onnx"), cache_dir=cache)
    assert model.identity == f"sha256:{sha256(path)}"


def test_a_download_that_is_no_onnx_is_refused_and_not_kept(server: Server, cache: Path) -> None:
    (server.folder / "page.onnx").write_text("<html>please log in</html>")
    with pytest.raises(InvalidModelError, match="no ONNX model"):
        open_model(server.uri("page.onnx"), cache_dir=cache)
    assert not list(cache.glob("models/*/*"))


@pytest.mark.parametrize(
    ("status", "error", "says"),
    [
        (200, InvalidModelError, r"there is no file at http://.*/gone\.onnx"),
        (403, UnreachableError, "refused with HTTP status 403"),
        (500, UnreachableError, "refused with HTTP status 500"),
    ],
)
def test_a_refusal_of_the_server_is_told(
    server: Server, cache: Path, status: int, error: type[Exception], says: str
) -> None:
    server.status = status
    with pytest.raises(error, match=says):
        open_model(server.uri("gone.onnx"), cache_dir=cache)


def test_an_unreachable_server_is_named_with_the_cause(cache: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(UnreachableError, match=rf"http://127\.0\.0\.1:{port}/x\.onnx can't be reached: .*{port}"):
        open_model(f"http://127.0.0.1:{port}/x.onnx", cache_dir=cache)


def test_a_server_that_never_answers_is_given_up(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "STALL_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}/x.onnx"
        with pytest.raises(UnreachableError, match=r"did not answer within 0\.3 s"):
            open_model(uri, cache_dir=cache)


def test_any_storage_of_fsspec_serves(cache: Path) -> None:
    fsspec.filesystem("memory").pipe("/models/small.onnx", convolutions().SerializeToString())
    assert len(open_model("memory://models/small.onnx", cache_dir=cache).graph.layers) == 7
    with pytest.raises(InvalidModelError, match="there is no file at memory://models/other.onnx"):
        open_model("memory://models/other.onnx", cache_dir=cache)


def test_the_cache_follows_the_users_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fsspec.filesystem("memory").pipe("/models/small.onnx", convolutions().SerializeToString())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "mine"))
    model = open_model("memory://models/small.onnx")
    assert isinstance(model, FileModel)
    assert model.path.is_relative_to(tmp_path / "mine" / "tierflow")


def _download(uri: str, cache: Path, done: Any) -> None:
    done.put((os.getpid(), open_model(uri, cache_dir=cache).identity))


def test_processes_that_want_the_same_model_at_once_download_it_once(server: Server, cache: Path) -> None:
    path = saved(convolutions(), server.folder)
    context = multiprocessing.get_context("spawn")
    done = context.Queue()
    children = [context.Process(target=_download, args=(server.uri("model.onnx"), cache, done)) for _ in range(3)]
    for child in children:
        child.start()
    identities = {done.get(timeout=60)[1] for _ in children}
    for child in children:
        child.join(timeout=60)
    assert identities == {f"sha256:{sha256(path)}"}
    assert len(server.gets) == 1


def test_importing_the_package_is_light() -> None:
    import subprocess

    code = "import sys, tierflow.model; sys.exit('onnx' in sys.modules or 'fsspec' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_s3_is_read_through_its_http_interface(server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (server.folder / "bucket").mkdir()
    path = saved(convolutions(), server.folder / "bucket")
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.uri("").rstrip("/"))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "nothing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "nowhere")
    model = open_model("s3://bucket/model.onnx", cache_dir=cache)
    assert model.identity == f"sha256:{sha256(path)}"
    with pytest.raises(InvalidModelError, match="there is no file at s3://bucket/other.onnx"):
        open_model("s3://bucket/other.onnx", cache_dir=cache)
