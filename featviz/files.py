"""Files that are complete or not there: they are written beside the target and then renamed.

write_atomically("out/ab.json", lambda path: path.write_text("{}"))
"""

import contextlib
import errno
import os
import secrets
from collections.abc import Callable
from pathlib import Path

from featviz.errors import OutputError

REMEDIES = {
    errno.ENOSPC: "free some space, or choose another disk",
    errno.EDQUOT: "free some space, or choose another disk",
    errno.EFBIG: "raise the limit of file sizes (ulimit -f), or choose another disk",
    errno.EACCES: "choose a folder in which you may write",
    errno.EPERM: "choose a folder in which you may write",
    errno.EROFS: "choose a folder in which you may write",
    errno.ENAMETOOLONG: "choose a shorter name",
}


def write_atomically(path: str | Path, write: Callable[[Path], object], *, replace: bool = True) -> Path:
    """Let `write` fill a temporary file beside `path`, then rename it to `path`.

    A reader sees the old file or the new one, never a part of it. Whatever stops `write`, Ctrl-C included, the temporary file
    is removed and the old file stays as it was.

    Args:
        path: of the file; folders that do not exist are made.
        write: called with the path of the temporary file, which exists and ends like `path`. It has to raise OSError where it
            cannot write.
        replace: False: a file that is there already, also one that another process has just written, is kept.

    Raises:
        OutputError: the folder cannot be made or written, the disk is full, or `path` is a folder.
    """
    path = Path(path)
    part = _create_temporary(path)
    try:
        write(part)
        _flush(part)
        if replace:
            os.replace(part, path)
        else:
            _publish(part, path)
        _flush_folder(path.parent)
    except OSError as error:
        raise OutputError(f"{path} cannot be written ({_reason(error)}): {_remedy(error)}.") from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
    return path


def check_writable(path: str | Path) -> None:
    """Make sure, before long work, that `path` can be written afterwards.

    Raises:
        OutputError: as `write_atomically` would, but for a disk that has no space left.
    """
    _create_temporary(Path(path)).unlink()


def _create_temporary(path: Path) -> Path:
    """An empty temporary file beside `path`, with its suffix, since writers choose a format by it."""
    folder = path.parent.absolute()
    part = path.with_name(f".{path.stem[:40]}-{secrets.token_hex(4)}{path.suffix}")
    try:
        if path.is_dir():
            raise OutputError(f"{path} is a folder: give the name of a file in it.")
        file = next((parent for parent in (folder, *folder.parents) if parent.is_file()), None)
        if file is not None:
            raise OutputError(f"the folder {folder} cannot be written, since {file} is a file: give another folder.")
        path.parent.mkdir(parents=True, exist_ok=True)
        part.open("xb").close()
    except OSError as error:
        raise OutputError(f"the folder {folder} cannot be written ({_reason(error)}): {_remedy(error)}.") from error
    return part


def _flush(part: Path) -> None:
    with part.open("rb+") as file:
        os.fsync(file.fileno())


def _publish(part: Path, path: Path) -> None:
    """Give a file its name unless that is taken."""
    try:
        os.link(part, path)
    except FileExistsError:
        return
    except OSError as error:  # a disk without hard links: between the look and the renaming another process may come
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK):
            raise
        if not path.exists():
            os.replace(part, path)


def _flush_folder(folder: Path) -> None:
    """Make a new name last through a power failure, where folders can be opened."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _reason(error: OSError) -> str:
    return (error.strerror or type(error).__name__).lower()


def _remedy(error: OSError) -> str:
    return REMEDIES.get(error.errno or 0, "choose another folder or disk")
