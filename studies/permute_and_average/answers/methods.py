"""Do weight matching, activation matching, ZipIt and CCA keep different features?"""

from itertools import combinations
from typing import Any

import numpy as np
from estimates import Record, column, layers_of, mean_of, over_layers, rank
from measures.report import markdown
from plots import draw_pairs

from answers.answer import Answer, Finding, unanswered
from featviz.gallery.plots import COLORS

QUESTION = "Do the methods keep different features?"
NAMES = {"activations": "activations", "weights": "weights", "zipit": "ZipIt", "cca": "CCA"}
PARENTS = ("A", "B'")
LEANING = 0.1  # of survival
CONTROLS = {"other parent": "the other parent", "unaligned": "unaligned average"}


def answer(records: list[Record]) -> Answer:
    several = [record for record in records if len(methods_of(record)) > 1]
    if not several:
        return unanswered("methods", QUESTION, "merges by several methods")
    rows, overlap = [], []
    for record in several:
        methods = methods_of(record)
        kept = {name: [survival(record, parent, name) for parent in PARENTS] for name in (*methods, *CONTROLS)}
        ranks, shared = agreeing(record, methods)
        overlap.append(shared)
        lacking = over_layers([value for name in methods for value in worst_shared(record, name, "other parent")])
        cells = [
            f"{kept[name][0]:.2f} / {kept[name][1]:.2f}" if name in kept and np.isfinite(kept[name][0]) else "-"
            for name in (*NAMES, *CONTROLS)
        ]
        rows.append([record["title"], *cells, str(ranks), f"{100 * shared.mean:.0f} ± {100 * shared.error:.0f} %",
                     f"{100 * lacking.mean:.0f} ± {100 * lacking.error:.0f} %"])  # fmt: skip
    findings = (
        Finding(
            "What one method keeps badly the others keep badly too, more often than by chance",
            "of the quarter of A's units that survives worst, more than a quarter is the same by two methods",
            {record["title"]: one.mean - 2 * one.error > 0.25 for record, one in zip(several, overlap, strict=True)},
        ),
        Finding(
            "A merge has more of its parents' features than one parent has of the other's",
            "mean survival in the merge by activation matching above that in the other parent, for both",
            {
                record["title"]: all(
                    survival(record, parent, "activations") > survival(record, parent, "other parent")
                    for parent in PARENTS
                )
                for record in several
            },
        ),
        Finding(
            "By CCA A's units survive as single units better than B's do",
            "A's units survive better than B's by more than .1, and by less than .1 with every other method",
            {record["title"]: _leans(record) for record in several if "cca" in methods_of(record)},
            surprising=True,
        ),
    )
    text = (
        "*Survival* of a parent's unit: the largest correlation with any unit of the same layer of the merge, "
        "which needs no alignment and takes methods that combine units too. Means over units and layers, of A's "
        "units / of B's. *Alike*: rank correlation, within layers, of the survival of A's units by two methods; "
        "*same quarter*: share of the worst quarter by one method that is in the worst quarter by another "
        "(chance: 25 %); *as in B*: the same of a method and of the other parent, the units of A that B lacks "
        "anyway. CCA cannot combine depthwise convolutions.\n\n"
        + markdown(["pair", *NAMES.values(), *CONTROLS.values(), "alike", "same quarter", "as in B"], rows)
        + _near_a(several)
    )
    control = (
        "*The other parent* is what two trainings share anyway (convergent learning): a merge keeps a feature "
        "only beyond that. The *unaligned* average is repaired too: what is left of A where nothing was matched. "
        "CCA merges in A's basis, into which it turns B's units as combinations: what single units of B detect "
        "may still be there as a combination of merged units, which this measure does not see. What would refute "
        "the surprise: CCA with as many single units of B as of A."
    )
    return Answer(
        "methods", QUESTION, findings, text, control,
        "Survival of the parents' units by method, mean over layers with standard errors; dark: A's units, light: B's.",
        lambda path: draw_pairs(path, several, _draw, y="survival", size=(3.6, 2.5)),
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
    """Of all pairs of methods and layers: rank correlations of the survival of A's units, and shared worst quarters."""
    ranks, shared = [], []
    for one, other in combinations(methods, 2):
        for found in layers_of(record).values():
            ranks.append(rank(column(found, f"nearest A in {one}"), column(found, f"nearest A in {other}")))
        shared += worst_shared(record, one, other)
    return over_layers(ranks), over_layers(shared)


def worst_shared(record: Record, one: str, other: str) -> list[float]:
    """By layer: the share of A's worst quarter of units in one network that is its worst quarter in the other, too."""
    found = []
    for columns in layers_of(record).values():
        kept = [column(columns, f"nearest A in {name}") for name in (one, other)]
        worst = [set(np.argsort(values)[: max(1, len(values) // 4)].tolist()) for values in kept]
        found.append(len(worst[0] & worst[1]) / len(worst[0]))
    return found


def _near_a(records: list[Record]) -> str:
    """What a merge nearer to A reaches, beside CCA's."""
    told = [
        f"{record['title']} {record['accuracy']['cca']:.1f} % against {record['accuracy']['path 0.25']:.1f} %"
        for record in records
        if "cca" in record["accuracy"]
    ]
    if not told:
        return ""
    return (
        "\n\n"
        "A merge that is nearer to one parent is more accurate anyway. CCA's against activation matching at "
        "weight 1/4 of B: " + "; ".join(told) + "."
    )


def _draw(record: Record, axes: Any) -> None:
    names = [name for name in (*methods_of(record), *CONTROLS) if np.isfinite(survival(record, "A", name))]
    places = np.arange(len(names))
    for number, parent in enumerate(PARENTS):
        found = [over_layers(_by_layer(record, parent, name)) for name in names]
        heights, errors = [one.mean for one in found], [one.error for one in found]
        shade, label = 1 - 0.5 * number, f"units of {parent[0]}"
        axes.bar(places + 0.38 * number, heights, 0.36, yerr=errors, color=COLORS[0], alpha=shade, label=label)
    labels = [{**NAMES, **CONTROLS}[name].removeprefix("the ").replace(" ", "\n") for name in names]
    axes.set_xticks(places + 0.19, labels)
    axes.set_ylim(0, 1)
