"""Figures of several panels, written as PNG."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

PER_LINE = 4
COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#000000", "#F0E442")  # Okabe & Ito 2008


def new_figure(count: int, size: tuple[float, float] = (3.2, 2.5), share: bool = True) -> tuple[Any, list[Any]]:
    """A figure with `count` panels, four in a line."""
    plt.rcParams["axes.prop_cycle"] = plt.cycler(color=COLORS)
    columns = min(count, PER_LINE)
    lines = -(-count // columns)
    figure, axes = plt.subplots(
        lines, columns, figsize=(size[0] * columns, size[1] * lines), squeeze=False, sharey=share, layout="constrained"
    )
    panels = list(axes.flat)
    for panel in panels:
        panel.spines[["top", "right"]].set_visible(False)
        panel.tick_params(labelsize=7)
    for panel in panels[count:]:
        panel.axis("off")
    return figure, panels


def save(figure: Any, panels: list[Any], count: int, path: Path, legend: bool = True) -> None:
    """Write the figure with one legend above its panels."""
    handles, labels = panels[0].get_legend_handles_labels()
    columns = 2 * min(count, PER_LINE)
    if legend and handles:
        figure.legend(
            handles,
            labels,
            loc="outside upper center",
            ncols=min(columns, len(labels)),
            frameon=False,
            fontsize=8,
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)
