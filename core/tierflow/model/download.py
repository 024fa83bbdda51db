"""Downloads a model into the cache, once for all processes of this machine, through fsspec.

Each model has a folder of its own, named after its uri and version, which appears all at once when it is complete.
"""

import fcntl
import hashlib
import queue
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import unquote, urlsplit, urlunsplit

from tierflow.errors import InvalidInputError, InvalidModelError, TierflowError, UnreachableError, UnsupportedError
from tierflow.model.checksum import check_sha256, normalised, sha256_of
from tierflow.model.opening import Progress

Value = TypeVar("Value")

STALL_SECONDS: Final = 30.0
"""A storage that sends nothing for so long is taken for unreachable."""
_ATTEMPTS: Final = 4
_CHUNK: Final = 1 << 22
_EXTRAS: Final = {"s3": "s3", "s3a": "s3", "http": "worker", "https": "worker"}
_VERSIONS: Final = ("ETag", "etag", "e_tag", "md5", "Content-MD5", "Last-Modified", "LastModified", "mtime", "created")
"""What storages tell of a file that changes when its content does, the surest first."""


def download(uri: str, scheme: str, *, sha256: str, cache: Path, progress: Progress | None = None) -> Path:
    """The path of the model at `uri` in the cache, downloaded unless it is there in its present version.

    Args:
        uri: Where the model is.
        scheme: What stands before `://` in it.
        sha256: What its content must have; with it, a model that is in the cache needs no network. "" to take any.
        cache: The cache's folder.
        progress: Is told the bytes done of this file, and how many it has.

    Raises:
        UnsupportedError: where the scheme is unknown, or needs a package that isn't installed.
        UnreachableError: where the storage doesn't answer, or stops answering.
        InvalidModelError: where there is nothing at the uri, or it is no ONNX model.
        IntegrityError: where the content doesn't have the wanted SHA-256.
    """
    storage = _Storage(uri, _filesystem(scheme))
    version = f"sha256:{normalised(sha256)}" if sha256 else _version(storage.info(uri))
    folder = cache / "models"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder / f"{_key(uri, version)}.lock"):
            path = folder / _key(uri, version) / _file_name(uri)
            # Without a version nobody knows whether a copy still is what is there.
            if version is None or not path.is_file():
                return _fetch_all(storage, folder, version=version, sha256=sha256, progress=progress)
            if sha256:
                check_sha256(sha256_of(path, cache), sha256, uri=uri)
            return path
    except OSError as error:
        raise InvalidInputError(
            f"the cache {cache} can't be written: {error}; make room, or set XDG_CACHE_HOME to another folder",
            subject=str(cache),
        ) from error


def _key(uri: str, version: str | None) -> str:
    return hashlib.sha256(f"{uri}\0{version}".encode()).hexdigest()[:40]


def _fetch_all(
    storage: "_Storage", folder: Path, *, version: str | None, sha256: str, progress: Progress | None
) -> Path:
    """Fetches the model, and the files beside it that its weights are in; returns its path.

    It gets the folder of its version, of its content where it has no version: others may be reading an earlier one.
    """
    from tierflow.model.reading import read_model
    from tierflow.model.skeleton import external_locations

    name = _file_name(storage.uri)
    with tempfile.TemporaryDirectory(prefix="draft-", dir=folder, ignore_cleanup_errors=True) as draft:
        target = Path(draft, "model")
        target.mkdir()
        digest = storage.fetch(storage.uri, target / name, progress=progress)
        if sha256:
            check_sha256(digest, sha256, uri=storage.uri)
        for location in sorted(external_locations(read_model(target / name).model.graph)):
            beside = (target / location).resolve()
            if not beside.is_relative_to(target.resolve()):
                raise InvalidModelError(
                    f"{storage.uri} has weights in {location!r}, which is outside of its own folder; save them beside "
                    "it",
                    subject=location,
                )
            beside.parent.mkdir(parents=True, exist_ok=True)
            digest += storage.fetch(_sibling(storage.uri, location), beside, progress=progress)
        home = folder / _key(storage.uri, version or digest)
        if not (home / name).is_file():
            shutil.rmtree(home, ignore_errors=True)
            target.rename(home)
    return home / name


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Holds a lock that ends with the process, so that a model is downloaded once and a crash blocks no one."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _filesystem(scheme: str) -> Any:
    import fsspec

    known = set(fsspec.available_protocols())
    if scheme not in known:
        usual = ["zoo", "file", "https", "http", "s3"]
        others = ", ".join(sorted(known.difference(usual)))
        raise UnsupportedError(
            f"the scheme {scheme}:// is unknown; use a path, {', '.join(f'{one}://' for one in usual)}, or one of "
            f"fsspec's: {others}",
            subject=scheme,
        )
    try:
        return fsspec.filesystem(scheme)
    except ImportError as error:
        extra = _EXTRAS.get(scheme)
        hint = f"pip install 'tierflow[{extra}]'" if extra else str(error)
        raise UnsupportedError(f"{scheme}:// needs a package that is not installed: {hint}", subject=scheme) from error


