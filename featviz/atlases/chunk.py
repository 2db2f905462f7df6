"""One file of an atlas: arrays and records <-> the bytes of a safetensors file with a checksum.

Metadata: one JSON object under "featviz.atlas", with "version", "records", one for each unit, and "blake2b", the checksum of
all arrays and of the records. It is one entry, since safetensors writes several in no fixed order.
Reading never unpickles, and looks at the size of a file before it reads it.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from featviz.atlases.plan import FORMAT, VERSION, digest_of
from featviz.errors import AtlasError, summary
from featviz.reading import check_file

LARGEST = 2**31  # bytes of a file; an item of 32 units has some MB


@dataclass(frozen=True, eq=False)
class Chunk:
    """What a file holds: a record for each unit, and arrays whose axes are told where they are made."""

    records: list[dict[str, Any]]
    arrays: Mapping[str, np.ndarray]

    def to_bytes(self) -> bytes:
        """The file; equal chunks give equal bytes."""
        arrays = {name: np.ascontiguousarray(self.arrays[name]) for name in sorted(self.arrays)}
        told = {"version": VERSION, "records": self.records, "blake2b": _sum(arrays, self.records)}
        return save(arrays, {FORMAT: json.dumps(told, separators=(",", ":"), allow_nan=False)})

    @classmethod
    def from_bytes(cls, data: bytes, name: str) -> "Chunk":
        """Read and verify.

        Args:
            name: of the file, for errors.

        Raises:
            AtlasError: it is damaged.
        """
        remedy = "remove it and start the atlas again, which makes it anew"
        try:
            arrays = load(data)
            length = int.from_bytes(data[:8], "little")
            told = json.loads(json.loads(data[8 : 8 + length])["__metadata__"][FORMAT])
            version, records = told["version"], told["records"]
            if version != VERSION:
                raise AtlasError(
                    f"{name} has version {version!r} of the files, this featviz reads {VERSION}: {remedy}."
                )
            if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
                raise AtlasError(f"{name} is damaged, its records are none: {remedy}.")
            if told["blake2b"] != _sum(arrays, records):
                raise AtlasError(f"{name} is damaged, its checksum is another: {remedy}.")
        except (SafetensorError, KeyError, TypeError, ValueError, RecursionError, OverflowError) as error:
            raise AtlasError(f"{name} is damaged ({summary(error, 80)}): {remedy}.") from error
        return cls(records, arrays)


def read_chunk(path: Path) -> Chunk:
    """The chunk in a file.

    Raises:
        AtlasError: it is damaged, too large, or cannot be read.
    """
    return Chunk.from_bytes(read_file(path, LARGEST), str(path))


def read_file(path: Path, most: int) -> bytes:
    """The bytes of a file of an atlas.

    Args:
        most: bytes that it may have.

    Raises:
        AtlasError: it is larger, no file, or cannot be read.
    """
    try:
        check_file(path, most)
        return path.read_bytes()
    except ValueError as error:
        raise AtlasError(f"{path} is no file of an atlas, {error}: remove it and start the atlas again.") from error
    except OSError as error:
        raise AtlasError(
            f"{path} cannot be read ({(error.strerror or str(error)).lower()}): see to its rights."
        ) from error


def arrays_digest(arrays: Mapping[str, np.ndarray]) -> str:
    """BLAKE2b (64 hex digits) of names, types, shapes and values."""
    found = hashlib.blake2b(digest_size=32)
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        found.update(digest_of([name, str(array.dtype), list(array.shape)]).encode())
        found.update(array.reshape(-1).view(np.uint8).data)
    return found.hexdigest()


def _sum(arrays: Mapping[str, np.ndarray], records: list[dict[str, Any]]) -> str:
    return digest_of([arrays_digest(arrays), records])
