"""What does repair change, unit by unit?"""

from typing import Any

import numpy as np
from estimates import Record, column, depths, layer_means, layers_of, over_layers, rank, thirds, told
from measures.report import markdown
from plots import SQUARE, draw_pairs

from answers.answer import Answer, Finding


def answer(records: list[Record]) -> Answer:
    rows, within, gains = [], [], []
    for record in records:
        before, after = layer_means(record, "unrepaired fidelity"), layer_means(record, "fidelity")
        gains.append(thirds(record, after - before))
        own = over_layers([_gain_by_variance(columns) for columns in layers_of(record).values()])
        within.append(own)
        between = rank(layer_means(record, "unrepaired variance"), after - before)
        first, last = ((thirds(record, before)[third], thirds(record, after)[third]) for third in (0, 2))
        accuracy = record["accuracy"]
        rows.append([
            record["title"], f"{accuracy['unrepaired']:.1f} → {accuracy[record['method']]:.1f}",
            f"{first[0]:.2f} → {first[1]:.2f}", f"{last[0]:.2f} → {last[1]:.2f}", str(own), told(between),
        ])  # fmt: skip
    findings = (
        Finding(
            "Repair gives back features, not only scale, and in late layers above all",
            "fidelity grows by more than .05 in the last third of the layers, and more than in the first",
            {
                record["title"]: gain[2] > 0.05 and gain[2] > gain[0]
                for record, gain in zip(records, gains, strict=True)
            },
        ),
        Finding(
            "The units that had lost most variance gain most fidelity",
            "rank correlation of kept variance and gain, within layers, below 0",
            {record["title"]: estimate.sign < 0 for record, estimate in zip(records, within, strict=True)},
        ),
    )
    text = (
        "Accuracy in percent and mean fidelity, before → after the repair. *Own variance*: rank correlation, "
        "within layers, of the variance that a unit kept before the repair (over that of its parents' mean) with "
        "its gain in fidelity; *of layers*: the same between the means of layers.\n\n"
        + markdown(
            ["pair", "accuracy", "fidelity, first third", "fidelity, last third", "own variance", "of layers"], rows
        )
        + "\n\nA repair scales and shifts units one by one, which changes no correlation in the layer itself: what a unit "
        "gains comes from the layers before it. A unit that was merged badly has more to gain than one that was not."
    )
    control = (
        "In the first layer nothing can change, and nothing does: a correlation does not see scale. What would "
        "refute it: late layers that gain no more than early ones."
    )
    return Answer(
        "repair", "What does repair change, unit by unit?", findings, text, control,
        "Fidelity of every unit before and after the repair; dark: first layers, light: last ones. Below the "
        "line: units that lose.",
        lambda path: draw_pairs(path, records, _draw, x="fidelity before", y="fidelity after the repair", size=SQUARE),
    )  # fmt: skip


def _gain_by_variance(columns: dict) -> float:
    return rank(
        column(columns, "unrepaired variance"), column(columns, "fidelity") - column(columns, "unrepaired fidelity")
    )


def _draw(record: Record, axes: Any) -> None:
    axes.plot([-0.3, 1], [-0.3, 1], color="black", linewidth=0.6)
    for columns, depth in zip(layers_of(record).values(), depths(record), strict=True):
        before, after = column(columns, "unrepaired fidelity"), column(columns, "fidelity")
        color = np.full(len(before), depth)
        axes.scatter(before, after, s=4, c=color, cmap="viridis", vmin=0, vmax=1, linewidths=0)
    axes.set_xlim(-0.3, 1.02)
    axes.set_ylim(-0.3, 1.02)