@dataclass(frozen=True, slots=True)
class _Storage:
    uri: str
    filesystem: Any

    def info(self, uri: str) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self._ask(uri, lambda: self.filesystem.info(uri))
        return found

    def fetch(self, uri: str, path: Path, *, progress: Progress | None) -> str:
        """Writes the file at `uri` to `path`, going on where a broken connection left off; returns its SHA-256."""
        about = self.info(uri)
        digest, done, ranges = hashlib.sha256(), 0, True
        failure: TierflowError = UnreachableError(f"{uri} breaks off again and again; try again later", subject=uri)
        with path.open("wb") as target:
            for _ in range(_ATTEMPTS):
                try:
                    for chunk in self._chunks(uri, done):
                        target.write(chunk)
                        digest.update(chunk)
                        done += len(chunk)
                        if progress is not None:
                            progress(done, _size(about))
                    if _size(about) in (None, done):
                        return digest.hexdigest()
                    failure = UnreachableError(
                        f"{uri} ended after {done} of {_size(about)} bytes; try again", subject=uri
                    )
                except _NoRangesError:
                    ranges = False
                except UnreachableError as error:
                    failure = error
                # Half of one version and half of the next would make no model.
                before, about = about, self.info(uri)
                if not ranges or _version(before) != _version(about):
                    target.seek(0)
                    target.truncate()
                    digest, done = hashlib.sha256(), 0
        raise failure

    def _chunks(self, uri: str, begin: int) -> Iterator[bytes]:
        """The content from `begin` on.

        From the start a plain stream does, which every server has; to go on, blocks are asked for by their range.
        """
        stream = begin == 0 and _is_http(uri)
        file = self._ask(uri, lambda: self.filesystem.open(uri, "rb", block_size=0 if stream else _CHUNK))
        try:
            if begin:
                file.seek(begin)
            while chunk := self._ask(uri, lambda: file.read(_CHUNK)):
                yield chunk
        finally:
            file.close()

    def _ask(self, uri: str, call: Callable[[], Value]) -> Value:
        try:
            return _bounded(call)
        except TimeoutError as error:
            raise UnreachableError(
                f"{uri} did not answer within {STALL_SECONDS:g} s; check the address and the network", subject=uri
            ) from error
        except FileNotFoundError as error:
            raise _absent(uri, error) from error
        except PermissionError as error:
            raise UnreachableError(
                f"{uri} may not be read ({error}); check the credentials in the environment", subject=uri
            ) from error
        except ValueError as error:
            if "range requests" in str(error):
                raise _NoRangesError from error
            raise UnreachableError(f"{uri} can't be read: {error}; check the address", subject=uri) from error
        except Exception as error:  # each storage has its own exceptions
            raise UnreachableError(
                f"{uri} can't be reached: {str(error) or type(error).__name__}; check the address and the network",
                subject=uri,
            ) from error


class _NoRangesError(Exception):
    """The server can't send a part of a file."""


def _absent(uri: str, error: FileNotFoundError) -> TierflowError:
    """Of HTTP, fsspec says FileNotFoundError for every failure; only its cause tells an answer from no answer."""
    cause = error.__cause__
    status = getattr(cause, "status", None)
    if cause is None or status in (404, 410) or not _is_http(uri):
        return InvalidModelError(f"there is no file at {uri}; check the address", subject=uri)
    if status is not None:
        return UnreachableError(f"{uri} was refused with HTTP status {status}; check the address", subject=uri)
    return UnreachableError(
        f"{uri} can't be reached: {str(cause) or type(cause).__name__}; check the address and the network", subject=uri
    )


def _bounded(call: Callable[[], Value]) -> Value:
    """The call's result; TimeoutError where it takes longer than `STALL_SECONDS`.

    The thread of a call that never returns is left behind: it can't be ended, and doesn't keep the process alive.
    """
    results: queue.SimpleQueue[tuple[Value | None, BaseException | None]] = queue.SimpleQueue()

    def run() -> None:
        try:
            results.put((call(), None))
        except BaseException as error:  # handed to the caller's thread
            results.put((None, error))

    threading.Thread(target=run, daemon=True, name="tierflow-download").start()
    try:
        value, error = results.get(timeout=STALL_SECONDS)
    except queue.Empty:
        raise TimeoutError from None
    if error is not None:
        raise error
    return value  # type: ignore[return-value]  # None is there only beside an error


def _is_http(uri: str) -> bool:
    return uri.startswith(("http://", "https://"))


def _version(info: Mapping[str, Any]) -> str | None:
    """What tells one version of a file from another; None where the storage tells nothing."""
    return next((f"{key}:{info[key]}:{info.get('size')}" for key in _VERSIONS if info.get(key)), None)


def _size(info: Mapping[str, Any]) -> int | None:
    size = info.get("size")
    return int(size) if size is not None else None


def _file_name(uri: str) -> str:
    name = Path(unquote(urlsplit(uri).path if "://" in uri else uri)).name
    return name or "model.onnx"


def _sibling(uri: str, location: str) -> str:
    """The uri of a file beside the one at `uri`; a query, which may hold a signature, stays."""
    parts = urlsplit(uri)
    return urlunsplit(parts._replace(path=parts.path.rpartition("/")[0] + "/" + location))
