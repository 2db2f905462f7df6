"""Which features survive a merge, and what tells beforehand?"""

from typing import Any

import numpy as np
from estimates import Record, column, difference_in_layers, layers_of, over_layers, rank, rank_in_layers
from measures.report import markdown
from plots import draw_pairs

from answers.answer import Answer, Finding, unanswered

QUESTION = "Which features survive, and what tells beforehand?"
F, C = "fidelity, second half", "agreement, first half"


def answer(records: list[Record]) -> Answer:
    permuted = [record for record in records if record["method"] != "identity"]
    if not permuted:
        return unanswered("survival", QUESTION, "parents that were trained apart")
    rows = []
    found = {record["title"]: rank_in_layers(record, C, F) for record in permuted}
    ahead = {record["title"]: difference_in_layers(record, C, "score", F) for record in permuted}
    for record in permuted:
        parts = [
            f"{estimate} ({estimate.count})"
            for name in (C, "score")
            for estimate in (rank_in_layers(record, name, F, _alone), rank_in_layers(record, name, F, _shared))
        ]
        by_weights = [rank_in_layers(record, f"weights {name}", "weights fidelity") for name in ("agreement", "score")]
        cells = [
            found[record["title"]],
            rank_in_layers(record, "score", F),
            ahead[record["title"]],
            *parts,
            *by_weights,
        ]
        rows.append([record["title"], *map(str, cells)])
    smallest = over_layers([value for record in permuted for value in _smallest(record)])
    arithmetic = over_layers([value for record in permuted for value in _smallest(record, shuffled=True)])
    findings = (
        Finding(
            "Within a layer, the more the parents' units agree, the more faithfully the merged unit is their mean",
            "rank correlation above 0",
            {title: estimate.sign > 0 for title, estimate in found.items()},
        ),
        Finding(
            "Agreement on images predicts fidelity better than the match score does",
            "the difference of the rank correlations, layer by layer, above 0",
            {title: estimate.sign > 0 for title, estimate in ahead.items()},
        ),
    )
    text = (
        "Rank correlation (Spearman) of a unit's agreement c and of its match score with its fidelity, over the "
        "units of a layer; mean ± standard error over layers. Agreement is measured on one half of the images, "
        "fidelity on the other, so that they share no noise. *c - score*: the difference, layer by layer. *Own*: "
        "in layers that have their units for themselves; *shared*: in layers that share their units with others "
        "(a residual stream, a depthwise convolution), where the match score is one number for all of them; in "
        "brackets the number of layers. *By weights*: the same of the merge by weight matching.\n\n"
        + markdown(
            ["pair", "c", "score", "c - score", "c, own", "c, shared", "score, own", "score, shared", "c, by weights",
             "score, by weights"],
            rows,
        )
    )  # fmt: skip
    noise = "; ".join(f"{record['title']} {over_layers(_noise(record))}" for record in permuted)
    control = (
        "The smaller of a merged unit's correlations with its two parents is no measure of survival: its rank "
        f"correlation with agreement is {smallest}, and still {arithmetic} when the fidelities of a layer's units "
        "are exchanged at random. Fidelity too depends on agreement by arithmetic, in one way: the mean of two "
        "units has (1 + c) / 2 of their variance, so that the same error weighs more where c is small. What is "
        "left when that is taken out, the rank correlation of agreement with the error's variance over a "
        f"parent's, is: {noise}. Where it is below 0, units that agree get less error, too. What would refute the "
        "first finding: a pair where agreement on one half of the images and fidelity on the other are not "
        "correlated."
    )
    return Answer(
        "survival", QUESTION, findings, text, control,
        "Rank correlation with the fidelity of units, layer by layer. Dots: agreement of the parents; crosses: "
        "match score. Layers of fewer than 8 units, or of units without a score, have none.",
        lambda path: draw_pairs(path, permuted, _draw, y="rank correlation with fidelity"),
    )  # fmt: skip


def _alone(columns: dict) -> bool:
    """Whether a layer has its units for itself."""
    return columns["sites"] == 1


def _shared(columns: dict) -> bool:
    """Whether other layers carry the same units: a residual stream, a depthwise convolution."""
    return columns["sites"] > 1


def _smallest(record: Record, shuffled: bool = False) -> list[float]:
    """By layer, agreement with the smallest correlation with a parent: as measured, or as it would be by chance."""
    found, generator = [], np.random.default_rng(0)
    for columns in layers_of(record).values():
        c = column(columns, "agreement")
        if not shuffled:
            found.append(rank(column(columns, C), column(columns, "smallest correlation, second half")))
            continue
        f = column(columns, "fidelity")
        drawn = [rank(c, generator.permutation(f) * np.sqrt(np.clip((1 + c) / 2, 0, 1))) for _ in range(20)]
        found.append(float(np.nanmean(drawn)) if np.isfinite(drawn).any() else np.nan)
    return found


def _noise(record: Record) -> list[float]:
    """By layer, agreement with the variance of a merged unit that its parents' mean does not explain."""
    found = []
    for columns in layers_of(record).values():
        c, f = column(columns, C), np.clip(column(columns, F), 0.05, 1)
        found.append(rank(c, (1 / f**2 - 1) * (1 + column(columns, "agreement")) / 2))
    return found


def _draw(record: Record, axes: Any) -> None:
    layers = layers_of(record)
    for name, mark, label in ((C, "o", "agreement"), ("score", "x", "match score")):
        values = [rank(column(columns, name), column(columns, F)) for columns in layers.values()]
        axes.plot(range(len(layers)), values, mark, label=label, markersize=5)
    axes.axhline(0, color="black", linewidth=0.6)
    axes.set_ylim(-0.5, 1.02)
    axes.set_xticks(range(len(layers)), [_short(layer) for layer in layers], rotation=90)


def _short(layer: str) -> str:
    return layer.replace("layer", "").replace("downsample", "down").replace("features.", "")
