"""Plots of a merge as PNG or SVG (by the file's suffix), in colors that the colour-blind can tell apart.

matplotlib comes with `pip install featviz[plot]`, and is imported when something is drawn.
"""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featviz.errors import OutputError
from featviz.files import check_writable, write_atomically

if TYPE_CHECKING:
    from featviz.merging.barrier import LossBarrier
    from featviz.merging.connectivity import LayerConnectivity

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")  # Okabe & Ito 2008


def plot_barriers(curves: Mapping[str, "LossBarrier"], path: str | Path, title: str = "") -> Path:
    """Loss and accuracy along the path from A to B', a line per label; the legend gives each barrier of the loss.

    Raises:
        OutputError: matplotlib is not installed, or the place cannot be written.
    """
    check_plottable(path)
    figure, (left, right) = new_figure(1, 2, (9, 3.4))
    for color, (label, curve) in zip(COLORS, curves.items(), strict=False):
        left.plot(curve.weights, curve.losses, color=color, marker=".", label=f"{label} (barrier {curve.barrier:.2f})")
        right.plot(curve.weights, curve.accuracies, color=color, marker=".")
    left.set_ylabel("loss")
    right.set_ylabel("accuracy in %")
    for axes in (left, right):
        axes.set_xlabel("weight of B'")
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["A", "¼", "½", "¾", "B'"])
        axes.grid(alpha=0.3)
    figure.suptitle(title)
    figure.legend(loc="outside lower center", ncols=min(3, len(curves)), frameon=False)
    return save_figure(figure, path)


def plot_connectivity(curves: Mapping[str, Sequence["LayerConnectivity"]], path: str | Path, title: str = "") -> Path:
    """Cosine and norm ratio of the merged feature maps to the mean of the parents', per layer; see `plot_barriers`."""
    check_plottable(path)
    figure, (top, bottom) = new_figure(2, 1, (9, 5), sharex=True)
    for color, (label, layers) in zip(COLORS, curves.items(), strict=False):
        names = [layer.layer for layer in layers]
        top.plot(names, [layer.cosine for layer in layers], color=color, marker=".", label=label)
        bottom.plot(names, [layer.norm_ratio for layer in layers], color=color, marker=".")
    top.set_ylabel("cosine")
    bottom.set_ylabel("norm ratio")
    for axes in (top, bottom):
        axes.axhline(1, color="black", linewidth=0.8)
        axes.grid(alpha=0.3)
    bottom.tick_params(axis="x", rotation=90)
    figure.suptitle(title)
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    return save_figure(figure, path)


def plot_variance(curves: Mapping[str, Sequence["LayerConnectivity"]], path: str | Path, title: str = "") -> Path:
    """Variance of the merged units over that of their parents, per layer: median and quartiles over the units, on a logarithmic
    scale, with what averaging matched units would leave (dashed, from the first curve); see `plot_barriers`."""
    check_plottable(path)
    figure, axes = new_figure(1, 1, (9, 4))
    first = next(iter(curves.values()))
    names = [layer.layer for layer in first]
    for color, (label, layers) in zip(COLORS, curves.items(), strict=False):
        low, middle, high = (np.array([_quantile(layer.ratio, q) for layer in layers]) for q in (0.25, 0.5, 0.75))
        axes.plot(names, middle, color=color, marker=".", label=label)
        axes.fill_between(names, low, high, color=color, alpha=0.2, linewidth=0)
    predicted = [_quantile(layer.predicted, 0.5) for layer in first]
    axes.plot(
        names, predicted, color="black", linestyle="--", linewidth=1, label="predicted by correlation, (1 + c) / 2"
    )
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set_yscale("log")
    axes.set_ylabel("variance, parents = 1")
    axes.tick_params(axis="x", rotation=90)
    axes.grid(alpha=0.3)
    figure.suptitle(title)
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    return save_figure(figure, path)


def _quantile(values: Any, q: float) -> float:
    alive = values[np.isfinite(values)]
    return float(np.quantile(alive, q)) if len(alive) else float("nan")


def check_plottable(path: str | Path) -> Path:
    """Find out before long work that a plot can be drawn and written to `path`.

    Raises:
        OutputError: matplotlib is not installed, the suffix is no kind of plot, or the place cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise OutputError(f"{path} is no kind of plot: end its name in .png, .svg or .pdf.")
    if find_spec("matplotlib") is None:
        raise OutputError("plots need matplotlib: pip install 'featviz[plot]'.")
    check_writable(path)
    return path


def new_figure(rows: int, columns: int, size: tuple[float, float], **more: Any) -> tuple[Any, Any]:
    """A figure of a size in inches, and its axes; `more` goes to matplotlib's `subplots`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(rows, columns, **more)


def save_figure(figure: Any, path: str | Path) -> Path:
    """Write a figure in the format of the path's suffix."""
    path = Path(path)
    write_atomically(path, lambda part: figure.savefig(part, format=path.suffix.lower().lstrip("."), dpi=150))
    return path
