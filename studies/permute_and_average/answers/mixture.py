"""Is a merged unit a mean of its parents' features, or something new?"""

from typing import Any

import numpy as np
from estimates import Record, column, depths, explained, layers_of, mean_of, thirds, told
from measures.report import markdown
from plots import draw_pairs

from answers.answer import Answer, Finding
from featviz.gallery.plots import COLORS


def answer(records: list[Record]) -> Answer:
    rows, extras, own = [], [], []
    for record in records:
        plain, extra, rest = shares(record)
        extras.append(mean_of(extra) / mean_of(plain))
        own.append(mean_of(np.concatenate([column(found, "own mean") for found in layers_of(record).values()])))
        cells = [
            told(value) for third in zip(thirds(record, plain), thirds(record, rest), strict=True) for value in third
        ]
        rows.append([record["title"], f"{100 * extras[-1]:.1f} %", *cells, f"{own[-1]:.0%}"])
    titles = [record["title"] for record in records]
    findings = (
        Finding(
            "A merged unit is the plain mean of its parents' units and something that neither has; no other mix "
            "of the two tells more of it",
            "the best mix of the two explains at most a twentieth more of its variance than their mean does",
            {title: extra < 0.05 for title, extra in zip(titles, extras, strict=True)},
        ),
    )
    text = (
        "Shares of a merged unit's variance on test images, means over units, by thirds of the layers: *mean*, "
        "what the mean of the two parents' units explains (f squared); *new*, what no mix of the two explains. "
        "*Best mix*: how much more than the mean the regression on both units explains, in percent of what the "
        "mean explains, over all layers. *Own*: units that are closer to the mean of their own two parents than "
        "to that of any other two of the layer.\n\n"
        + markdown(["pair", "best mix", "mean, first", "new", "mean, middle", "new", "mean, last", "new", "own"], rows)
    )
    control = (
        "A network merged with itself is explained to 100 %, without a best mix. What would refute it: pairs "
        "whose merged units are told much better by other weights of the two parents than by 1/2, as those where "
        "one parent's units are larger."
    )
    return Answer(
        "mixture", "Is a merged unit a mean of its parents' features, or something new?", findings, text, control,
        "What explains the variance of merged units, by depth: their parents' mean, another mix of the two, neither.",
        lambda path: draw_pairs(path, records, _draw, x="depth of the layer", y="share of variance"),
    )  # fmt: skip


def shares(record: Record):
    """(layer,) means over units: explained by the parents' mean, more by their best mix, and the rest."""
    found = []
    for columns in layers_of(record).values():
        plain, mix = explained(columns)
        found.append((mean_of(plain), mean_of(mix - plain), mean_of(1 - mix)))
    return np.array(found).T


def _draw(record: Record, axes: Any) -> None:
    labels = ("the parents' mean", "another mix of both", "neither")
    axes.stackplot(depths(record), *shares(record), labels=labels, colors=(COLORS[2], COLORS[5], "#BBBBBB"))
    axes.set_ylim(0, 1)
    axes.set_xlim(0, 1)
