"""A grid of captioned images as one PNG: a row per unit, a column per subject. Knows no model.

    row = Row("17", [Cell(image, ["A:17", "activation 3.1"]), ...])      # one cell per column
    save_png(grid(["A", "B'", "merged"], [row, ...], "layer3.1.conv2"), "gallery/layer3.png", {"seed": "0"})

Images are arrays (h, w, 3) or (h, w, 1) or (h, w), floats in [0, 1]. Small ones are enlarged: bicubically, or
where they have only a few pixels by a whole factor with hard edges.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, PngImagePlugin

from featviz.errors import OutputError
from featviz.files import write_atomically
from featviz.gallery.captions import Lettering

SMALLEST = 160  # pixels of a cell's longer side, at least
FEW = 24  # an image with a longer side of fewer pixels is shown pixel by pixel
MARGIN, GAP, GUTTER = 24, 8, 28  # around all, between cells, between blocks of one line
TITLE, HEAD, CAPTION = Lettering(22), Lettering(16), Lettering(14)
HEAD_WIDTH = 132  # of a row head, at most
CAPTION_LINES = 2  # of each entry of a caption, at most
INK, GRAY, FAINT, PAPER = (17, 17, 17), (85, 85, 85), (204, 204, 204), (255, 255, 255)


@dataclass(frozen=True)
class Cell:
    """One image and the lines under it."""

    image: np.ndarray
    caption: Sequence[str] = ()


@dataclass(frozen=True)
class Row:
    """The cells of one unit, in the order of the columns, and what stands to their left."""

    head: str
    cells: Sequence[Cell]


@dataclass(frozen=True)
class _Layout:
    """Sizes in pixels that all blocks (row head and cells) of a grid share."""

    cell_width: int
    head_width: int
    columns: int

    @property
    def block_width(self) -> int:
        return self.head_width + self.columns * (self.cell_width + GAP) - GAP

    def cell_left(self, column: int) -> int:
        return self.head_width + column * (self.cell_width + GAP)


def grid(columns: Sequence[str], rows: Sequence[Row], title: str, footer: str = "", per_line: int = 1) -> Image.Image:
    """Draw the rows under the column heads; `per_line` of them side by side make a contact sheet.

    Args:
        columns: the heads, one per cell of a row.
        rows: at least one.
        title: stands above all, `footer` below in small letters; both are wrapped to the width of the grid.

    Raises:
        OutputError: no rows, a row with another number of cells than columns, an image of another shape.
    """
    _check(columns, rows, per_line)
    images = [[_enlarge(_pixels(cell.image)) for cell in row.cells] for row in rows]
    layout = _Layout(
        cell_width=max(SMALLEST, *(image.width for line in images for image in line)),
        head_width=_head_width(rows),
        columns=len(columns),
    )
    per_line = min(per_line, len(rows))
    width = 2 * MARGIN + per_line * (layout.block_width + GUTTER) - GUTTER
    inner = width - 2 * MARGIN
    title_lines = TITLE.wrap(title, inner, 4)
    footer_lines = CAPTION.wrap(footer, inner, 8)
    captions = [[_caption(cell, layout.cell_width) for cell in row.cells] for row in rows]
    lines = [range(i, min(i + per_line, len(rows))) for i in range(0, len(rows), per_line)]
    tall = [max(image.height for index in line for image in images[index]) for line in lines]
    texts = [max(len(text) for index in line for text in captions[index]) for line in lines]
    heights = [h + 4 + CAPTION.leading * n + 14 for h, n in zip(tall, texts, strict=True)]
    top = MARGIN + len(title_lines) * TITLE.leading + 10
    heads = [HEAD.wrap(name, layout.cell_width, 2) for name in columns]
    body = top + HEAD.leading * max(map(len, heads)) + 6
    foot = len(footer_lines) * CAPTION.leading + 10 if footer_lines else 0
    canvas = Image.new("RGB", (width, body + sum(heights) + foot + MARGIN - 10), PAPER)
    draw = ImageDraw.Draw(canvas)
    _write(draw, title_lines, MARGIN, MARGIN, TITLE, INK)
    lefts = [MARGIN + place * (layout.block_width + GUTTER) for place in range(per_line)]
    for left in lefts:
        _draw_heads(draw, heads, left, body - 6, layout)
    for line, height, image_height in zip(lines, heights, tall, strict=True):
        for left, index in zip(lefts, line, strict=False):
            corner = left, body
            _draw_block(canvas, rows[index].head, images[index], captions[index], corner, image_height, layout)
        body += height
    if footer_lines:
        draw.line([(MARGIN, body), (width - MARGIN, body)], FAINT)
        _write(draw, footer_lines, MARGIN, body + 8, CAPTION, GRAY)
    return canvas


def save_png(image: Image.Image, path: str | Path, metadata: Mapping[str, str]) -> Path:
    """Write the image with `metadata` as PNG text; equal images and metadata make equal bytes.

    Raises:
        OutputError: the name does not end in .png, or the place cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise OutputError(f"{path} is not the name of a PNG: end it in .png.")
    text = PngImagePlugin.PngInfo()
    for key, value in metadata.items():
        text.add_itxt(key, value)
    return write_atomically(path, lambda part: image.save(part, format="PNG", pnginfo=text))


