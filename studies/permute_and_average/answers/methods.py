"""Do weight matching, activation matching, ZipIt and CCA keep different features?"""

from itertools import combinations
from pathlib import Path

import numpy as np
from estimates import Record, column, layers_of, mean_of, over_layers, rank, table
from plots import new_figure, save

from answers.answer import Answer, Finding, unanswered

QUESTION = "Do the methods keep different features?"
NAMES = {"activations": "activations", "weights": "weights", "zipit": "ZipIt", "cca": "CCA"}
LEANING = 0.1  # of survival
CONTROLS = {"other parent": "the other parent", "unaligned": "unaligned average"}


def answer(records: list[Record]) -> Answer:
    several = [record for record in records if len(methods_of(record)) > 1]
    if not several:
        return unanswered("methods", QUESTION, "merges by several methods")
    rows, overlap = [], []
    for record in several:
        methods = methods_of(record)
        kept = {name: [survival(record, parent, name) for parent in ("A", "B'")] for name in (*methods, *CONTROLS)}
        ranks, shared = agreeing(record, methods)
        overlap.append(shared)
        cells = [
            f"{kept[name][0]:.2f} / {kept[name][1]:.2f}" if name in kept and np.isfinite(kept[name][0]) else "-"
            for name in (*NAMES, *CONTROLS)
        ]
        rows.append([record["title"], *cells, str(ranks), f"{100 * shared.mean:.0f} ± {100 * shared.error:.0f} %"])
    findings = (
        Finding(
            "All methods lose the same features",
            "the quarter of A's units that survives worst by one method is that of another more often than by chance, "
            "beyond two standard errors",
            {record["title"]: one.mean - 2 * one.error > 0.25 for record, one in zip(several, overlap, strict=True)},
        ),
        Finding(
            "A merge has more of a parent's features than another training has of them anyway",
            "mean survival of A's units above that in the other parent, by every method",
            {
                record["title"]: min(survival(record, "A", name) for name in methods_of(record))
                > survival(record, "A", "other parent")
                for record in several
            },
        ),
        Finding(
            "CCA keeps A at the expense of B",
            "A's units survive better than B's by more than .1, and by less than .1 with every other method",
            {record["title"]: _leans(record) for record in several if "cca" in methods_of(record)},
            surprising=True,
        ),
    )
    text = (
        "*Survival* of a unit of a parent: the largest correlation with any unit of the same layer of the merge, "
        "which needs no alignment and takes methods that combine units too. Means over units and layers, of A's "
        "units / of B's. *Alike*: rank correlation, within layers, of the survival of A's units by two methods; "
        "*same quarter*: how many of the worst quarter by one method are in that of another.\n\n"
        + table(["pair", *NAMES.values(), *CONTROLS.values(), "alike", "same quarter"], rows)
    )
    control = (
        "*The other parent* is what two trainings share anyway (convergent learning): a merge keeps a feature only "
        "beyond that. The *unaligned* average shows what the repair alone gives. What would refute it: two methods "
        "whose worst quarters overlap by no more than chance."
    )
    return Answer(
        "methods", QUESTION, findings, text, control,
        "Survival of the parents' units by method, mean over layers with standard errors; dark: A's units, light: B's.",
        lambda path: draw(several, path),
    )  # fmt: skip


def methods_of(record: Record) -> list[str]:
    """The methods by which the pair was merged."""
    columns = next(iter(layers_of(record).values()))
    return [name for name in NAMES if f"nearest A in {name}" in columns]


def _leans(record: Record) -> bool:
    """Whether CCA keeps A better than B, and no other method does."""
    ahead = {name: survival(record, "A", name) - survival(record, "B'", name) for name in methods_of(record)}
    return ahead.pop("cca") > LEANING and all(abs(value) < LEANING for value in ahead.values())


def survival(record: Record, parent: str, merge: str) -> float:
    """Of a parent's units in a merge, mean over units, then over layers."""
    return over_layers(_by_layer(record, parent, merge)).mean


def _by_layer(record: Record, parent: str, merge: str) -> list[float]:
    return [mean_of(column(found, f"nearest {parent} in {merge}")) for found in layers_of(record).values()]


def agreeing(record: Record, methods: list[str]):
    """Of all pairs of methods and layers: rank correlations of the survival, and the overlap of the worst quarters."""
    ranks, shared = [], []
    for found in layers_of(record).values():
        kept = {name: column(found, f"nearest A in {name}") for name in methods}
        worst = {name: set(np.argsort(values)[: max(1, len(values) // 4)]) for name, values in kept.items()}
        for one, other in combinations(methods, 2):
            ranks.append(rank(kept[one], kept[other]))
            shared.append(len(worst[one] & worst[other]) / len(worst[one]))
    return over_layers(ranks), over_layers(shared)


def draw(records: list[Record], path: Path) -> None:
    figure, panels = new_figure(len(records))
    for axes, record in zip(panels, records, strict=False):
        names = [name for name in (*methods_of(record), *CONTROLS) if np.isfinite(survival(record, "A", name))]
        for number, (parent, shade) in enumerate((("A", 1.0), ("B'", 0.5))):
            found = [over_layers(_by_layer(record, parent, name)) for name in names]
            axes.bar(
                np.arange(len(names)) + 0.38 * number, [one.mean for one in found], 0.36, yerr=[one.error for one in found],
                color="#0072B2", alpha=shade, label=f"units of {parent[0]}",
            )  # fmt: skip
        labels = [
            {**NAMES, **CONTROLS}[name].replace("the other parent", "other\nparent").replace(" ", "\n")
            for name in names
        ]
        axes.set_xticks(np.arange(len(names)) + 0.19, labels, fontsize=6)
        axes.set_title(record["title"], fontsize=9)
        axes.set_ylim(0, 1)
    figure.supylabel("survival", fontsize=9)
    save(figure, panels, len(records), path)
