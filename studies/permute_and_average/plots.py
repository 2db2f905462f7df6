"""Figures of several panels: titles with what draws each -> a PNG."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from estimates import Record

from featviz.gallery.plots import COLORS, new_figure, save_figure

PER_LINE = 4
SQUARE = (3.2, 2.9)  # of a panel, with room for what stands around it


def draw_pairs(path: Path, records: Sequence[Record], draw: Callable[[Record, Any], None], **more: Any) -> None:
    """A panel for each pair of networks, by `draw(record, axes)`; for `more` see `draw_panels`."""
    draw_panels(path, {record["title"]: partial(draw, record) for record in records}, **more)


def draw_panels(
    path: Path,
    panels: Mapping[str, Callable[[Any], None]],
    x: str = "",
    y: str = "",
    size: tuple[float, float] = (3.2, 2.5),
    legend: bool = True,
) -> None:
    """Panels in lines of four, with one vertical axis, and one legend above them.

    Args:
        panels: title -> what draws on the panel's axes.
        x, y: what the axes mean. size: of a panel, width and height in inches. legend: whether the first panel's is shown.
    """
    columns = min(len(panels), PER_LINE)
    lines = -(-len(panels) // columns)
    whole = (size[0] * columns, size[1] * lines)
    figure, grid = new_figure(lines, columns, whole, squeeze=False, sharey=True)
    for axes, (title, draw) in zip(grid.flat, panels.items(), strict=False):
        axes.set_prop_cycle(color=COLORS)
        draw(axes)
        axes.set_title(title, fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=7)
    for axes in grid.flat[len(panels) :]:
        axes.axis("off")
    figure.supxlabel(x, fontsize=9)
    figure.supylabel(y, fontsize=9)
    handles, labels = grid.flat[0].get_legend_handles_labels()
    if legend and handles:
        place = "outside upper center"
        figure.legend(handles, labels, loc=place, ncols=min(2 * columns, len(labels)), frameon=False, fontsize=8)
    save_figure(figure, path)