def _check(columns: Sequence[str], rows: Sequence[Row], per_line: int) -> None:
    if not columns or not rows or per_line < 1:
        raise OutputError("a grid needs at least one column, one row and one row per line.")
    for row in rows:
        if len(row.cells) != len(columns):
            raise OutputError(f"row {row.head!r} has {len(row.cells)} cells for {len(columns)} columns.")


def _pixels(image: np.ndarray) -> Image.Image:
    """(h, w), (h, w, 1) or (h, w, 3) in [0, 1] -> an RGB image; NaN becomes black."""
    values = np.asarray(image, dtype=np.float64)
    values = values[..., None] if values.ndim == 2 else values
    if values.ndim != 3 or values.shape[2] not in (1, 3) or 0 in values.shape:
        raise OutputError(f"an image of shape {np.shape(image)} cannot be drawn: give (h, w, 3) or (h, w, 1).")
    bytes_ = np.round(np.nan_to_num(values).clip(0, 1) * 255).astype(np.uint8)
    return Image.fromarray(np.broadcast_to(bytes_, (*bytes_.shape[:2], 3)).copy())


def _enlarge(image: Image.Image) -> Image.Image:
    longest = max(image.size)
    if longest >= SMALLEST:
        return image
    few = longest < FEW
    factor = math.ceil(SMALLEST / longest) if few else SMALLEST / longest
    size = max(1, round(image.width * factor)), max(1, round(image.height * factor))
    return image.resize(size, Image.Resampling.NEAREST if few else Image.Resampling.BICUBIC)


def _head_width(rows: Sequence[Row]) -> int:
    longest = max(HEAD.width(line) for row in rows for line in [*HEAD.wrap(row.head, HEAD_WIDTH, 6), ""])
    return longest + 12 if longest else 0


def _caption(cell: Cell, width: int) -> list[str]:
    return [line for text in cell.caption for line in CAPTION.wrap(text, width, CAPTION_LINES)]


def _draw_heads(draw, heads: list[list[str]], left: int, bottom: int, layout: _Layout) -> None:
    for column, lines in enumerate(heads):
        middle = left + layout.cell_left(column) + layout.cell_width / 2
        for index, line in enumerate(lines):
            x = middle - HEAD.width(line) / 2
            _write(draw, [line], round(x), bottom - (len(lines) - index) * HEAD.leading, HEAD, INK)


def _draw_block(
    canvas: Image.Image,
    head: str,
    images: list[Image.Image],
    captions: list[list[str]],
    corner: tuple[int, int],
    height: int,
    layout: _Layout,
) -> None:
    """One row: its head, level with the middle of the images (`height` pixels at most), and its cells."""
    draw = ImageDraw.Draw(canvas)
    left, top = corner
    lines = HEAD.wrap(head, HEAD_WIDTH, 6)
    _write(draw, lines, left, top + (height - len(lines) * HEAD.leading) // 2, HEAD, INK)
    for column, (image, caption) in enumerate(zip(images, captions, strict=True)):
        x = left + layout.cell_left(column)
        canvas.paste(image, (x + (layout.cell_width - image.width) // 2, top + (height - image.height) // 2))
        _write(draw, caption, x, top + height + 4, CAPTION, GRAY)


def _write(draw, lines: list[str], left: int, top: int, lettering: Lettering, color) -> None:
    for index, line in enumerate(lines):
        draw.text((left, top + index * lettering.leading), line, font=lettering.font, fill=color)
