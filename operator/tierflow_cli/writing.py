"""Files that the user asked for."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tierflow.errors import InvalidInputError


@contextmanager
def writing(path: Path, *, option: str) -> Iterator[None]:
    """Turns the system's refusal to write `path`, which `option` names, into a message.

    Raises:
        InvalidInputError: naming the option and the path.
    """
    try:
        yield
    except OSError as error:
        raise InvalidInputError(
            f"{option}: {path} can't be written: {error.strerror or error}; choose another place", subject=option
        ) from error


def write_text(path: Path, content: str, *, option: str) -> None:
    """Writes a text.

    Raises:
        InvalidInputError: naming the option and the path, where that is not possible.
    """
    with writing(path, option=option):
        path.write_text(content, encoding="utf-8")
