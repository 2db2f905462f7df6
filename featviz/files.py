"""Files that are complete or not there: they are written beside the target and then renamed.

write_atomically("out/ab.json", lambda path: path.write_text("{}"))
"""

import contextlib
import os
import secrets
from collections.abc import Callable
from pathlib import Path

from featviz.errors import OutputError


def write_atomically(path: str | Path, write: Callable[[Path], object]) -> Path:
    """Let `write` fill a temporary file beside `path` (folders are made), then rename it to `path`.

    A reader sees the old file or the new one, never a part of it. Whatever stops `write`, Ctrl-C included,
    the temporary file is gone afterwards and the old file is as it was.

    Raises:
        OutputError: the folder cannot be made or written, or `path` is a folder.
    """
    path = Path(path)
    if path.is_dir():
        raise OutputError(f"{path} is a folder: give the name of a file in it.")
    part = _create_temporary(path)
    try:
        write(part)
        _flush(part)
        os.replace(part, path)
    except OSError as error:
        raise OutputError(f"{path} cannot be written ({_reason(error)}): {REMEDY}.") from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
    return path


def check_writable(path: str | Path) -> None:
    """Make sure, before long work, that `path` can be written afterwards.

    Raises:
        OutputError: as `write_atomically` would.
    """
    path = Path(path)
    if path.is_dir():
        raise OutputError(f"{path} is a folder: give the name of a file in it.")
    _create_temporary(path).unlink()


REMEDY = "choose another place, or make room and rights there"


def _create_temporary(path: Path) -> Path:
    """An empty temporary file beside `path`, with its suffix, since writers choose a format by it."""
    part = path.with_name(f".{path.stem[:40]}-{secrets.token_hex(4)}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.open("xb").close()
    except OSError as error:
        folder = path.parent.absolute()
        raise OutputError(f"the folder {folder} cannot be written ({_reason(error)}): {REMEDY}.") from error
    return part


def _flush(part: Path) -> None:
    with part.open("rb+") as file:
        os.fsync(file.fileno())


def _reason(error: OSError) -> str:
    return (error.strerror or type(error).__name__).lower()
