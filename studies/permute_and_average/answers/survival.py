"""Which features survive a merge, and what tells beforehand?"""

from pathlib import Path

import numpy as np
from estimates import Record, column, layers_of, over_layers, rank, rank_in_layers, table
from plots import new_figure, save

from answers.answer import Answer, Finding, unanswered

QUESTION = "Which features survive, and what tells beforehand?"
F, C = "fidelity, second half", "agreement, first half"


def answer(records: list[Record]) -> Answer:
    permuted = [record for record in records if record["method"] != "identity"]
    if not permuted:
        return unanswered("survival", QUESTION, "parents that were trained apart")
    rows, ahead, inner, stream = [], [], [], []
    for record in permuted:
        c, score = rank_in_layers(record, C, F), rank_in_layers(record, "score", F)
        ahead.append(c.mean > score.mean)
        inside, shared = (
            rank_in_layers(record, "score", F, lambda found, many=many: (found["sites"] > 1) == many)
            for many in (False, True)
        )
        inner, stream = [*inner, inside.mean], [*stream, shared.mean]
        by_weights = rank_in_layers(record, "weights agreement", "weights fidelity")
        score_by_weights = rank_in_layers(record, "weights score", "weights fidelity")
        rows.append(
            [record["title"], str(c), str(score), str(inside), str(shared), str(by_weights), str(score_by_weights)]
        )
    smallest = over_layers([value for record in permuted for value in _smallest(record)])
    arithmetic = over_layers([value for record in permuted for value in _smallest(record, shuffled=True)])
    by_title = {record["title"]: rank_in_layers(record, C, F) for record in permuted}
    findings = (
        Finding(
            "Within a layer, the more the parents' units agree, the more faithfully the merged unit is their mean",
            "rank correlation beyond two standard errors",
            {title: estimate.mean > 2 * estimate.error for title, estimate in by_title.items()},
        ),
        Finding(
            "Agreement on images tells more of that than the match score does",
            "higher rank correlation",
            dict(zip(by_title, ahead, strict=True)),
        ),
    )
    text = (
        "Rank correlation (Spearman) over the units of a layer with the unit's fidelity; mean ± standard error over "
        "layers. Agreement is measured on one half of the images, fidelity on the other, so that they share no "
        "noise.\n\n"
        + table(
            ["pair", "agreement c", "match score", "score, units of one layer", "score, shared units", "c, by weights",
             "score, by weights"],
            rows,
        )
    )  # fmt: skip
    if np.isfinite(stream).any():
        text += (
            "\n\nThe match score is one number for a unit in all layers that share it (a residual stream, a depthwise "
            "convolution), and the unit may agree in one of them and not in another: the mean over pairs is "
            f"{np.nanmean(stream):.2f} there, and {np.nanmean(inner):.2f} in layers that have their units for themselves."
        )
    noise = over_layers([value for record in permuted for value in _noise(record)])
    control = (
        "That the *smallest correlation with a parent* follows agreement is arithmetic for the most part: the rank "
        f"correlation is {smallest}, and still {arithmetic} when the fidelities of a layer's units are exchanged at random. "
        "Fidelity is tied to agreement in one way: the mean of two units has (1 + c) / 2 of their variance, so the same "
        "noise costs it more where c is small. The noise itself, what neither parent explains over a parent's variance, "
        f"has a rank correlation of {noise} with agreement (0: arithmetic alone; negative: units that agree get less "
        "noise too). What would refute the finding: a pair whose halves are not correlated."
    )
    return Answer(
        "survival", QUESTION, findings, text, control,
        "Rank correlation with the fidelity of units, layer by layer. Dots: agreement of the parents; crosses: "
        "match score.",
        lambda path: draw(permuted, path),
    )  # fmt: skip


def _means(records: list[Record], name: str) -> list[float]:
    return [rank_in_layers(record, name, F).mean for record in records]


def _smallest(record: Record, shuffled: bool = False) -> list[float]:
    """Rank correlation of agreement with the smallest correlation with a parent, as measured, or as it would be by chance."""
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
    """Rank correlation, by layer, of agreement with the variance of merged units that their row does not explain."""
    found = []
    for columns in layers_of(record).values():
        c, f = column(columns, C), np.clip(column(columns, F), 0.05, 1)
        found.append(rank(c, (1 / f**2 - 1) * (1 + column(columns, "agreement")) / 2))
    return found


def draw(records: list[Record], path: Path) -> None:
    figure, panels = new_figure(len(records))
    for axes, record in zip(panels, records, strict=False):
        layers = layers_of(record)
        for name, mark, label in ((C, "o", "agreement"), ("score", "x", "match score")):
            values = [rank(column(columns, name), column(columns, F)) for columns in layers.values()]
            axes.plot(range(len(layers)), values, mark, label=label, markersize=5)
        axes.axhline(0, color="black", linewidth=0.6)
        axes.set_title(record["title"], fontsize=9)
        axes.set_ylim(-0.6, 1.02)
        axes.set_xticks(range(len(layers)), [_short(layer) for layer in layers], rotation=90, fontsize=6)
    figure.supylabel("rank correlation with fidelity", fontsize=9)
    save(figure, panels, len(records), path)


def _short(layer: str) -> str:
    return layer.replace("layer", "").replace("downsample", "down").replace("features.", "")
