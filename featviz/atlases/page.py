"""The page of an atlas: the store's items -> `featviz.gallery.page.contents.Page`, one block at a time."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from featviz.atlases.chunk import Chunk
from featviz.atlases.items import panel_arrays, pictures_of
from featviz.atlases.plan import Item
from featviz.atlases.store import AtlasStore
from featviz.errors import AtlasError
from featviz.gallery.bands import drawable
from featviz.gallery.page.contents import Page, PageBlock, PageLayer
from featviz.gallery.page.write import write_page
from featviz.panel import Panel

PAGE = "page"  # the folder of the page in that of the atlas


def page(folder: str | Path, out: str | Path | None = None) -> Path:
    """Write the page of an atlas, also of one that is half finished: a folder that opens from disk.

    >>> featviz.page("runs/ab")  # doctest: +SKIP
    PosixPath('runs/ab/page/index.html')

    Args:
        folder: of the atlas.
        out: of the page; None: `page` in the atlas's folder.

    Returns:
        The file to open in a browser.

    Raises:
        AtlasError: no atlas, or a damaged file. OutputError: the page cannot be written.
    """
    store = AtlasStore.open(folder)
    return write_page(page_of(store), Path(folder) / PAGE if out is None else Path(out))


def page_of_panels(title: str, panels: Sequence[Panel]) -> Page:
    """What a page of panels in memory shows, each of another layer: those of one call of `render_panel` or more."""
    layers = []
    for panel in panels:
        records, arrays = [panel.unit_record(row) for row in range(len(panel))], panel_arrays(panel)
        block = PageBlock(records, _drawable(arrays["images"]), arrays["trace"], arrays["steps"])
        layers.append(PageLayer(panel.layer, len(panel), [block]))
    config = panels[0].config
    facts = {"Rendering": f"{_size(list(config.image_hw))} px, {config.steps_in_words}, seed {config.seed}"}
    return Page(title, panels[0].subjects, layers, facts)


def page_of(store: AtlasStore) -> Page:
    """What the page of a store shows; blocks are read when they are asked for."""
    status = store.status()
    done, asked = sum(layer.rendered for layer in status), sum(layer.units for layer in status)
    identity = store.identity
    config = identity.config
    facts = {
        "Units": f"{done:,} of {asked:,} rendered",
        "Matched by": identity.method,
        "Rendering": f"{_size(config.get('size'))} px, quality {config.get('quality')}, seed {config.get('seed')}",
        **{f"Weights of {name}": f"SHA-256 {weights[:12]}" for name, weights in identity.subjects.items()},
    }
    subjects = tuple(identity.subjects)
    layers = {layer.name: layer.units for layer in status}
    items: dict[str, list[Item]] = {}
    for item in store.items():
        items.setdefault(item.layer, []).append(item)
    made = [PageLayer(name, width, _blocks(store, items[name])) for name, width in layers.items()]
    title = f"{store.folder.resolve().name}: {', '.join(subjects[:-1])} and {subjects[-1]}"
    return Page(title, subjects, made, facts)


def _blocks(store: AtlasStore, items: list[Item]) -> Iterator[PageBlock]:
    """Of one layer: every unit once, where it is rendered."""
    seen: set[int] = set()
    for item in items:
        rows = [row for row, unit in enumerate(item.units) if unit not in seen]
        if rows and store.is_done(item):
            seen.update(item.units)
            yield block_of(store.read(item), store.evidence(item), rows)


def block_of(chunk: Chunk, evidence: Chunk | None, rows: Sequence[int] | None = None) -> PageBlock:
    """A block of an item and its evidence.

    Args:
        rows: of the item's units; None: all.

    Raises:
        AtlasError: arrays or records are not those of an item.
    """
    if not all(_is_record(record) for record in chunk.records):
        raise AtlasError("an item has records that are not those of units: its file is damaged.")
    images = pictures_of(chunk)
    subjects, units = images.shape[:2]
    trace, steps = chunk.arrays.get("trace"), chunk.arrays.get("steps")
    if trace is None or steps is None or trace.shape[:2] != (subjects, units) or steps.shape != (subjects, units):
        raise AtlasError("an item has no trace of its units: its file is damaged.")
    fates: Mapping[Any, dict[str, Any]] = {}
    crops, shown = None, ()
    if evidence is not None:
        fates = {record.get("unit"): record for record in evidence.records}
        crops = evidence.arrays.get("exemplars")
        shown = tuple(
            str(name) for name in (evidence.records[0].get("exemplars of") if evidence.records else None) or ()
        )
        if crops is not None and (crops.ndim != 6 or crops.dtype != np.uint8 or crops.shape[:2] != (len(shown), units)):
            raise AtlasError("the exemplars of an item have another shape than its units: their file is damaged.")
    records = [
        record | ({"fate": fates[unit]} if (unit := record.get("unit")) in fates else {}) for record in chunk.records
    ]
    kept = list(range(units)) if rows is None else list(rows)
    return PageBlock(
        [records[row] for row in kept],
        _drawable(images[:, kept]),
        trace[:, kept].astype(np.float32),
        steps[:, kept].astype(np.int32),
        None if crops is None else _drawable(crops[:, kept]),
        () if crops is None else shown,
    )


def _drawable(images: np.ndarray) -> np.ndarray:
    """(..., h, w, channels) of any number of channels with 3 or 1: a gray tile for each of another number."""
    if images.shape[-1] in (1, 3):
        return images
    height, width, channels = images.shape[-3:]
    tiles = [drawable(image.transpose(2, 0, 1) / 255) for image in images.reshape(-1, height, width, channels)]
    found = np.stack(tiles) if tiles else np.zeros((0, height, width, 1))
    return (255 * found).round().astype(np.uint8).reshape(*images.shape[:-3], *found.shape[1:])


def _is_record(record: Mapping[str, Any]) -> bool:
    parts = (record.get(name) for name in ("own_units", "activation"))
    return type(record.get("unit")) is int and all(isinstance(part, dict) for part in parts)


def _size(size: Any) -> str:
    return " x ".join(map(str, size)) if isinstance(size, list) else str(size)
