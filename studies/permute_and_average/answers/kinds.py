"""What do the units that survive worst have in common?"""

from pathlib import Path

from estimates import Record, partial_rank_in_layers, rank_in_layers, table
from plots import new_figure, save

from answers.answer import Answer, Finding

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
            "Units like which the other parent has one are merged more faithfully, also among units of equal agreement",
            "partial rank correlation above 0",
            holding("beyond agreement", 1),
        ),
    )
    text = (
        "Rank correlation with fidelity over the units of a layer, mean ± standard error over layers, of properties of A's "
        "unit on test images: the share of its outputs above 0 (what a ReLU lets through), their standard deviation, class "
        "selectivity behind a ReLU (Morcos et al. 2018), and *universality*, the correlation with the most similar unit of B, "
        "whatever its number; *beyond agreement*: universality with agreement held fixed (partial rank correlation).\n\n"
        + table(["pair", *KINDS.values(), "beyond agreement"], rows)
    )
    control = (
        "Depth and receptive field are the same for all units of a layer, so that nothing here is an effect of depth (question "
        "4). What would refute a finding: pairs with the opposite sign."
    )
    return Answer(
        "kinds", "What do the units that are merged least faithfully have in common?", findings, text, control,
        "Rank correlation of properties of A's units with the fidelity of the merged unit; bars: a standard error over layers.",
        lambda path: draw(records, path),
    )  # fmt: skip


def draw(records: list[Record], path: Path) -> None:
    figure, panels = new_figure(len(KINDS), (2.4, 2.6))
    panels[0].invert_yaxis()  # shared by all
    for axes, (kind, label) in zip(panels, KINDS.items(), strict=False):
        found = [rank_in_layers(record, kind, "fidelity") for record in records]
        axes.barh(
            range(len(records)),
            [one.mean for one in found],
            xerr=[one.error for one in found],
            height=0.6,
            color="#56B4E9",
        )
        axes.axvline(0, color="black", linewidth=0.6)
        axes.set_yticks(range(len(records)), [record["title"] for record in records], fontsize=7)
        axes.set_xlim(-0.7, 0.7)
        axes.set_xticks((-0.5, 0, 0.5))
        axes.set_title(label, fontsize=9)
    figure.supxlabel("rank correlation with fidelity", fontsize=9)
    save(figure, panels, len(KINDS), path, legend=False)
