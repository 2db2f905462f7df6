"""Files from outside, checked before they are read: a path -> its content, or a ValueError that says what is wrong with it.

    check_file(path)          # a pipe would be waited for, and a device read without end
    record = read_json(path)

The caller puts the reason into a sentence of its own, with the path and the remedy.
"""

import json
import math
import os
import stat
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

MOST_BYTES = 2**30  # of a file that is read into Python objects
EXPANSION = 16  # by how much an archive may be packed; weights and indices are packed to a half at best


def check_file(path: str | Path, most: int | None = None) -> None:
    """Make sure that a path leads to a file, and of `most` bytes at most.

    Raises:
        ValueError: it is a folder, a pipe or a device, or it is larger.
        OSError: there is nothing, or nothing that may be read.
    """
    found = os.stat(path)
    if stat.S_ISDIR(found.st_mode):
        raise ValueError("it is a folder")
    if not stat.S_ISREG(found.st_mode):
        raise ValueError("it is a pipe or a device")
    if most is not None and found.st_size > most:
        raise ValueError(f"it has {found.st_size} bytes, and at most {most} are read")


def read_json(path: str | Path) -> Any:
    """The value of a JSON file.

    Raises:
        ValueError: as `check_file` and `json_value`.
        OSError: it cannot be read.
    """
    check_file(path, MOST_BYTES)
    return json_value(Path(path).read_text(encoding="utf-8"))


def json_value(text: str) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: it is no JSON, its values are nested too deeply, or a number in it is not finite.
    """
    try:
        return json.loads(text, parse_float=_finite, parse_constant=_finite)
    except RecursionError as error:
        raise ValueError("its values are nested too deeply") from error


def _finite(text: str) -> float:
    """NaN and infinite numbers are no JSON, though Python's reader takes them."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:20]} in it is not finite")
    return value


@contextmanager
def open_archive(path: str | Path) -> Iterator[zipfile.ZipFile]:
    """A ZIP archive whose content has a size in proportion to the file, which is made sure before anything is unpacked.

    Raises:
        ValueError: it is no such archive, it is damaged, it is packed by another method than ZIP's own, or it becomes more than
            `EXPANSION` times as large.
    """
    size = os.stat(path).st_size
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, NotImplementedError, OSError, UnicodeDecodeError) as error:
        raise ValueError(f"its directory is damaged, {error}") from error
    with archive:
        unpacked = 0
        for entry in archive.infolist():
            unpacked += entry.file_size
            if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # LZMA may ask for 4 GiB
                raise ValueError(f"{entry.filename} is packed by method {entry.compress_type}, and not by ZIP's own")
        if unpacked > EXPANSION * size:
            raise ValueError(
                f"it would be unpacked from {size} to {unpacked} bytes, more than {EXPANSION} times as many"
            )
        yield archive
