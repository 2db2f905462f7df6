"""What do the units that are merged least faithfully have in common?"""

from functools import partial
from typing import Any

from estimates import Record, partial_rank_in_layers, rank_in_layers
from measures.report import markdown
from plots import draw_panels

from answers.answer import Answer, Finding
from featviz.gallery.plots import COLORS

UNIVERSALITY = "nearest A in other parent"
KINDS = {
    "positive": "share of positive outputs",
    "deviation": "deviation",
    "selectivity": "class selectivity",
    UNIVERSALITY: "universality",
}


def answer(records: list[Record]) -> Answer:
    found = {
        record["title"]: {kind: rank_in_layers(record, kind, "fidelity") for kind in KINDS}
        | {"beyond agreement": partial_rank_in_layers(record, UNIVERSALITY, "fidelity", "agreement")}
        for record in records
    }
    rows = [[title, *(str(estimate) for estimate in estimates.values())] for title, estimates in found.items()]

    def holding(kind: str, sign: int) -> dict[str, bool]:
        return {title: estimates[kind].sign == sign for title, estimates in found.items()}

    findings = (
        Finding(
            "Units that are rarely on are merged less faithfully", "rank correlation above 0", holding("positive", 1)
        ),
        Finding("Units that vary more are merged more faithfully", "rank correlation above 0", holding("deviation", 1)),
        Finding(
            "Class-selective units are merged less faithfully", "rank correlation below 0", holding("selectivity", -1)
        ),
        Finding(
            "Units that have a similar one in the other parent are merged more faithfully, also among units of equal agreement",
            "partial rank correlation above 0",
            holding("beyond agreement", 1),
        ),
    )
    text = (
        "Rank correlation with fidelity over the units of a layer, mean ± standard error over layers, of "
        "properties of A's unit on test images: the share of its outputs above 0 (what a ReLU lets through), "
        "their standard deviation, class selectivity behind a ReLU (Morcos et al. 2018), and *universality*, the "
        "correlation with the most similar unit of B, whatever its number; *beyond agreement*: universality with "
        "agreement held fixed (partial rank correlation).\n\n"
        + markdown(["pair", *KINDS.values(), "beyond agreement"], rows)
    )
    control = (
        "Depth and receptive field are the same for all units of a layer, so that nothing here is an effect of "
        "depth (question 4). What would refute a finding: pairs with the opposite sign."
    )
    return Answer(
        "kinds", "What do the units that are merged least faithfully have in common?", findings, text, control,
        "Rank correlation of properties of A's units with the fidelity of the merged unit; bars: a standard error "
        "over layers.",
        lambda path: draw_panels(
            path, {label: partial(_draw, records, kind) for kind, label in KINDS.items()},
            x="rank correlation with fidelity", size=(2.4, 2.6),
        ),
    )  # fmt: skip


def _draw(records: list[Record], kind: str, axes: Any) -> None:
    found = [rank_in_layers(record, kind, "fidelity") for record in records]
    means, errors = [one.mean for one in found], [one.error for one in found]
    axes.barh(range(len(records)), means, xerr=errors, height=0.6, color=COLORS[4])
    axes.axvline(0, color="black", linewidth=0.6)
    axes.set_yticks(range(len(records)), [record["title"] for record in records])
    axes.set_ylim(len(records) - 0.4, -0.6)  # the first pair above
    axes.set_xlim(-0.7, 0.7)
    axes.set_xticks((-0.5, 0, 0.5))
