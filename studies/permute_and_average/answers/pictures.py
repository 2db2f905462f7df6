"""Do the pictures agree with the numbers, and where do they mislead?"""

from typing import Any

import numpy as np
from estimates import Record, column, layers_of, told
from measures.report import markdown
from plots import SQUARE, draw_pairs
from scipy.stats import rankdata, spearmanr

from answers.answer import Answer, Finding, unanswered

A, MERGED = 0, 2  # places in the cross scores
QUESTION = "Do the pictures agree with the numbers, and where do they mislead?"
STRONG, WEAK = 0.7, 0.3


def answer(records: list[Record]) -> Answer:
    shown = [record for record in records if record["pictures"]]
    if not shown:
        return unanswered("pictures", QUESTION, "units that were rendered")
    rows, ranks = [], []
    chance = {record["title"]: 2 / np.sqrt(len(transfers(record))) for record in shown}
    for record in shown:
        points = transfers(record)
        rank = within_layers(points)
        ranks.append(rank)
        misled = [point for point in points if point["transfer"] > STRONG and point["correlation"] < WEAK]
        missed = [point for point in points if point["transfer"] < WEAK and point["correlation"] > STRONG]
        values = np.array([point["transfer"] for point in points])
        rows.append([
            record["title"], str(len(points)), told(np.median(values)), told(rank), told(chance[record["title"]]),
            _names(misled), _names(missed),
        ])  # fmt: skip
    findings = (
        Finding(
            "The more A's unit and the merged unit have in common on images, the more A's picture excites the "
            "merged unit",
            "rank correlation within layers beyond two standard errors of chance",
            {record["title"]: rank > chance[record["title"]] for record, rank in zip(shown, ranks, strict=True)},
        ),
    )
    text = (
        "*Transfer*: what the picture of A's unit does to the merged unit, over what the merged unit's own picture "
        "does; both above the merged unit's mean on images. *Rank*: rank correlation of transfer with the two "
        "units' correlation on images, ranks taken within layers; beyond *2 s.e.* it is not chance. *Shows what is "
        f"not there*: transfer above {STRONG} at a correlation below {WEAK}; *hides what is there*: the reverse.\n\n"
        + markdown(
            ["pair", "units", "median transfer", "rank", "2 s.e.", "shows what is not there", "hides what is there"],
            rows,
        )
    )
    control = (
        "A picture's score on its own unit is what was optimised; the score on another network is not. Units were "
        "not chosen: they are the first of their layers. Where a merge keeps all units, or none, there is no "
        "order that pictures could tell. What would refute the finding: a merge with kept and lost units and a "
        "rank within two standard errors of 0."
    )
    return Answer(
        "pictures", "Do the pictures agree with the numbers, and where do they mislead?", findings, text, control,
        "Correlation of A's unit with the merged unit on images, and how strongly A's picture excites the merged unit.",
        lambda path: draw_pairs(
            path, shown, _draw, x="correlation on images", y="transfer of A's picture", size=SQUARE, legend=False
        ),
    )  # fmt: skip


def transfers(record: Record) -> list[dict[str, Any]]:
    """Of every unit that was rendered and is alive in both: its transfer, and its correlation on images."""
    found = []
    for unit in record["pictures"]:
        columns = layers_of(record)[unit["layer"]]
        cross, number = unit["cross"], unit["unit"]
        mean = column(columns, "merged mean")[number]
        correlation = column(columns, "correlation A")[number]
        if unit["dead"] or None in (cross[A][MERGED], cross[MERGED][MERGED]):
            continue
        own = cross[MERGED][MERGED] - mean
        if own > 0 and np.isfinite(correlation):
            transfer = (cross[A][MERGED] - mean) / own
            found.append({"layer": unit["layer"], "unit": number, "transfer": transfer, "correlation": correlation})
    return found


def within_layers(points: list[dict[str, Any]]) -> float:
    """Spearman's correlation of ranks within layers."""
    ranks: dict[str, list[Any]] = {"transfer": [], "correlation": []}
    for layer in dict.fromkeys(point["layer"] for point in points):
        here = [point for point in points if point["layer"] == layer]
        if len(here) > 1:
            for name, values in ranks.items():
                values.append(rankdata([point[name] for point in here]) / len(here))
    one, other = (np.concatenate(values) for values in ranks.values())
    return float(np.asarray(spearmanr(one, other))[0])


def _names(points: list[dict[str, Any]]) -> str:
    return (
        ", ".join(f"`{point['layer']}:{point['unit']}`" for point in points[:3]) + (", …" if len(points) > 3 else "")
        or "-"
    )


def _draw(record: Record, axes: Any) -> None:
    points = transfers(record)
    for layer in dict.fromkeys(point["layer"] for point in points):
        here = [point for point in points if point["layer"] == layer]
        axes.scatter([point["correlation"] for point in here], [point["transfer"] for point in here], s=12, label=layer)
    axes.legend(fontsize=5, frameon=False, loc="lower right")
    axes.axhline(STRONG, color="#BBBBBB", linewidth=0.6, zorder=0)
    axes.axvline(WEAK, color="#BBBBBB", linewidth=0.6, zorder=0)
    axes.set_xlim(-0.45, 1.05)
