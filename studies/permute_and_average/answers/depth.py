"""Does fidelity fall with depth, with narrow widths, without norms?"""

from typing import Any

import numpy as np
from estimates import Record, column, depths, layer_means, layers_of, mean_of, over_layers, rank, thirds, told
from measures.report import markdown
from plots import draw_pairs

from answers.answer import Answer, Finding

COMPARED = (("resnet20-x2", "resnet20-x1", "twice as wide"), ("vgg11_bn-x0.5", "vgg11-x0.5", "with norms"))


def answer(records: list[Record]) -> Answer:
    by_name = {record["pair"]: record for record in records}
    rows, falls, losses = [], [], []
    for record in records:
        f, c = layer_means(record, "fidelity"), layer_means(record, "agreement")
        falls.append(rank(depths(record), f))
        losses.append(thirds(record, f)[0] - thirds(record, f)[2])
        accuracy = record["accuracy"]
        gap = (accuracy["A"] + accuracy["B"]) / 2 - accuracy[record["method"]]
        rows.append([
            record["title"], f"{accuracy['A']:.1f} / {accuracy['B']:.1f}", f"{accuracy[record['method']]:.1f}", f"{gap:.1f}",
            *(told(value) for value in (*thirds(record, f), falls[-1], *thirds(record, c))),
        ])  # fmt: skip
    compared = []
    for one, other, difference in COMPARED:
        if one in by_name and other in by_name:
            means = [layer_means(by_name[name], "fidelity") for name in (one, other)]
            compared.append(
                f"{by_name[one]['title']} {over_layers(list(means[0]))} against {by_name[other]['title']} "
                f"{over_layers(list(means[1]))} ({difference})"
            )
    findings = (
        Finding(
            "Fidelity falls with depth",
            "rank correlation of a layer's place with its mean fidelity below -.3, and more than .05 less in the "
            "last third",
            {
                record["title"]: fall < -0.3 and lost > 0.05
                for record, fall, lost in zip(records, falls, losses, strict=True)
            },
        ),
        Finding(
            "The parents agree more behind the first convolution of a residual block than behind the second",
            "in four of five blocks or more",
            {record["title"]: higher >= 0.8 for record in records if np.isfinite(higher := _first_higher(record))},
        ),
    )
    text = (
        "Mean fidelity of the repaired merge, and mean agreement of the parents, by thirds of the layers; *falls*: "
        "rank correlation of a layer's place with its mean fidelity; *gap*: accuracy of the parents' mean minus "
        "that of the merge.\n\n"
        + markdown(
            ["pair", "A / B, %", "merge", "gap", "f first", "middle", "last", "falls", "c first", "middle", "last"],
            rows,
        )
        + ("\n\nMean over layers: " + "; ".join(compared) + "." if compared else "")
        + _blocks(records)
    )
    control = (
        "Pairs differ in more than the property that is compared (see Pairs), and each was trained once: a "
        "difference between two pairs is one observation. What would refute it: wider or normed pairs with lower "
        "fidelity, trained anew."
    )
    return Answer(
        "depth", "Does fidelity fall with depth, with narrow widths, without norms?", findings, text, control,
        "Mean fidelity (solid) and agreement (dotted) of the units of each layer, by depth; bands: a standard error "
        "of the units.",
        lambda path: draw_pairs(path, records, _draw, x="depth of the layer"),
    )  # fmt: skip


def _at_norms(record: Record) -> tuple[list[float], list[float]]:
    """Mean agreement behind the first and the second convolution of every residual block."""
    return tuple(
        [mean_of(column(found, "agreement")) for layer, found in layers_of(record).items() if layer.endswith(f".bn{n}")]
        for n in (1, 2)
    )  # pyright: ignore[reportReturnType]


def _first_higher(record: Record) -> float:
    """Share of blocks in which agreement is higher behind the first; NaN without blocks, and for copies of one base."""
    first, second = _at_norms(record)
    if not first or not second or record["method"] == "identity":
        return np.nan
    return float(np.mean([one > other for one, other in zip(first, second, strict=False)]))


def _blocks(records: list[Record]) -> str:
    blocks = []
    for record in records:
        if np.isfinite(higher := _first_higher(record)):
            first, second = (np.mean(values) for values in _at_norms(record))
            blocks.append(f"{record['title']} {first:.2f} and {second:.2f} (higher in {higher:.0%} of the blocks)")
    if not blocks:
        return ""
    return (
        "\n\n"
        "In residual networks agreement alternates with the place in the block: behind the first and behind the "
        "second convolution it is "
        + "; ".join(blocks)
        + ". One reason may be that the second writes into a stream whose units are "
        "matched by one permutation for many layers; this was not tested."
    )


def _draw(record: Record, axes: Any) -> None:
    for name, line in (("fidelity", "-"), ("agreement", ":")):
        columns = [column(found, name) for found in layers_of(record).values()]
        means = np.array([mean_of(values) for values in columns])
        errors = np.array([np.nanstd(values) / np.sqrt(max(1, np.isfinite(values).sum())) for values in columns])
        (drawn,) = axes.plot(depths(record), means, line, label=name)
        low, high, color = means - errors, means + errors, drawn.get_color()
        axes.fill_between(depths(record), low, high, alpha=0.25, color=color, linewidth=0)
    axes.set_ylim(-0.2, 1.02)
