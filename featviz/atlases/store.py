"""The folder of an atlas, written by any number of processes at once and readable at any time.

    atlas.json                      what all files depend on: `Identity`
    networks/alignment.safetensors  the alignment, as `featviz align` writes it; only where there is one
    networks/merged.safetensors     the merged network's weights
    layers/KEY.json                 a layer and the units of it that were asked for: `PlannedLayer`
    items/KE/KEY.safetensors        a few units of a layer, rendered
    evidence/measured.json          on which images, and what
    evidence/KE/KEY.safetensors     fates and exemplars of the same units

A file appears under its name when it is complete, and its name says what is in it: a file that is there is never made again,
and two processes that make the same one write the same bytes. Nothing else is shared between processes.
"""

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featviz.atlases.chunk import Chunk, read_chunk, read_file
from featviz.atlases.plan import Identity, Item, PlannedLayer, json_object, read_planned_layer
from featviz.errors import AtlasError
from featviz.files import write_atomically

IDENTITY = "atlas.json"
LARGEST_TEXT = 2**26  # bytes of a JSON file


@dataclass(frozen=True)
class LayerStatus:
    """How many units of a layer are rendered, how many are measured, and how many were asked for."""

    name: str
    rendered: int
    measured: int
    units: int


class AtlasStore:
    """The files of one atlas.

    >>> store = AtlasStore.open("runs/ab")  # doctest: +SKIP
    >>> chunk = store.read(store.items()[0])  # doctest: +SKIP
    >>> chunk.arrays["images"].shape  # doctest: +SKIP
    (3, 32, 64, 64, 3)

    Args:
        folder: of the atlas.
        identity: of `atlas.json`.
    """

    def __init__(self, folder: str | Path, identity: Identity) -> None:
        self.folder, self.identity = Path(folder), identity

    @classmethod
    def open(cls, folder: str | Path) -> "AtlasStore":
        """The atlas in a folder.

        Raises:
            AtlasError: there is none, or its files are damaged.
        """
        path = Path(folder) / IDENTITY
        if not path.is_file():
            raise AtlasError(f"{folder} holds no atlas: give a folder that featviz atlas has written.")
        return cls(folder, Identity.read(_text(path)))

    @classmethod
    def create(cls, folder: str | Path, identity: Identity) -> "AtlasStore":
        """The atlas in a folder, begun where there is none.

        Raises:
            AtlasError: the folder holds an atlas of other networks or another configuration.
            OutputError: the folder cannot be written.
        """
        publish(Path(folder) / IDENTITY, json.dumps(identity.record(), indent=1).encode())
        store = cls.open(folder)
        different = store.identity.differences(identity)
        if different:
            raise AtlasError(
                f"{folder} holds another atlas, which differs in {', '.join(different)}: give the same as there, or another "
                "folder."
            )
        return store

    @property
    def alignment_path(self) -> Path:
        """Of the alignment, which need not be there."""
        return self.folder / "networks" / "alignment.safetensors"

    @property
    def merged_path(self) -> Path:
        """Of the merged network's weights."""
        return self.folder / "networks" / "merged.safetensors"

    def path(self, item: Item) -> Path:
        """Of an item's file."""
        return self.folder / "items" / item.key[:2] / f"{item.key}.safetensors"

    def evidence_path(self, item: Item) -> Path:
        """Of the fates and exemplars of an item's units."""
        return self.folder / "evidence" / item.key[:2] / f"{item.key}.safetensors"

    def add_layer(self, layer: PlannedLayer) -> None:
        """Ask for units of a layer."""
        publish(self.folder / "layers" / f"{layer.key}.json", json.dumps(layer.record()).encode())

    def layers(self) -> list[PlannedLayer]:
        """All that were asked for, in the order of the network."""
        found = [read_planned_layer(_text(path)) for path in sorted((self.folder / "layers").glob("[0-9a-f]*.json"))]
        return sorted(found, key=lambda layer: (layer.position, layer.name, layer.units))

    def items(self) -> list[Item]:
        """All that the layers are cut into, in their order."""
        identity = self.identity.digest
        found = [item for layer in self.layers() for item in layer.items(identity, self.identity.units_per_item)]
        return list(dict.fromkeys(found))

    def is_done(self, item: Item) -> bool:
        """Whether it is there."""
        return self.path(item).is_file()

    def write(self, item: Item, chunk: Chunk) -> None:
        """Publish an item.

        Raises:
            OutputError: the disk is full or cannot be written.
        """
        self.write_bytes(item, chunk.to_bytes())

    def write_bytes(self, item: Item, data: bytes) -> None:
        """Publish an item that is a file's bytes already."""
        write_atomically(self.path(item), lambda part: part.write_bytes(data))

    def read(self, item: Item) -> Chunk:
        """An item.

        Raises:
            AtlasError: it is damaged, or is not there.
        """
        chunk = read_chunk(self.path(item))
        if [record.get("unit") for record in chunk.records] != list(item.units):
            raise AtlasError(f"{self.path(item)} holds other units than its name says: remove it and start again.")
        return chunk

    def write_evidence(self, item: Item, chunk: Chunk) -> None:
        """Publish fates and exemplars of an item's units.

        Raises:
            OutputError: the disk is full or cannot be written.
        """
        data = chunk.to_bytes()
        write_atomically(self.evidence_path(item), lambda part: part.write_bytes(data))

    def is_measured(self, item: Item) -> bool:
        """Whether its evidence is there."""
        return self.evidence_path(item).is_file()

    def evidence(self, item: Item) -> Chunk | None:
        """Fates and exemplars of an item's units; None where they are not there.

        Raises:
            AtlasError: they are damaged.
        """
        return read_chunk(self.evidence_path(item)) if self.is_measured(item) else None

    def check_measured(self, measured: Mapping[str, Any]) -> None:
        """Make sure that all evidence is measured in one way.

        Args:
            measured: on which images, and what; plain values.

        Raises:
            AtlasError: what is there was measured in another.
        """
        path = self.folder / "evidence" / "measured.json"
        publish(path, json.dumps(measured).encode())
        there = json_object(_text(path), str(path))
        if there != json.loads(json.dumps(measured)):
            raise AtlasError(
                f"{self.folder} holds evidence of other images or with other options ({there} there, {dict(measured)} now): "
                f"give the same, or remove {path.parent}."
            )

    def status(self) -> list[LayerStatus]:
        """Of every layer, in order."""
        asked: dict[str, tuple[set[int], set[int], set[int]]] = {}
        for item in self.items():
            units, done, measured = asked.setdefault(item.layer, (set(), set(), set()))
            units.update(item.units)
            done.update(item.units if self.is_done(item) else ())
            measured.update(item.units if self.is_measured(item) else ())
        return [
            LayerStatus(name, len(done), len(measured), len(units)) for name, (units, done, measured) in asked.items()
        ]

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """While this process writes. Who is alone here removes what killed processes left half written.

        Where the file system knows no locks nothing is removed.
        """
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(OSError, ImportError):
                import fcntl  # not on Windows

                lock = stack.enter_context(open(self.folder / ".lock", "wb"))
                with contextlib.suppress(BlockingIOError):
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    for folder in ("items", "evidence"):
                        for part in (self.folder / folder).glob("*/.*-????????.*"):
                            part.unlink(missing_ok=True)
                fcntl.flock(lock, fcntl.LOCK_SH)
            yield


def publish(path: Path, data: bytes) -> None:
    """Write a file unless one of that name is there, also where another process writes it at the same time.

    Raises:
        OutputError: it cannot be written.
    """
    if not path.exists():
        write_atomically(path, lambda part: part.write_bytes(data), replace=False)


def _text(path: Path) -> str:
    try:
        return read_file(path, LARGEST_TEXT).decode("utf-8")
    except UnicodeDecodeError as error:
        raise AtlasError(f"{path} is no text: it is damaged, remove it and start the atlas again.") from error
