"""A page on disk: `index.html`, which opens without a server, and the data that it loads.

    index.html, page.css, page.js
    data/3/summary.js               layers and their counts
    data/3/units/L.js               figures of all units of layer L
    data/3/images/L/C.js            images of some of its units (chunk C), as PNGs in base64
    data/3/exemplars/L/C.js         their natural images, where there are any
    data/3/details/L/C.js           their full records and traces

Every writing makes a new numbered folder in `data/`, and `index.html`, written last, names it: whoever opens the page sees the
old one or the new one, never a mixture. Images are text in JavaScript files since a browser does not let a page from disk read
the pixels of image files, which it has to for saving figures.
"""

import contextlib
import html
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from featviz.errors import OutputError
from featviz.files import write_atomically
from featviz.gallery.fate_plots import verdict_colors
from featviz.gallery.page.columns import LayerColumns
from featviz.gallery.page.contents import Page, PageBlock, PageLayer
from featviz.gallery.page.scripts import photograph_url, rendering_url, script

CHUNK_BYTES = 1 << 19  # of images before compression in one file: what a browser loads to show one panel
MOST_TRACE_POINTS = 200

SCRIPTS = ("base", "data", "units", "route", "overview", "scatter", "grid", "panels", "unit", "trace", "figure", "main")
OWN_FILE = re.compile(r"\d+/(summary|units/\d+|(images|exemplars|details)/\d+/\d+)\.js")
OWN_TEMPORARY = re.compile(r"\.(summary|\d+)-[0-9a-f]{8}\.js")


def write_page(page: Page, folder: str | Path) -> Path:
    """Write a page, and remove the data of an earlier page in the same folder.

    Layers and blocks are asked for once, one at a time. What is held of earlier blocks are the figures of `LayerColumns`.

    Args:
        page: may be half-finished: layers without blocks, units without fate, match, trace or exemplars.
        folder: of the page; made where it does not exist. Other files in it are left alone.

    Returns:
        The path of index.html.

    Raises:
        OutputError: the folder cannot be written, or a block's arrays do not fit its records. The earlier page is as it was.
    """
    folder = Path(folder)
    number = 1 + max((int(path.name) for path in _numbered(folder / "data")), default=0)
    data = folder / "data" / str(number)
    try:
        _write_data(page, data)
        for name, text in (("page.css", _asset("page.css")), ("page.js", _page_script())):
            write_atomically(folder / name, _writer(text))
        index = write_atomically(folder / "index.html", _writer(_index(page, f"data/{number}")))
    except BaseException:
        _remove_own_files(folder / "data", lambda found: found == number)
        raise
    _remove_own_files(folder / "data", lambda found: found < number)
    return index


def _write_data(page: Page, folder: Path) -> None:
    layers, verdicts = [], dict[str, None]()
    for number, layer in enumerate(page.layers):
        writer = _LayerWriter(folder, number, page.subjects)
        for block in layer.blocks:
            writer.add(block, layer)
        layers.append({"name": layer.name, "width": layer.width, **writer.finish()})
        verdicts |= dict.fromkeys(name for name in layers[-1]["verdicts"] if name)
    summary = {
        "title": page.title,
        "subjects": page.subjects,
        "verdicts": [{"name": name, "color": color} for name, color in verdict_colors(list(verdicts)).items()],
        "layers": layers,
    }
    _write_script(folder, "summary", summary)


