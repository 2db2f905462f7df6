"""Plots of the fates of units: shares of verdicts by layer, agreement against fidelity, predicted against measured correlation.

Plain numbers in, a file out; `Fates` has a method for each. See `gallery/plots.py` for matplotlib and errors.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from featviz.gallery.plots import check_plottable, new_figure, save_figure

VERDICT_COLORS = {  # Okabe & Ito 2008, further parents in order
    "kept": "#009E73",
    "blended": "#56B4E9",
    "lost": "#D55E00",
    "dead": "#000000",
    "undecided": "#BBBBBB",
}
PARENT_COLORS = ("#E69F00", "#CC79A7", "#0072B2", "#F0E442")
PER_LINE = 4


@dataclass(frozen=True)
class UnitPoints:
    """The units of one layer in a plot. agreement, fidelity, measured, predicted: (unit,); verdicts: one per unit.

    measured, predicted: correlation of the merged unit with the first parent's. control: of agreement.
    """

    layer: str
    agreement: np.ndarray
    fidelity: np.ndarray
    measured: np.ndarray
    predicted: np.ndarray
    verdicts: Sequence[str]
    control: float


def plot_verdicts(
    layers: Sequence[str], shares: Mapping[str, Sequence[float]], path: str | Path, title: str = ""
) -> Path:
    """Stacked bars: per layer the share of units with each verdict.

    Args:
        shares: verdict -> share in [0, 1] for each layer, in the order of the stack.

    Raises:
        OutputError: matplotlib is not installed, or the path cannot be written.
    """
    check_plottable(path)
    figure, axes = new_figure(1, 1, (max(5.0, 1.6 + 0.38 * len(layers)), 4.2))
    colors, bottom = verdict_colors(list(shares)), np.zeros(len(layers))
    for name, values in shares.items():
        heights = 100 * np.asarray(values)
        if heights.any():
            axes.bar(range(len(layers)), heights, bottom=bottom, color=colors[name], label=name, width=0.8)
        bottom = bottom + heights
    axes.set_xticks(range(len(layers)), layers, rotation=90)
    axes.set_ylabel("units in %")
    axes.set_ylim(0, 100)
    axes.set_xlim(-0.6, len(layers) - 0.4)
    figure.suptitle(title)
    figure.legend(loc="outside right upper", frameon=False, reverse=True)
    return save_figure(figure, path)


def plot_units(points: Sequence[UnitPoints], path: str | Path, title: str = "") -> Path:
    """Agreement of the parents against fidelity of the merged unit, a panel per layer, colored by verdict; see `plot_verdicts`.

    The dashed line is the control of agreement: units to its left have parents that agree no better than unmatched units.
    """
    check_plottable(path)
    figure, panels = _panels(len(points))
    colors = verdict_colors([verdict for layer in points for verdict in layer.verdicts])
    for axes, layer in zip(panels, points, strict=False):
        axes.axvspan(-1.05, layer.control, color="#56B4E9", alpha=0.07, linewidth=0)
        axes.axvspan(layer.control, 1.05, color="#009E73", alpha=0.07, linewidth=0)
        axes.axvline(layer.control, color="black", linestyle="--", linewidth=0.8, label="control")
        _scatter(axes, layer.agreement, layer.fidelity, layer.verdicts, colors)
        axes.set_title(layer.layer, fontsize=10)
        axes.set_xlim(min(-0.25, float(np.nanmin(layer.agreement)) - 0.05), 1.05)
        axes.set_ylim(min(-0.05, float(np.nanmin(layer.fidelity)) - 0.05), 1.05)
    figure.supxlabel("agreement c of the parents")
    figure.supylabel("fidelity f of the merged unit")
    _finish(figure, panels, len(points), colors, title)
    return save_figure(figure, path)


def plot_predicted(points: Sequence[UnitPoints], path: str | Path, title: str = "") -> Path:
    """Correlation of the merged unit with the first parent's, predicted from f and c against measured; see `plot_verdicts`."""
    check_plottable(path)
    figure, panels = _panels(len(points))
    colors = verdict_colors([verdict for layer in points for verdict in layer.verdicts])
    for axes, layer in zip(panels, points, strict=False):
        axes.plot([-1, 1], [-1, 1], color="black", linewidth=0.8)
        _scatter(axes, layer.predicted, layer.measured, layer.verdicts, colors)
        low = min(-0.05, float(np.nanmin([layer.predicted, layer.measured])) - 0.05)
        axes.set_xlim(low, 1.05)
        axes.set_ylim(low, 1.05)
        axes.set_aspect("equal")
        axes.set_title(layer.layer, fontsize=10)
        axes.set_xlabel("predicted correlation with A")
    figure.supylabel("measured correlation with A")
    _finish(figure, panels, len(points), colors, title)
    return save_figure(figure, path)


def verdict_colors(verdicts: Sequence[str]) -> dict[str, str]:
    """A color for every verdict that occurs; parents' own in the order in which they occur."""
    others = [name for name in dict.fromkeys(verdicts) if name not in VERDICT_COLORS]
    parents = {name: PARENT_COLORS[number % len(PARENT_COLORS)] for number, name in enumerate(sorted(others))}
    first = ("kept", "blended", *parents)
    ordered = [name for name in (*first, "lost", "dead", "undecided") if name in verdicts]
    return {name: VERDICT_COLORS.get(name) or parents[name] for name in ordered}


def _panels(count: int) -> tuple[Any, list[Any]]:
    columns = min(PER_LINE, count)
    rows = -(-count // columns)
    figure, axes = new_figure(rows, columns, (2.6 * columns + 1.6, 2.5 * rows + 1.0), squeeze=False)
    return figure, list(axes.flat)


def _scatter(axes: Any, x: np.ndarray, y: np.ndarray, verdicts: Sequence[str], colors: Mapping[str, str]) -> None:
    for name, color in colors.items():
        chosen = np.array([verdict == name for verdict in verdicts])
        axes.scatter(x[chosen], y[chosen], s=12, color=color, alpha=0.8, linewidths=0)
    axes.grid(alpha=0.3)


def _finish(figure: Any, panels: Sequence[Any], used: int, colors: Mapping[str, str], title: str) -> None:
    for axes in panels[used:]:
        axes.set_visible(False)
    marks = [panels[0].scatter([], [], s=24, color=color, label=name) for name, color in colors.items()]
    marks += [line for line in panels[0].get_lines() if line.get_label() == "control"]
    figure.legend(handles=marks, loc="outside right upper", frameon=False)
    figure.suptitle(title)
