"""SHA-256 of files, computed in pieces and remembered until the file changes."""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from tierflow.errors import IntegrityError, InvalidModelError


def sha256_of(path: Path, cache: Path | None) -> str:
    """The SHA-256 of a file's content, in hexadecimal.

    Args:
        path: The file.
        cache: Folder in which sums are kept by path, size and time of change; None to keep none.

    Raises:
        InvalidModelError: where the file can't be read.
    """
    try:
        status = path.stat()
        key = f"{path.resolve()}\0{status.st_size}\0{status.st_mtime_ns}\0{status.st_ino}"
        note = cache / "checksums" / hashlib.sha256(key.encode()).hexdigest() if cache else None
        known = _read(note)
        if known:
            return known
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InvalidModelError(
            f"{path} can't be read: {os.strerror(error.errno or 0)}; check the path", subject=str(path)
        ) from error
    _write(note, digest)
    return digest


def combined(digests: Iterable[str]) -> str:
    """One sum for several files, in their order."""
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


def check_sha256(actual: str, wanted: str, *, uri: str) -> None:
    """Compares two sums.

    Raises:
        IntegrityError: giving both, where they differ.
    """
    if actual != normalised(wanted):
        raise IntegrityError(
            f"{uri} has the SHA-256 {actual}, but {wanted} was asked for: it is another version or was damaged; "
            "correct the sum or the file",
            subject=uri,
        )


def normalised(sha256: str) -> str:
    """A sum in lower case without the prefix `sha256:`."""
    return sha256.strip().lower().removeprefix("sha256:")


def _read(note: Path | None) -> str:
    try:
        return note.read_text() if note else ""
    except OSError:
        return ""


def _write(note: Path | None, digest: str) -> None:
    """Remembering is a convenience: a cache that can't be written must not stop anyone."""
    if note is None:
        return
    try:
        note.parent.mkdir(parents=True, exist_ok=True)
        draft = note.with_suffix(f".{os.getpid()}")
        draft.write_text(digest)
        draft.replace(note)
    except OSError:
        return
