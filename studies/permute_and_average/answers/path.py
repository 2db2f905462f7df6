"""What happens to features along the path from A to B'?"""

from typing import Any

import numpy as np
from estimates import Floats, Record, column, layers_of, mean_of
from measures.report import markdown
from plots import draw_pairs

from answers.answer import Answer, Finding
from featviz.gallery.plots import COLORS

PARENTS = ("A", "B'")
WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0)


def answer(records: list[Record]) -> Answer:
    rows, lowest = [], []
    for record in records:
        with_a, share = along(record), shares(record)
        lowest.append(WEIGHTS[int(share.argmin())])
        accuracy = record["accuracy"]
        path = [accuracy["A"], accuracy["path 0.25"], accuracy[record["method"]], accuracy["path 0.75"], accuracy["B"]]
        cells = zip(with_a, share, path, strict=True)
        rows.append([record["title"], *(f"{value:.2f}, {part:.0%}, {right:.0f} %" for value, part, right in cells)])
    findings = (
        Finding(
            "Along the path units are mixed, and in the middle they are furthest from the weighted mean of the two",
            "lowest at weight 1/2",
            {record["title"]: weight == 0.5 for record, weight in zip(records, lowest, strict=True)},
        ),
    )
    text = (
        "At weights 0 to 1 of B', repaired at each: mean correlation of merged units with A's; how much of what "
        "the weighted mean of the two units (of equal variance) would have is reached, in percent, mean of both "
        "parents; and accuracy.\n\n" + markdown(["pair", *(f"weight {weight:g}" for weight in WEIGHTS)], rows)
    )
    control = (
        "At weight 0 the correlation is 1 and at weight 1 it is the parents' agreement, by construction. What would "
        "refute it: units that keep A's feature up to some weight and lose it at once."
    )
    return Answer(
        "path", "What happens along the path?", findings, text, control,
        "Correlation of merged units with A's and B's along the path; dotted: the weighted mean of the two units.",
        lambda path: draw_pairs(path, records, _draw, x="weight of B'", y="correlation"),
    )  # fmt: skip


def shares(record: Record) -> Floats:
    """(weight,) measured over expected correlation, mean of both parents."""
    return np.mean([along(record, parent) / along(record, parent, expected=True) for parent in PARENTS], axis=0)


def along(record: Record, parent: str = "A", expected: bool = False) -> Floats:
    """(weight,) mean over layers and units of the correlation with a parent's unit, measured or expected."""
    values = []
    for found in layers_of(record).values():
        c = column(found, "agreement")
        if expected:
            values.append([mean_of(_of_mean(c, w if parent == "A" else 1 - w)) for w in WEIGHTS])
            continue
        ends = (np.ones_like(c), c) if parent == "A" else (c, np.ones_like(c))
        middle = [
            column(found, f"path 0.25 {parent}"),
            column(found, f"correlation {parent}"),
            column(found, f"path 0.75 {parent}"),
        ]
        values.append([mean_of(x) for x in (ends[0], *middle, ends[1])])
    return np.nanmean(values, axis=0)


def _of_mean(c: Floats, weight: float) -> Floats:
    """Correlation of (1 - w) A + w B with A, for equal variances."""
    other = 1 - weight
    return (other + weight * c) / np.sqrt(np.maximum(other**2 + weight**2 + 2 * weight * other * c, 1e-9))


def _draw(record: Record, axes: Any) -> None:
    for color, parent in zip(COLORS, PARENTS, strict=False):
        measured, expected = along(record, parent), along(record, parent, expected=True)
        axes.plot(WEIGHTS, measured, "o-", color=color, label=f"with {parent[0]}'s units", markersize=4)
        axes.plot(WEIGHTS, expected, ":", color=color, label=f"of the weighted mean, {parent[0]}")
    axes.set_ylim(0, 1.03)