@dataclass
class _LayerWriter:
    """Files of layer `number`; chunks are numbered through all its blocks. starts: of each chunk, its first unit's position."""

    folder: Path
    number: int
    subjects: tuple[str, ...]

    def __post_init__(self) -> None:
        self.columns = LayerColumns(self.subjects)
        self.starts: list[int] = []
        self.size: tuple[int, int] | None = None
        self.exemplars = 0

    def add(self, block: PageBlock, layer: PageLayer) -> None:
        """Write the chunks of a block."""
        _check(block, layer, self.subjects)
        units = len(block.records)
        if not units:
            return
        height, width = block.images.shape[2:4]
        self.size = self.size or (height, width)
        if block.exemplars is not None:
            self.exemplars = max(self.exemplars, block.exemplars.shape[2])
        arrays = [array for array in (block.images, block.exemplars) if array is not None]
        step = max(1, CHUNK_BYTES // max(1, max(array.nbytes // units for array in arrays)))
        for start in range(0, units, step):
            self._write_chunk(block, slice(start, min(start + step, units)))
        for record in block.records:
            self.columns.add(record)

    def _write_chunk(self, block: PageBlock, chunk: slice) -> None:
        name = f"{self.number}/{len(self.starts)}"
        self.starts.append(len(self.columns) + chunk.start)
        images = [[rendering_url(image) for image in unit] for unit in block.images[:, chunk].swapaxes(0, 1)]
        _write_script(self.folder, f"images/{name}", images)
        if block.exemplars is not None and block.exemplars.shape[2]:
            found = [
                [[photograph_url(image) for image in subject] for subject in unit]
                for unit in block.exemplars[:, chunk].swapaxes(0, 1)
            ]
            stored = {"subjects": block.exemplar_subjects, "images": found}
            _write_script(self.folder, f"exemplars/{name}", stored)
        total = block.trace.shape[2]
        kept = np.unique(np.linspace(0, total - 1, min(total, MOST_TRACE_POINTS)).round().astype(int)) if total else []
        details = {
            "records": block.records[chunk],
            "steps": block.steps[:, chunk].T,
            "trace": block.trace[:, chunk].swapaxes(0, 1)[..., kept] if total else None,
            "trace_steps": [int(step) + 1 for step in kept],
        }
        _write_script(self.folder, f"details/{name}", details)

    def finish(self) -> dict[str, Any]:
        """Write the figures of all units; returns the layer's part of the summary."""
        about = {"size": self.size, "exemplars": self.exemplars}
        stored = {"count": len(self.columns), "starts": self.starts, **self.columns.stored()}
        _write_script(self.folder, f"units/{self.number}", stored)
        return {**self.columns.summary(), **about}


def _check(block: PageBlock, layer: PageLayer, subjects: tuple[str, ...]) -> None:
    """Raise OutputError where a block's arrays do not fit each other."""
    leading = (len(subjects), len(block.records))
    wanted = {"images": (block.images, 5), "trace": (block.trace, 3), "steps": (block.steps, 2)}
    for name, (array, axes) in wanted.items():
        if array.ndim != axes or array.shape[:2] != leading:
            raise OutputError(
                f"the {name} of a block of {layer.name!r} have the shape {array.shape}: "
                f"give {axes} axes, the first for {leading[0]} subjects, the second for {leading[1]} units."
            )
    if block.exemplars is not None:
        leading = (len(block.exemplar_subjects), len(block.records))
        if block.exemplars.ndim != 6 or block.exemplars.shape[:2] != leading:
            raise OutputError(
                f"the exemplars of a block of {layer.name!r} have the shape {block.exemplars.shape}: "
                f"give 6 axes, the first for {leading[0]} subjects, the second for {leading[1]} units."
            )


def _index(page: Page, data: str) -> str:
    facts = "".join(
        f"<div><dt>{html.escape(str(label))}</dt><dd>{html.escape(str(text))}</dd></div>"
        for label, text in page.facts.items()
    )
    title = html.escape(page.title)
    return Template(_asset("index.html")).substitute(title=title, facts=facts, data=html.escape(data))


def _page_script() -> str:
    return "\n".join(_asset(f"{name}.js") for name in SCRIPTS)


def _asset(name: str) -> str:
    return resources.files("featviz.gallery.page").joinpath("assets", name).read_text(encoding="utf-8")


def _write_script(folder: Path, name: str, value: Any) -> None:
    write_atomically(folder / f"{name}.js", _writer(script(name, value)))


def _writer(text: str) -> Callable[[Path], object]:
    """Lone surrogates, which no encoding has, become question marks."""
    return lambda path: path.write_text(text, encoding="utf-8", errors="replace", newline="\n")


def _numbered(data: Path) -> Iterable[Path]:
    if not data.is_dir():
        return []
    return [path for path in data.iterdir() if re.fullmatch(r"[0-9]{1,9}", path.name) and not path.is_symlink()]


def _remove_own_files(data: Path, chosen: Callable[[int], bool]) -> None:
    """Remove what `write_page` wrote into the chosen numbered folders, and folders that are empty then; nothing else."""
    for numbered in _numbered(data):
        if not chosen(int(numbered.name)):
            continue
        for root, _, files in os.walk(numbered, topdown=False):
            for file in files:
                path = Path(root, file)
                if OWN_FILE.fullmatch(path.relative_to(data).as_posix()) or OWN_TEMPORARY.fullmatch(file):
                    with contextlib.suppress(OSError):
                        path.unlink()
            with contextlib.suppress(OSError):
                Path(root).rmdir()
