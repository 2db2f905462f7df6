"""What do the units that survive worst have in common?"""

from pathlib import Path

import numpy as np
from estimates import Estimate, Record, rank_in_layers, table
from plots import new_figure, save

from answers.answer import Answer, Finding

KINDS = {
    "positive": "share of positive outputs",
    "deviation": "deviation",
    "selectivity": "class selectivity",
    "nearest A in other parent": "universality",
}


def answer(records: list[Record]) -> Answer:
    found = {record["pair"]: {kind: rank_in_layers(record, kind, "fidelity") for kind in KINDS} for record in records}
    rows = [[record["title"], *(str(found[record["pair"]][kind]) for kind in KINDS)] for record in records]
    titles = {record["pair"]: record["title"] for record in records}
    findings = (
        Finding(
            "Units that are rarely on lose most",
            "share of positive outputs goes with fidelity, beyond two standard errors",
            {titles[pair]: _sign(estimates["positive"]) > 0 for pair, estimates in found.items()},
        ),
        Finding(
            "Class-selective units lose most",
            "selectivity goes against fidelity, beyond two standard errors",
            {titles[pair]: _sign(estimates["selectivity"]) < 0 for pair, estimates in found.items()},
        ),
        Finding(
            "What another training found too survives",
            "universality goes with fidelity, beyond two standard errors",
            {titles[pair]: _sign(estimates["nearest A in other parent"]) > 0 for pair, estimates in found.items()},
        ),
    )
    text = (
        "Rank correlation with fidelity over the units of a layer, mean ± standard error over layers, of properties "
        "of A's unit on test images: the share of its outputs above 0 (what a ReLU lets through), their standard "
        "deviation, class selectivity behind a ReLU (Morcos et al. 2018), and universality: the correlation with "
        "the most similar unit of B, whatever its number.\n\n" + table(["pair", *KINDS.values()], rows)
    )
    control = (
        "Depth and receptive field are the same for all units of a layer, so nothing here is an effect of depth "
        "(for that see the question before). What would refute a sign: a pair on which it is the other one beyond "
        "two standard errors."
    )
    return Answer(
        "kinds", "What do the units that survive worst have in common?", findings, text, control,
        "Rank correlation of properties of A's units with the fidelity of the merged unit; bars: two standard "
        "errors over layers.",
        lambda path: draw(records, path),
    )  # fmt: skip


def _sign(estimate: Estimate) -> int:
    return int(np.sign(estimate.mean)) if abs(estimate.mean) > 2 * estimate.error else 0


def draw(records: list[Record], path: Path) -> None:
    figure, panels = new_figure(len(KINDS), (2.4, 2.6))
    for axes, (kind, label) in zip(panels, KINDS.items(), strict=False):
        found = [rank_in_layers(record, kind, "fidelity") for record in records]
        axes.barh(
            range(len(records)),
            [one.mean for one in found],
            xerr=[2 * one.error for one in found],
            height=0.6,
            color="#56B4E9",
        )
        axes.axvline(0, color="black", linewidth=0.6)
        axes.set_yticks(range(len(records)), [record["title"] for record in records], fontsize=7)
        axes.set_xlim(-1, 1)
        axes.set_xticks((-1, -0.5, 0, 0.5, 1))
        axes.set_title(label, fontsize=9)
        axes.invert_yaxis()
    figure.supxlabel("rank correlation with fidelity", fontsize=9)
    save(figure, panels, len(KINDS), path, legend=False)
